//! What the doors need while the controller runs: the mesh CA, the doors' configurations (swapped when Puppet's files
//! or the controller's own certificate change), and the allow-list.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use bunraku_common::{Chain, Digest};
use bunraku_engine::{Event, Standing as Known};
use bunraku_proto::{
    FleetName, PeerIdentity,
    accept::Doors,
    tls::{self, Standing},
};

use crate::{
    config::Config,
    driver::{Driver, Shared},
    identity::{AllowList, CONTROLLER_RENEWAL, CaError, MeshCa, PuppetDoor, PuppetFiles, PuppetTrust},
};

/// How often Puppet's files are looked at: a certificate that Puppet's CA revokes loses its mesh identity within 2 s.
const LOOK: Duration = Duration::from_secs(1);
/// A CRL that ends within so many seconds is an alarm: then the Puppet door closes by itself.
const CRL_ALARM_S: u64 = 7 * 86_400;

#[derive(Debug)]
pub(crate) struct Identities {
    ca: MeshCa,
    pin: Digest,
    allow: AllowList,
    doors: Arc<ArcSwap<Doors>>,
    grace: Duration,
    /// What is wrong with the Puppet door, if anything.
    puppet: Mutex<Option<String>>,
}

impl Identities {
    pub(crate) fn new(ca: MeshCa, config: &Config) -> Result<Self, CaError> {
        let entries = config.puppet.iter().flat_map(|puppet| &puppet.allow);
        Ok(Self {
            pin: ca.pin()?,
            ca,
            allow: AllowList::new(entries.map(|entry| (entry.certname.clone(), entry.roles.clone()))),
            doors: Arc::new(ArcSwap::from_pointee(Doors::default())),
            grace: Duration::from_secs(config.identity.expired_renewal_days * 86_400),
            puppet: Mutex::new(None),
        })
    }

    pub(crate) fn ca(&self) -> &MeshCa {
        &self.ca
    }

    pub(crate) fn fleet(&self) -> &FleetName {
        self.ca.fleet()
    }

    pub(crate) fn pin(&self) -> Digest {
        self.pin
    }

    pub(crate) fn allow(&self) -> &AllowList {
        &self.allow
    }

    pub(crate) fn doors(&self) -> Arc<ArcSwap<Doors>> {
        self.doors.clone()
    }

    pub(crate) fn alarms(&self) -> Vec<String> {
        self.puppet.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Opens the mesh doors with a fresh identity of the controller.
    pub(crate) fn open_mesh_doors(&self, shared: &Arc<Shared>) -> Result<(), CaError> {
        let mesh = self.ca.controller(SystemTime::now())?;
        let node = tls::node_door(&mesh, standing(shared))?;
        let h2 = tls::h2_door(&mesh, standing(shared), self.grace)?;
        let enroll = tls::enroll_door(&mesh)?;
        let enroll_puppet = self.doors.load().enroll_puppet.clone();
        self.doors.store(Arc::new(Doors {
            node: Some(node),
            h2: Some(h2),
            enroll: Some(enroll),
            enroll_puppet,
        }));
        Ok(())
    }

    /// Keeps the doors' configurations fresh for as long as the controller runs.
    pub(crate) async fn keep_fresh(&self, driver: Driver, puppet: Option<PuppetFiles>) {
        let mut door = puppet.map(PuppetDoor::new);
        let mut own =
            tokio::time::interval_at(tokio::time::Instant::now() + CONTROLLER_RENEWAL, CONTROLLER_RENEWAL);
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                _ = own.tick() => {
                    if let Err(error) = self.open_mesh_doors(&driver.shared) {
                        tracing::error!(error = %Chain(&error), "the controller's own certificate could not be renewed");
                    }
                }
                _ = look.tick() => {
                    if let Some(refreshed) = door.as_mut().and_then(PuppetDoor::refresh) {
                        self.take_puppet(refreshed.map_err(|error| Chain(&error).to_string()), &driver);
                    }
                }
            }
        }
    }

    fn take_puppet(&self, refreshed: Result<PuppetTrust, String>, driver: &Driver) {
        let mut doors = Doors::clone(&self.doors.load());
        let alarm = match refreshed {
            Ok(trust) => {
                doors.enroll_puppet = Some(trust.config);
                driver.event(Event::PuppetRevoked { serials: trust.revoked });
                trust.crl_ends.and_then(crl_alarm)
            }
            Err(reason) => {
                doors.enroll_puppet = None;
                Some(format!("enrolment by Puppet certificate is closed: {reason}"))
            }
        };
        if let Some(alarm) = &alarm {
            tracing::warn!("{alarm}");
        }
        self.doors.store(Arc::new(doors));
        *self.puppet.lock().unwrap_or_else(PoisonError::into_inner) = alarm;
    }
}

fn crl_alarm(ends: u64) -> Option<String> {
    let left = ends.saturating_sub(crate::clock::wall_s());
    (left < CRL_ALARM_S).then(|| {
        format!("Puppet's CRL ends in {} h; then nobody can enrol by Puppet certificate", left / 3600)
    })
}

/// The deny-list at the handshake: the journalled state, asked in memory.
fn standing(shared: &Arc<Shared>) -> Standing {
    let shared = shared.clone();
    Standing::new(move |peer: &PeerIdentity| {
        matches!(shared.state().standing(&peer.serial, &peer.key.to_string()), Known::Allowed(_))
    })
}
