//! `bunraku audit list|verify`.

use bunraku_proto::v1::{ListAuditRequest, VerifyAuditRequest};
use clap::Subcommand;

use super::{
    Exit, Failure, Reach, client,
    output::{count, hinted, or_dash, short, table},
    tokens::clock_time,
};

#[derive(Debug, Subcommand)]
pub(super) enum Audit {
    /// Who did what, when
    #[command(after_help = "Example: bunraku audit list --limit 50")]
    List {
        /// Only records behind this sequence number
        #[arg(long, default_value_t = 0)]
        after: u64,
        /// At most this many (0: the newest 100)
        #[arg(long, default_value_t = 0)]
        limit: u32,
    },
    /// Prove that no record was changed, removed or added behind the controller's back
    #[command(after_help = "Example: bunraku audit verify")]
    Verify,
}

impl Audit {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        match self {
            Self::List { after, limit } => {
                let reply = client.list_audit(ListAuditRequest { after, limit }).await?.into_inner();
                reach.output.print(&reply, |reply| {
                    table(
                        &["RECORD", "TIME", "HASH", "WHO", "WHAT"],
                        reply.records.iter().map(|r| {
                            vec![
                                r.sequence.to_string(),
                                clock_time(r.wall_ms / 1000),
                                short(&r.hash).to_owned(),
                                or_dash(&r.who).to_owned(),
                                // One line a record, whatever is in its reasons.
                                r.what.replace('\n', " "),
                            ]
                        }),
                        "no records behind that one",
                    )
                })
            }
            Self::Verify => {
                let reply = client.verify_audit(VerifyAuditRequest {}).await?.into_inner();
                reach.output.print(&reply, |reply| match reply.error.as_str() {
                    "" => format!(
                        "whole: {} in {}, head {}{}\n",
                        count(reply.records, "record"),
                        count(reply.segments, "segment"),
                        reply.head,
                        match reply.pruned_segments {
                            0 => String::new(),
                            removed =>
                                format!(" ({} removed as too old meanwhile)", count(removed, "segment")),
                        }
                    ),
                    error => format!("BROKEN: {}", hinted("", error)),
                })?;
                if reply.error.is_empty() { Ok(()) } else { Err(Failure::silent(Exit::Failed)) }
            }
        }
    }
}
