//! One deploy: bring one environment to one snapshot on all compilers. A value; `apply` moves it, `due` says when.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use bunraku_common::{Digest, EnvironmentName, Generation, NodeName};
use serde::{Deserialize, Serialize};

use crate::Millis;

/// Names of people who joined a deploy that are shown; the journal has all of them.
pub(crate) const JOINED_SHOWN: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, Default, Hash)]
#[serde(transparent)]
pub struct DeployId(pub u64);

impl fmt::Display for DeployId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for DeployId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deploy {
    pub id: DeployId,
    pub environment: EnvironmentName,
    pub branch: String,
    pub kind: Kind,
    pub policy: Policy,
    pub who: String,
    /// Others whose request this deploy serves too (the first few).
    pub joined: BTreeSet<String>,
    pub requested_at: Millis,
    /// What was committed when staging began, or when it ended before that.
    pub previous: Option<Digest>,
    pub phase: Phase,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Kind {
    /// Build the branch (or one commit of it), then stage and commit.
    Build { commit: Option<String> },
    /// Stage and commit a retained snapshot; no git, no build.
    Rollback { snapshot: Digest },
    /// Build and compare; move nothing.
    Plan { commit: Option<String> },
}

/// What a compiler that cannot stage does to the deploy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Abandon it: every node stays on the old code.
    #[default]
    Fail,
    /// Leave the node behind.
    Skip,
    /// Leave it behind, out of service until it follows. Where it may not go out, or no balancer is enrolled: as `Fail`.
    Drain,
}

/// What a build (or a rollback) resolved to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Built {
    pub snapshot: Digest,
    pub commit: Option<String>,
    /// The difference touches `lib/puppet/type` of a module.
    pub generate_types: bool,
    /// The difference touches Ruby that stays in the interpreters when the environment cache is flushed.
    #[serde(default)]
    pub stale_ruby: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "phase", rename_all = "kebab-case")]
pub enum Phase {
    Queued,
    Building {
        since: Millis,
    },
    Staging {
        built: Built,
        generation: Generation,
        nodes: BTreeMap<NodeName, Stage>,
        deadline: Millis,
    },
    Committing {
        built: Built,
        generation: Generation,
        nodes: BTreeMap<NodeName, Commit>,
        deadline: Millis,
    },
    Ended {
        outcome: Outcome,
        at: Millis,
        /// What it was about, where it came that far.
        built: Option<Built>,
        generation: Option<Generation>,
        nodes: BTreeMap<NodeName, NodeNote>,
    },
}

/// A required compiler while staging.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "stage", rename_all = "kebab-case")]
pub enum Stage {
    Waiting,
    /// It cannot, and is to be drained.
    Unable {
        reason: String,
        hint: String,
    },
    Staged,
    /// Left behind by policy.
    Skipped {
        reason: String,
    },
    /// Held, revoked or removed meanwhile: no longer required.
    Dropped {
        reason: String,
    },
}

/// A required compiler while committing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "commit", rename_all = "kebab-case")]
pub enum Commit {
    Waiting,
    /// The node answered; why it is not proven yet.
    Owing {
        owed: String,
    },
    /// It lost what it had staged and is staged again, within this deploy; why that does not succeed yet.
    Unstaged {
        owed: String,
    },
    /// Puppet Server was seen to have loaded the snapshot. The node's wall clock at the swap, Unix milliseconds.
    Proven {
        swapped_ms: Option<u64>,
    },
    Skipped {
        reason: String,
    },
    Dropped {
        reason: String,
    },
}

/// How a deploy ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// Every required compiler is proven. First to last swap, where the nodes' clocks tell.
    Live {
        skew_ms: Option<u64>,
    },
    /// Committed; these compilers follow later.
    Behind {
        nodes: BTreeSet<NodeName>,
        skew_ms: Option<u64>,
    },
    /// It never came to staging.
    Failed {
        reason: String,
        hint: String,
    },
    /// Every node stays on the old code.
    Abandoned {
        reason: String,
        hint: String,
        /// The nodes that it was abandoned for, and why of each.
        #[serde(default)]
        failed: BTreeMap<NodeName, String>,
    },
    /// A newer request took its place before it began.
    Superseded {
        by: DeployId,
    },
    /// The snapshot is the committed one.
    Unchanged {
        built: Built,
    },
    Planned {
        built: Built,
    },
}

/// What is told of a node of a deploy, also after its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeNote {
    /// While it goes on `waiting`, `staged`, `committing`, `committed`; at the end `proven`, `behind`, `skipped`,
    /// `dropped`; of an abandoned deploy `failed`, `staged`, and `not staged`.
    pub state: String,
    pub note: String,
}

impl Deploy {
    pub fn is_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended { .. })
    }

    pub fn is_plan(&self) -> bool {
        matches!(self.kind, Kind::Plan { .. })
    }

    /// What is deployed, once that is known.
    pub fn built(&self) -> Option<&Built> {
        match &self.phase {
            Phase::Queued | Phase::Building { .. } => None,
            Phase::Staging { built, .. } | Phase::Committing { built, .. } => Some(built),
            Phase::Ended { built, .. } => built.as_ref(),
        }
    }

    pub fn generation(&self) -> Option<Generation> {
        match &self.phase {
            Phase::Queued | Phase::Building { .. } => None,
            Phase::Staging { generation, .. } | Phase::Committing { generation, .. } => Some(*generation),
            Phase::Ended { generation, .. } => *generation,
        }
    }

    /// The phase's name as people and the wire see it; an ended deploy is named by its outcome.
    pub fn phase_name(&self) -> &'static str {
        match &self.phase {
            Phase::Queued => "queued",
            Phase::Building { .. } => "building",
            Phase::Staging { .. } => "staging",
            Phase::Committing { .. } => "committing",
            Phase::Ended { outcome, .. } => outcome.name(),
        }
    }

    /// Each required compiler and how far it is.
    pub fn nodes(&self) -> BTreeMap<NodeName, NodeNote> {
        match &self.phase {
            Phase::Queued | Phase::Building { .. } => BTreeMap::new(),
            Phase::Staging { nodes, .. } => nodes.iter().map(|(name, s)| (name.clone(), s.note())).collect(),
            Phase::Committing { nodes, .. } => {
                nodes.iter().map(|(name, c)| (name.clone(), c.note())).collect()
            }
            Phase::Ended { nodes, .. } => nodes.clone(),
        }
    }

    /// As [`Deploy::nodes`], with those that did not follow in time, and those that failed, called what they are.
    pub(crate) fn nodes_at_end(&self, outcome: &Outcome) -> BTreeMap<NodeName, NodeNote> {
        let mut nodes = self.nodes();
        for (node, note) in &mut nodes {
            match (note.state.as_str(), outcome) {
                (_, Outcome::Abandoned { failed, .. }) if failed.contains_key(node) => {
                    *note = NodeNote::new("failed", &failed[node]);
                }
                ("waiting", _) => "not staged".clone_into(&mut note.state),
                ("committing" | "committed", _) => "behind".clone_into(&mut note.state),
                _ => {}
            }
        }
        nodes
    }

    /// What the deploy waits for, until when, and what happens then; empty once it has ended.
    pub fn waiting(&self, now: Millis) -> String {
        match &self.phase {
            Phase::Queued => {
                "for its turn: another deploy of this environment, or a free build slot".to_owned()
            }
            Phase::Building { since } => format!(
                "for the build, under way for {}; the builder's deadline ends it as failed",
                span(now.saturating_sub(*since))
            ),
            Phase::Staging { nodes, deadline, .. } => {
                let waiting = nodes.iter().filter(|(_, s)| s.is_open()).map(|(n, _)| n);
                let then = match self.policy {
                    Policy::Fail => "the deploy is abandoned and every node stays on the old code",
                    Policy::Skip => "those that have not staged are left behind",
                    Policy::Drain => {
                        "those that have not staged are drained until they follow; where that is not allowed the deploy \
                         is abandoned and every node stays on the old code"
                    }
                };
                format!("for {} to stage, {}; then {then}", names(waiting), left(*deadline, now))
            }
            Phase::Committing { nodes, deadline, .. } => {
                let waiting = nodes.iter().filter(|(_, c)| c.is_open()).map(|(n, _)| n);
                format!(
                    "for {} to prove the new code, {}; then it ends as behind there, and they follow when they can",
                    names(waiting),
                    left(*deadline, now)
                )
            }
            Phase::Ended { .. } => String::new(),
        }
    }
}

impl Kind {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Build { .. } => "build",
            Self::Rollback { .. } => "rollback",
            Self::Plan { .. } => "plan",
        }
    }
}

impl Policy {
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "fail" => Some(Self::Fail),
            "skip" => Some(Self::Skip),
            "drain" => Some(Self::Drain),
            _ => None,
        }
    }
}

impl Outcome {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Live { .. } => "live",
            Self::Behind { .. } => "behind",
            Self::Failed { .. } => "failed",
            Self::Abandoned { .. } => "abandoned",
            Self::Superseded { .. } => "superseded",
            Self::Unchanged { .. } => "unchanged",
            Self::Planned { .. } => "planned",
        }
    }

    /// Reason and hint, where there is one.
    pub fn reason(&self) -> Option<(&str, &str)> {
        match self {
            Self::Failed { reason, hint } | Self::Abandoned { reason, hint, .. } => Some((reason, hint)),
            Self::Live { .. }
            | Self::Behind { .. }
            | Self::Superseded { .. }
            | Self::Unchanged { .. }
            | Self::Planned { .. } => None,
        }
    }
}

impl Stage {
    /// Whether the deploy still waits for this node.
    pub(crate) fn is_open(&self) -> bool {
        matches!(self, Self::Waiting | Self::Unable { .. })
    }

    /// Where the commit begins for a node that came so far.
    pub(crate) fn committing(&self) -> Commit {
        match self {
            Self::Waiting | Self::Unable { .. } | Self::Staged => Commit::Waiting,
            Self::Skipped { reason } => Commit::Skipped { reason: reason.clone() },
            Self::Dropped { reason } => Commit::Dropped { reason: reason.clone() },
        }
    }

    fn note(&self) -> NodeNote {
        match self {
            Self::Waiting => NodeNote::new("waiting", ""),
            Self::Unable { reason, .. } => NodeNote::new("waiting", &format!("to be drained: {reason}")),
            Self::Staged => NodeNote::new("staged", ""),
            Self::Skipped { reason } => NodeNote::new("skipped", reason),
            Self::Dropped { reason } => NodeNote::new("dropped", reason),
        }
    }
}

impl Commit {
    /// Whether the deploy still waits for this node.
    pub fn is_open(&self) -> bool {
        matches!(self, Self::Waiting | Self::Owing { .. } | Self::Unstaged { .. })
    }

    fn note(&self) -> NodeNote {
        match self {
            Self::Waiting => NodeNote::new("committing", ""),
            Self::Owing { owed } => NodeNote::new("committed", owed),
            Self::Unstaged { owed } if owed.is_empty() => NodeNote::new("committing", "staged again"),
            Self::Unstaged { owed } => NodeNote::new("committing", owed),
            Self::Proven { .. } => NodeNote::new("proven", ""),
            Self::Skipped { reason } => NodeNote::new("skipped", reason),
            Self::Dropped { reason } => NodeNote::new("dropped", reason),
        }
    }
}

impl NodeNote {
    fn new(state: &str, note: &str) -> Self {
        Self { state: state.to_owned(), note: note.to_owned() }
    }
}

/// Up to five names, then how many more.
pub(crate) fn names<'a>(nodes: impl Iterator<Item = &'a NodeName>) -> String {
    let all: Vec<&str> = nodes.map(NodeName::as_str).collect();
    match all.len() {
        0 => "nobody".to_owned(),
        1..=5 => all.join(", "),
        more => format!("{} and {} more", all[..5].join(", "), more - 5),
    }
}

fn left(deadline: Millis, now: Millis) -> String {
    format!("at most {}", span(deadline.saturating_sub(now)))
}

/// `90 s`, `12 min`, `3 h`: rounded up, so that nothing is said to be over before it is.
pub(crate) fn span(ms: Millis) -> String {
    let seconds = ms.div_ceil(1000);
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3600)),
    }
}
