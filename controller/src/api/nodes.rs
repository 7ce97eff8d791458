//! Nodes: changing what they may do, and asking them.

use std::{collections::BTreeMap, time::Duration};

use bunraku_common::{Chain, EnvironmentName, NodeName};
use bunraku_engine::{CertificateEvent, CrlEvent, Event, OnNode, Request, Seen};
use bunraku_proto::v1;
use futures_util::StreamExt;
use tonic::Status;

use super::{Api, caller::Subject, parse};
use crate::{
    driver::{held, host_certificate, order},
    words,
};

const OBSERVE_DEADLINE: Duration = Duration::from_secs(10);
/// Nodes asked side by side: one that hangs for its whole deadline holds up nobody else's answer for long.
const ASKED_AT_ONCE: usize = 32;
/// Asks Puppet for its settings, which takes seconds.
const DOCTOR_DEADLINE: Duration = Duration::from_secs(60);
/// Hashes whole versions.
const HEAL_DEADLINE: Duration = Duration::from_secs(600);

impl Api {
    pub(super) fn node_info(&self, node: &NodeName) -> Result<v1::NodeInfo, Status> {
        let state = self.driver.shared.state();
        self.reporter
            .node(&state, node)
            .ok_or_else(|| Status::not_found(format!("there is no node {node}\nhint: bunraku nodes list")))
    }

    pub(super) async fn change_node(
        &self,
        node: &NodeName,
        request: Request,
        who: &Subject,
    ) -> Result<v1::NodeInfo, Status> {
        let unchanged = self.driver.request(request, &who.to_string()).await?.is_empty();
        Ok(v1::NodeInfo { unchanged, ..self.node_info(node)? })
    }

    /// Asks these nodes what they serve, some side by side.
    pub(crate) async fn ask_nodes(&self, nodes: Vec<NodeName>) {
        let nodes = futures_util::stream::iter(nodes);
        nodes.for_each_concurrent(ASKED_AT_ONCE, |node| async { self.ask_again(&{ node }).await }).await;
    }

    /// Asks a connected node what it serves; what differs from what was known becomes an event.
    pub(crate) async fn ask_again(&self, node: &NodeName) {
        let Some(mut client) = self.connections.client(node) else { return };
        let before = self.known_of(node);
        match client.observe(deadline(v1::ObserveRequest {}, OBSERVE_DEADLINE)).await {
            Ok(reply) => {
                let observed = words::observed(reply.into_inner());
                // What was proven while the node answered is newer than its answer, which may be from before. It is asked
                // again soon.
                if before == self.known_of(node) {
                    self::observed(node, &observed).into_iter().for_each(|event| self.driver.event(event));
                }
                self.connections.observed(node, observed);
            }
            Err(status) => {
                tracing::info!(%node, reason = status.message(), "could not ask the node what it serves")
            }
        }
    }

    fn known_of(&self, node: &NodeName) -> Option<BTreeMap<EnvironmentName, OnNode>> {
        let state = self.driver.shared.state();
        Some(state.fleet().nodes.get(node)?.environments.clone())
    }

    pub(super) async fn heal(
        &self,
        request: v1::HealNodeRequest,
        who: &Subject,
    ) -> Result<v1::HealNodeReply, Status> {
        let node: NodeName = parse(&request.node)?;
        let is_compiler = self
            .driver
            .shared
            .state()
            .fleet()
            .nodes
            .get(&node)
            .is_none_or(bunraku_engine::NodeRecord::is_compiler);
        if !is_compiler {
            return Err(Status::invalid_argument(format!(
                "{node} is no compiler, so there is no code to heal\nhint: bunraku nodes list"
            )));
        }
        let client = self.reachable(&node)?;
        let orders = self.heal_orders(&node, &request.environment)?;
        // On record before the orders leave (I12).
        self.driver.request(Request::HealNode { node: node.clone() }, &who.to_string()).await?;
        let mut reply = v1::HealNodeReply::default();
        for (environment, order) in orders {
            let request = deadline(v1::HealRequest { order: Some(order) }, HEAL_DEADLINE);
            let mut healed =
                v1::HealedEnvironment { environment: environment.to_string(), ..Default::default() };
            match client.clone().heal(request).await {
                Ok(done) => {
                    let done = words::healed(done.into_inner());
                    (healed.mended, healed.checked_files) = (done.mended, done.checked_files);
                }
                Err(status) => healed.error = words::plain(status.message()),
            }
            reply.environments.push(healed);
        }
        self.ask_again(&node).await;
        Ok(reply)
    }

    fn heal_orders(&self, node: &NodeName, only: &str) -> Result<Vec<(EnvironmentName, v1::Order)>, Status> {
        let only: Option<EnvironmentName> = if only.is_empty() { None } else { Some(parse(only)?) };
        let state = self.driver.shared.state();
        let Some(term) = state.term() else { return Err(Status::unavailable("no term has begun")) };
        let known = state.environments().iter().filter(|(name, known)| {
            known.committed.is_some() && only.as_ref().is_none_or(|only| only == *name)
        });
        let orders: Vec<_> =
            known.map(|(name, known)| (name.clone(), order(term, known.generation, name))).collect();
        match (&only, orders.is_empty()) {
            (Some(name), true) => Err(Status::not_found(format!(
                "nothing is committed in {name}, so there is nothing to heal on {node}\nhint: bunraku environments list"
            ))),
            _ => Ok(orders),
        }
    }

    pub(super) async fn doctor_fleet(
        &self,
        request: v1::DoctorFleetRequest,
    ) -> Result<v1::DoctorFleetReply, Status> {
        let nodes: Vec<NodeName> = if request.node.is_empty() {
            self.driver.shared.state().fleet().nodes.keys().cloned().collect()
        } else {
            let node = parse(&request.node)?;
            self.node_info(&node)?;
            vec![node]
        };
        let asked = nodes.into_iter().map(|node| async move {
            let (error, findings) = match self.reachable(&node) {
                Err(status) => (status.message().to_owned(), Vec::new()),
                Ok(mut client) => {
                    match client.doctor(deadline(v1::DoctorRequest {}, DOCTOR_DEADLINE)).await {
                        Ok(reply) => (String::new(), words::findings(reply.into_inner().findings)),
                        Err(status) => (words::plain(status.message()), Vec::new()),
                    }
                }
            };
            v1::DoctorOfNode { node: node.to_string(), error, findings }
        });
        Ok(v1::DoctorFleetReply { nodes: futures_util::future::join_all(asked).await })
    }

    pub(super) fn reachable(&self, node: &NodeName) -> Result<NodeClient, Status> {
        self.node_info(node)?;
        self.connections.client(node).ok_or_else(|| {
            // Not `unavailable`: the controller did answer.
            Status::failed_precondition(format!(
                "{node} is not connected\nhint: on {node}: systemctl status bunraku-agent"
            ))
        })
    }
}

/// A hold or a revocation without a reason is a riddle for whoever meets it.
pub(super) fn reasoned(reason: &str) -> Result<(), Status> {
    if reason.trim().is_empty() {
        return Err(Status::invalid_argument(
            "a reason is needed: it is shown to whoever meets this later\nhint: --reason 'new disk'",
        ));
    }
    if !words::is_plain(reason) {
        return Err(Status::invalid_argument(
            "a reason is a few lines of plain text\nhint: --reason 'new disk'",
        ));
    }
    Ok(())
}

pub(super) type NodeClient = v1::node_client::NodeClient<bunraku_proto::link::NodeLink>;

pub(super) fn deadline<T>(message: T, limit: Duration) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(limit);
    request
}

/// What a node said it holds, for the engine.
pub(crate) fn observed(node: &NodeName, observed: &v1::ObserveReply) -> [Event; 3] {
    let keeps = usize::try_from(observed.keeps).unwrap_or(usize::MAX);
    let crl = CrlEvent::OnNode { node: node.clone(), holds: observed.crl.as_ref().map(held) };
    let code = Event::NodeObserved { node: node.clone(), environments: seen(observed), keeps };
    let host = observed.host_certificate.as_ref().map(host_certificate);
    let certificate = CertificateEvent::Host { node: node.clone(), host };
    [code, Event::Crl(crl), Event::Certificate(certificate)]
}

/// What a node said (bounded by [`words::observed`]), parsed. What cannot be parsed is as if it were not there: the node is then brought up to date.
fn seen(observed: &v1::ObserveReply) -> Vec<Seen> {
    let parsed = observed.environments.iter().map(|on_node| {
        let environment = EnvironmentName::parse(&on_node.environment)?;
        let live = on_node.live.parse().ok().filter(|_| on_node.sealed);
        let versions = on_node.versions.iter().filter_map(|text| text.parse().ok()).collect();
        Ok(Seen { environment, live, proven: on_node.proven, versions })
    });
    parsed
        .filter_map(|seen: Result<_, bunraku_common::names::BadName>| {
            seen.inspect_err(
                |error| tracing::warn!(error = %Chain(error), "a node named an impossible environment"),
            )
            .ok()
        })
        .collect()
}
