//! How Puppet Server fares, as counts: what a rollout compares a changed compiler with its siblings by.

use std::{
    path::PathBuf,
    time::{SystemTime, UNIX_EPOCH},
};

use bunraku_common::Chain;
use bunraku_proto::v1::HealthReply;
use bunraku_puppetserver::{access_log::AccessLog, settings::Settings};

use super::{counting::Counting, reach::server, verify::CATALOG};
use crate::node::{Compiler, Node};

/// `certname`: a catalog is compiled for it first, so that there is something to count; empty: none is.
pub(crate) async fn health(node: &Node, compiler: &Compiler, certname: &str) -> HealthReply {
    match look(node, compiler, certname).await {
        Ok(reply) => reply,
        Err(trouble) => HealthReply { trouble, ..HealthReply::default() },
    }
}

async fn look(node: &Node, compiler: &Compiler, certname: &str) -> Result<HealthReply, String> {
    let (settings, puppet_server) = server(node, compiler).await?;
    let path = log_of(node, &settings)?;
    if !certname.is_empty() {
        // Whether it succeeds stands in the log, with all others.
        let patient = node.server(&settings)?.with_deadline(CATALOG);
        let compiled = patient.catalog(certname).await;
        compiled.err().inspect(|error| tracing::info!(error = %Chain(error), "a test catalog failed"));
    }
    let pool = match puppet_server.pool().await {
        Ok(pool) => Some(pool.borrow_timeout_count),
        // It does not run: nobody waits for a JRuby.
        Err(error) if error.is_owed() => None,
        Err(error) => return Err(Chain(&error).to_string()),
    };
    let mut counting = node.turns.counting.lock().await;
    let unreadable = |error| format!("could not read Puppet Server's access log {}: {error}", path.display());
    let counting = match &mut *counting {
        Some(counting)
            if counting.log.path() == path && !counting.log.has_fallen_behind().map_err(unreadable)? =>
        {
            counting
        }
        none => {
            let log = AccessLog::follow(&path).map_err(unreadable)?;
            // Every beginning has another number.
            let epoch = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
            let epoch = u64::try_from(epoch).unwrap_or(0);
            none.insert(Counting { log, pool: pool.unwrap_or(0), borrow_timeouts: 0, epoch })
        }
    };
    let counts = counting.log.look().map_err(unreadable)?;
    if let Some(pool) = pool {
        let new = if pool >= counting.pool { pool - counting.pool } else { pool };
        counting.borrow_timeouts += new;
        counting.pool = pool;
    }
    Ok(HealthReply {
        epoch: counting.epoch,
        catalogs: counts.catalogs,
        catalog_ms: counts.catalog_ms,
        failed: counts.failed,
        borrow_timeouts: counting.borrow_timeouts,
        trouble: String::new(),
    })
}

fn log_of(node: &Node, settings: &Settings) -> Result<PathBuf, String> {
    if let Some(configured) = &node.config.puppet.access_log {
        return Ok(configured.clone());
    }
    let places = node.server_places(settings).map_err(|error| Chain(&error).to_string())?;
    let known = places.access_log();
    let known =
        known.map_err(|error| format!("could not read where Puppet Server's access log is: {error}"))?;
    known.ok_or_else(|| {
        "webserver.conf names no access log\nhint: [puppet] access_log in /etc/bunraku/agent.toml".to_owned()
    })
}
