//! `puppet generate types` for a version on this node.

use std::{path::Path, time::Duration};

use bunraku_common::{Chain, EnvironmentName};
use bunraku_puppetserver::types::{GenerateTypes, TypesError};

use crate::{
    accounts::puppet_account,
    node::{Compiler, Node},
};

/// It starts a Ruby and reads every type: seconds, on a loaded host tens of them.
const DEADLINE: Duration = Duration::from_secs(300);

#[derive(Debug, thiserror::Error)]
pub(crate) enum GenerateError {
    /// Puppet Server's user is not known here.
    #[error("{0}")]
    Account(String),
    #[error("{}", Chain(.0))]
    Types(TypesError),
}

impl GenerateError {
    /// Whether the code is at fault (every node would fail alike) and not this node.
    pub(crate) fn is_content(&self) -> bool {
        match self {
            Self::Account(_) => false,
            Self::Types(error) => error.is_content(),
        }
    }
}

/// Puts new ones in place of those that the version has.
pub(crate) async fn generate(
    node: &Node,
    compiler: &Compiler,
    environment: &EnvironmentName,
    version: &Path,
) -> Result<(), GenerateError> {
    let account = puppet_account(&node.config.puppet.user).map_err(GenerateError::Account)?;
    let run = GenerateTypes {
        puppet: &node.puppet,
        environment,
        version,
        scratch: &compiler.scratch,
        run_as: account.as_ref(),
        group: compiler.group,
        deadline: DEADLINE,
    };
    let generated = run.run().await.map_err(GenerateError::Types)?;
    tracing::info!(%environment, types = generated.types, "types generated");
    Ok(())
}
