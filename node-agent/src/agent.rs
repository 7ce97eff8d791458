//! A node agent from its start to its end.

use std::sync::Arc;

use bunraku_common::NodeName;
use tokio::task::JoinHandle;

use crate::{
    background, certificate, config::Config, connect::Connection, crl, error::AgentError, node::Node,
    watchdog,
};

/// A node agent that runs in this process. `bunraku-agent run` runs one; tests run several.
#[derive(Debug)]
pub struct Agent {
    tasks: Vec<JoinHandle<()>>,
    node: Arc<Node>,
}

impl Agent {
    /// Opens what this node keeps and begins to dial.
    pub async fn start(config: Config) -> Result<Self, AgentError> {
        let node = Arc::new(Node::open(config).await?);
        let connection = tokio::spawn(Connection::new(node.clone()).keep());
        let mut tasks =
            vec![tokio::spawn(watchdog::keep_fed(node.clone(), connection.abort_handle())), connection];
        if node.compiler.is_some() {
            tasks.push(tokio::spawn(background::settle_debts(node.clone())));
            tasks.push(tokio::spawn(background::tidy(node.clone())));
        }
        if let Some(keeper) = &node.balancer {
            tasks.push(tokio::spawn(keeper.clone().watch()));
        }
        if node.crl.is_some() {
            tasks.push(tokio::spawn(crl::watch(node.clone())));
            tasks.push(tokio::spawn(crl::reload(node.clone())));
        }
        if node.copies.is_some() {
            tasks.push(tokio::spawn(certificate::keep(node.clone())));
            tasks.push(tokio::spawn(certificate::reload(node.clone())));
        }
        Ok(Self { tasks, node })
    }

    pub fn name(&self) -> &NodeName {
        &self.node.name
    }

    /// Renews the identity now instead of at half of its life, which nobody who tries it out can wait for.
    pub fn renew_identity(&self) {
        self.node.renew.notify_one();
    }

    /// Ends everything at once, as the end of the process would.
    pub async fn stop(self) {
        for task in self.tasks {
            task.abort();
            let _aborted = task.await;
        }
    }
}
