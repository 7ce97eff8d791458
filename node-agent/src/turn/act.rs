//! Doing it, once for an order, whatever is killed meanwhile and however often it is asked.

use std::time::Duration;

use bunraku_common::{Chain, Digest, Fence, crash};
use bunraku_services::{
    Acted, Mark, OrderId, Outcome, Verb,
    puppet_agent::{Run, RunResult},
    puppetserver::{ActError, ConfigCheck, GoodCopies, PuppetserverService, ready},
};

use super::{action::Action, reach::server, record::Begun, step::Answer};
use crate::node::{Compiler, Node};

/// For each of both, telling a service and its being ready. Puppet Server takes 10 to 60 s, on a loaded machine more.
const SERVICE: Duration = Duration::from_secs(300);
/// A service that was told before a crash is looked at this often.
const LOOK: Duration = Duration::from_millis(500);
/// A command that runs is looked at again after this, should its end have been missed.
const COMMAND: Duration = Duration::from_secs(60);
/// Of a command's output, in a reason that people read.
const TAIL: usize = 600;

pub(super) async fn once(node: &Node, compiler: &Compiler, fence: Fence, action: &Action) -> Answer {
    // The number alone says which order it is: a controller that restarted gives the same one in its next term.
    let fleet = node.memory().fleet();
    let same = |begun: &&Begun| begun.fence.generation == fence.generation && begun.fleet == fleet;
    let known = node.turns.record().newest().filter(same).cloned();
    let mark = match known {
        Some(begun) if begun.action != *action => {
            return Answer::unchanged(format!("{} was asked for under this order before", begun.action));
        }
        Some(Begun { answer: Some(answer), .. }) => return answer,
        Some(begun) => Some(begun.mark),
        None => None,
    };
    // An order that was begun is finished, whatever the configuration says by now.
    if mark.is_none()
        && let Err(why) = action.granted(node)
    {
        return Answer::unchanged(why);
    }
    let before = match &mark {
        Some(mark) => mark.clone(),
        None => match note(node, fence, action).await {
            Ok(mark) => mark,
            Err(why) => return Answer::unchanged(why),
        },
    };
    crash::point("turn-act-noted");
    let answer = match action {
        Action::Restart => tell(node, compiler, Verb::Restart, mark, fence).await,
        Action::Reload => tell(node, compiler, Verb::Reload, mark, fence).await,
        Action::FlushPool => flush(node, compiler).await,
        Action::PuppetRun => puppet_run(node, fence).await,
        Action::Exec(name) => match node.config.rollout.exec.get(name) {
            Some(words) => command(node, fence, words, &format!("the command {name}")).await,
            None => Answer::changed(format!("the command {name} is no longer in this node's configuration")),
        },
        Action::Update { .. } | Action::AgentUpdate { .. } => {
            Answer::unchanged("this agent does not change packages")
        }
    };
    crash::point("turn-act-done");
    let begun = Begun { fleet, fence, action: action.clone(), mark: before, answer: Some(answer.clone()) };
    if let Err(error) = node.turns.record().keep(begun) {
        // It is found out again.
        tracing::error!(error = %Chain(&error), "the result of an order could not be kept");
    }
    answer
}

/// Puts on record that it begins, and where the service stands.
async fn note(node: &Node, fence: Fence, action: &Action) -> Result<Mark, String> {
    let mark = match action {
        Action::Restart | Action::Reload => {
            let service = node.turns.services.granted(&node.config.rollout.service);
            let service = service.map_err(|error| Chain(&error).to_string())?;
            service.status().await.map_err(|error| Chain(&error).to_string())?.mark
        }
        Action::FlushPool
        | Action::PuppetRun
        | Action::Exec(_)
        | Action::Update { .. }
        | Action::AgentUpdate { .. } => Mark::default(),
    };
    let before = node.turns.record().newest().map(|begun| (begun.fleet, begun.fence));
    let begun = Begun {
        fleet: node.memory().fleet(),
        fence,
        action: action.clone(),
        mark: mark.clone(),
        answer: None,
    };
    node.turns.record().keep(begun).map_err(|error| Chain(&error).to_string())?;
    // Its result is on record, or nobody asks for it any more.
    if let Some((fleet, fence)) = before
        && let Err(error) = node.turns.orders.forget(&order_id(fleet, fence)?).await
    {
        tracing::warn!(error = %Chain(&error), "what an earlier order left could not be removed");
    }
    Ok(mark)
}

/// `mark`: it was begun before this agent ended; what has become of it is looked at first.
async fn tell(node: &Node, compiler: &Compiler, verb: Verb, mark: Option<Mark>, fence: Fence) -> Answer {
    let (settings, server) = match server(node, compiler).await {
        Ok(known) => known,
        Err(why) => return Answer::unchanged(why),
    };
    let places = match node.server_places(&settings) {
        Ok(places) => places,
        Err(error) => return Answer::unchanged(Chain(&error)),
    };
    let service = match node.turns.services.granted(&node.config.rollout.service) {
        Ok(service) => service,
        Err(error) => return Answer::unchanged(Chain(&error)),
    };
    let puppetserver = PuppetserverService {
        service,
        server: &server,
        check: ConfigCheck { puppet: &node.puppet, conf_d: &places.conf_d, ruby: None },
        copies: GoodCopies::new(node.turns.directory.join("good"), &places.conf_d, &settings.config),
        restart_file: None,
    };
    let mut told = verb;
    if let Some(mark) = mark {
        let until = tokio::time::Instant::now() + SERVICE;
        loop {
            match service.acted_since(verb, &mark).await {
                Ok(Acted::GoingOn) if tokio::time::Instant::now() < until => tokio::time::sleep(LOOK).await,
                // Told already: it is not told again, also when it does not get well.
                Ok(Acted::Yes) => {
                    return match ready::wait(service, &server, None, SERVICE).await {
                        Ok(()) => Answer::Done(puppetserver.is_good().no_copies.unwrap_or_default()),
                        Err(not_ready) => Answer::changed(format!(
                            "Puppet Server is not ready after the {verb}, during which this agent ended: {not_ready}"
                        )),
                    };
                }
                // Cut short between its stop and its start.
                Ok(Acted::Amiss(_)) => {
                    told = Verb::Start;
                    break;
                }
                // A plain process does not say whether it got the signal; a second reload of a drained server harms nobody.
                Ok(Acted::No | Acted::CannotTell) => break,
                Ok(Acted::GoingOn) => {
                    return Answer::changed(format!(
                        "the {verb} goes on since before this agent was started"
                    ));
                }
                Err(error) => {
                    return Answer::changed(format!("whether it did {verb} is not known: {}", Chain(&error)));
                }
            }
        }
    }
    let name = fence.generation.0.to_string();
    match puppetserver.act(told, &name, SERVICE).await {
        Ok(done) => Answer::Done(done.no_copies.unwrap_or_default()),
        Err(error) => {
            let unchanged = match &error {
                ActError::Check(_) => told == verb,
                ActError::Restored { .. } => true,
                ActError::Service { .. } | ActError::Down { .. } => false,
            };
            Answer::Failed { reason: Chain(&error).to_string(), unchanged }
        }
    }
}

async fn flush(node: &Node, compiler: &Compiler) -> Answer {
    match server(node, compiler).await {
        Err(why) => Answer::unchanged(why),
        Ok((_, server)) => match server.flush_pool().await {
            Ok(()) => Answer::Done(String::new()),
            Err(error) => Answer::unchanged(Chain(&error)),
        },
    }
}

async fn puppet_run(node: &Node, fence: Fence) -> Answer {
    // Its own name for the lock of a disabled agent: it is we who hold the agent.
    let words = Run::command(&node.puppet, &node.turns.directory.join("never-disabled"));
    match run(node, fence, &words).await {
        Err(answer) => answer,
        Ok((code, output)) => match RunResult::of(code) {
            result if result.is_success() => Answer::Done(result.to_string()),
            result => Answer::changed(format!("{result}: {}", tail(&output))),
        },
    }
}

async fn command(node: &Node, fence: Fence, words: &[String], what: &str) -> Answer {
    match run(node, fence, words).await {
        Err(answer) => answer,
        Ok((0, _)) => Answer::Done(String::new()),
        Ok((code, output)) => Answer::changed(format!("{what} ended with {code}: {}", tail(&output))),
    }
}

/// Runs a command under the order's own name until its end: exit code and output.
async fn run(node: &Node, fence: Fence, words: &[String]) -> Result<(i32, String), Answer> {
    let id = order_id(node.memory().fleet(), fence).map_err(Answer::unchanged)?;
    let orders = &node.turns.orders;
    let mut outcome = orders.run(&id, words).await;
    loop {
        match outcome {
            Ok(Outcome::Ended { code, output }) => return Ok((code, output)),
            Ok(Outcome::Running) => outcome = orders.wait(&id, COMMAND).await,
            Ok(Outcome::Unknown { why }) => {
                return Err(Answer::changed(format!("nobody knows how it ended: {why}")));
            }
            Ok(Outcome::NeverAsked | Outcome::NotBegun) => {
                return Err(Answer::unchanged("the command did not begin"));
            }
            Err(error) => return Err(Answer::changed(Chain(&error))),
        }
    }
}

fn order_id(fleet: Option<Digest>, fence: Fence) -> Result<OrderId, String> {
    let fleet = fleet.map(|fleet| fleet.short()).unwrap_or_default();
    let text = format!("turn-{fleet}-{}", fence.generation.0);
    OrderId::parse(&text).map_err(|error| error.to_string())
}

/// The end of an output, on one line.
fn tail(output: &str) -> String {
    let words = output.split_whitespace().collect::<Vec<_>>().join(" ");
    let skip = words.chars().count().saturating_sub(TAIL);
    words.chars().skip(skip).filter(|character| !character.is_control()).collect()
}
