//! The few calls to systemd's manager that are needed, and the signal that ends a job.

use std::collections::HashMap;

use futures_util::StreamExt;
use zbus::{Connection, OwnedObjectPath, OwnedVariant, Proxy, Variant, proxy::SignalStream};

const SYSTEMD: &str = "org.freedesktop.systemd1";
const MANAGER: &str = "/org/freedesktop/systemd1";
const MANAGER_INTERFACE: &str = "org.freedesktop.systemd1.Manager";
const UNIT_INTERFACE: &str = "org.freedesktop.systemd1.Unit";
const SERVICE_INTERFACE: &str = "org.freedesktop.systemd1.Service";

#[derive(Debug, thiserror::Error)]
pub enum BusError {
    #[error(
        "could not reach systemd over the system bus \
         (hint: on a host without systemd, grant the service with driver = \"process\")"
    )]
    Connect(#[source] zbus::Error),
    #[error("systemd did not answer {call}")]
    Call {
        call: &'static str,
        #[source]
        source: Box<zbus::Error>,
    },
    /// systemd answered, and the answer is no.
    #[error("systemd refused {call}: {name}: {message}")]
    Refused { call: &'static str, name: String, message: String },
    #[error("systemd's answer to {0} cannot be understood")]
    Garbled(&'static str),
    #[error("the connection to the system bus ended")]
    Ended,
    #[error("systemd did not answer within {0:?}")]
    Deadline(std::time::Duration),
}

impl BusError {
    /// Whether systemd refused with this D-Bus error, named without its prefix.
    pub(crate) fn is(&self, error: &str) -> bool {
        matches!(self, Self::Refused { name, .. } if name.rsplit('.').next() == Some(error))
    }
}

/// A connection to systemd's manager.
pub(crate) struct Bus {
    connection: Connection,
    manager: Proxy<'static>,
}

/// The jobs that end, from the moment of the subscription.
pub(crate) struct Jobs(SignalStream<'static>);

/// A job that was queued.
#[derive(PartialEq)]
pub(crate) struct Job(OwnedObjectPath);

/// What systemd knows about one unit.
pub(crate) struct Properties(HashMap<String, OwnedVariant>);

/// A property of a transient unit.
pub(crate) type Property<'a> = (&'a str, Variant<'a>);

impl Bus {
    pub(crate) async fn connect() -> Result<Self, BusError> {
        let connection = Connection::system().await.map_err(BusError::Connect)?;
        let manager = Proxy::new(&connection, SYSTEMD, MANAGER, MANAGER_INTERFACE).await;
        Ok(Self { manager: manager.map_err(BusError::Connect)?, connection })
    }

    /// Must be asked for before a job is: its end may come at once.
    pub(crate) async fn jobs(&self) -> Result<Jobs, BusError> {
        self.manager.call_method("Subscribe", &()).await.map_err(|error| refusal("Subscribe", error))?;
        let stream = self.manager.receive_signal("JobRemoved").await;
        stream.map(Jobs).map_err(|error| refusal("JobRemoved", error))
    }

    /// `method` is one of StartUnit, StopUnit, RestartUnit and ReloadUnit.
    pub(crate) async fn queue(&self, method: &'static str, unit: &str) -> Result<Job, BusError> {
        let job = self.manager.call(method, &(unit, "replace")).await;
        job.map(Job).map_err(|error| refusal(method, error))
    }

    pub(crate) async fn start_transient(
        &self,
        unit: &str,
        properties: Vec<Property<'_>>,
    ) -> Result<Job, BusError> {
        let auxiliary: Vec<(&str, Vec<Property<'_>>)> = Vec::new();
        let job = self.manager.call("StartTransientUnit", &(unit, "fail", properties, auxiliary)).await;
        job.map(Job).map_err(|error| refusal("StartTransientUnit", error))
    }

    /// A unit that has failed is kept by systemd until it is told to forget that.
    pub(crate) async fn reset_failed(&self, unit: &str) -> Result<(), BusError> {
        let reset = self.manager.call_method("ResetFailedUnit", &unit).await;
        reset.map(drop).map_err(|error| refusal("ResetFailedUnit", error))
    }

    /// Also of a unit that is not running.
    pub(crate) async fn properties(&self, unit: &str) -> Result<Properties, BusError> {
        let path: OwnedObjectPath =
            self.manager.call("LoadUnit", &unit).await.map_err(|error| refusal("LoadUnit", error))?;
        let garbled = |error| refusal("GetAll", error);
        let proxy = Proxy::new(&self.connection, SYSTEMD, path, "org.freedesktop.DBus.Properties").await;
        let proxy = proxy.map_err(garbled)?;
        let mut all: HashMap<String, OwnedVariant> =
            proxy.call("GetAll", &UNIT_INTERFACE).await.map_err(garbled)?;
        let of_service: HashMap<String, OwnedVariant> =
            proxy.call("GetAll", &SERVICE_INTERFACE).await.map_err(garbled)?;
        all.extend(of_service);
        Ok(Properties(all))
    }
}

impl Jobs {
    /// The result of this job: `done`, `failed`, `timeout`, `canceled`, …
    pub(crate) async fn result(&mut self, job: &Job) -> Result<String, BusError> {
        while let Some(signal) = self.0.next().await {
            let (_, path, _, result): (u32, OwnedObjectPath, String, String) =
                signal.body().deserialize().map_err(|_| BusError::Garbled("JobRemoved"))?;
            if path == job.0 {
                return Ok(result);
            }
        }
        Err(BusError::Ended)
    }
}

impl Properties {
    /// Empty when systemd does not know it.
    pub(crate) fn text(&self, name: &str) -> &str {
        self.0.get(name).and_then(|value| value.downcast_ref().ok()).unwrap_or_default()
    }

    pub(crate) fn number(&self, name: &str) -> u64 {
        let Some(value) = self.0.get(name) else { return 0 };
        value.downcast_ref::<u64>().or_else(|_| value.downcast_ref::<u32>().map(u64::from)).unwrap_or(0)
    }

    /// A list of bytes, in hexadecimal digits.
    pub(crate) fn hex(&self, name: &str) -> String {
        let bytes: Vec<u8> = self
            .0
            .get(name)
            .and_then(|value| value.try_clone().ok())
            .and_then(|value| value.try_into().ok())
            .unwrap_or_default();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

fn refusal(call: &'static str, error: zbus::Error) -> BusError {
    if let zbus::Error::MethodError(name, message, _) = error {
        return BusError::Refused { call, name: name.to_string(), message: message.unwrap_or_default() };
    }
    BusError::Call { call, source: Box::new(error) }
}
