//! Static catalogs: a run that began on one compiler can end on another, also a deploy later.

use anyhow::{Result, ensure};

use crate::{
    catalog,
    site::{C1, C2, Site},
};

pub(crate) fn served_by_the_other(site: &mut Site) -> Result<()> {
    site.ready()?;
    let agent = site.stack.agent("a1")?;
    let old = catalog::fetch(&agent, C1, "production")?;
    let digest = site.bunraku.proven_everywhere("production")?;
    ensure!(old.code_id == digest, "the code id is {}, the digest {digest}", old.code_id);

    let version = site.push()?;
    site.deploy()?;
    let new = catalog::fetch(&agent, C2, "production")?;
    ensure!(new.version == version && new.code_id != old.code_id, "{new:?} after {old:?}");
    for host in [C2, C1] {
        let (status, body) = catalog::banner_of(&agent, host, &old.code_id)?;
        let expected = format!("banner v{}\n", old.version);
        ensure!(status == 200 && body == expected, "{host} answered {status}: {body}");
    }

    let unknown = "0".repeat(64);
    let (status, body) = catalog::banner_of(&agent, C1, &unknown)?;
    ensure!(status == 500 && !body.contains("banner"), "a version that nobody has: {status}: {body}");
    Ok(())
}
