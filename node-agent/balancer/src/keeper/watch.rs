//! Looks at the balancer every second, and tells it again what it forgot.

use std::{sync::Arc, time::Duration};

use bunraku_common::{Chain, NodeName};
use tokio::time::{MissedTickBehavior, interval};

use super::{BalanceError, Keeper, Turn, corrections, wishes::Part};
use crate::{
    driver::{Observed, Wanted},
    name::ServerName,
};

const EVERY: Duration = Duration::from_secs(1);

impl Keeper {
    /// For ever.
    pub async fn watch(self: Arc<Self>) {
        tokio::join!(self.look_every_second(), self.driver.background());
    }

    async fn look_every_second(&self) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look().await;
        }
    }

    /// One look; what is in the way is told, once.
    pub async fn look(&self) {
        let mut turn = self.turn.lock().await;
        let trouble = self.reconcile(&mut turn).await.err().map(|error| Chain(&error).to_string());
        if trouble.is_none() {
            self.end_old_sessions().await;
        }
        let mut told = self.told();
        if told.trouble != trouble {
            match &trouble {
                Some(why) => tracing::warn!(driver = self.driver.kind(), "{why}"),
                None => tracing::info!(driver = self.driver.kind(), "the balancer answers again"),
            }
            told.trouble = trouble;
        }
    }

    /// Whether it succeeds says nothing about what is in service.
    async fn end_old_sessions(&self) {
        let servers: Vec<ServerName> = self.config.compilers.values().flatten().cloned().collect();
        match self.driver.end_old(&servers).await {
            Ok(0) => {}
            Ok(ended) => tracing::info!(ended, "sessions that were open for longer than allowed"),
            Err(error) => tracing::warn!(error = %Chain(&error), "old sessions could not be ended"),
        }
    }

    /// Everything that is wanted and not so. Answers the last look.
    pub(super) async fn reconcile(&self, turn: &mut Turn) -> Result<Observed, BalanceError> {
        let mut observed = self.driver.observe().await?;
        let before = turn.seen.take_if(|seen| seen.incarnation != observed.incarnation);
        if let Some(before) = before.as_ref().filter(|_| turn.noticed != observed.incarnation) {
            let (before, now) = (&before.incarnation, &observed.incarnation);
            tracing::warn!(before, now, "the balancer was reloaded or restarted");
            turn.noticed.clone_from(now);
        }
        let mut alarms = Vec::new();
        let mut failed = false;
        for (compiler, servers) in &self.config.compilers {
            match self.correct(compiler, servers, &observed, before.as_ref(), &mut alarms).await {
                Ok(Some(corrected)) => observed = corrected,
                Ok(None) => {}
                // The others are corrected all the same, and orders for them are obeyed.
                Err(error) => {
                    failed = true;
                    alarms.push(format!(
                        "{compiler} is not as {} wants it: {}",
                        self.owner(compiler),
                        Chain(&error)
                    ));
                }
            }
        }
        alarms.extend(self.left_drained());
        if let Err(error) = self.grow(turn).await {
            alarms.push(Chain(&error).to_string());
        }
        match self.declare(&observed).await {
            Ok(true) => observed = self.driver.observe().await?,
            Ok(false) => {}
            Err(error) => alarms.push(Chain(&error).to_string()),
        }
        if let Err(error) = self.driver.settle().await {
            alarms.push(Chain(&error).to_string());
        }
        self.alarm(alarms);
        // What the balancer was before its reload is needed until everything is corrected.
        turn.seen = before.filter(|_| failed).or_else(|| Some(observed.clone()));
        Ok(observed)
    }

    fn owner(&self, compiler: &NodeName) -> String {
        self.wishes().of(compiler).map(|record| record.owner.clone()).unwrap_or_default()
    }

    /// `None`: nothing had to be told.
    async fn correct(
        &self,
        compiler: &NodeName,
        servers: &[crate::ServerName],
        observed: &Observed,
        before: Option<&Observed>,
        alarms: &mut Vec<String>,
    ) -> Result<Option<Observed>, BalanceError> {
        let Some(record) = self.wishes().of(compiler).cloned() else { return Ok(None) };
        let due = corrections::due(servers, &record, observed, before);
        if !due.drain.is_empty()
            && let Err(below) = self.permits(observed, &due.drain, record.min_available)
        {
            alarms.push(format!("{} wants {compiler} drained, and it is in service: {below}", record.owner));
            return Ok(None);
        }
        let ours = due.ours;
        self.wishes().change(|kept| {
            if let Some(record) = kept.compilers.get_mut(compiler) {
                record.ours = ours;
            }
        })?;
        let mut corrected = None;
        for (names, wanted) in [(due.drain, Wanted::Drained), (due.enable, Wanted::Ready)] {
            if names.is_empty() {
                continue;
            }
            tracing::warn!(%compiler, owner = record.owner, servers = ?names, wanted = wanted.as_str(), "asserted again");
            corrected = Some(self.tell(&names, wanted, observed).await?);
            if wanted == Wanted::Ready {
                self.given_back(compiler, &names)?;
            }
        }
        Ok(corrected)
    }

    /// Compilers that were drained by order, and that the configuration has lost since.
    fn left_drained(&self) -> Vec<String> {
        let wishes = self.wishes();
        let drained = wishes
            .kept()
            .compilers
            .iter()
            .filter(|(_, record)| record.ours.values().any(|part| *part == Part::Out));
        let lost = drained.filter(|(compiler, _)| !self.carries(compiler));
        lost.map(|(compiler, record)| {
            let servers: Vec<String> = record.ours.keys().map(ToString::to_string).collect();
            format!(
                "{compiler} was drained for {} and is mapped no more: {} may still be out of service (hint: map it again, then bunraku lb enable {compiler})",
                record.owner,
                servers.join(", ")
            )
        })
        .collect()
    }

    fn alarm(&self, alarms: Vec<String>) {
        let mut told = self.told();
        for news in alarms.iter().filter(|alarm| !told.alarms.contains(alarm)) {
            tracing::error!("{news}");
        }
        told.alarms = alarms;
    }
}
