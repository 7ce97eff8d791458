//! `bunraku ca …`: the mesh CA and its rotation.

use std::fmt::Write;

use bunraku_proto::v1::{CaStatus, CaStatusRequest, RotateCaRequest};
use clap::{Args, Subcommand};

use super::{
    Failure, Reach, client,
    output::{columns, table},
};

#[derive(Debug, Subcommand)]
pub(super) enum Ca {
    /// Which CA signs nodes and operators, whether it is rotated, and who holds that up
    #[command(after_help = "Example: bunraku ca status")]
    Status,
    /// Replace the mesh CA, one phase at a time; without --yes it only says what would happen
    #[command(after_help = "Examples:\n  bunraku ca rotate\n  bunraku ca rotate --yes\n  \
                            bunraku ca rotate --yes --leave c9.example.com")]
    Rotate(Rotate),
}

#[derive(Debug, Args)]
pub(super) struct Rotate {
    /// Begin the next phase
    #[arg(long)]
    yes: bool,
    /// Do not wait for this node: it comes back by its Puppet certificate or a token
    #[arg(long, value_name = "NODE")]
    leave: Vec<String>,
}

/// Each phase, and what it does.
const PHASES: [(&str, &str); 4] = [
    ("announce", "a new CA is made beside the old one, in ca/next of data_dir; nodes and operators learn it"),
    ("overlap", "the new CA signs nodes and operators; every door accepts both"),
    ("switch", "the controller shows a certificate of the new CA"),
    ("retire", "only the new CA counts; what the old one signed is refused, its key is removed"),
];

impl Ca {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        let mut status = client.ca_status(CaStatusRequest {}).await?.into_inner();
        match self {
            Self::Status => reach.output.print(&status, shown),
            Self::Rotate(Rotate { yes: false, leave }) => {
                status.waits.retain(|holder| !leave.contains(&holder.node));
                reach.output.print(&status, planned)
            }
            Self::Rotate(Rotate { yes: true, leave }) => {
                let phase = status.next_phase;
                let request = RotateCaRequest { phase: phase.clone(), leave };
                let status = client.rotate_ca(request).await?.into_inner();
                reach.output.print(&status, |status| moved(&phase, status))
            }
        }
    }
}

pub(super) fn shown(status: &CaStatus) -> String {
    let mut text = format!("mesh CA   {}\n", status.pin);
    if status.phase.is_empty() {
        text.push_str("rotation  none\n");
        return text;
    }
    let _infallible = writeln!(text, "new CA    {}\nrotation  {}", status.next_pin, status.phase);
    if !status.left.is_empty() {
        let _infallible = writeln!(text, "left      {}", status.left.join(", "));
    }
    text.push('\n');
    text.push_str(&waiting(status));
    text
}

/// Who has not got what the next phase needs.
fn waiting(status: &CaStatus) -> String {
    let next = &status.next_phase;
    let mut text = if status.waits.is_empty() {
        format!("every node is ready for {next}\n")
    } else {
        let rows = status.waits.iter().map(|holder| {
            let connected = if holder.connected { "yes" } else { "no" };
            vec![holder.node.clone(), connected.to_owned(), holder.has.clone()]
        });
        format!("{next} waits for\n{}", table(&["NODE", "CONNECTED", "HAS"], rows, ""))
    };
    if !status.operators.is_empty() {
        let _infallible = writeln!(
            text,
            "operators without an identity by the new CA (any command before the retirement gives them one, after it \
             they must log in anew): {}",
            status.operators.join(", ")
        );
    }
    text
}

pub(super) fn planned(status: &CaStatus) -> String {
    let done = PHASES.iter().position(|(name, _)| *name == status.phase);
    let rows = PHASES.iter().enumerate().map(|(at, (name, what))| {
        let mark = match done {
            Some(now) if at < now => "done",
            Some(now) if at == now => "now",
            _ if *name == status.next_phase => "next",
            _ => "",
        };
        [(*name).to_owned(), mark.to_owned(), (*what).to_owned()]
    });
    let phases = columns(rows).join("\n");
    let waiting = if status.phase.is_empty() { String::new() } else { format!("\n{}", waiting(status)) };
    format!(
        "{phases}\n{waiting}\nnothing was changed; to begin {}: bunraku ca rotate --yes\n",
        status.next_phase
    )
}

pub(super) fn moved(phase: &str, status: &CaStatus) -> String {
    if status.phase.is_empty() {
        return format!("the rotation is over: only {} counts\n", status.pin);
    }
    format!(
        "phase {phase} has begun\n\n{}\nnext: bunraku ca status, then bunraku ca rotate --yes\n",
        waiting(status)
    )
}
