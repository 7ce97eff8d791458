//! Orders as transient units of systemd, outside the agent's own control group: `bunraku-order-ID.service`.

use std::{path::Path, time::Duration};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::timeout;
use zbus::Variant;

use super::{
    Launch, LaunchError, OrderId,
    launch::{ENVIRONMENT, NAME, SCRIPT},
};
use crate::systemd::{Bus, BusError, Property};

/// systemd answers at once.
const ASKING: Duration = Duration::from_secs(20);

/// Asks systemd to run scripts.
#[derive(Debug, Default)]
pub struct TransientUnits;

impl Launch for TransientUnits {
    fn launch<'a>(
        &'a self,
        id: &'a OrderId,
        directory: &'a Path,
        argv: &'a [String],
    ) -> BoxFuture<'a, Result<(), LaunchError>> {
        within(id, start(id, directory, argv)).boxed()
    }

    fn is_pending<'a>(&'a self, id: &'a OrderId) -> BoxFuture<'a, Result<bool, LaunchError>> {
        within(id, async {
            let properties = Bus::connect().await?.properties(&name(id)).await?;
            Ok(matches!(properties.text("ActiveState"), "active" | "activating")
                && properties.text("SubState") != "exited")
        })
        .boxed()
    }

    fn forget<'a>(&'a self, id: &'a OrderId) -> BoxFuture<'a, Result<(), LaunchError>> {
        within(id, async {
            let (bus, unit) = (Bus::connect().await?, name(id));
            let gone = |result: Result<(), BusError>| match result {
                Err(error) if error.is("NoSuchUnit") => Ok(()),
                result => result,
            };
            gone(bus.queue("StopUnit", &unit).await.map(drop))?;
            gone(bus.reset_failed(&unit).await)
        })
        .boxed()
    }
}

/// Apart from the names of our own units, whatever an order is called.
fn name(id: &OrderId) -> String {
    format!("bunraku-order-{id}.service")
}

async fn within<T>(id: &OrderId, doing: impl Future<Output = Result<T, BusError>>) -> Result<T, LaunchError> {
    let done = timeout(ASKING, doing).await.unwrap_or(Err(BusError::Deadline(ASKING)));
    done.map_err(|source| LaunchError::Bus { unit: name(id), source })
}

async fn start(id: &OrderId, directory: &Path, argv: &[String]) -> Result<(), BusError> {
    let (bus, unit) = (Bus::connect().await?, name(id));
    match bus.start_transient(&unit, properties(id, directory, argv)).await {
        Err(error) if error.is("UnitExists") => {}
        other => return other.map(drop),
    }
    // One that failed before its script began is kept by systemd, and in the way.
    if bus.properties(&unit).await?.text("ActiveState") != "failed" {
        return Ok(());
    }
    bus.reset_failed(&unit).await?;
    bus.start_transient(&unit, properties(id, directory, argv)).await.map(drop)
}

fn properties<'a>(id: &OrderId, directory: &Path, argv: &[String]) -> Vec<Property<'a>> {
    let fixed = ["/bin/sh", "-c", SCRIPT, NAME].map(str::to_owned);
    let directory = directory.display().to_string();
    let words = fixed.into_iter().chain([directory]).chain(argv.iter().cloned());
    let words: Vec<String> = words.map(|word| literally(&word)).collect();
    let environment: Vec<String> =
        ENVIRONMENT.iter().map(|(name, value)| format!("{name}={value}")).collect();
    vec![
        ("Description", Variant::from(format!("Bunraku: order {id}"))),
        ("Type", Variant::from("exec")),
        // Loaded until it is forgotten, so that its name cannot be taken twice.
        ("RemainAfterExit", Variant::from(true)),
        ("ExecStart", Variant::from(vec![("/bin/sh".to_owned(), words, false)])),
        ("Environment", Variant::from(environment)),
    ]
}

/// systemd puts variables of the environment into the words of a command.
fn literally(word: &str) -> String {
    word.replace('$', "$$")
}
