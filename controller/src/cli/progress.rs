//! Follows deploys to their ends: a line per compiler on a terminal, plain lines otherwise.
//!
//! Ctrl-C ends only the looking: the deploy goes on, and the command that looks again is printed.

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use bunraku_proto::v1::{DeployInfo, ShowDeployRequest, WatchRequest};
use tonic::Code;

use super::{Exit, Failure, Output, client::Control, output::short};

/// How often a broken connection to the controller is tried again before the command gives up.
const ATTEMPTS: u32 = 40;
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(500);

/// Waits until every deploy has ended and returns them as they ended.
pub(super) async fn follow(
    client: Control,
    deploys: &[DeployInfo],
    output: Output,
) -> Result<Vec<DeployInfo>, Failure> {
    let screen = Screen::new(output);
    tokio::select! {
        ended = watch(client, deploys, screen) => ended,
        _ = tokio::signal::ctrl_c() => {
            let ids: Vec<_> = deploys.iter().map(|d| d.id.to_string()).collect();
            eprintln!("\nno longer looking; the deploy goes on");
            eprintln!("look again with: bunraku deploys show {}", ids.first().map_or("", String::as_str));
            Err(Failure::silent(Exit::Interrupted))
        }
    }
}

async fn watch(
    mut client: Control,
    deploys: &[DeployInfo],
    mut screen: Screen,
) -> Result<Vec<DeployInfo>, Failure> {
    let mut ended = Vec::new();
    for deploy in deploys {
        let mut lost = 0;
        loop {
            match watch_one(&mut client, deploy.id, &mut screen).await {
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
    screen.clear();
    Ok(ended)
}

async fn watch_one(client: &mut Control, id: u64, screen: &mut Screen) -> Result<DeployInfo, tonic::Status> {
    // The stream is only the signal that something happened; what is shown is always the whole state.
    let request = WatchRequest { after: 0, from_now: true, deploy: id, follow: true };
    let mut events = client.watch(request).await?.into_inner();
    loop {
        let info = client.show_deploy(ShowDeployRequest { id }).await?.into_inner();
        screen.show(&info);
        if info.ended_ms != 0 {
            return Ok(info);
        }
        if events.message().await?.is_none() {
            return Err(tonic::Status::unavailable("the event stream ended"));
        }
    }
}

/// What is on the terminal right now.
#[derive(Debug)]
struct Screen {
    live: bool,
    quiet: bool,
    lines: usize,
    last: String,
}

impl Screen {
    fn new(output: Output) -> Self {
        let live = io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        Self { live, quiet: output == Output::Json, lines: 0, last: String::new() }
    }

    fn show(&mut self, deploy: &DeployInfo) {
        if self.quiet {
            return;
        }
        if self.live {
            let text = lines(deploy).join("\n") + "\n";
            self.clear();
            eprint!("{text}");
            self.lines = text.matches('\n').count();
        } else {
            let line = one_line(deploy);
            if line != self.last {
                eprintln!("{line}");
                self.last = line;
            }
        }
        let _best_effort = io::stderr().flush();
    }

    fn clear(&mut self) {
        if self.lines > 0 {
            eprint!("\x1b[{}A\x1b[J", self.lines);
            self.lines = 0;
        }
    }
}

fn lines(deploy: &DeployInfo) -> Vec<String> {
    let mut out = vec![format!(
        "deploy {} of {}: {} {}",
        deploy.id,
        deploy.environment,
        deploy.phase,
        short(&deploy.snapshot)
    )];
    for node in &deploy.nodes {
        out.push(format!("  {:<28} {:<10} {}", node.node, node.state, node.note));
    }
    if !deploy.waiting.is_empty() {
        out.push(format!("  {}", deploy.waiting));
    }
    out
}

fn one_line(deploy: &DeployInfo) -> String {
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
