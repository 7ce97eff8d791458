//! The Puppet Server of this host, as its settings are now.

use bunraku_common::Chain;
use bunraku_puppetserver::{PuppetServer, Settings};

use crate::node::{Compiler, Node};

/// `Err`: why it cannot be addressed.
pub(super) async fn server(node: &Node, compiler: &Compiler) -> Result<(Settings, PuppetServer), String> {
    let settings = node.settings(compiler).await;
    let settings = settings.map_err(|error| Chain(&error).to_string())?;
    let server = node.server(&settings)?;
    Ok((settings, server))
}
