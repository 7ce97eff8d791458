//! Asks balancers what they carry.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use bunraku_common::NodeName;
use bunraku_engine::{BalancerView, Millis, Presence, State, Wanted};
use bunraku_proto::v1::BalancerStatusRequest;
use tokio::task::JoinSet;
use tonic::{Code, Request};

use super::{Balancers, Seen, lock, view};
use crate::{clock::wall_ms, driver::Driver, nodes::Connections, words};

/// How often it is looked whether somebody is to be asked.
const LOOK: Duration = Duration::from_millis(500);
/// While something is not yet as it is wanted: at each look.
const HURRIED: Duration = Duration::from_millis(400);
/// Else. The engine relies on what it saw for twice as long.
const IDLE: Duration = Duration::from_secs(5);
/// A balancer that needs longer is not seen; its own question to its program has a shorter one.
const DEADLINE: Duration = Duration::from_secs(8);
/// What is not as wanted so long after the decision will not be so within the next second either.
const HURRY_ENDS: Millis = 15 * 60_000;

impl Balancers {
    /// Asks for ever.
    pub(crate) async fn watch(self: Arc<Self>, driver: Driver, connections: Arc<Connections>) {
        let mut turn = tokio::time::interval(LOOK);
        turn.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut questions: JoinSet<NodeName> = JoinSet::new();
        let mut open: BTreeSet<NodeName> = BTreeSet::new();
        let mut asked: BTreeMap<NodeName, Instant> = BTreeMap::new();
        loop {
            tokio::select! {
                _ = turn.tick() => {}
                () = self.hurry.notified() => {}
                Some(done) = questions.join_next() => match done {
                    Ok(balancer) => drop(open.remove(&balancer)),
                    // Nobody knows whose it was: asking twice does no harm.
                    Err(_) => open.clear(),
                },
            }
            let (balancers, hurried) = {
                let state = driver.shared.state();
                let balancers: BTreeSet<NodeName> = state.balancers().cloned().collect();
                // Without balancers there is nothing to look for.
                let hurried = !balancers.is_empty()
                    && is_unsettled(&state, &driver.shared.presence(), driver.shared.clock.now());
                (balancers, hurried)
            };
            asked.retain(|balancer, _| balancers.contains(balancer));
            lock(&self.seen).retain(|balancer, _| balancers.contains(balancer));
            lock(&self.wanted).retain(|balancer| balancers.contains(balancer));
            let pause = if hurried { HURRIED } else { IDLE };
            for balancer in balancers {
                let due = asked.get(&balancer).is_none_or(|at| at.elapsed() >= pause);
                let wanted = lock(&self.wanted).contains(&balancer);
                if !(due || wanted) || open.contains(&balancer) || !connections.is_connected(&balancer) {
                    continue;
                }
                lock(&self.wanted).remove(&balancer);
                asked.insert(balancer.clone(), Instant::now());
                open.insert(balancer.clone());
                let (balancers, driver, connections) = (self.clone(), driver.clone(), connections.clone());
                questions.spawn(async move {
                    balancers.ask(&balancer, &driver, &connections).await;
                    balancer
                });
            }
        }
    }

    async fn ask(&self, balancer: &NodeName, driver: &Driver, connections: &Connections) {
        let at = driver.shared.clock.now();
        let Some(mut client) = connections.client(balancer) else { return };
        let mut request = Request::new(BalancerStatusRequest {});
        request.set_timeout(DEADLINE);
        let view = match client.balancer_status(request).await {
            Ok(reply) => {
                let status = words::balancer(reply.into_inner());
                let state = driver.shared.state();
                let view = view::of(at, &status, |compiler| state.balance().get(compiler));
                drop(state);
                let seen = Seen { at_ms: wall_ms(), status, silent: String::new() };
                lock(&self.seen).insert(balancer.clone(), seen);
                view
            }
            // It does answer: that it balances nothing.
            Err(status) if matches!(status.code(), Code::FailedPrecondition | Code::Unimplemented) => {
                let trouble = words::plain(status.message());
                lock(&self.seen)
                    .insert(balancer.clone(), Seen { silent: trouble.clone(), ..Seen::default() });
                BalancerView { at, trouble, ..BalancerView::default() }
            }
            Err(status) => {
                let why = words::plain(status.message());
                tracing::info!(%balancer, reason = why, "the balancer did not say what it carries");
                lock(&self.seen).entry(balancer.clone()).or_default().silent = why;
                return;
            }
        };
        driver.balancer_seen(balancer.clone(), view);
    }
}

/// Whether somebody waits for a balancer: a decision of late that is not yet seen to be so.
fn is_unsettled(state: &State, presence: &Presence, now: Millis) -> bool {
    let lately = |at: Millis| now.saturating_sub(at.max(presence.up_since())) < HURRY_ENDS;
    let recent = state.balance().iter().filter(|(_, balance)| lately(balance.decided_at));
    let servers = |compiler| presence.balancers().values().flat_map(move |view| view.servers_of(compiler));
    recent.into_iter().any(|(compiler, balance)| match balance.wanted {
        Wanted::Drained { .. } => {
            balance.agreed_at.is_none() || servers(compiler).any(|server| server.sessions != Some(0))
        }
        Wanted::Ready => servers(compiler).any(|server| !server.in_service && !server.foreign),
    })
}
