//! Puppet's own agent on this host rests while the compiler has its turn: a run in the middle of a restart would fail,
//! and one that changes Puppet Server would do it twice.

use std::path::PathBuf;

use bunraku_common::Chain;
use bunraku_services::puppet_agent::{Held, Hold, LockFiles, Released};

use super::step::Answer;
use crate::node::{Compiler, Node};

/// Asked of Puppet (a second of Ruby) only when puppet.conf changed.
pub(super) async fn locks(node: &Node, compiler: &Compiler) -> Result<LockFiles, String> {
    let settings = node.settings(compiler).await.map_err(|error| Chain(&error).to_string())?;
    let stamp = std::fs::metadata(&settings.config).and_then(|meta| meta.modified()).ok();
    let mut known = node.turns.locks.lock().await;
    if let Some((at, locks)) = &*known
        && *at == stamp
    {
        return Ok(locks.clone());
    }
    let locks = LockFiles::ask(&node.puppet).await.map_err(|error| Chain(&error).to_string())?;
    *known = Some((stamp, locks.clone()));
    Ok(locks)
}

pub(super) async fn hold(node: &Node, compiler: &Compiler, owner: &str) -> Answer {
    let locks = match locks(node, compiler).await {
        Ok(locks) => locks,
        Err(why) => return Answer::unchanged(why),
    };
    match of(node, &locks).hold(owner).await {
        Ok(Held::Yes) => Answer::Done(String::new()),
        Ok(Held::BySomebody { message }) => {
            Answer::Done(format!("its Puppet agent was disabled before, and stays so: {message}"))
        }
        Ok(Held::Waiting(run)) => Answer::GoingOn(format!(
            "a Puppet run goes on there (process {}, for {} s)",
            run.process.pid(),
            run.lasts().as_secs()
        )),
        Err(error) => Answer::unchanged(Chain(&error)),
    }
}

pub(super) async fn release(node: &Node, compiler: &Compiler) -> Answer {
    // Whoever never held it need not ask Puppet, which may be what is broken.
    if !note(node).exists() {
        return Answer::Done(String::new());
    }
    let locks = match locks(node, compiler).await {
        Ok(locks) => locks,
        Err(why) => return Answer::unchanged(why),
    };
    match of(node, &locks).release().await {
        Ok(Released::Enabled | Released::NotOurs) => Answer::Done(String::new()),
        Err(error) => Answer::unchanged(Chain(&error)),
    }
}

fn of<'a>(node: &'a Node, locks: &'a LockFiles) -> Hold<'a> {
    Hold::new(&node.puppet, locks, note(node))
}

fn note(node: &Node) -> PathBuf {
    node.turns.directory.join("hold.json")
}
