//! Whether anybody is still served here.

use std::time::UNIX_EPOCH;

use bunraku_common::Chain;
use bunraku_proto::v1::IdleReply;
use bunraku_puppetserver::ServerError;
use bunraku_services::{puppet_agent::Run, puppetserver::Listening};

use super::rest;
use crate::node::{Compiler, Node};

pub(crate) async fn idle(node: &Node, compiler: &Compiler) -> IdleReply {
    let mut reply = IdleReply::default();
    if let Err(why) = look(node, compiler, &mut reply).await {
        reply.trouble = why;
    }
    // Without Puppet's word on its locks no run is seen here; whoever is to rest says so then.
    if let Ok(locks) = rest::locks(node, compiler).await
        && let Ok(Some(run)) = Run::going_on(&locks)
    {
        reply.run_since_s = run.since.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    }
    reply
}

async fn look(node: &Node, compiler: &Compiler, reply: &mut IdleReply) -> Result<(), String> {
    let settings = node.settings(compiler).await.map_err(|error| Chain(&error).to_string())?;
    let listens = node.server_listens(&settings)?;
    let connections = Listening(listens).connections().await.map_err(|error| Chain(&error).to_string())?;
    reply.connections = u32::try_from(connections.total()).unwrap_or(u32::MAX);
    match node.server(&settings)?.pool().await {
        Ok(pool) => {
            let waiting = pool.requested_instances.len() as u64;
            let free = if pool.is_idle() { pool.instances } else { pool.free.saturating_sub(waiting) };
            reply.jrubies = u32::try_from(pool.instances).unwrap_or(u32::MAX);
            reply.jrubies_free = u32::try_from(free).unwrap_or(u32::MAX);
            // Somebody who waits is served next, also when an instance is free at this moment.
            if !pool.is_idle() && reply.jrubies_free >= reply.jrubies {
                reply.jrubies_free = reply.jrubies.saturating_sub(1);
            }
            Ok(())
        }
        // It does not run: nobody is served.
        Err(error) if error.is_owed() => Ok(()),
        // This host's own certificate has ended or was revoked, and is to be replaced: connections alone tell then.
        Err(ServerError::Untrusted { .. }) => Ok(()),
        Err(error) => Err(Chain(&error).to_string()),
    }
}
