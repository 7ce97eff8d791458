//! Puppet Server's JRuby pool: whether it is idle, how it fares, and its flush.
//!
//! Read from the status API at level `debug`, which is documented as costly: every few seconds, not all the time.

use http::{Method, StatusCode};
use serde::Deserialize;

use crate::{PuppetServer, ServerError};

const STATUS: &str = "/status/v1/services/jruby-metrics?level=debug";
const POOL: &str = "/puppet-admin-api/v1/jruby-pool";

/// The pool as the server counts it, since its start.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Pool {
    #[serde(rename = "num-jrubies")]
    pub instances: u64,
    #[serde(rename = "num-free-jrubies")]
    pub free: u64,
    /// Requests that wait for an instance.
    pub requested_instances: Vec<Held>,
    /// Requests that have one.
    pub borrowed_instances: Vec<Held>,
    pub borrow_count: u64,
    pub borrow_timeout_count: u64,
    /// Milliseconds that a request keeps an instance, on average.
    pub average_borrow_time: f64,
    /// Milliseconds that a request waits for one, on average.
    pub average_wait_time: f64,
}

/// A request in the pool.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Held {
    pub duration_millis: u64,
}

impl Pool {
    /// Nobody has an instance, and nobody waits for one.
    pub fn is_idle(&self) -> bool {
        self.free == self.instances
            && self.requested_instances.is_empty()
            && self.borrowed_instances.is_empty()
    }
}

impl PuppetServer {
    pub async fn pool(&self) -> Result<Pool, ServerError> {
        let doing = "asking about its JRuby pool";
        let answer = self.ask(doing, Method::GET, STATUS).await?;
        if answer.status != StatusCode::OK {
            return Err(self.refusal(doing, ("get", STATUS), &answer));
        }
        let service: Service =
            serde_json::from_slice(&answer.body).map_err(|error| self.garbled(doing, error.into()))?;
        Ok(service.status.experimental.metrics)
    }

    /// Throws all interpreters away: Ruby of modules is loaded again. Requests wait until the first new one is ready.
    pub async fn flush_pool(&self) -> Result<(), ServerError> {
        let doing = "flushing its JRuby pool";
        let answer = self.ask(doing, Method::DELETE, POOL).await?;
        if answer.status == StatusCode::NO_CONTENT {
            return Ok(());
        }
        Err(self.refusal(doing, ("delete", POOL), &answer))
    }
}

#[derive(Deserialize)]
struct Service {
    status: Experimental,
}

#[derive(Deserialize)]
struct Experimental {
    experimental: Metrics,
}

#[derive(Deserialize)]
struct Metrics {
    metrics: Pool,
}
