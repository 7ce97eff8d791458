//! Step 2: what stands between a bare Puppet Server and its first start.

use bunraku_proto::v1::NodeRequest;

use super::told::Step;
use crate::cli::{Failure, output::count, waiting::Waiting};

const STEP: &str = "set up";
/// Later steps see to these.
const LATER: [&str; 4] = ["puppet-server", "certificate", "crl", "crl-files"];

pub(super) struct SetUp {
    pub(super) step: Step,
    /// Puppet Server runs and has not read what was changed.
    pub(super) due: bool,
}

pub(super) async fn set_up(waiting: &mut Waiting) -> Result<SetUp, Failure> {
    let node = waiting.node.clone();
    let asked = waiting.client.set_up_compiler(NodeRequest { node }).await;
    let reply =
        asked.map_err(|status| Failure::of_change(status, "run the same command again"))?.into_inner();
    let files = reply.changes.iter().filter(|line| !line.starts_with(' ')).count() as u64;
    let mut details = reply.changes.clone();
    for finding in reply.findings.iter().filter(|finding| !LATER.contains(&finding.check.as_str())) {
        details.push(format!("! {}: {}", finding.check, finding.found));
        details.extend(finding.mend.lines().map(|line| format!("    {line}")));
    }
    let step = match files {
        0 => Step::already(STEP, "").with(details),
        files => Step::done(STEP, count(files, "change")).with(details),
    };
    Ok(SetUp { step, due: files > 0 && reply.running })
}
