//! Slow start: a server that comes back gets a tenth of its weight first, and more each second.

use std::time::Duration;

use bunraku_common::NodeName;
use tokio::time::Instant;

use super::{BalanceError, Keeper, Turn, wishes::WishesError};
use crate::{driver::Trouble, name::ServerName};

/// Enough for the first catalogs to warm a cold server, too little to hurt.
const FIRST_PERCENT: u32 = 10;

/// How far one server's weight has grown.
#[derive(Debug)]
pub(super) struct Growth {
    began: Instant,
    over: Duration,
    given: u32,
}

impl Growth {
    fn percent(&self) -> u32 {
        let part = self.began.elapsed().as_secs_f64() / self.over.as_secs_f64();
        (FIRST_PERCENT + (f64::from(100 - FIRST_PERCENT) * part) as u32).min(100)
    }
}

impl Keeper {
    /// Before the servers are ready: nobody gets its full share at once.
    pub(super) async fn begin_to_grow(
        &self,
        servers: &[ServerName],
        over: Duration,
        turn: &mut Turn,
    ) -> Result<(), Trouble> {
        for server in servers {
            self.driver.weigh(server, FIRST_PERCENT).await?;
            let growth = Growth { began: Instant::now(), over, given: FIRST_PERCENT };
            turn.growing.insert(server.clone(), growth);
        }
        Ok(())
    }

    /// Ends a slow start of an earlier order.
    pub(super) async fn full_weight(
        &self,
        compiler: &NodeName,
        servers: &[ServerName],
        turn: &mut Turn,
    ) -> Result<(), BalanceError> {
        let growing = self.wishes().of(compiler).map(|record| record.growing.clone()).unwrap_or_default();
        for server in servers.iter().filter(|server| growing.contains(server)) {
            self.driver.weigh(server, 100).await?;
            turn.growing.remove(server);
            self.grown(server)?;
        }
        Ok(())
    }

    /// One step of all that grow. One that was growing when this process started is given all.
    pub(super) async fn grow(&self, turn: &mut Turn) -> Result<(), BalanceError> {
        let kept = self.wishes().kept().clone();
        let on_record =
            kept.compilers.values().filter(|record| record.wanted == crate::driver::Wanted::Ready);
        for server in on_record.flat_map(|record| &record.growing) {
            let percent = turn.growing.get(server).map_or(100, Growth::percent);
            let given = turn.growing.get(server).map_or(0, |growth| growth.given);
            if percent == given {
                continue;
            }
            self.driver.weigh(server, percent).await?;
            if percent == 100 {
                turn.growing.remove(server);
                self.grown(server)?;
            } else if let Some(growth) = turn.growing.get_mut(server) {
                growth.given = percent;
            }
        }
        Ok(())
    }

    fn grown(&self, server: &ServerName) -> Result<(), WishesError> {
        self.wishes().change(|kept| {
            for record in kept.compilers.values_mut() {
                record.growing.remove(server);
            }
        })
    }
}
