//! What this node keeps as a load balancer.

use std::{path::Path, sync::Arc};

use bunraku_balancer::{BalancerConfig, Keeper, KeeperError, driver};

/// What is wanted of each compiler is kept here, below `data_dir`.
const FILE: &str = "balancer.json";

pub(crate) fn open(config: &BalancerConfig, data_dir: &Path) -> Result<Arc<Keeper>, KeeperError> {
    let keeper = Keeper::open(config.clone(), driver(config)?, &data_dir.join(FILE))?;
    Ok(Arc::new(keeper))
}
