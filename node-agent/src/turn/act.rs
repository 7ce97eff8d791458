//! Doing it, once for an order, whatever is killed meanwhile and however often it is asked.

use std::sync::Arc;

use bunraku_common::{Chain, Fence, crash};
use bunraku_packages::Target;
use bunraku_services::{
    Mark, Verb,
    puppet_agent::{Run, RunResult},
};

use super::{
    action::Action,
    certificate,
    command::{self, Ended, tail},
    packages,
    reach::server,
    record::Begun,
    step::Answer,
    tell::tell,
    types,
};
use crate::node::{Compiler, Node};

/// `back`: to what was before the action.
pub(super) async fn once(
    node: &Arc<Node>,
    compiler: &Compiler,
    fence: Fence,
    action: &Action,
    back: bool,
) -> Answer {
    // The number alone says which order it is: a controller that restarted gives the same one in its next term.
    let fleet = node.memory().fleet();
    let same = |begun: &&Begun| begun.fence.generation == fence.generation && begun.fleet == fleet;
    let known = node.turns.record().newest().filter(same).cloned();
    let known = match known {
        Some(begun) if begun.action != *action || begun.back != back => {
            return Answer::unchanged(format!("{} was asked for under this order before", begun.action));
        }
        Some(Begun { answer: Some(answer), .. }) => return answer,
        Some(begun) => Some(begun),
        None => None,
    };
    let mark = known.as_ref().map(|begun| begun.mark.clone());
    // An order that was begun is finished, whatever the configuration says by now.
    if known.is_none()
        && let Err(why) = action.granted(node)
    {
        return Answer::unchanged(why);
    }
    let begun = match known {
        Some(begun) => begun,
        None => match note(node, fence, action, back).await {
            Ok(begun) => begun,
            Err(why) => return Answer::unchanged(why),
        },
    };
    crash::point("turn-act-noted");
    let answer = match action {
        Action::Update { package, version } => {
            let target = Target { package: package.clone(), version: version.clone() };
            update(node, compiler, &begun, &target).await
        }
        Action::AgentUpdate { version } => {
            let target = Target { package: packages::OWN.to_owned(), version: version.clone() };
            let changed = match back {
                true => packages::revert(node, fence, &target).await,
                false => packages::update(node, fence, &target).await.map(drop),
            };
            changed.err().unwrap_or_else(|| Answer::Done(String::new()))
        }
        Action::Certificate(fingerprint) => {
            certificate::act(node, compiler, &begun, fingerprint, mark.is_some()).await
        }
        // What was before is what it is.
        Action::Restart | Action::Reload | Action::FlushPool | Action::PuppetRun | Action::Exec(_)
            if back =>
        {
            Answer::changed(format!("there is no way back from {action}"))
        }
        Action::Restart => tell(node, compiler, Verb::Restart, mark, fence).await,
        Action::Reload => tell(node, compiler, Verb::Reload, mark, fence).await,
        Action::FlushPool => flush(node, compiler).await,
        Action::PuppetRun => puppet_run(node, fence).await,
        Action::Exec(name) => match node.config.rollout.exec.get(name) {
            Some(words) => exec(node, fence, words, name).await,
            None => Answer::changed(format!("the command {name} is no longer in this node's configuration")),
        },
    };
    crash::point("turn-act-done");
    let begun = Begun { answer: Some(answer.clone()), ..begun };
    if let Err(error) = node.turns.record().keep(begun) {
        // It is found out again.
        tracing::error!(error = %Chain(&error), "the result of an order could not be kept");
    }
    answer
}

/// Puts on record that it begins, and where the service stands.
async fn note(node: &Node, fence: Fence, action: &Action, back: bool) -> Result<Begun, String> {
    let mark = match action {
        Action::Restart | Action::Reload | Action::Update { .. } | Action::Certificate(_) => {
            let service = node.turns.services.granted(&node.config.rollout.service);
            let service = service.map_err(|error| Chain(&error).to_string())?;
            service.status().await.map_err(|error| Chain(&error).to_string())?.mark
        }
        Action::FlushPool | Action::PuppetRun | Action::Exec(_) | Action::AgentUpdate { .. } => {
            Mark::default()
        }
    };
    let updates = matches!(action, Action::Update { .. });
    let puppet = if updates { node.puppet.version().await.ok() } else { None };
    let fleet = node.memory().fleet();
    let begun = Begun { fleet, fence, action: action.clone(), back, mark, puppet, answer: None };
    node.turns.record().keep(begun.clone()).map_err(|error| Chain(&error).to_string())?;
    command::forget_before(node, fence).await;
    Ok(begun)
}

/// Another version, or that of before, served by a Puppet Server that was started with it.
async fn update(node: &Node, compiler: &Compiler, begun: &Begun, target: &Target) -> Answer {
    let changed = match begun.back {
        true => packages::revert(node, begun.fence, target).await.map(|()| true),
        false => packages::update(node, begun.fence, target).await,
    };
    match changed {
        Ok(true) => {}
        Ok(false) => return Answer::Done(format!("{} {} was installed", target.package, target.version)),
        Err(answer) => return answer,
    }
    crash::point("packages-changed");
    if let Err(why) = types::made_again(node, compiler, begun.puppet.as_deref()).await {
        return Answer::changed(why);
    }
    // Packages restart their own services, mostly: then it is not told a second time.
    tell(node, compiler, Verb::Restart, Some(begun.mark.clone()), begun.fence).await
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
    let words = Run::command(
        &node.puppet,
        &node.config.rollout.puppet_server,
        &node.turns.directory.join("never-disabled"),
    );
    match command::run(node, fence, "", &words).await {
        Err(answer) => answer,
        Ok(Ended { code, output }) => match RunResult::of(code) {
            result if result.is_success() => Answer::Done(result.to_string()),
            result => Answer::changed(format!("{result}: {}", tail(&output))),
        },
    }
}

async fn exec(node: &Node, fence: Fence, words: &[String], name: &str) -> Answer {
    match command::run(node, fence, "", words).await {
        Err(answer) => answer,
        Ok(Ended { code: 0, .. }) => Answer::Done(String::new()),
        Ok(Ended { code, output }) => {
            Answer::changed(format!("the command {name} ended with {code}: {}", tail(&output)))
        }
    }
}
