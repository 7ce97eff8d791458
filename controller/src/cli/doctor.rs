//! `bunraku doctor`: asks every node and prints one table.

use bunraku_proto::v1::{DoctorFleetReply, DoctorFleetRequest, finding::Severity};
use clap::Args;

use super::{Exit, Failure, Reach, client, output::table};

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Only this node
    node: Option<String>,
    /// Also show what is right
    #[arg(long)]
    all: bool,
}

impl Doctor {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        let request = DoctorFleetRequest { node: self.node.unwrap_or_default() };
        let reply = client.doctor(request).await?.into_inner();
        reach.output.print(&reply, |reply| text(reply, self.all))?;
        let errors = reply.nodes.iter().any(|node| {
            !node.error.is_empty() || node.findings.iter().any(|f| f.severity() == Severity::Error)
        });
        if errors { Err(Failure::silent(Exit::Failed)) } else { Ok(()) }
    }
}

fn text(reply: &DoctorFleetReply, all: bool) -> String {
    let mut rows = Vec::new();
    let mut mends = String::new();
    for node in &reply.nodes {
        if !node.error.is_empty() {
            rows.push(vec![node.node.clone(), "reach".into(), "error".into(), node.error.clone()]);
        }
        for finding in &node.findings {
            let severity = finding.severity();
            if severity == Severity::Ok && !all {
                continue;
            }
            let word = severity_word(severity).to_owned();
            rows.push(vec![node.node.clone(), finding.check.clone(), word, finding.found.clone()]);
            if !finding.mend.is_empty() {
                let fix = if finding.fixable { "\n  or run there: bunraku-agent doctor --fix" } else { "" };
                let mend = finding.mend.replace('\n', "\n  ");
                mends.push_str(&format!("\n{} on {}:\n  {mend}{fix}\n", finding.check, node.node));
            }
        }
    }
    if rows.is_empty() {
        return format!("{} nodes checked, nothing to mend\n", reply.nodes.len());
    }
    table(&["NODE", "CHECK", "RESULT", "FOUND"], rows) + &mends
}

fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "ok",
        Severity::Warning => "warning",
        Severity::Error => "error",
        Severity::Unspecified => "unknown",
    }
}
