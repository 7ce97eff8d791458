//! What the doors need while the controller runs: the mesh CAs, the doors' configurations (swapped when Puppet's files
//! or the controller's own certificate change), and the allow-list.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use bunraku_common::{Chain, Digest};
use bunraku_engine::{Authority, EnrolledBy, Event, Standing as Known, State};
use bunraku_proto::{
    FleetName, PeerIdentity,
    accept::Doors,
    tls::{self, Standing},
};

use crate::{
    config::Config,
    driver::{Driver, Shared},
    identity::{AllowList, Authorities, CONTROLLER_RENEWAL, CaError, PuppetDoor, PuppetFiles, PuppetTrust},
};

/// How often Puppet's files are looked at: a certificate that Puppet's CA revokes loses its mesh identity within 2 s.
const LOOK: Duration = Duration::from_secs(1);
/// A CRL that ends within so many seconds is an alarm: then the Puppet door closes by itself.
const CRL_ALARM_S: u64 = 7 * 86_400;

#[derive(Debug)]
pub(crate) struct Identities {
    dir: PathBuf,
    fleet: FleetName,
    authorities: ArcSwap<Authorities>,
    allow: AllowList,
    doors: Arc<ArcSwap<Doors>>,
    grace: Duration,
    puppet: Mutex<PuppetNews>,
}

/// What Puppet's files said when they were last read.
#[derive(Debug, Default)]
struct PuppetNews {
    /// Why the door is closed, if it is.
    closed: Option<String>,
    /// Unix seconds.
    crl_ends: Option<u64>,
    revoked: BTreeSet<String>,
}

impl Identities {
    /// `journalled`: which CA counts, and whether it is rotated.
    pub(crate) fn open(config: &Config, journalled: &Authority) -> Result<Self, CaError> {
        let dir = config.data_dir.join("ca");
        let authorities = Authorities::open(&dir, journalled)?;
        let entries = config.puppet.iter().flat_map(|puppet| &puppet.allow);
        Ok(Self {
            dir,
            fleet: authorities.current().fleet().clone(),
            authorities: ArcSwap::from_pointee(authorities),
            allow: AllowList::new(entries.map(|entry| (entry.certname.clone(), entry.roles.clone()))),
            doors: Arc::new(ArcSwap::from_pointee(Doors::default())),
            grace: Duration::from_secs(config.identity.expired_renewal_days * 86_400),
            puppet: Mutex::default(),
        })
    }

    pub(crate) fn authorities(&self) -> Arc<Authorities> {
        self.authorities.load_full()
    }

    pub(crate) fn fleet(&self) -> &FleetName {
        &self.fleet
    }

    /// For a join line.
    pub(crate) fn pin(&self) -> Result<Digest, CaError> {
        self.authorities().current().pin()
    }

    /// As the journal wants the CAs now: who signs, what the doors show, and whom they trust.
    pub(crate) fn follow(&self, shared: &Arc<Shared>) -> Result<(), CaError> {
        let journalled = shared.state().authority().clone();
        self.authorities.store(Arc::new(Authorities::open(&self.dir, &journalled)?));
        self.open_mesh_doors(shared)
    }

    /// The pins of the CA that counts and of the one that shall, whose files are there when this returns.
    pub(crate) fn prepare_rotation(&self) -> Result<(Digest, Digest), CaError> {
        self.authorities().prepare(&self.dir, SystemTime::now())
    }

    pub(crate) fn allow(&self) -> &AllowList {
        &self.allow
    }

    pub(crate) fn doors(&self) -> Arc<ArcSwap<Doors>> {
        self.doors.clone()
    }

    pub(crate) fn alarms(&self) -> Vec<String> {
        let news = self.puppet();
        news.closed.clone().or_else(|| news.crl_ends.and_then(crl_alarm)).into_iter().collect()
    }

    fn puppet(&self) -> MutexGuard<'_, PuppetNews> {
        self.puppet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens the mesh doors with a fresh identity of the controller.
    pub(crate) fn open_mesh_doors(&self, shared: &Arc<Shared>) -> Result<(), CaError> {
        let (authorities, now) = (self.authorities(), SystemTime::now());
        let mesh = authorities.controller(now)?;
        let node = tls::node_door(&mesh, standing(shared))?;
        let h2 = tls::h2_door(&mesh, standing(shared), self.grace)?;
        let enroll = tls::enroll_door(&authorities.pinned_controller(now)?)?;
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
                        self.take_puppet(refreshed.map_err(|error| Chain(&error).to_string()));
                    }
                    let serials = still_in_use(&driver.shared.state(), &self.puppet().revoked);
                    if !serials.is_empty() {
                        driver.event(Event::PuppetRevoked { serials });
                    }
                }
            }
        }
    }

    fn take_puppet(&self, refreshed: Result<PuppetTrust, String>) {
        let mut doors = Doors::clone(&self.doors.load());
        match refreshed {
            Ok(PuppetTrust { config, revoked, crl_ends }) => {
                doors.enroll_puppet = Some(config);
                *self.puppet() = PuppetNews { closed: None, crl_ends, revoked };
            }
            Err(reason) => {
                doors.enroll_puppet = None;
                // What was revoked stays so.
                self.puppet().closed = Some(format!("enrolment by Puppet certificate is closed: {reason}"));
            }
        }
        for alarm in self.alarms() {
            tracing::warn!("{alarm}");
        }
        self.doors.store(Arc::new(doors));
    }
}

/// Revoked Puppet certificates from which an identity was born that may still speak. Looked for all the time and not
/// only when the CRL changes: a holder who came through the door just before may enrol a moment after, and a journal
/// whose disk was full has not heard.
fn still_in_use(state: &State, revoked: &BTreeSet<String>) -> BTreeSet<String> {
    let enrolled = state.fleet().nodes.values().filter(|node| node.enrolled);
    let born = enrolled.filter_map(|node| match &node.by {
        EnrolledBy::Puppet { serial } => Some(serial),
        EnrolledBy::Token { .. } | EnrolledBy::Renewal { .. } => None,
    });
    born.filter(|serial| revoked.contains(*serial)).cloned().collect()
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

#[cfg(test)]
mod tests {
    use bunraku_common::{NodeName, Role};
    use bunraku_engine::{Fact, Presence};

    use super::*;

    #[test]
    fn i8_who_enrols_after_its_puppet_certificate_was_revoked_is_cut_all_the_same() {
        let revoked = BTreeSet::from(["ca:7".to_owned()]);
        let mut state = State::default();
        assert_eq!(still_in_use(&state, &revoked), BTreeSet::new());
        let late = Fact::NodeEnrolled {
            node: NodeName::parse("c1").unwrap(),
            roles: BTreeSet::from([Role::Compiler]),
            serial: "a".into(),
            key: "k".into(),
            by: EnrolledBy::Puppet { serial: "ca:7".into() },
            expires_s: 1000,
        };
        state.apply(&late, 0);
        let serials = still_in_use(&state, &revoked);
        assert_eq!(serials, revoked);
        for fact in state.observe(Event::PuppetRevoked { serials }, &Presence::new(0)) {
            state.apply(&fact, 0);
        }
        assert!(matches!(state.standing("a", "k"), Known::Denied(_)));
        assert_eq!(still_in_use(&state, &revoked), BTreeSet::new());
    }
}
