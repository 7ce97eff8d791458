//! `bunraku deploy`, `bunraku deploys …`, `bunraku rollback`.

use bunraku_common::hint;
use bunraku_proto::v1::{
    DeployInfo, DeployNode, DeployReply, DeployRequest, ListDeploysRequest, RollbackRequest,
    ShowDeployRequest,
};
use clap::{Args, Subcommand};
use tonic::Status;

use super::{
    Exit, Failure, Output, Reach, client,
    environments::InEnvironment,
    output::{ago, columns, count, given, hinted, short, since, span, table},
    progress,
    snapshots::{STALE_RUBY, difference_text},
};

/// A reason that is not told twice: longer than a line beside a node's name has room for.
const LONG: usize = 50;

#[derive(Debug, Args)]
pub(super) struct Deploy {
    /// Environments (the branch's name as Puppet sees it)
    #[arg(required_unless_present = "all", conflicts_with = "all", value_name = "ENV")]
    environments: Vec<String>,
    /// Every branch of the control repository
    #[arg(long)]
    all: bool,
    /// This commit of the branch (full SHA) instead of its newest
    #[arg(long, value_name = "SHA", conflicts_with = "all", value_parser = given())]
    commit: Option<String>,
    /// Build and compare; nothing moves
    #[arg(long)]
    plan: bool,
    /// What to do with a compiler that cannot stage: `fail` abandons, `skip` leaves it behind, `drain` leaves it behind and
    /// out of service until it follows (where it may not go out: as `fail`)
    #[arg(long, value_parser = ["fail", "skip", "drain"])]
    policy: Option<String>,
    /// Return as soon as the request is accepted
    #[arg(long)]
    no_wait: bool,
}

impl Deploy {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        let request = DeployRequest {
            environments: self.environments,
            all: self.all,
            commit: self.commit.unwrap_or_default(),
            plan: self.plan,
            policy: self.policy.unwrap_or_default(),
        };
        let reply = client.deploy(request).await.map_err(asked)?.into_inner();
        finish(reach, client, reply, self.no_wait).await
    }
}

#[derive(Debug, Args)]
pub(super) struct Rollback {
    /// The environment
    #[arg(value_name = "ENV")]
    environment: String,
    /// Digest of a retained snapshot, or its unique beginning; without it the one before the live one
    #[arg(long, value_name = "DIGEST", value_parser = given())]
    to: Option<String>,
    /// Return as soon as the request is accepted
    #[arg(long)]
    no_wait: bool,
}

impl Rollback {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        let request =
            RollbackRequest { environment: self.environment.clone(), to: self.to.unwrap_or_default() };
        let reply = client.rollback(request).await.map_err(asked)?.into_inner();
        finish(reach, client, reply, self.no_wait).await?;
        if reach.output == Output::Text {
            let held = format!("{} is held there: deploys are refused", self.environment);
            let lift = format!("bunraku release {} lifts the hold", self.environment);
            super::output::write(&hinted("", &hint::join(&held, &lift)))?;
        }
        Ok(())
    }
}

fn asked(status: Status) -> Failure {
    Failure::of_change(status, "bunraku deploys list")
}

/// Shows what was accepted and refused, and follows the accepted deploys to their ends.
async fn finish(
    reach: &Reach,
    client: client::Control,
    reply: DeployReply,
    no_wait: bool,
) -> Result<(), Failure> {
    if reach.output == Output::Text {
        for refused in &reply.refused {
            eprintln!("refused: {}: {}", refused.environment, refused.reason);
            if !refused.hint.is_empty() {
                eprintln!("hint: {}", refused.hint);
            }
        }
        for gone in &reply.gone {
            println!("{gone}: its branch is gone; the environment stays as it is");
        }
    }
    let refused = if reply.refused.is_empty() { None } else { Some(Exit::Refused) };
    if no_wait {
        reach.output.print(&reply, |reply| {
            reply
                .deploys
                .iter()
                .map(|d| {
                    format!(
                        "deploy {0} of {1} is {2}\nnext: bunraku deploys show {0}\n",
                        d.id, d.environment, d.phase
                    )
                })
                .collect()
        })?;
        return refused.map_or(Ok(()), |exit| Err(Failure::silent(exit)));
    }
    let ended = progress::follow(client, &reply.deploys, reach.output).await?;
    if reach.output == Output::Json {
        reach.output.print(&DeployReply { deploys: ended.clone(), ..reply }, |_| String::new())?;
    } else {
        for deploy in &ended {
            super::output::write(&ending(deploy))?;
        }
    }
    let worst = ended.iter().filter_map(|deploy| exit_of(&deploy.phase)).chain(refused).max_by_key(severity);
    worst.map_or(Ok(()), |exit| Err(Failure::silent(exit)))
}

fn exit_of(phase: &str) -> Option<Exit> {
    match phase {
        "live" | "unchanged" | "planned" | "superseded" => None,
        "behind" => Some(Exit::Behind),
        _ => Some(Exit::Failed),
    }
}

/// A failed deploy says more than a refused one, and that more than one that is only behind.
fn severity(exit: &Exit) -> u8 {
    match exit {
        Exit::Failed => 3,
        Exit::Refused => 2,
        Exit::Behind => 1,
        Exit::WrongUse
        | Exit::NoAnswer
        | Exit::NotAllowed
        | Exit::NotFound
        | Exit::Unknown
        | Exit::Halted
        | Exit::Interrupted => 0,
    }
}

/// How a deploy ended, for people.
pub(super) fn ending(deploy: &DeployInfo) -> String {
    let mut out = match deploy.phase.as_str() {
        "live" | "behind" => served(deploy),
        "unchanged" => {
            format!("{} is unchanged: {} is committed already\n", deploy.environment, short(&deploy.snapshot))
        }
        "planned" => format!("plan for {} (nothing was moved)\n", deploy.environment),
        "superseded" => {
            format!("deploy {} of {} gave way to a newer request\n", deploy.id, deploy.environment)
        }
        phase => format!("deploy {} of {} {phase}: {}\n", deploy.id, deploy.environment, deploy.reason),
    };
    if deploy.phase == "planned"
        && let Some(difference) = &deploy.difference
    {
        out.push_str(&difference_text(difference));
    }
    let told = |node: &&DeployNode| {
        matches!(node.state.as_str(), "failed" | "behind" | "skipped") || !node.note.is_empty()
    };
    let told: Vec<DeployNode> = deploy.nodes.iter().filter(told).cloned().collect();
    // One that failed is in the reason already.
    if told.len() > 1 || matches!(deploy.phase.as_str(), "live" | "behind") {
        out.push_str(&node_lines(&told));
    }
    let stale = deploy.difference.as_ref().is_some_and(|difference| difference.flush_jrubies);
    if stale && matches!(deploy.phase.as_str(), "live" | "behind") {
        out.push_str(STALE_RUBY);
    }
    out.push_str(&renewal(deploy));
    if matches!(deploy.phase.as_str(), "failed" | "abandoned") {
        out.push_str(&format!("nothing changed on any compiler; more: bunraku deploys show {}\n", deploy.id));
    }
    if !deploy.hint.is_empty() {
        out.push_str(&format!("hint: {}\n", deploy.hint));
    }
    out
}

/// What makes interpreters with stale Ruby anew: a command, or what comes by itself.
fn renewal(deploy: &DeployInfo) -> String {
    match deploy.renewal.as_str() {
        "" => String::new(),
        command if command.starts_with("bunraku ") => format!("hint: {command}\n"),
        by_itself => format!("the pools are made anew by {by_itself}\n"),
    }
}

fn served(deploy: &DeployInfo) -> String {
    let proven = deploy.nodes.iter().filter(|node| node.state == "proven").count() as u64;
    let behind = deploy.nodes.len() as u64 - proven;
    let skew = if proven > 1 {
        format!("{} ms from the first to the last, ", deploy.skew_ms)
    } else {
        String::new()
    };
    let behind = if behind == 0 { String::new() } else { format!(", {behind} behind") };
    format!(
        "{} is live at {} on {}{behind} ({skew}{} in all)\n",
        deploy.environment,
        short(&deploy.snapshot),
        count(proven, "compiler"),
        took(deploy)
    )
}

fn took(deploy: &DeployInfo) -> String {
    let end = if deploy.live_ms == 0 { deploy.ended_ms } else { deploy.live_ms };
    let ms = end.saturating_sub(deploy.requested_ms);
    match ms {
        0..1000 => format!("{ms} ms"),
        1000..10_000 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        _ => span(ms / 1000),
    }
}

#[derive(Debug, Subcommand)]
pub(super) enum Deploys {
    /// The newest deploys
    #[command(after_help = "Example: bunraku deploys list production")]
    List {
        #[command(flatten)]
        only: InEnvironment,
        /// At most this many
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// One deploy: nodes, modules, differences, what the builder said
    #[command(after_help = "Example: bunraku deploys show 17")]
    Show {
        /// The deploy's number
        deploy: u64,
    },
}

impl Deploys {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let mut client = client::connect(reach).await?;
        match self {
            Self::List { only, limit } => {
                let nothing = only.nothing("deploys");
                let request = ListDeploysRequest { environment: only.name(), limit };
                let reply = client.list_deploys(request).await?.into_inner();
                reach.output.print(&reply, |reply| list_text(&reply.deploys, &nothing))
            }
            Self::Show { deploy } => {
                let reply = client.show_deploy(ShowDeployRequest { id: deploy }).await?.into_inner();
                reach.output.print(&reply, deploy_text)
            }
        }
    }
}

/// Fits into 80 columns.
pub(super) fn list_text(deploys: &[DeployInfo], nothing: &str) -> String {
    table(
        &["ID", "ENVIRONMENT", "KIND", "PHASE", "COMMIT", "SNAPSHOT", "BY", "AGE"],
        deploys.iter().map(|d| {
            vec![
                d.id.to_string(),
                d.environment.clone(),
                d.kind.clone(),
                d.phase.clone(),
                short(&d.commit).to_owned(),
                short(&d.snapshot).to_owned(),
                d.who.clone(),
                since(d.requested_ms),
            ]
        }),
        nothing,
    )
}

pub(super) fn deploy_text(deploy: &DeployInfo) -> String {
    let mut out = format!(
        "deploy {} of {} ({}), asked for by {} {}\n",
        deploy.id,
        deploy.environment,
        deploy.kind,
        deploy.who,
        ago(deploy.requested_ms)
    );
    let about = [
        ("phase", &deploy.phase),
        ("commit", &deploy.commit),
        ("snapshot", &deploy.snapshot),
        ("before", &deploy.previous),
        ("waits", &deploy.waiting),
        ("reason", &deploy.reason),
        ("hint", &deploy.hint),
    ];
    for (head, text) in about.iter().filter(|(_, text)| !text.is_empty()) {
        // What programs said has lines of its own.
        out.push_str(&format!("  {head:<8}  {}\n", text.replace('\n', "\n            ")));
    }
    if !deploy.nodes.is_empty() {
        out.push_str("compilers\n");
        let told = |node: &DeployNode| DeployNode { note: untold(node, &deploy.reason), ..node.clone() };
        out.push_str(&node_lines(&deploy.nodes.iter().map(told).collect::<Vec<_>>()));
    }
    if !deploy.modules.is_empty() {
        out.push_str("modules\n");
        for module in &deploy.modules {
            out.push_str(&format!("  {} {}\n", module.name, module.version));
        }
    }
    if let Some(difference) = &deploy.difference {
        out.push_str("difference to what was committed before\n");
        out.push_str(&difference_text(difference));
    }
    out.push_str(&renewal(deploy));
    if !deploy.output.is_empty() {
        out.push_str("the builder said\n");
        for line in deploy.output.lines() {
            out.push_str(&format!("  | {line}\n"));
        }
    }
    out
}

/// A node's note; where it is long and the deploy's reason holds it already, only that.
fn untold(node: &DeployNode, reason: &str) -> String {
    let (why, _) = hint::split(&node.note);
    if why.len() > LONG && reason.contains(&why) { "the reason above".to_owned() } else { node.note.clone() }
}

/// Node, state, and why; a hint on a line of its own.
fn node_lines(nodes: &[DeployNode]) -> String {
    let lines = columns(nodes.iter().map(|n| [n.node.clone(), n.state.clone(), hint::split(&n.note).0]));
    let mut out = String::new();
    for (line, node) in lines.iter().zip(nodes) {
        out.push_str(&format!("{line}\n"));
        let (_, hint) = hint::split(&node.note);
        if !hint.is_empty() {
            out.push_str(&format!("    hint: {hint}\n"));
        }
    }
    out
}
