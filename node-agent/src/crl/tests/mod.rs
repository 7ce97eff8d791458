//! Orders about CRLs as the controller gives them, and the files as others leave them.

use std::fs;

use bunraku_certificates::BUNDLE_BYTES;
use bunraku_common::{Digest, limits};
use bunraku_proto::v1::{self, node_server::Node as _};
use bunraku_services::Verb;
use tonic::{Code, Request};

use super::config::{CrlConfig, CrlFile};
use crate::testing::{CANARY, Ca, Host, order, until};

#[tokio::test]
async fn crls_come_into_place_are_observed_and_proven() {
    let host = Host::new(|_| ()).await;
    let before = host.seen().await.unwrap();
    assert_eq!((before.digest.as_str(), before.provable, before.owed.as_str()), ("", true, ""));
    let crl = host.ca.crl(1, &[CANARY]);
    let reply = host.install(&crl, 1).await.unwrap();
    assert_eq!((reply.refused.as_str(), reply.hint.as_str()), ("", ""));
    let seen = host.seen().await.unwrap();
    assert_eq!(reply.crl.as_ref(), Some(&seen));
    assert_eq!((seen.digest, seen.generation), (Digest::of(crl.as_bytes()).to_string(), 1));
    assert!(seen.written_ms > 0);
    assert_eq!(fs::read_to_string(host.crl()).unwrap(), crl);

    let proof = host.prove(&host.ca.issue("canary", CANARY)).await.unwrap();
    assert!(proof.refused && proof.refused_ms >= seen.written_ms && proof.owed.is_empty(), "{proof:?}");
}

#[tokio::test]
async fn i5_older_orders_and_orders_about_something_else_are_refused_and_change_nothing() {
    let host = Host::new(|_| ()).await;
    let crl = host.ca.crl(1, &[]);
    host.install(&crl, 5).await.unwrap();
    assert_eq!(host.install(&host.ca.crl(2, &[]), 4).await.unwrap_err().code(), Code::Aborted);
    for (subject, code) in [("crl 2", Code::InvalidArgument), ("", Code::InvalidArgument)] {
        let (order, crls) = (Some(order(subject, 6)), host.ca.crl(2, &[]).into());
        let request = v1::InstallCrlRequest { order, crls, number_reset: true };
        assert_eq!(host.service.install_crl(Request::new(request)).await.unwrap_err().code(), code);
    }
    assert_eq!(fs::read_to_string(host.crl()).unwrap(), crl);
}

#[tokio::test]
async fn i11_crls_that_do_not_hold_are_refused_with_a_reason_and_a_hint() {
    let host = Host::new(|_| ()).await;
    host.install(&host.ca.crl(3, &[]), 1).await.unwrap();
    for (at, bad) in (2..).zip([String::new(), Ca::new().crl(4, &[]), host.ca.crl(2, &[])]) {
        let reply = host.install(&bad, at).await.unwrap();
        assert!(!reply.refused.is_empty() && !reply.refused.contains("hint"), "{reply:?}");
        assert_eq!(reply.hint.is_empty(), bad.is_empty(), "{reply:?}");
        assert_eq!(reply.crl.unwrap().generation, 1);
    }
}

#[tokio::test]
async fn what_others_do_to_the_file_is_seen_at_once() {
    let mut host = Host::new(|_| ()).await;
    let good = host.ca.crl(3, &[]);
    host.install(&good, 1).await.unwrap();
    host.watch();
    for damage in ["", "garbage", &good[..20]] {
        fs::write(host.crl(), damage).unwrap();
        until("the damage is mended", || async {
            fs::read(host.crl()).is_ok_and(|now| now == good.as_bytes())
        })
        .await;
    }
    fs::remove_file(host.crl()).unwrap();
    until("the file is back", || async { fs::read(host.crl()).is_ok_and(|now| now == good.as_bytes()) })
        .await;

    let newer = host.ca.crl(4, &[CANARY]);
    let beside = host.dir.path().join("crl.new");
    fs::write(&beside, &newer).unwrap();
    fs::rename(beside, host.crl()).unwrap();
    let digest = Digest::of(newer.as_bytes()).to_string();
    until("what Puppet's agent brought counts", || async { host.seen().await.unwrap().digest == digest })
        .await;
    assert!(!host.install(&host.ca.crl(3, &[]), 2).await.unwrap().refused.is_empty());
    assert_eq!(fs::read_to_string(host.crl()).unwrap(), newer);
}

#[tokio::test]
async fn a_damaged_file_is_mended_at_the_start_of_the_agent() {
    let mut host = Host::new(|_| ()).await;
    let good = host.ca.crl(3, &[]);
    host.install(&good, 1).await.unwrap();
    fs::write(host.crl(), "").unwrap();
    host.watch();
    until("the damage is mended", || async { fs::read(host.crl()).is_ok_and(|now| now == good.as_bytes()) })
        .await;
}

#[tokio::test]
async fn nothing_is_proven_by_a_canary_that_is_not_revoked_foreign_or_no_certificate() {
    let host = Host::new(|_| ()).await;
    let canary = host.ca.issue("canary", CANARY);
    let owed = host.prove(&canary).await.unwrap().owed;
    assert!(owed.contains("was given no CRLs"), "{owed}");
    host.install(&host.ca.crl(1, &[]), 1).await.unwrap();
    let owed = host.prove(&canary).await.unwrap().owed;
    assert!(owed.contains("do not revoke the canary"), "{owed}");
    host.install(&host.ca.crl(2, &[CANARY]), 1).await.unwrap();
    let owed = host.prove(&Ca::new().issue("canary", CANARY)).await.unwrap().owed;
    assert!(owed.contains("is not of an authority in"), "{owed}");
    fs::write(host.crl(), host.ca.crl(1, &[])).unwrap();
    let owed = host.prove(&canary).await.unwrap().owed;
    assert!(owed.contains("does not hold the newest CRLs"), "{owed}");
    fs::write(host.crl(), host.ca.crl(3, &[CANARY])).unwrap();
    let (_, other_key) = host.ca.issue("other", 8);
    host.install(&fs::read_to_string(host.crl()).unwrap(), 1).await.unwrap();
    for bad in [(String::new(), canary.1.clone()), (canary.0.clone(), other_key)] {
        assert_eq!(host.prove(&bad).await.unwrap_err().code(), Code::InvalidArgument);
    }
}

/// A host whose service `haproxy` notes what it did in `did`; it does not run yet.
async fn with_service(change: fn(CrlFile) -> CrlFile) -> Host {
    Host::new(move |config| {
        let dir = config.data_dir.parent().unwrap().to_owned();
        let path = |name: &str| dir.join(name).display().to_string();
        let script = "trap 'echo reload >> \"$0\"' HUP; echo start >> \"$0\"; while :; do sleep 600 & wait $!; kill $!; done";
        let grant = serde_json::json!({
            "driver": "process", "pid_file": path("pid"), "command": ["/bin/sh", "-c", script, path("did")],
            "stop_seconds": 1,
        });
        config.services = serde_json::from_value(serde_json::json!({ "haproxy": grant })).unwrap();
        config.crl = CrlConfig { files: vec![change(file(dir.join("haproxy.pem")))], ..CrlConfig::default() };
    })
    .await
}

async fn told(host: &Host, verb: Verb) {
    let service = host.service.node.turns.service("haproxy").unwrap();
    service.act(verb, std::time::Duration::from_secs(60)).await.unwrap();
}

fn did(host: &Host) -> String {
    fs::read_to_string(host.dir.path().join("did")).unwrap_or_default()
}

/// Debian's PuppetDB does not survive a reload.
#[tokio::test]
async fn a_service_that_reads_its_file_only_at_its_start_is_restarted_and_one_that_is_stopped_is_left_so() {
    let mut host = with_service(|file| CrlFile { restart: file.reload.clone(), reload: None, ..file }).await;
    host.watch();
    host.install(&host.ca.crl(1, &[]), 1).await.unwrap();
    until("nothing is left to be told", || async { host.seen().await.unwrap().unread.is_empty() }).await;
    assert_eq!(did(&host), "", "whoever stopped it starts it");
    told(&host, Verb::Start).await;
    until("the service runs", || async { did(&host) == "start\n" }).await;
    host.install(&host.ca.crl(2, &[]), 2).await.unwrap();
    until("it was restarted", || async { did(&host) == "start\nstart\n" }).await;
    until("it has read its file", || async { host.seen().await.unwrap().unread.is_empty() }).await;
    // Many revocations in a row: it must answer somebody meanwhile.
    host.install(&host.ca.crl(3, &[]), 3).await.unwrap();
    until("it rests", || async { host.seen().await.unwrap().unread.contains("less than 5 minutes ago") })
        .await;
    assert_eq!(did(&host), "start\nstart\n");
    told(&host, Verb::Stop).await;
}

#[tokio::test]
async fn a_service_is_reloaded_after_its_file_changed_and_owed_until_then() {
    let mut host = with_service(|file| file).await;
    told(&host, Verb::Start).await;
    until("the service runs", || async { did(&host) == "start\n" }).await;
    let reply = host.install(&host.ca.crl(1, &[]), 1).await.unwrap();
    assert!(host.dir.path().join("haproxy.pem").exists() && reply.refused.is_empty(), "{reply:?}");
    let unread = reply.crl.unwrap().unread;
    assert!(unread.contains("haproxy has not read its file yet"), "{unread}");
    host.watch();
    until("nothing is owed", || async { host.seen().await.unwrap().unread.is_empty() }).await;
    until("it was reloaded", || async { did(&host) == "start\nreload\n" }).await;
    told(&host, Verb::Stop).await;
}

#[tokio::test]
async fn only_who_grants_files_has_the_ability() {
    let host = Host::new(|config| config.crl.enabled = false).await;
    assert_eq!(host.seen().await, None);
    assert_eq!(host.install(&host.ca.crl(1, &[]), 1).await.unwrap_err().code(), Code::FailedPrecondition);
    assert!(!host.dir.path().join("data/crl").exists());

    // A load balancer: no code, a file of its own, and nothing to prove.
    let host = Host::new(|config| {
        let dir = config.data_dir.parent().unwrap().to_owned();
        config.code = None;
        config.crl = CrlConfig {
            files: vec![CrlFile { reload: None, ..file(dir.join("lb.pem")) }],
            ..CrlConfig::default()
        };
    })
    .await;
    let crl = host.ca.crl(1, &[CANARY]);
    host.install(&crl, 1).await.unwrap();
    assert_eq!(fs::read_to_string(host.dir.path().join("lb.pem")).unwrap(), crl);
    assert!(!host.crl().exists());
    let seen = host.seen().await.unwrap();
    assert!(!seen.provable && !seen.digest.is_empty(), "{seen:?}");
    let canary = host.ca.issue("canary", CANARY);
    assert_eq!(host.prove(&canary).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_puppet_that_does_not_say_where_its_files_are_is_owed() {
    let host = Host::new(|_| ()).await;
    fs::write(host.dir.path().join("settings.json"), "{}").unwrap();
    let reply = host.install(&host.ca.crl(1, &[]), 1).await.unwrap();
    assert!(reply.refused.contains("did not answer with a usable value"), "{reply:?}");
    assert!(reply.crl.unwrap().owed.contains("where the CRLs belong is not known"));
}

// The largest CRLs fit into one order.
const _: () = assert!(BUNDLE_BYTES + 1024 < limits::ORDER_BYTES);

fn file(path: std::path::PathBuf) -> CrlFile {
    CrlFile {
        path,
        owner: None,
        group: None,
        mode: None,
        ca: None,
        reload: Some("haproxy".into()),
        restart: None,
    }
}
