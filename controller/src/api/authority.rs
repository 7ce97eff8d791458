//! The mesh CA: how it stands, and its rotation. The engine decides when a phase may begin; here the files and the doors
//! follow what it decided.

use std::collections::BTreeSet;

use bunraku_common::{Chain, NodeName};
use bunraku_engine::{CaHold, CaPhase, Request};
use bunraku_proto::v1;
use tonic::Status;

use super::{Api, caller::Subject, parse};

impl Api {
    pub(super) fn ca_shown(&self) -> Result<v1::CaStatus, Status> {
        let internal = |error| Status::internal(Chain(&error).to_string());
        let (pin, anchors) = (
            self.identities.pin().map_err(internal)?,
            self.identities.authorities().pins().map_err(internal)?,
        );
        let state = self.driver.shared.state();
        let rotation = state.authority().rotation.as_ref();
        let waits = state.ca_lacking().into_iter().map(|(node, hold)| v1::CaHolder {
            connected: self.connections.is_connected(&node),
            node: node.to_string(),
            has: has(hold).to_owned(),
        });
        let operators = state.fleet().operators.iter().filter(|(name, operator)| {
            operator.enrolled && rotation.is_some_and(|rotation| !rotation.operators.contains(*name))
        });
        Ok(v1::CaStatus {
            phase: rotation.map(|rotation| rotation.phase.name().to_owned()).unwrap_or_default(),
            next_phase: next(rotation.map(|rotation| rotation.phase)).name().to_owned(),
            pin: pin.to_string(),
            next_pin: rotation.map(|rotation| rotation.to.to_string()).unwrap_or_default(),
            anchors: anchors.iter().map(ToString::to_string).collect(),
            waits: waits.collect(),
            left: rotation.iter().flat_map(|r| &r.left).map(ToString::to_string).collect(),
            operators: operators.map(|(name, _)| name.to_string()).collect(),
        })
    }

    pub(super) async fn ca_rotated(
        &self,
        request: v1::RotateCaRequest,
        who: &Subject,
    ) -> Result<v1::CaStatus, Status> {
        let phase = parse_phase(&request.phase)?;
        let leave: BTreeSet<NodeName> =
            request.leave.iter().map(|text| parse(text)).collect::<Result<_, _>>()?;
        let failed = |error| {
            Status::internal(format!(
                "{}\nhint: mend it, then systemctl restart bunraku: the rotation goes on where the journal says",
                Chain(&error)
            ))
        };
        let under_way = {
            let state = self.driver.shared.state();
            state.authority().rotation.as_ref().map(|rotation| (rotation.from, rotation.to))
        };
        let (from, to) = match under_way {
            Some(pins) => pins,
            None if phase == CaPhase::Announce => self.identities.prepare_rotation().map_err(failed)?,
            // Is refused.
            None => [self.identities.pin().map_err(failed)?; 2].into(),
        };
        self.driver.request(Request::RotateCa { phase, from, to, leave }, &who.to_string()).await?;
        self.identities.follow(&self.driver.shared).map_err(failed)?;
        // Whoever is connected hears of it now, and everybody else at the next connection.
        tokio::spawn(self.clone().tell_nodes());
        self.ca_shown()
    }

    async fn tell_nodes(self) {
        self.greet_again().await;
    }
}

fn next(phase: Option<CaPhase>) -> CaPhase {
    phase.map_or(CaPhase::Announce, CaPhase::next)
}

fn has(hold: CaHold) -> &'static str {
    match hold {
        CaHold::Nothing => "nothing of the new CA",
        CaHold::Anchor => "the new CA, no certificate by it",
        CaHold::Certificate => "a certificate by the new CA",
    }
}

fn parse_phase(text: &str) -> Result<CaPhase, Status> {
    let all = [CaPhase::Announce, CaPhase::Overlap, CaPhase::Switch, CaPhase::Retire];
    all.into_iter().find(|phase| phase.name() == text).ok_or_else(|| {
        Status::invalid_argument(
            "the phase to begin is announce, overlap, switch or retire\nhint: bunraku ca status",
        )
    })
}
