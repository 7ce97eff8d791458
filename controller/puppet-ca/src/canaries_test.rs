//! Canaries against a stand-in, and after crashes at each step.

use std::os::unix::fs::PermissionsExt;

use bunraku_common::Chain;

use super::*;
use crate::{
    State,
    stand_in::{Act, StandIn, request},
};

const TTL: Duration = Duration::from_secs(3600);

fn open(main: &StandIn) -> Canaries {
    Canaries::open(&main.dir.path().join("canaries")).unwrap()
}

fn crls(main: &StandIn) -> Crls {
    Crls::parse(main.crl().as_bytes()).unwrap()
}

/// Method and first part of each request that changes something.
fn changes(main: &StandIn) -> Vec<String> {
    let asked = std::mem::take(&mut main.state.lock().unwrap().asked);
    let changes = asked.iter().filter(|it| !it.starts_with("GET"));
    changes.map(|it| it.rsplit_once('/').unwrap().0.replace("/puppet-ca/v1/", "")).collect()
}

#[tokio::test]
async fn the_key_stays_until_the_crl_revokes_it() {
    let main = StandIn::start().await;
    let (ca, canaries) = (main.ca(), open(&main));
    let canary = canaries.stock(&ca, TTL).await.unwrap();
    assert!(canary.name.as_str().starts_with(PREFIX) && canary.name.as_str().len() == PREFIX.len() + 16);
    assert_eq!(canaries.held().unwrap(), std::slice::from_ref(&canary));

    let refused = canaries.keys(canary.issuer, &canary.serial, &crls(&main)).unwrap_err();
    assert!(matches!(refused, CanaryError::NotRevoked { .. }), "{}", Chain(&refused));
    ca.revoke(&canary.name).await.unwrap();
    let keys = canaries.keys(canary.issuer, &canary.serial, &crls(&main)).unwrap();
    let public = KeyPair::from_pem(keys.key_pem()).unwrap();
    let certificate = Certificate::parse(keys.certificate_pem().as_bytes()).unwrap();
    assert!(certificate.has_key(&rcgen::PublicKeyData::subject_public_key_info(&public)));
    assert_eq!(format!("{keys:?}"), "RevokedKeys { .. }");

    canaries.discard(&ca, canary.issuer, &canary.serial).await.unwrap();
    assert_eq!(canaries.held().unwrap(), []);
    assert_eq!(ca.statuses(None).await.unwrap(), []);
    assert_eq!(std::fs::read_dir(main.dir.path().join("canaries")).unwrap().count(), 0);
}

#[tokio::test]
async fn a_crl_of_another_authority_with_the_same_serial_is_no_proof() {
    let (main, other) = (StandIn::start().await, StandIn::start().await);
    let canaries = open(&main);
    let canary = canaries.stock(&main.ca(), TTL).await.unwrap();
    let serial = u64::from_str_radix(&canary.serial, 16).unwrap();
    other.state.lock().unwrap().revoked.push(serial);
    assert!(crls(&other).revokes(&canary.serial));
    assert!(canaries.keys(canary.issuer, &canary.serial, &crls(&other)).is_err());
}

#[tokio::test]
async fn nobody_else_can_look_into_the_files() {
    let main = StandIn::start().await;
    let canary = open(&main).stock(&main.ca(), TTL).await.unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let dir = main.dir.path().join("canaries");
    let own = dir.join(canary.name.as_str());
    assert_eq!((mode(&dir), mode(&own)), (0o700, 0o700));
    for entry in std::fs::read_dir(&own).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
}

#[tokio::test]
async fn the_request_asks_for_its_name_and_nothing_else() {
    let name = NodeName::parse("bunraku-canary-0").unwrap();
    let (_, pem) = key_and_request(&name).unwrap();
    let request = SigningRequest::parse(pem.as_bytes()).unwrap();
    let wanted = bunraku_certificates::Wanted::new(name, std::collections::BTreeSet::new());
    request.judge(&wanted).unwrap();
}

#[tokio::test]
async fn nothing_is_handed_in_before_the_key_is_on_disk() {
    let main = StandIn::start().await;
    let dir = main.dir.path().join("canaries");
    let seen = dir.clone();
    main.act(move |_, method, path| {
        if method == "PUT" {
            let name = path.rsplit_once('/').unwrap().1;
            assert!(seen.join(name).join("key.pem").exists());
        }
        Act::Work
    });
    open(&main).stock(&main.ca(), TTL).await.unwrap();
}

#[tokio::test]
async fn whatever_call_breaks_the_next_stock_goes_on_with_the_same_name() {
    // After how many requests the connection to the CA breaks, with and without the request being carried out.
    for (breaks_at, act) in
        (1..=6).flat_map(|at| [(at, Act::WorkAndBreak), (at, Act::Answer(500, "no".into()))])
    {
        let main = StandIn::start().await;
        let ca = main.ca();
        let (mut asked, at_break) = (0, act.clone());
        main.act(move |_, _, _| {
            asked += 1;
            if asked == breaks_at { at_break.clone() } else { Act::Work }
        });
        let first = open(&main).stock(&ca, TTL).await;
        // As after a crash: everything but the disk is new.
        let canaries = open(&main);
        let canary = match first {
            Ok(canary) => canary,
            Err(_) => canaries.stock(&ca, TTL).await.unwrap(),
        };
        assert_eq!(canaries.held().unwrap(), [canary], "{breaks_at} {act:?}");
        let state = main.state.lock().unwrap();
        assert_eq!((state.requests.len(), state.certificates.len()), (0, 1), "{breaks_at} {act:?}");
    }
}

#[tokio::test]
async fn a_ca_that_signs_by_itself_is_as_good() {
    let main = StandIn::start().await;
    main.state.lock().unwrap().autosign = true;
    let canaries = open(&main);
    let canary = canaries.stock(&main.ca(), TTL).await.unwrap();
    assert_eq!(canaries.held().unwrap(), [canary]);
    assert_eq!(changes(&main), ["PUT certificate_request"]);
}

#[tokio::test]
async fn a_certificate_that_was_revoked_before_it_was_fetched_makes_room_for_another() {
    let main = StandIn::start().await;
    let ca = main.ca();
    main.act(
        |_, _, path| if path.contains("/certificate/") { Act::Answer(500, "no".into()) } else { Act::Work },
    );
    open(&main).stock(&ca, TTL).await.unwrap_err();
    main.always(Act::Work);
    let lost = ca.statuses(None).await.unwrap().remove(0);
    ca.revoke(&NodeName::parse(&lost.name).unwrap()).await.unwrap();

    let canaries = open(&main);
    let canary = canaries.stock(&ca, TTL).await.unwrap();
    assert_ne!(canary.name.as_str(), lost.name);
    let left: Vec<_> = ca.statuses(None).await.unwrap().into_iter().map(|it| (it.name, it.state)).collect();
    assert_eq!(left, [(canary.name.to_string(), State::Signed)]);
    assert_eq!(canaries.held().unwrap(), [canary]);
}

#[tokio::test]
async fn a_request_that_somebody_put_under_the_name_is_not_signed_and_not_touched() {
    let main = StandIn::start().await;
    let ca = main.ca();
    main.act(|authority, method, path| {
        if method == "PUT" {
            let name = path.rsplit_once('/').unwrap().1;
            authority.requests.insert(name.to_owned(), request(name, &[]));
        }
        Act::Work
    });
    let canaries = open(&main);
    let error = canaries.stock(&ca, TTL).await.unwrap_err();
    assert!(matches!(error, CanaryError::Stranger { .. }), "{}", Chain(&error));
    assert_eq!(changes(&main), ["PUT certificate_request"]);
    assert_eq!(canaries.files.names().unwrap(), []);

    main.always(Act::Work);
    let strangers = canaries.strangers(&ca).await.unwrap();
    assert_eq!(strangers.len(), 1);
    canaries.stock(&ca, TTL).await.unwrap();
    assert_eq!(canaries.strangers(&ca).await.unwrap(), strangers);
}

/// With `allow-duplicate-certs` anybody may replace a request that waits: here, between the comparison and the signature.
#[tokio::test]
async fn a_certificate_for_a_key_that_came_between_is_revoked_even_after_a_crash() {
    for breaks in [false, true] {
        let main = StandIn::start().await;
        let ca = main.ca();
        main.act(move |authority, method, path| {
            let name = path.rsplit_once('/').unwrap().1;
            if method == "PUT" && path.contains("certificate_status") && authority.requests.contains_key(name)
            {
                authority.requests.insert(name.to_owned(), request(name, &[]));
                return if breaks { Act::WorkAndBreak } else { Act::Work };
            }
            Act::Work
        });
        let mut error = open(&main).stock(&ca, TTL).await.unwrap_err();
        if breaks {
            assert!(matches!(error, CanaryError::Ca(_)), "{}", Chain(&error));
            error = open(&main).stock(&ca, TTL).await.unwrap_err();
        }
        assert!(matches!(error, CanaryError::Stranger { .. }), "{}", Chain(&error));
        let all = ca.statuses(None).await.unwrap();
        assert_eq!(all.iter().map(|it| it.state).collect::<Vec<_>>(), [State::Revoked]);
        assert_eq!(open(&main).files.names().unwrap(), []);
    }
}

#[tokio::test]
async fn what_is_half_made_or_half_removed_ends_with_the_next_start() {
    let main = StandIn::start().await;
    let dir = main.dir.path().join("canaries");
    for left in [".new-bunraku-canary-1", ".gone-bunraku-canary-2"] {
        std::fs::create_dir_all(dir.join(left)).unwrap();
        std::fs::write(dir.join(left).join("key.pem"), "x").unwrap();
    }
    assert_eq!(open(&main).held().unwrap(), []);
    assert_eq!(std::fs::read_dir(dir).unwrap().count(), 0);
}
