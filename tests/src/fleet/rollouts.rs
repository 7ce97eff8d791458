//! Rollouts, as `bunraku rollout …` asks for them.

use bunraku_proto::v1::{self, action::Kind};
use tonic::Status;

use super::{Actor, Fleet, MainServer, until};

/// Three compilers that play their parts, behind one balancer.
pub async fn three_actors() -> (Fleet, [Actor; 3]) {
    let mut fleet = Fleet::new().nodes(0).controller(|config| config.balancers.agree_s = 4).up().await;
    let actors = [fleet.add_actor("c1").await, fleet.add_actor("c2").await, fleet.add_actor("c3").await];
    fleet.add_balancer("lb1", &["c1", "c2", "c3"]).await;
    (fleet, actors)
}

/// `bunraku rollout start restart --bake 0s --verdict health`.
pub fn restart() -> v1::RolloutRequest {
    let action = Some(v1::Action { kind: Kind::Restart.into(), ..v1::Action::default() });
    v1::RolloutRequest {
        action,
        bake_s: Some(0),
        verdict: "health".to_owned(),
        ..v1::RolloutRequest::default()
    }
}

/// One node's part in a rollout.
pub fn turn<'a>(rollout: &'a v1::RolloutInfo, node: &str) -> &'a v1::TurnInfo {
    rollout.turns.iter().find(|turn| turn.node == node).unwrap()
}

impl MainServer {
    /// Starts it and does not wait; answers its number.
    pub async fn start_rollout(&self, request: v1::RolloutRequest) -> Result<u64, Status> {
        Ok(self.client().start_rollout(request).await?.into_inner().id)
    }

    pub async fn rollout(&self, id: u64) -> v1::RolloutInfo {
        self.client().show_rollout(v1::ShowRolloutRequest { id }).await.unwrap().into_inner()
    }

    /// Waits until the rollout is `done`, `paused`, …; answers how it is then.
    pub async fn until_rollout(&self, id: u64, phase: &str) -> v1::RolloutInfo {
        until(&format!("rollout {id} is {phase}"), || async { self.rollout(id).await.phase == phase }).await;
        self.rollout(id).await
    }

    /// Waits until a node's turn is `draining`, `acting`, …; answers it.
    pub async fn until_turn(&self, id: u64, node: &str, phase: &str) -> v1::TurnInfo {
        let look = || async { turn(&self.rollout(id).await, node).clone() };
        until(&format!("{node} is {phase} in rollout {id}"), || async { look().await.phase == phase }).await;
        look().await
    }
}
