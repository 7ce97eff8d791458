//! A command under an order's own name: it runs once, outlives this agent, and its result is kept.

use std::time::Duration;

use bunraku_common::{Chain, Digest, Fence};
use bunraku_services::{OrderId, Outcome};

use super::step::Answer;
use crate::node::Node;

/// A command that runs is looked at again after this, should its end have been missed.
const LOOK: Duration = Duration::from_secs(60);
/// Of a command's output, in a reason that people read.
const TAIL: usize = 600;

/// How a command ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub code: i32,
    pub output: String,
}

/// Runs it until its end. `part` tells the commands of one order apart; most have one, without a name.
pub(super) async fn run(node: &Node, fence: Fence, part: &str, words: &[String]) -> Result<Ended, Answer> {
    let id = order_id(node.memory().fleet(), fence, part).map_err(Answer::unchanged)?;
    let orders = &node.turns.orders;
    let mut outcome = orders.run(&id, words).await;
    loop {
        match outcome {
            Ok(Outcome::Ended { code, output }) => return Ok(Ended { code, output }),
            Ok(Outcome::Running) => outcome = orders.wait(&id, LOOK).await,
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

/// Removes what earlier orders left: their results are on record, or nobody asks for them any more.
pub(super) async fn forget_before(node: &Node, fence: Fence) {
    let Ok(newest) = order_id(node.memory().fleet(), fence, "") else { return };
    let Ok(entries) = std::fs::read_dir(node.turns.directory.join("orders")) else { return };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let parts = format!("{}-", newest.as_str());
    let old = names.filter(|name| name != newest.as_str() && !name.starts_with(&parts));
    for id in old.filter_map(|name| OrderId::parse(&name).ok()) {
        if let Err(error) = node.turns.orders.forget(&id).await {
            tracing::warn!(error = %Chain(&error), "what an earlier order left could not be removed");
        }
    }
}

fn order_id(fleet: Option<Digest>, fence: Fence, part: &str) -> Result<OrderId, String> {
    let fleet = fleet.map(|fleet| fleet.short()).unwrap_or_default();
    let dash = if part.is_empty() { "" } else { "-" };
    let text = format!("turn-{fleet}-{}{dash}{part}", fence.generation.0);
    OrderId::parse(&text).map_err(|error| error.to_string())
}

/// The end of an output, on one line. What does not fit is left out by whole words.
pub(super) fn tail(output: &str) -> String {
    let words = output.split_whitespace().collect::<Vec<_>>().join(" ");
    let plain: Vec<char> = words.chars().filter(|character| !character.is_control()).collect();
    if plain.len() <= TAIL {
        return plain.into_iter().collect();
    }
    let end: String = plain[plain.len() - TAIL..].iter().collect();
    format!("… {}", end.split_once(' ').map_or(end.as_str(), |(_cut, rest)| rest))
}
