//! Logs: to standard error, one line an event. On a terminal with colours; under systemd without a time, and with the
//! level as the journal understands it, so that `journalctl -p warning` finds what it should.

use std::{
    env, fmt,
    io::{self, IsTerminal},
};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter,
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format as Lines, Full, Writer},
        layer,
    },
    layer::SubscriberExt,
    registry::LookupSpan,
    util::SubscriberInitExt,
};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

/// What is logged where neither the caller nor the variable says anything usable.
const FALLBACK: &str = "info";
const VARIABLE: &str = "BUNRAKU_LOG";

/// Starts logging for this process. `BUNRAKU_LOG` overrides `default` (the syntax of tracing's `EnvFilter`).
pub fn start(default: &str, format: Format) {
    let asked = env::var(VARIABLE).ok().filter(|text| !text.is_empty());
    let parsed = asked.as_ref().map(EnvFilter::try_new);
    let wrong = parsed.as_ref().and_then(|parsed| Some(parsed.as_ref().err()?.to_string()));
    let filter = match parsed {
        Some(Ok(filter)) => filter,
        Some(Err(_)) | None => EnvFilter::try_new(default).unwrap_or_else(|_| EnvFilter::new(FALLBACK)),
    };
    let registry = tracing_subscriber::registry().with(filter);
    let layer = layer().with_writer(io::stderr).with_target(false).with_ansi(colours());
    // A second start in one process (tests) keeps the first: nothing is lost.
    let _already = match format {
        Format::Json => registry.with(layer.with_ansi(false).json()).try_init(),
        Format::Text if to_the_journal() => {
            registry.with(layer.with_ansi(false).event_format(ForJournal::default())).try_init()
        }
        Format::Text => registry.with(layer).try_init(),
    };
    if let Some(why) = wrong {
        tracing::warn!(
            "{VARIABLE} is not understood and not used: {why} (hint: {VARIABLE}=debug, or bunraku=debug,info)"
        );
    }
}

/// `NO_COLOR`: <https://no-color.org>.
fn colours() -> bool {
    io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// systemd.exec(5): `JOURNAL_STREAM` names the device and inode of what standard error was; a redirected one differs.
fn to_the_journal() -> bool {
    let named = env::var("JOURNAL_STREAM").ok();
    let is = rustix::fs::fstat(io::stderr()).ok().map(|stat| format!("{}:{}", stat.st_dev, stat.st_ino));
    named.is_some() && named == is
}

/// Lines with the level as sd-daemon(3) has it: `<4>`.
#[derive(Debug)]
struct ForJournal(Lines<Full, ()>);

impl Default for ForJournal {
    fn default() -> Self {
        Self(Lines::default().without_time().with_target(false).with_level(false).with_ansi(false))
    }
}

impl<S, N> FormatEvent<S, N> for ForJournal
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        write!(writer, "<{}>", priority(*event.metadata().level()))?;
        self.0.format_event(context, writer, event)
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_journal_gets_the_level_as_a_priority_and_no_time() {
        let kept = Kept::default();
        let writer = kept.clone();
        let layer = layer().with_writer(move || writer.clone()).event_format(ForJournal::default());
        let subscriber = tracing_subscriber::registry().with(layer);
        tracing::subscriber::with_default(subscriber, || tracing::warn!(node = "c1", "node gone"));
        assert_eq!(String::from_utf8(kept.0.lock().unwrap().clone()).unwrap(), "<4>node gone node=\"c1\"\n");
    }
}
