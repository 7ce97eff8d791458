//! This node as a load balancer: orders about compilers in, what is observed out. What is wanted and how it is done is
//! for `bunraku-balancer`.

mod findings;
mod orders;

use std::{path::Path, sync::Arc};

use bunraku_balancer::{BalancerConfig, Keeper, KeeperError, driver};

pub(crate) use self::{
    findings::examine,
    orders::{Balance, LONGEST_OWNER, no_balancer, status, text},
};

/// What is wanted of each compiler is kept here, below `data_dir`.
const FILE: &str = "balancer.json";

pub(crate) fn open(config: &BalancerConfig, data_dir: &Path) -> Result<Arc<Keeper>, KeeperError> {
    let keeper = Keeper::open(config.clone(), driver(config)?, &data_dir.join(FILE))?;
    Ok(Arc::new(keeper))
}
