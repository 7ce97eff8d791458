//! Generated types after Puppet was changed: those of another version are not this one's.

use bunraku_common::{Chain, EnvironmentName};
use bunraku_puppetserver::types::RESOURCE_TYPES;

use crate::{
    node::{Compiler, Node},
    types::generate,
};

/// Makes those that are served again, if Puppet is not the version that it was. Versions that wait for a rollback lose
/// theirs: a rollback makes them.
pub(super) async fn made_again(node: &Node, compiler: &Compiler, before: Option<&str>) -> Result<(), String> {
    let now = node.puppet.version().await.map_err(|error| Chain(&error).to_string())?;
    if before == Some(now.as_str()) {
        return Ok(());
    }
    let environments: Vec<EnvironmentName> =
        compiler.versions.observe().into_iter().map(|state| state.environment).collect();
    for environment in environments {
        let live = compiler.versions.live(&environment);
        for digest in compiler.versions.list(&environment) {
            let version = compiler.versions.resolve(&environment, &digest);
            if !version.join(RESOURCE_TYPES).exists() {
                continue;
            }
            if live != Some(digest) {
                let dropped = compiler.versions.drop_resource_types(&environment, &digest);
                dropped.map_err(|error| Chain(&error).to_string())?;
                continue;
            }
            let made = generate(node, compiler, &environment, &version).await;
            made.map_err(|error| format!("the types of {environment} could not be made again: {error}"))?;
        }
    }
    Ok(())
}
