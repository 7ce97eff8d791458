//! Asks compilers on trial and their siblings how they fare.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bunraku_common::NodeName;
use bunraku_engine::{Health, HealthView};
use bunraku_proto::v1::{HealthReply, HealthRequest};
use tokio::task::JoinSet;
use tonic::{Code, Request};

use super::{TOO_OLD, Turns};
use crate::{driver::Driver, nodes::Connections, words::plain};

const LOOK: Duration = Duration::from_secs(1);
/// Between two questions to one compiler: Puppet Server's part of the answer is documented as costly.
const PAUSE: Duration = Duration::from_secs(5);
/// With a test catalog on a cold server.
const DEADLINE: Duration = Duration::from_secs(150);

impl Turns {
    /// Asks for ever, and nobody while no compiler is judged by its numbers.
    pub(crate) async fn watch_trials(self: Arc<Self>, driver: Driver, connections: Arc<Connections>) {
        let mut turn = tokio::time::interval(LOOK);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut questions: JoinSet<NodeName> = JoinSet::new();
        let mut open: BTreeSet<NodeName> = BTreeSet::new();
        let mut asked: BTreeMap<NodeName, Instant> = BTreeMap::new();
        loop {
            tokio::select! {
                _ = turn.tick() => {}
                Some(done) = questions.join_next() => match done {
                    Ok(compiler) => drop(open.remove(&compiler)),
                    // Nobody knows whose it was: asking twice does no harm.
                    Err(_) => open.clear(),
                },
            }
            let now = driver.shared.clock.now();
            let trials = driver.shared.state().on_trial(&driver.shared.presence(), now);
            let mut wanted: BTreeMap<NodeName, String> = BTreeMap::new();
            for trial in trials {
                for node in trial.nodes {
                    let certname = wanted.entry(node).or_default();
                    if !trial.certname.is_empty() {
                        certname.clone_from(&trial.certname);
                    }
                }
            }
            asked.retain(|compiler, _| wanted.contains_key(compiler));
            for (compiler, certname) in wanted {
                let due = asked.get(&compiler).is_none_or(|at| at.elapsed() >= PAUSE);
                if !due || open.contains(&compiler) || !connections.is_connected(&compiler) {
                    continue;
                }
                asked.insert(compiler.clone(), Instant::now());
                open.insert(compiler.clone());
                let (turns, driver, connections) = (self.clone(), driver.clone(), connections.clone());
                questions.spawn(async move {
                    turns.ask_health(&compiler, certname, &driver, &connections).await;
                    compiler
                });
            }
        }
    }

    async fn ask_health(
        &self,
        compiler: &NodeName,
        certname: String,
        driver: &Driver,
        connections: &Connections,
    ) {
        let at = driver.shared.clock.now();
        let Some(mut client) = connections.client(compiler) else { return };
        let mut request = Request::new(HealthRequest { certname });
        request.set_timeout(DEADLINE);
        let why = match client.health(request).await {
            Ok(reply) => {
                let reply = reply.into_inner();
                if reply.trouble.is_empty() {
                    return driver.health_seen(compiler.clone(), view(at, &reply));
                }
                plain(&reply.trouble)
            }
            Err(status) if status.code() == Code::Unimplemented && status.message().is_empty() => {
                TOO_OLD.to_owned()
            }
            Err(status) => plain(status.message()),
        };
        tracing::info!(%compiler, reason = why, "the compiler did not say how it fares");
        let state = driver.shared.state();
        for rollout in state.rollouts().values().filter(|rollout| !rollout.is_ended()) {
            self.noted(compiler, rollout.id, format!("it did not say how it fares: {why}"));
        }
    }
}

fn view(at: bunraku_engine::Millis, reply: &HealthReply) -> HealthView {
    let counted = Health {
        catalogs: reply.catalogs,
        catalog_ms: reply.catalog_ms,
        failed: reply.failed,
        borrow_timeouts: reply.borrow_timeouts,
    };
    HealthView { at, epoch: reply.epoch, counted }
}
