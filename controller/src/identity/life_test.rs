//! "Survive N hours of controller outage" as a promise: for every N, at the worst moment, by the same functions that
//! sign and that tell a node when to renew.

use std::time::{Duration, SystemTime};

use bunraku_common::NodeName;
use bunraku_proto::{
    FleetName, Peer,
    identity::{Identity, Key},
};
use proptest::prelude::*;

use super::MeshCa;
use crate::config::IdentityConfig;

/// A renewal that failed is tried again within two minutes, a dial within 20 s; the rest is for clocks.
const TO_COME_BACK: Duration = Duration::from_secs(5 * 60);

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn a_node_whose_renewal_was_due_when_the_controller_went_is_good_when_it_is_back(
        hours in 1_u64..=720,
        random in prop_oneof![Just(0), Just(u64::MAX), any::<u64>()],
    ) {
        let outage = Duration::from_secs(hours * 3600);
        let (issued_at, identity) = issued(outage);
        let until = SystemTime::UNIX_EPOCH + Duration::from_secs(identity.certificate().not_after);
        // By its own monotonic clock, and by its wall clock after it started anew.
        let renewals = [identity.renewal_after(random), identity.until_renewal(issued_at, random)];
        for due in renewals {
            prop_assert!(issued_at + due + outage + TO_COME_BACK <= until, "{hours} h, due after {due:?}");
            prop_assert!(due > outage / 2, "{hours} h: it renews all the time, after {due:?}");
        }
    }
}

#[test]
fn a_certificate_lives_no_longer_than_the_promise_needs() {
    for hours in [1, 12, 720] {
        let outage = Duration::from_secs(hours * 3600);
        let config = IdentityConfig { survive_outage: outage, ..IdentityConfig::default() };
        assert!(config.node_life() <= outage * 9 / 4, "{hours} h");
        assert!(config.node_life() <= 2 * outage + Duration::from_secs(1800), "{hours} h");
    }
}

fn issued(outage: Duration) -> (SystemTime, Identity) {
    let dir = tempfile::tempdir().unwrap();
    // Certificates carry no fractions of a second.
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let fleet = FleetName::parse("f").unwrap();
    let ca = MeshCa::create(dir.path(), &fleet, now).unwrap();
    let key = Key::generate().unwrap();
    let life = IdentityConfig { survive_outage: outage, ..IdentityConfig::default() }.node_life();
    let node = Peer::Node(NodeName::parse("c1").unwrap());
    let signed = ca.sign(&key.csr().unwrap(), &node, now, life).unwrap();
    (now, Identity::new(signed.pem, ca.pem().to_owned(), fleet, key, now).unwrap())
}
