//! Whether an action may be done here, and can: asked before the drain, when nothing has changed yet.

use std::{path::Path, sync::Arc};

use bunraku_common::Chain;
use bunraku_packages::Target;
use bunraku_puppetserver::{Settings, doctor::denies_pool_flush};
use bunraku_services::{
    State,
    process::Process,
    puppetserver::{ConfigCheck, GoodCopies},
};

use super::{
    action::Action,
    certificate, packages,
    reach::server,
    step::{Answer, Consent},
    verify::CATALOG,
};
use crate::node::{Compiler, Node};

impl Action {
    /// Whether this node's configuration grants it; else why not, and what to do.
    pub(super) fn granted(&self, node: &Node) -> Result<(), String> {
        let rollout = &node.config.rollout;
        let not = |what: &str, hint: &str| {
            Err(format!(
                "this node does not grant {what} (hint: {hint} in agent.toml, and restart bunraku-agent)"
            ))
        };
        match self {
            Self::Restart | Self::Reload | Self::FlushPool => {
                let granted = node.turns.services.granted(&rollout.service);
                granted.map(drop).map_err(|error| Chain(&error).to_string())
            }
            Self::PuppetRun if !rollout.puppet_run => not("Puppet runs", "puppet_run = true below [rollout]"),
            Self::PuppetRun => Ok(()),
            Self::Exec(name) => match rollout.exec.get(name) {
                None => {
                    let known: Vec<&str> = rollout.exec.keys().map(String::as_str).collect();
                    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
                    not(&format!("the command `{name}`, only {known}"), "name it below [rollout.exec]")
                }
                Some(words) => match words.first().map(Path::new) {
                    Some(program) if program.is_absolute() && program.is_file() => Ok(()),
                    program => Err(format!(
                        "[rollout.exec] names `{}` for `{name}`, which is no program by its whole path",
                        program.unwrap_or(Path::new("")).display()
                    )),
                },
            },
            Self::Update { package, .. } => {
                packages::granted(node, package)?;
                Self::Restart.granted(node)
            }
            Self::AgentUpdate { .. } => packages::granted(node, packages::OWN),
            Self::Certificate(_) => Self::Restart.granted(node),
        }
    }

    /// What it would change, in words; `Err`: why it would not be done.
    pub(super) async fn foresee(&self, node: &Arc<Node>, consent: Consent) -> Result<Vec<String>, String> {
        self.granted(node)?;
        match self {
            Self::Update { package, version } => {
                let target = Target { package: package.clone(), version: version.clone() };
                packages::foresee(node, &target, consent).await
            }
            Self::AgentUpdate { version } => {
                let target = Target { package: packages::OWN.to_owned(), version: version.clone() };
                packages::foresee(node, &target, consent).await
            }
            Self::Certificate(fingerprint) => {
                let Some(compiler) = &node.compiler else { return Ok(Vec::new()) };
                match certificate::prepare(node, compiler, fingerprint).await {
                    Answer::Failed { reason, .. } => Err(reason),
                    Answer::Done(_) | Answer::GoingOn(_) => Ok(vec![self.to_string()]),
                }
            }
            Self::Restart | Self::Reload | Self::FlushPool | Self::PuppetRun | Self::Exec(_) => {
                Ok(Vec::new())
            }
        }
    }

    /// What can be found out before the drain. Nothing changes.
    pub(super) async fn prepare(&self, node: &Arc<Node>, compiler: &Compiler, consent: Consent) -> Answer {
        if let Err(why) = self.granted(node) {
            return Answer::unchanged(why);
        }
        match self {
            Self::Restart | Self::Reload => self.prepare_service(node, compiler).await,
            Self::FlushPool => match server(node, compiler).await {
                Ok((settings, server)) => match server.pool().await {
                    Ok(_) => may_flush(node, &settings),
                    Err(error) => Answer::unchanged(Chain(&error)),
                },
                Err(why) => Answer::unchanged(why),
            },
            Self::Update { package, version } => {
                match self.prepare_service(node, compiler).await {
                    Answer::Done(_) => {}
                    failed @ (Answer::GoingOn(_) | Answer::Failed { .. }) => return failed,
                }
                let target = Target { package: package.clone(), version: version.clone() };
                packages::prepare(node, &target, consent, self.is_unfinished(node)).await
            }
            Self::AgentUpdate { version } => {
                let target = Target { package: packages::OWN.to_owned(), version: version.clone() };
                packages::prepare(node, &target, consent, self.is_unfinished(node)).await
            }
            Self::Certificate(fingerprint) => match self.prepare_service(node, compiler).await {
                Answer::Done(note) => match certificate::prepare(node, compiler, fingerprint).await {
                    Answer::Done(_) => Answer::Done(note),
                    failed @ (Answer::GoingOn(_) | Answer::Failed { .. }) => failed,
                },
                failed @ (Answer::GoingOn(_) | Answer::Failed { .. }) => failed,
            },
            Self::PuppetRun | Self::Exec(_) => Answer::Done(String::new()),
        }
    }

    /// That the catalog which is to be compiled afterwards compiles now: else its failure would be taken for the action's.
    pub(super) async fn compiles(node: &Node, compiler: &Compiler, certname: &str) -> Result<(), String> {
        if certname.is_empty() {
            return Ok(());
        }
        let (_, server) = server(node, compiler).await?;
        match server.with_deadline(CATALOG).catalog(certname).await {
            Err(error) if !error.is_owed() => Err(format!("before it is changed: {}", Chain(&error))),
            // A server that does not run is perhaps what is to be mended.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// The newest order was this one, or the way back from it, and did not end well.
    fn is_unfinished(&self, node: &Node) -> bool {
        let fleet = node.memory().fleet();
        let record = node.turns.record();
        record.newest().is_some_and(|begun| {
            begun.action == *self && begun.fleet == fleet && !matches!(begun.answer, Some(Answer::Done(_)))
        })
    }

    async fn prepare_service(&self, node: &Node, compiler: &Compiler) -> Answer {
        let service = match node.turns.services.granted(&node.config.rollout.service) {
            Ok(service) => service,
            Err(error) => return Answer::unchanged(Chain(&error)),
        };
        let status = match service.status().await {
            Ok(status) => status,
            Err(error) => return Answer::unchanged(Chain(&error)),
        };
        let settings = match node.settings(compiler).await {
            Ok(settings) => settings,
            Err(error) => return Answer::unchanged(Chain(&error)),
        };
        let conf_d = match node.server_places(&settings) {
            Ok(places) => places.conf_d,
            Err(error) => return Answer::unchanged(Chain(&error)),
        };
        let check = ConfigCheck { puppet: &node.puppet, conf_d: &conf_d, ruby: None };
        if let Err(error) = check.run().await {
            return Answer::unchanged(Chain(&error));
        }
        // A server that has loaded all of it: what a first reload can go back to.
        let since = status
            .main_pid
            .filter(|_| status.state == State::Running)
            .and_then(Process::with_pid)
            .and_then(|it| it.began());
        let copies = GoodCopies::new(node.turns.directory.join("good"), &conf_d, &settings.config);
        let kept = since.map_or(Ok(()), |since| copies.keep_first(since));
        Answer::Done(kept.err().map(|error| Chain(&error).to_string()).unwrap_or_default())
    }
}

/// Trying would have an effect; auth.conf is clear mostly.
fn may_flush(node: &Node, settings: &Settings) -> Answer {
    let denied = match node.server_places(settings) {
        Ok(places) => denies_pool_flush(&places, &settings.certname),
        Err(error) => return Answer::unchanged(Chain(&error)),
    };
    match denied {
        Ok(Some(rule)) => Answer::unchanged(format!(
            "Puppet Server forbids {} to flush its JRuby pool (auth.conf, rule: {rule}) (hint: bunraku-agent doctor \
             --fix, then reload Puppet Server)",
            settings.certname
        )),
        Ok(None) => Answer::Done(String::new()),
        Err(error) => Answer::unchanged(format!("could not read conf.d: {error}")),
    }
}
