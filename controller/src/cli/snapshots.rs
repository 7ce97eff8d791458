//! `bunraku snapshots list|diff`.

use bunraku_proto::v1::{DiffSnapshotsRequest, Difference, ListSnapshotsRequest};
use clap::Subcommand;

use super::{
    Failure, Reach, client,
    environments::InEnvironment,
    output::{ago, short, table},
};

#[derive(Debug, Subcommand)]
pub(super) enum Snapshots {
    /// Snapshots that can be rolled back to
    #[command(after_help = "Example: bunraku snapshots list production")]
    List(InEnvironment),
    /// What differs between two snapshots
    #[command(after_help = "Example: bunraku snapshots diff 3f2a 9be1")]
    Diff {
        /// Digest, or its unique beginning
        a: String,
        /// Digest, or its unique beginning
        b: String,
    },
}

impl Snapshots {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        match self {
            Self::List(only) => {
                let nothing = only.nothing("snapshots");
                let request = ListSnapshotsRequest { environment: only.name() };
                let reply = client.list_snapshots(request).await?.into_inner();
                reach.output.print(&reply, |reply| {
                    table(
                        &["SNAPSHOT", "ENVIRONMENT", "COMMIT", "BUILT", "BY", "FILES", "MODULES", "LIVE"],
                        reply.snapshots.iter().map(|s| {
                            vec![
                                short(&s.digest).to_owned(),
                                s.environment.clone(),
                                short(&s.commit).to_owned(),
                                ago(s.built_ms),
                                s.who.clone(),
                                s.files.to_string(),
                                s.modules.len().to_string(),
                                if s.live { "live" } else { "" }.to_owned(),
                            ]
                        }),
                        &nothing,
                    )
                })
            }
            Self::Diff { a, b } => {
                let reply = client.diff_snapshots(DiffSnapshotsRequest { a, b }).await?.into_inner();
                reach.output.print(&reply, |reply| {
                    let head = format!("{} -> {}\n", short(&reply.a), short(&reply.b));
                    head + &reply.difference.as_ref().map(difference_text).unwrap_or_default()
                })
            }
        }
    }
}

/// Of a deploy after which interpreters hold what a cache flush does not throw away.
pub(super) const STALE_RUBY: &str =
    "Ruby below lib/ changes that a compiler loads only with a new JRuby pool\n";

/// Modules first, then files.
pub(super) fn difference_text(difference: &Difference) -> String {
    if difference.total == 0 {
        return "no difference\n".to_owned();
    }
    let mut out = String::new();
    for module in &difference.modules {
        out.push_str(&format!("  module {module}\n"));
    }
    let groups = [("+", &difference.added), ("~", &difference.changed), ("-", &difference.removed)];
    for (sign, paths) in groups {
        for path in paths {
            out.push_str(&format!("  {sign} {path}\n"));
        }
    }
    let shown = (difference.added.len() + difference.changed.len() + difference.removed.len()) as u64;
    if shown < difference.total {
        out.push_str(&format!("  … and {} more\n", difference.total - shown));
    }
    if difference.flush_jrubies {
        out.push_str(STALE_RUBY);
    }
    out
}
