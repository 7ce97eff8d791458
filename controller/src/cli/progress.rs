//! Follows deploys to their ends: a line per compiler on a terminal, plain lines otherwise.
//!
//! Ctrl-C ends only the looking: the deploy goes on, and the command that looks again is printed.

use std::{io, time::Duration};

use bunraku_common::hint;
use bunraku_proto::v1::{DeployInfo, ShowDeployRequest, WatchRequest};
use tonic::Code;

use super::{
    Exit, Failure, Output,
    client::Control,
    output::{columns, hinted, short},
    screen::{self, Screen},
};

/// How often a broken connection to the controller is tried again before the command gives up.
pub(super) const ATTEMPTS: u32 = 40;
pub(super) const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(500);

/// Waits until every deploy has ended and returns them as they ended.
pub(super) async fn follow(
    client: Control,
    deploys: &[DeployInfo],
    output: Output,
) -> Result<Vec<DeployInfo>, Failure> {
    let mut view = View::new(output);
    let outcome = tokio::select! {
        ended = watch(client, deploys, &mut view) => Ok(ended),
        _ = tokio::signal::ctrl_c() => Err(Failure::silent(Exit::Interrupted)),
    };
    view.clear();
    if outcome.is_err() {
        eprint!("\r{}", hinted("", &no_longer_looking(deploys)));
    }
    outcome?
}

fn no_longer_looking(deploys: &[DeployInfo]) -> String {
    match deploys {
        [one] => hint::join(
            &format!("no longer looking; deploy {} of {} goes on", one.id, one.environment),
            &format!("bunraku deploys show {}", one.id),
        ),
        more => {
            hint::join(&format!("no longer looking; {} deploys go on", more.len()), "bunraku deploys list")
        }
    }
}

async fn watch(
    mut client: Control,
    deploys: &[DeployInfo],
    view: &mut View,
) -> Result<Vec<DeployInfo>, Failure> {
    let mut ended = Vec::new();
    for deploy in deploys {
        let mut lost = 0;
        loop {
            match watch_one(&mut client, deploy.id, view).await {
                Ok(info) => {
                    ended.push(info);
                    break;
                }
                Err(status)
                    if lost < ATTEMPTS
                        && matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Internal) =>
                {
                    // The controller restarts: the journal remembers the deploy, so ask again.
                    lost += 1;
                    tokio::time::sleep(BETWEEN_ATTEMPTS).await;
                }
                Err(status) if lost >= ATTEMPTS => {
                    return Err(Failure::new(
                        Exit::Unknown,
                        format!("the controller does not answer: {}", status.message()),
                    )
                    .hint(format!("bunraku deploys show {}", deploy.id)));
                }
                Err(status) => return Err(status.into()),
            }
        }
    }
    Ok(ended)
}

async fn watch_one(client: &mut Control, id: u64, view: &mut View) -> Result<DeployInfo, tonic::Status> {
    // The stream is only the signal that something happened; what is shown is always the whole state.
    let request = WatchRequest { from_now: true, deploy: id, follow: true, ..Default::default() };
    let mut events = client.watch(request).await?.into_inner();
    loop {
        let info = client.show_deploy(ShowDeployRequest { id }).await?.into_inner();
        view.show(|| lines(&info), || one_line(&info));
        if info.ended_ms != 0 {
            return Ok(info);
        }
        if events.message().await?.is_none() {
            return Err(tonic::Status::unavailable("the event stream ended"));
        }
    }
}

/// Where progress is shown.
#[derive(Debug)]
pub(super) enum View {
    /// Lines that are replaced in place.
    Terminal(Screen),
    /// A plain line for each change.
    Lines {
        last: String,
    },
    Nothing,
}

impl View {
    pub(super) fn new(output: Output) -> Self {
        match (output, screen::size(io::stderr())) {
            (Output::Json, _) => Self::Nothing,
            (Output::Text, Some(_)) => Self::Terminal(Screen::default()),
            (Output::Text, None) => Self::Lines { last: String::new() },
        }
    }

    pub(super) fn show(&mut self, lines: impl FnOnce() -> Vec<String>, one_line: impl FnOnce() -> String) {
        match self {
            Self::Nothing => {}
            Self::Terminal(shown) => {
                if let Some(size) = screen::size(io::stderr()) {
                    shown.show(&lines(), size);
                }
            }
            Self::Lines { last } => {
                let line = one_line();
                if line != *last {
                    eprintln!("{line}");
                    *last = line;
                }
            }
        }
    }

    pub(super) fn clear(&mut self) {
        if let Self::Terminal(shown) = self {
            shown.clear();
        }
    }
}

pub(super) fn lines(deploy: &DeployInfo) -> Vec<String> {
    let snapshot = if deploy.snapshot.is_empty() { "" } else { short(&deploy.snapshot) };
    let head = format!("deploy {} of {}: {} {snapshot}", deploy.id, deploy.environment, deploy.phase);
    let mut out = vec![head.trim_end().to_owned()];
    out.extend(columns(
        deploy.nodes.iter().map(|n| [n.node.clone(), n.state.clone(), hint::split(&n.note).0]),
    ));
    if !deploy.waiting.is_empty() {
        out.push(format!("  waits {}", deploy.waiting));
    }
    out
}

pub(super) fn one_line(deploy: &DeployInfo) -> String {
    let mut counts: Vec<(&str, usize)> = Vec::new();
    for node in &deploy.nodes {
        match counts.iter_mut().find(|(state, _)| *state == node.state) {
            Some((_, count)) => *count += 1,
            None => counts.push((&node.state, 1)),
        }
    }
    let counts: Vec<_> = counts.iter().map(|(state, count)| format!("{count} {state}")).collect();
    let nodes = if counts.is_empty() { String::new() } else { format!(" ({})", counts.join(", ")) };
    format!("deploy {} of {}: {}{nodes}", deploy.id, deploy.environment, deploy.phase)
}
