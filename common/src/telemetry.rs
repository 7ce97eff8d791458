//! Logs: to standard error, one line an event; for systemd's journal without a time of their own.

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    Text,
    Json,
}

/// Starts logging for this process. `BUNRAKU_LOG` overrides `default` (the syntax of tracing's `EnvFilter`).
pub fn start(default: &str, format: Format) {
    let filter = EnvFilter::try_from_env("BUNRAKU_LOG").unwrap_or_else(|_| EnvFilter::new(default));
    let registry = tracing_subscriber::registry().with(filter);
    let under_systemd = std::env::var_os("JOURNAL_STREAM").is_some();
    let layer = fmt::layer().with_writer(std::io::stderr).with_target(false);
    // A second start in one process (tests) keeps the first: nothing is lost.
    let _already = match (format, under_systemd) {
        (Format::Json, _) => registry.with(layer.json()).try_init(),
        (Format::Text, true) => registry.with(layer.without_time().with_ansi(false)).try_init(),
        (Format::Text, false) => registry.with(layer).try_init(),
    };
}
