//! `bunraku rollout …`: change compilers in waves, each one drained, changed, verified and enabled.

#[cfg(test)]
mod looks;
mod shown;
mod wait;

use bunraku_proto::v1::{
    AbortRolloutRequest, Action, ListRolloutsRequest, PauseRolloutRequest, ResumeRolloutRequest,
    RetargetRolloutRequest, RolloutInfo, RolloutRequest, ShowRolloutRequest, TurnRequest, action::Kind,
};
use clap::{Args, Subcommand, builder::PossibleValuesParser};

pub(super) use self::shown::status_lines;
use super::{
    Exit, Failure, Output, Reach, client,
    output::{confirm, count, given},
    tokens::parse_span,
};

#[derive(Debug, Subcommand)]
pub(super) enum Rollout {
    /// What a rollout would do: waves, order, floor, and what stands in the way; nothing moves
    #[command(after_help = "It ends with 6 when something stands in the way.\n\n\
                            Example: bunraku rollout plan restart --nodes 'c*.example.com' --batch 25%")]
    Plan(Wanted),
    /// Show the plan, ask, start it, and watch it to its end
    #[command(
        after_help = "Ctrl-C ends only the looking: a rollout ends by itself, or by `bunraku rollout abort`. It ends with 9 \
                      when the rollout has halted over a failed compiler and waits for a decision.\n\n\
                      Examples:\n  bunraku rollout start restart\n  \
                      bunraku rollout start reload --nodes c1.example.com c2.example.com --yes\n  \
                      bunraku rollout start update puppetserver=7.9.5-2 --test-catalog agent1.example.com\n  \
                      bunraku rollout start restart --group 'dc1-*' 'dc2-*' --batch 2 --min-available 3"
    )]
    Start(Start),
    /// The newest rollouts
    #[command(after_help = "Example: bunraku rollout list")]
    List {
        /// At most this many
        #[arg(long, default_value_t = 20)]
        limit: u32,
    },
    /// One rollout: every compiler's turn, what it waits for, until when, and what comes then
    #[command(after_help = "Example: bunraku rollout show 7 --watch")]
    Show {
        /// The rollout's number
        rollout: u64,
        /// Look on until it has ended
        #[arg(long)]
        watch: bool,
    },
    /// Let no turn begin any more; those under way are finished
    #[command(after_help = "Example: bunraku rollout pause 7 --reason 'lunch'")]
    Pause {
        /// The rollout's number
        rollout: u64,
        #[command(flatten)]
        why: Why,
    },
    /// Go on: after a pause, or past a compiler that failed
    #[command(after_help = "Example: bunraku rollout resume 7")]
    Resume {
        /// The rollout's number
        rollout: u64,
    },
    /// End it: compilers under way are brought back into service as soon as that is safe
    #[command(
        after_help = "What was changed already stays changed. A compiler that is being drained is enabled again, unchanged; \
                      one that is being changed is finished, verified and enabled; one that failed gets one more chance to \
                      be found healthy.\n\n\
                      Example: bunraku rollout abort 7 --reason 'wrong night'"
    )]
    Abort {
        /// The rollout's number
        rollout: u64,
        #[command(flatten)]
        why: Why,
    },
    /// Begin the turn of a compiler that failed or was skipped anew, and go on
    #[command(after_help = "Example: bunraku rollout retry 7 c2.example.com")]
    Retry(OfNode),
    /// Leave a compiler out, or give up one that failed
    #[command(after_help = "Example: bunraku rollout skip 7 c2.example.com")]
    Skip(OfNode),
    /// Another version for an update that goes on: turns under way are finished, then all get the new one
    #[command(
        after_help = "Compilers that are done with the version before have their turn again, canary first. One that failed \
                      waits for `retry`, which uses the new version, too.\n\n\
                      Example: bunraku rollout retarget 7 7.9.5-3"
    )]
    Retarget {
        /// The rollout's number
        rollout: u64,
        /// The package's version from now on
        #[arg(value_parser = given())]
        version: String,
    },
}

/// What is to be done, to whom, and how carefully.
#[derive(Debug, Args)]
pub(super) struct Wanted {
    /// What is done to each compiler while it is out of service
    #[arg(value_parser = PossibleValuesParser::new(ACTIONS), hide_possible_values = true, value_name = "ACTION",
          long_help = ACTIONS_HELP)]
    action: String,
    /// `update`: PACKAGE=VERSION; `agent-update`: VERSION; `exec`: the command's name
    #[arg(value_name = "WHAT", value_parser = given())]
    what: Option<String>,
    /// Names or patterns of compilers (`*` stands for any text); without it all that a balancer carries
    #[arg(long, num_args = 1.., value_name = "PATTERN", value_parser = given())]
    nodes: Vec<String>,
    /// Only compilers that have all of these labels (`bunraku nodes label`)
    #[arg(long = "label", num_args = 1.., value_name = "LABEL", value_parser = given())]
    labels: Vec<String>,
    /// Only compilers that have this role, too: puppetdb, service
    #[arg(long = "role", num_args = 1.., value_name = "ROLE", value_parser = given())]
    roles: Vec<String>,
    /// Patterns of names: one group (a data centre) after the other, in this order
    #[arg(long = "group", num_args = 1.., value_name = "PATTERN", value_parser = given())]
    groups: Vec<String>,
    /// Compilers of the first wave
    #[arg(long, value_name = "N", default_value_t = 1)]
    canary: u32,
    /// Compilers of each wave after it, as a number or as a part of all: 2, 25%
    #[arg(long, value_name = "N|N%", default_value = "1", value_parser = given())]
    batch: String,
    /// Compilers that must stay in service in each backend; a balancer's own floor rules where it is higher
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_available: u32,
    /// How long a compiler may take to be empty: 90s, 10m, 1h
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_span)]
    drain_deadline: u64,
    /// What then: `abort` enables it again, unchanged, and halts; `force` closes its sessions, and changes
    /// it all the same
    #[arg(long, value_name = "WHAT", default_value = "abort", value_parser = ["abort", "force"])]
    on_drain_deadline: String,
    /// How long each other step may take on a compiler: the check before the drain, the action, the way back, the check
    /// after it
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_span)]
    step_deadline: u64,
    /// How long a compiler must stay in service before the next wave begins
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = parse_span)]
    bake: u64,
    /// What the bake is judged by: `health` (it stays in service), or `siblings`, too: errors, time-outs and compile times
    /// beside those of the others. Without it `siblings` for update, puppet-run and exec
    #[arg(long, value_name = "BY", value_parser = ["health", "siblings"])]
    verdict: Option<String>,
    /// Where too little was compiled to compare, the bake is extended up to this
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = parse_span)]
    bake_max: u64,
    /// Where it is too little even then: `pause` the rollout, or `continue` without a verdict, which is recorded
    #[arg(long, value_name = "WHAT", default_value = "pause", value_parser = ["pause", "continue"])]
    on_inconclusive: String,
    /// Compile a catalog for this certname before a compiler is enabled: it must succeed
    #[arg(long, value_name = "CERTNAME", value_parser = given())]
    test_catalog: Option<String>,
    /// Leave a failed update as it is, and do it also where there is no way back
    #[arg(long)]
    no_revert: bool,
    /// A package may become older; each node must grant that, too
    #[arg(long)]
    downgrade: bool,
    /// Change compilers that no balancer carries, too, without a drain
    #[arg(long)]
    undrained: bool,
}

const ACTIONS: [&str; 7] =
    ["restart", "reload", "flush-pool", "update", "puppet-run", "agent-update", "exec"];

const ACTIONS_HELP: &str = "What is done to each compiler while it is out of service:\n\
    restart               Puppet Server is restarted\n\
    reload                Puppet Server reads its configuration again\n\
    flush-pool            its JRuby pool is made anew\n\
    update PACKAGE=VERSION  a package gets exactly this version, and Puppet Server is restarted\n\
    puppet-run            the compiler's own Puppet agent runs once\n\
    agent-update VERSION  the node agent itself gets this version\n\
    exec NAME             a command that the node's own configuration names";

#[derive(Debug, Args)]
pub(super) struct Start {
    #[command(flatten)]
    wanted: Wanted,
    /// Do not ask
    #[arg(long)]
    yes: bool,
    /// Return as soon as it is started
    #[arg(long)]
    no_wait: bool,
}

#[derive(Debug, Args)]
pub(super) struct Why {
    /// Shown to everybody who meets it
    #[arg(long, default_value = "no reason given", value_parser = given())]
    reason: String,
}

#[derive(Debug, Args)]
pub(super) struct OfNode {
    /// The rollout's number
    rollout: u64,
    /// The compiler's node name
    #[arg(value_parser = given())]
    node: String,
}

impl Rollout {
    pub(super) async fn run(self, reach: &Reach) -> Result<(), Failure> {
        // What is wrong with the arguments is said without a controller.
        let output = reach.output;
        let changed = match self {
            Self::Plan(wanted) => return plan(wanted, reach).await,
            Self::Start(start) => return start.run(reach).await,
            Self::List { limit } => {
                let request = ListRolloutsRequest { limit };
                let reply = client::connect(reach).await?.list_rollouts(request).await?.into_inner();
                return output.print(&reply, |reply| shown::list_text(&reply.rollouts));
            }
            Self::Show { rollout, watch } => return show(rollout, watch, reach).await,
            Self::Pause { rollout: id, why } => {
                let request = PauseRolloutRequest { id, reason: why.reason };
                client::connect(reach).await?.pause_rollout(request).await?
            }
            Self::Resume { rollout: id } => {
                client::connect(reach).await?.resume_rollout(ResumeRolloutRequest { id }).await?
            }
            Self::Abort { rollout: id, why } => {
                let request = AbortRolloutRequest { id, reason: why.reason };
                client::connect(reach).await?.abort_rollout(request).await?
            }
            Self::Retry(OfNode { rollout: id, node }) => {
                client::connect(reach).await?.retry_turn(TurnRequest { id, node }).await?
            }
            Self::Retarget { rollout: id, version } => {
                client::connect(reach).await?.retarget_rollout(RetargetRolloutRequest { id, version }).await?
            }
            Self::Skip(OfNode { rollout: id, node }) => {
                client::connect(reach).await?.skip_turn(TurnRequest { id, node }).await?
            }
        };
        output.print(&changed.into_inner(), shown::changed)
    }
}

async fn plan(wanted: Wanted, reach: &Reach) -> Result<(), Failure> {
    let request = wanted.request()?;
    let plan = client::connect(reach).await?.plan_rollout(request).await?.into_inner();
    reach.output.print(&plan, shown::plan_text)?;
    if plan.blocks.is_empty() { Ok(()) } else { Err(Failure::silent(Exit::Refused)) }
}

async fn show(id: u64, watch: bool, reach: &Reach) -> Result<(), Failure> {
    let mut client = client::connect(reach).await?;
    let rollout = client.show_rollout(ShowRolloutRequest { id }).await?.into_inner();
    if !watch {
        return reach.output.print(&rollout, shown::show_text);
    }
    let ended = wait::follow(client, rollout, wait::Until::Ended, reach.output).await?;
    finish(reach.output, &ended)
}

impl Start {
    async fn run(self, reach: &Reach) -> Result<(), Failure> {
        let request = self.wanted.request()?;
        let mut client = client::connect(reach).await?;
        let plan = client.plan_rollout(request.clone()).await?.into_inner();
        if let Some(block) = plan.blocks.first() {
            if reach.output == Output::Text {
                eprint!("{}", shown::plan_text(&plan));
            }
            return Err(Failure::new(Exit::Refused, &block.reason).hint(&block.hint));
        }
        if reach.output == Output::Text {
            super::output::write(&shown::plan_text(&plan))?;
        }
        let compilers = plan.waves.iter().map(|wave| wave.nodes.len() as u64).sum();
        confirm(&format!("Start the {} of {}?", plan.action, count(compilers, "compiler")), self.yes)?;
        let started = client.start_rollout(request).await;
        let started =
            started.map_err(|status| Failure::of_change(status, "bunraku rollout list"))?.into_inner();
        if self.no_wait {
            return reach.output.print(&started, shown::started);
        }
        if reach.output == Output::Text {
            eprint!("{}", shown::started(&started));
        }
        let ended = wait::follow(client, started, wait::Until::EndedOrHalted, reach.output).await?;
        finish(reach.output, &ended)
    }
}

fn finish(output: Output, ended: &RolloutInfo) -> Result<(), Failure> {
    output.print(ended, shown::ending)?;
    match ended.phase.as_str() {
        "done" => Ok(()),
        "paused" => Err(Failure::silent(Exit::Halted)),
        _ => Err(Failure::silent(Exit::Failed)),
    }
}

impl Wanted {
    fn request(self) -> Result<RolloutRequest, Failure> {
        Ok(RolloutRequest {
            action: Some(action(&self.action, self.what)?),
            nodes: self.nodes,
            labels: self.labels,
            roles: self.roles,
            groups: self.groups,
            undrained: self.undrained,
            canary: Some(self.canary),
            batch: self.batch,
            min_available: self.min_available,
            drain_deadline_s: Some(self.drain_deadline),
            on_drain_deadline: self.on_drain_deadline,
            step_deadline_s: Some(self.step_deadline),
            bake_s: Some(self.bake),
            no_revert: self.no_revert,
            downgrade: self.downgrade,
            test_catalog: self.test_catalog.unwrap_or_default(),
            verdict: self.verdict.unwrap_or_default(),
            bake_max_s: Some(self.bake_max),
            on_inconclusive: self.on_inconclusive,
        })
    }
}

/// An action and what it is about, where it needs that.
fn action(name: &str, what: Option<String>) -> Result<Action, Failure> {
    let wrong = |why: String, example: &str| Err(Failure::new(Exit::WrongUse, why).hint(example));
    let only = |kind: Kind| Action { kind: kind.into(), ..Action::default() };
    match (name, what) {
        ("restart", None) => Ok(only(Kind::Restart)),
        ("reload", None) => Ok(only(Kind::Reload)),
        ("flush-pool", None) => Ok(only(Kind::FlushPool)),
        ("puppet-run", None) => Ok(only(Kind::PuppetRun)),
        ("update", Some(what)) => match what.split_once('=') {
            Some((package, version)) if !package.is_empty() && !version.is_empty() => {
                let (package, version) = (package.to_owned(), version.to_owned());
                Ok(Action { package, version, ..only(Kind::Update) })
            }
            Some(_) | None => wrong(format!("`{what}` is not PACKAGE=VERSION"), UPDATE_EXAMPLE),
        },
        ("agent-update", Some(version)) => Ok(Action { version, ..only(Kind::AgentUpdate) }),
        ("exec", Some(command)) => Ok(Action { command, ..only(Kind::Exec) }),
        ("update", None) => wrong("update needs PACKAGE=VERSION".to_owned(), UPDATE_EXAMPLE),
        ("agent-update", None) => {
            wrong("agent-update needs a version".to_owned(), "bunraku rollout start agent-update 0.2.0")
        }
        ("exec", None) => {
            wrong("exec needs the name of a command".to_owned(), "bunraku rollout start exec NAME")
        }
        (name, Some(what)) => wrong(
            format!("{name} takes nothing behind it, and there is `{what}`"),
            "choose compilers with --nodes",
        ),
        (name, None) => wrong(format!("`{name}` is no action"), "bunraku rollout start --help"),
    }
}

const UPDATE_EXAMPLE: &str = "bunraku rollout start update puppetserver=7.9.5-2";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_has_what_it_needs_and_nothing_else() {
        for name in ACTIONS {
            let alone = action(name, None);
            let with = action(name, Some("a=1".into()));
            assert!(alone.is_ok() != with.is_ok(), "{name}");
            let refused = alone.err().or(with.err()).map(|failure| failure.exit());
            assert_eq!(refused, Some(Exit::WrongUse), "{name}");
        }
        let update = action("update", Some("puppetserver=7.9.5-2".into())).ok();
        assert_eq!(update.map(|a| (a.package, a.version)), Some(("puppetserver".into(), "7.9.5-2".into())));
        assert!(action("update", Some("puppetserver".into())).is_err());
    }
}
