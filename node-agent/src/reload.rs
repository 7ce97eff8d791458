//! Tells a service that reads a file only at a reload. Only what `[services]` grants can be told.

use std::time::Duration;

use bunraku_common::Chain;
use bunraku_services::{State, Verb};

use crate::node::Node;

/// A reload of a balancer takes a second.
const DEADLINE: Duration = Duration::from_secs(60);
/// Until one that failed is told again.
pub(crate) const AGAIN: Duration = Duration::from_secs(10);

pub(crate) async fn tell(node: &Node, service: &str) -> Result<(), String> {
    let service = node.turns.service(service).map_err(|error| Chain(&error).to_string())?;
    let Err(error) = service.act(Verb::Reload, DEADLINE).await else { return Ok(()) };
    // One that does not run reads the file when it starts.
    match service.status().await {
        Ok(status) if matches!(status.state, State::Stopped | State::Failed) => Ok(()),
        Ok(_) | Err(_) => Err(Chain(&error).to_string()),
    }
}
