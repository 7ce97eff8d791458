//! Compilers that come later.

use std::fs;

use anyhow::{Result, ensure};
use bunraku_tests::installed::Bunraku;

use crate::{
    catalog,
    site::{C2, Site},
};

/// c2 loses all that Bunraku ever gave it: that is a new compiler.
pub(crate) fn joined_later(site: &mut Site) -> Result<()> {
    site.ready()?;
    let agent = site.stack.agent("a1")?;
    site.bunraku.stop_agent("c2")?;
    site.bunraku.tell(&["nodes", "remove", C2, "--yes"])?;
    let c2 = &site.stack.compilers[1];
    for environment in ["production", "testing"] {
        fs::remove_file(c2.environments().join(environment))?;
    }
    fs::remove_dir_all(site.bunraku.data_dir("c2"))?;
    fs::remove_dir_all(Bunraku::versions_dir(c2))?;
    site.bunraku.configure_compiler(c2)?;

    site.bunraku.start_agent("c2")?;
    site.bunraku.wait_for_nodes(&[C2.to_owned()])?;
    for environment in ["production", "testing"] {
        let digest = site.bunraku.wait_until_proven(environment)?;
        let served = site.bunraku.served(environment)?;
        ensure!(served.iter().any(|(node, live, _)| node == C2 && *live == digest), "{served:?}");
        let compiled = catalog::fetch(&agent, C2, environment)?;
        ensure!(compiled.code_id == digest, "{environment}: {compiled:?}");
    }
    Ok(())
}
