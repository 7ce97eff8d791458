//! The file that nginx includes: the upstreams with their servers, and a small server that says which of our files the
//! running nginx has loaded, because nothing else tells whether a reload took effect.

use std::{collections::BTreeMap, fmt::Write as _, net::SocketAddr};

use crate::{driver::Admin, name::ServerName};

/// The first word of what nginx says.
const GREETING: &str = "bunraku";

/// What the file says of each server.
pub(super) type Marks = BTreeMap<ServerName, Mark>;

/// How one server is marked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    Ready,
    /// Ready, and its health checks fail.
    Unhealthy,
    Drain,
    /// Marked down by somebody else.
    Maint,
}

impl Mark {
    const ALL: [Self; 4] = [Self::Ready, Self::Unhealthy, Self::Drain, Self::Maint];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Unhealthy => "unhealthy",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }

    fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mark| mark.as_str() == text)
    }

    pub(super) fn admin(self) -> Admin {
        match self {
            Self::Ready | Self::Unhealthy => Admin::Ready,
            Self::Drain => Admin::Drain,
            Self::Maint => Admin::Maint,
        }
    }
}

/// What the file is made of beside the marks.
#[derive(Debug)]
pub(super) struct Frame {
    pub servers: BTreeMap<ServerName, SocketAddr>,
    /// `least_conn` and the like; empty: nginx's round robin.
    pub balance: String,
    /// Parameters of every `server` line.
    pub parameters: String,
    pub probe: SocketAddr,
}

impl Frame {
    /// Each upstream has a zone: without it every worker counts connections for itself.
    pub(super) fn render(&self, marks: &Marks) -> String {
        let mut text = String::from(
            "# Written by bunraku-agent. Only one change by hand is kept: `down` at a server takes it out, until it is\n\
             # removed by hand. All else comes from [balancer.nginx] in agent.toml.\n",
        );
        let mut upstreams: BTreeMap<&str, String> = BTreeMap::new();
        for (name, address) in &self.servers {
            let mark = marks.get(name).copied().unwrap_or(Mark::Ready);
            let lines = upstreams.entry(name.backend()).or_default();
            let mut words = vec![address.to_string()];
            words.extend((!self.parameters.is_empty()).then(|| self.parameters.clone()));
            words.extend((mark != Mark::Ready).then(|| "down".to_owned()));
            let _infallible = writeln!(lines, "    server {}; # {name} {}", words.join(" "), mark.as_str());
        }
        for (upstream, lines) in upstreams {
            let balance =
                if self.balance.is_empty() { String::new() } else { format!("    {};\n", self.balance) };
            let _infallible =
                write!(text, "upstream {upstream} {{\n    zone {upstream} 64k;\n{balance}{lines}}}\n");
        }
        let said = self.said(marks);
        let _infallible = write!(text, "server {{\n    listen {};\n    return \"{said}\";\n}}\n", self.probe);
        text
    }

    /// What an nginx that has loaded these marks says.
    pub(super) fn said(&self, marks: &Marks) -> String {
        let mark = |name| marks.get(name).copied().unwrap_or(Mark::Ready).as_str();
        let words = self.servers.keys().map(|name| format!(" {name}={}", mark(name)));
        format!("{GREETING}{}", words.collect::<String>())
    }
}

/// What nginx said, read again.
pub(super) fn heard(text: &str) -> Option<Marks> {
    let mut words = text.trim_end().split(' ');
    if words.next() != Some(GREETING) {
        return None;
    }
    let mark = |word: &str| {
        let (name, mark) = word.split_once('=')?;
        Some((ServerName::parse(name).ok()?, Mark::parse(mark)?))
    };
    words.map(mark).collect()
}

/// The marks in a file. `down` counts for more than the word behind it: who edits by hand changes only that.
pub(super) fn marks(file: &str) -> Marks {
    let line = |line: &str| {
        let (server, comment) = line.trim().strip_prefix("server ")?.split_once("; # ")?;
        let (name, mark) = comment.split_once(' ')?;
        let down = server.split(' ').any(|word| word == "down");
        let mark = match (Mark::parse(mark)?, down) {
            (Mark::Ready, true) => Mark::Maint,
            (_, false) => Mark::Ready,
            (mark, true) => mark,
        };
        Some((ServerName::parse(name).ok()?, mark))
    };
    file.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServerName {
        ServerName::parse(text).unwrap()
    }

    fn frame() -> Frame {
        let servers = [("p/c1", "192.0.2.1:8140"), ("p/c2", "192.0.2.2:8140"), ("q/c1", "192.0.2.1:8140")];
        Frame {
            servers: servers.map(|(n, address)| (name(n), address.parse().unwrap())).into(),
            balance: "least_conn".into(),
            parameters: "max_fails=2".into(),
            probe: "127.0.0.1:8141".parse().unwrap(),
        }
    }

    #[test]
    fn what_is_written_is_read_again_and_so_is_what_nginx_says() {
        for mark in Mark::ALL {
            let marks: Marks =
                [(name("p/c1"), mark), (name("p/c2"), Mark::Ready), (name("q/c1"), Mark::Drain)].into();
            let text = frame().render(&marks);
            assert_eq!(super::marks(&text), marks, "{text}");
            assert_eq!(heard(&frame().said(&marks)), Some(marks));
        }
        assert_eq!(heard("HTTP/1.1 400"), None);
    }

    #[test]
    fn a_down_by_hand_is_somebody_elses_and_its_removal_makes_the_server_ready() {
        let ready = frame().render(&Marks::new());
        let by_hand = ready.replacen("max_fails=2; # p/c1", "max_fails=2 down; # p/c1", 1);
        assert_eq!(marks(&by_hand)[&name("p/c1")], Mark::Maint);
        let drained = frame().render(&[(name("p/c1"), Mark::Drain)].into());
        assert_eq!(marks(&drained.replace(" down", ""))[&name("p/c1")], Mark::Ready);
    }
}
