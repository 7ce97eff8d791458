//! Servers that the balancer is given while it runs, because its own configuration lacks them: given again after every
//! reload, and taken away when this agent's configuration names them no more.

use super::{BalanceError, Keeper};
use crate::{
    driver::{Admin, NewServer, Observed, Wanted},
    name::ServerName,
};

impl Keeper {
    /// Whether anything was added or taken away.
    pub(super) async fn declare(&self, observed: &Observed) -> Result<bool, BalanceError> {
        let mut changed = false;
        for new in self.config.declared() {
            if observed.server(&new.name).is_none() && !self.is_drained(&new.name) {
                changed = true;
                self.add(&new).await?;
            }
        }
        let added = self.wishes().kept().added.clone();
        for gone in added.iter().filter(|name| !self.config.mapped().contains(name)) {
            changed = true;
            self.take_away(gone, observed).await?;
        }
        Ok(changed)
    }

    fn is_drained(&self, server: &ServerName) -> bool {
        let compiler = self.config.compilers.iter().find(|(_, servers)| servers.contains(server));
        let wishes = self.wishes();
        let record = compiler.and_then(|(compiler, _)| wishes.of(compiler));
        record.is_some_and(|record| record.wanted == Wanted::Drained)
    }

    async fn add(&self, new: &NewServer) -> Result<(), BalanceError> {
        self.wishes().change(|kept| {
            kept.added.insert(new.name.clone());
        })?;
        self.driver.add(new).await?;
        tracing::info!(server = %new.name, address = new.address, "the balancer was given a server");
        Ok(())
    }

    /// Drained first; taken away when its last session has ended.
    async fn take_away(&self, name: &ServerName, observed: &Observed) -> Result<(), BalanceError> {
        match observed.server(name) {
            Some(server) if server.admin == Admin::Ready => {
                self.driver.set(std::slice::from_ref(name), Wanted::Drained).await?;
                return Ok(());
            }
            Some(server) if server.sessions > 0 => return Ok(()),
            Some(_) => self.driver.remove(name).await?,
            None => {}
        }
        self.wishes().change(|kept| {
            kept.added.remove(name);
        })?;
        tracing::info!(server = %name, "the balancer lost a server that is no longer configured");
        Ok(())
    }
}
