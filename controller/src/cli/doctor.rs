//! `bunraku doctor`: asks every node and prints one table.

use bunraku_common::hint;
use bunraku_proto::v1::{DoctorFleetReply, DoctorFleetRequest, Finding, finding::Severity};
use clap::Args;

use super::{
    Exit, Failure, Reach, client,
    output::{count, given, table},
};

#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// Only this node
    #[arg(value_parser = given())]
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

pub(super) fn text(reply: &DoctorFleetReply, all: bool) -> String {
    if reply.nodes.is_empty() {
        return "no nodes yet\nhint: bunraku token create NODE --role compiler\n".to_owned();
    }
    let mut rows = Vec::new();
    // What mends it, and where: told once for all nodes that need the same.
    let mut mends: Vec<(&Finding, Vec<&str>)> = Vec::new();
    for node in &reply.nodes {
        if !node.error.is_empty() {
            let (why, _) = hint::split(&node.error);
            rows.push(vec![node.node.clone(), "reach".into(), "error".into(), why]);
        }
        for finding in node.findings.iter().filter(|f| all || f.severity() != Severity::Ok) {
            let word = severity_word(finding.severity()).to_owned();
            rows.push(vec![node.node.clone(), finding.check.clone(), word, finding.found.clone()]);
            let same = |(known, _): &&mut (&Finding, _)| {
                known.check == finding.check && known.mend == finding.mend && known.fixable == finding.fixable
            };
            match mends.iter_mut().find(same) {
                Some((_, nodes)) => nodes.push(&node.node),
                None if !finding.mend.is_empty() => mends.push((finding, vec![&node.node])),
                None => {}
            }
        }
    }
    let checked = count(reply.nodes.len() as u64, "node");
    let mut out =
        table(&["NODE", "CHECK", "RESULT", "FOUND"], rows, &format!("{checked} checked, nothing to mend"));
    for (finding, nodes) in &mends {
        out.push_str(&format!("\n{}, on {}:\n", finding.check, nodes.join(", ")));
        out.push_str(&indented(finding.mend.trim_end()));
        if finding.fixable {
            out.push_str("  hint: bunraku-agent doctor --fix, there\n");
        }
    }
    for node in reply.nodes.iter().filter(|node| !node.error.is_empty()) {
        let (_, hint) = hint::split(&node.error);
        if !hint.is_empty() {
            out.push_str(&format!("\nreach, on {}:\n  hint: {hint}\n", node.node));
        }
    }
    out
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}").trim_end().to_owned() + "\n").collect()
}

fn severity_word(severity: Severity) -> &'static str {
    match severity {
        Severity::Ok => "ok",
        Severity::Warning => "warning",
        Severity::Error => "error",
        Severity::Unspecified => "unknown",
    }
}
