//! Asks compilers under way whether anybody is still served there.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bunraku_common::{Generation, NodeName};
use bunraku_engine::{IdleView, Millis, Presence, RolloutId, State, Turn, TurnPhase};
use bunraku_proto::v1::{IdleReply, IdleRequest};
use tokio::task::JoinSet;
use tonic::{Code, Request};

use super::{TOO_OLD, Turns, lock};
use crate::{clock::wall_ms, driver::Driver, nodes::Connections, words::plain};

/// How often it is looked whether somebody is to be asked.
const LOOK: Duration = Duration::from_millis(250);
/// Between two questions to one compiler for the same reason: they cost Puppet Server something.
const PAUSE: Duration = Duration::from_millis(900);
/// Shorter than what the engine believes in: a compiler that needs longer has not said whether it is idle.
const DEADLINE: Duration = Duration::from_secs(5);
/// After a drain by hand nobody waits any longer for what the compiler says.
const LOOKS_END: Millis = 15 * 60_000;
/// Why a compiler is asked whether it is idle. Where this changes it is asked at once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Why {
    generation: Generation,
    agreed_at: Option<Millis>,
    /// The balancers show no session of it.
    is_empty: bool,
}

impl Turns {
    /// Asks for ever, and nobody while no turn is open and nothing is being drained.
    pub(crate) async fn watch(self: Arc<Self>, driver: Driver, connections: Arc<Connections>) {
        let mut turn = tokio::time::interval(LOOK);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut decided = driver.shared.head.subscribe();
        // What an earlier run of the controller began is under way at the start.
        decided.mark_changed();
        let mut questions: JoinSet<NodeName> = JoinSet::new();
        let mut open: BTreeSet<NodeName> = BTreeSet::new();
        let mut asked: BTreeMap<NodeName, (Instant, Why)> = BTreeMap::new();
        loop {
            tokio::select! {
                _ = turn.tick(), if !asked.is_empty() => {}
                decision = decided.changed() => if decision.is_err() { return },
                Some(done) = questions.join_next() => match done {
                    Ok(compiler) => drop(open.remove(&compiler)),
                    // Nobody knows whose it was: asking twice does no harm.
                    Err(_) => open.clear(),
                },
            }
            let now = driver.shared.clock.now();
            let (wanted, known) = {
                let state = driver.shared.state();
                (
                    to_ask(&state, &driver.shared.presence(), now),
                    state.rollouts().keys().copied().collect::<BTreeSet<_>>(),
                )
            };
            asked.retain(|compiler, _| wanted.contains_key(compiler));
            self.forget(&wanted, &known);
            for (compiler, why) in wanted {
                let due = asked.get(&compiler).is_none_or(|(at, was)| *was != why || at.elapsed() >= PAUSE);
                // One whose answer is awaited is asked again at the next tick.
                asked.entry(compiler.clone()).or_insert((Instant::now(), Why::default()));
                if !due || open.contains(&compiler) || !connections.is_connected(&compiler) {
                    continue;
                }
                asked.insert(compiler.clone(), (Instant::now(), why));
                open.insert(compiler.clone());
                let (turns, driver, connections) = (self.clone(), driver.clone(), connections.clone());
                questions.spawn(async move {
                    turns.ask(&compiler, why, &driver, &connections).await;
                    compiler
                });
            }
        }
    }

    /// What nobody can ask for any more.
    fn forget(&self, wanted: &BTreeMap<NodeName, Why>, known: &BTreeSet<RolloutId>) {
        lock(&self.said).retain(|compiler, said| {
            said.notes.retain(|(rollout, _)| known.contains(rollout));
            if !wanted.contains_key(compiler) {
                said.idle = None;
            }
            wanted.contains_key(compiler) || !said.notes.is_empty()
        });
    }

    async fn ask(&self, compiler: &NodeName, why: Why, driver: &Driver, connections: &Connections) {
        let at = asked_at(driver.shared.clock.now(), why.agreed_at);
        let Some(mut client) = connections.client(compiler) else { return };
        let mut request = Request::new(IdleRequest {});
        request.set_timeout(DEADLINE);
        let idle = match client.idle(request).await {
            Ok(reply) => {
                let reply = reply.into_inner();
                if reply.trouble.is_empty() { Ok(reply) } else { Err(plain(&reply.trouble)) }
            }
            Err(status) if status.code() == Code::Unimplemented && status.message().is_empty() => {
                Err(TOO_OLD.to_owned())
            }
            Err(status) => Err(plain(status.message())),
        };
        match &idle {
            Ok(reply) => driver.idle_seen(compiler.clone(), view(at, reply)),
            Err(why) => {
                tracing::info!(%compiler, reason = why, "the compiler did not say whether it is idle")
            }
        }
        lock(&self.said).entry(compiler.clone()).or_default().idle = Some((wall_ms(), idle));
    }
}

/// The drain was on record before this question, also where both are of the same millisecond.
fn asked_at(now: Millis, agreed_at: Option<Millis>) -> Millis {
    now.max(agreed_at.map_or(0, |agreed_at| agreed_at + 1))
}

fn view(at: Millis, reply: &IdleReply) -> IdleView {
    IdleView {
        at,
        connections: reply.connections,
        jrubies: reply.jrubies,
        jrubies_free: reply.jrubies_free,
        run_since: (reply.run_since_s != 0).then_some(reply.run_since_s),
    }
}

/// Compilers whose turns are open, and those that were drained a short while ago.
fn to_ask(state: &State, presence: &Presence, now: Millis) -> BTreeMap<NodeName, Why> {
    let lately = |at: Millis| now.saturating_sub(at) < LOOKS_END;
    let why = |compiler: &NodeName, generation| {
        let mut servers = presence.balancers().values().flat_map(|view| view.servers_of(compiler));
        let agreed_at = state.balance().get(compiler).and_then(|balance| balance.agreed_at);
        Why { generation, agreed_at, is_empty: servers.all(|server| server.sessions == Some(0)) }
    };
    let mut wanted = BTreeMap::new();
    for (compiler, balance) in state.balance() {
        if balance.is_drained() && lately(balance.decided_at) {
            wanted.insert(compiler.clone(), why(compiler, balance.generation));
        }
    }
    for rollout in state.rollouts().values().filter(|rollout| !rollout.is_ended()) {
        let is_open = |turn: &Turn| turn.phase != TurnPhase::Waiting && !turn.phase.is_over();
        for (node, turn) in rollout.turns.iter().filter(|(_, turn)| is_open(turn)) {
            wanted.insert(node.clone(), why(node, turn.generation));
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: an answer to a question of the drain's own millisecond counted for nothing, and the next question
    /// came a second later.
    #[test]
    fn a_question_in_the_millisecond_of_the_drain_is_later_than_the_drain() {
        assert_eq!(asked_at(7, Some(7)), 8);
        assert_eq!((asked_at(9, Some(7)), asked_at(9, None)), (9, 9));
    }
}
