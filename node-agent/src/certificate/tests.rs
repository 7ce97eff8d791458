//! Orders about a compiler's certificate as the controller gives them, and the Puppet Server that shows it.

use std::{
    fs,
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
};

use bunraku_certificates::Certificate;
use bunraku_host_certificate::What;
use bunraku_proto::v1::{self, action::Kind, node_server::Node as _, turn_reply::Outcome};
use bunraku_services::{Verb, service::Grant};
use tonic::{Code, Request, Status};

use super::config::BundleConfig;
use crate::{
    config::Config,
    service::Service,
    testing::{self, Ca, Host, order, until},
};

const NAME: &str = "c1.example";
const ALIAS: &str = "puppet.example";

/// Reads certificate and key at its start, and counts that.
const SERVER: &str = r#"
cd "$1"; cat cert.pem key.pem > served.new; mv served.new served.pem; echo started >> starts
printf 1 > restart; trap 'echo reloaded >> reloads' HUP; trap 'exit 0' TERM
while :; do sleep 600 & wait $!; kill $! 2>/dev/null; done"#;

/// A compiler whose service is Puppet Server's.
fn serving(dir: &Path) -> impl FnOnce(&mut Config) + use<> {
    let path = |name: &str| dir.join(name).display().to_string();
    fs::create_dir_all(dir.join("conf.d")).unwrap();
    fs::write(dir.join("conf.d/webserver.conf"), "webserver: { ssl-port: 8140 }").unwrap();
    let words =
        ["/bin/sh", "-c", SERVER, "java", &path(""), "--restart-file", &path("restart")].map(str::to_owned);
    let grant = serde_json::json!({
        "driver": "process", "pid_file": path("pid"), "command": words, "restart_file": path("restart"), "stop_seconds": 20,
    });
    let (grant, conf_d): (Grant, PathBuf) = (serde_json::from_value(grant).unwrap(), dir.join("conf.d"));
    move |config| {
        config.services.insert("puppetserver".to_owned(), grant);
        config.puppet.conf_d = Some(conf_d);
    }
}

async fn compiler() -> Host {
    let host = Host::new(|_| ()).await;
    let dir = host.dir.path().to_owned();
    let host = host.again(|_| (), serving(&dir)).await;
    let service = host.service.node.turns.service("puppetserver").unwrap();
    service.act(Verb::Start, std::time::Duration::from_secs(60)).await.unwrap();
    until("the service has begun", || async { has_begun(host.dir.path()) }).await;
    host
}

fn has_begun(dir: &Path) -> bool {
    fs::read_to_string(dir.join("restart")).is_ok_and(|text| text == "1")
}

async fn request(
    host: &Host,
    generation: u64,
    names: &[&str],
) -> Result<v1::RequestCertificateReply, Status> {
    let dns_alt_names = names.iter().map(|name| (*name).to_owned()).collect();
    let order = Some(order("certificate", generation));
    let request = v1::RequestCertificateRequest { order, dns_alt_names };
    host.service.request_certificate(Request::new(request)).await.map(tonic::Response::into_inner)
}

async fn stage(host: &Host, generation: u64, pem: &str) -> Result<v1::StageCertificateReply, Status> {
    let order = Some(order("certificate", generation));
    let request = v1::StageCertificateRequest { order, certificate: pem.into() };
    host.service.stage_certificate(Request::new(request)).await.map(tonic::Response::into_inner)
}

/// Asked for, signed and staged; its fingerprint.
async fn staged(host: &Host, generation: u64) -> String {
    staged_for(host, generation, time::Duration::DAY).await
}

async fn staged_for(host: &Host, generation: u64, life: time::Duration) -> String {
    let asked = request(host, generation, &[ALIAS]).await.unwrap();
    let pem = host.ca.sign_for(&asked.request, &[NAME, ALIAS], 100 + generation, life);
    assert_eq!(stage(host, generation, &pem).await.unwrap(), v1::StageCertificateReply::default());
    Certificate::parse(pem.as_bytes()).unwrap().fingerprint().hex()
}

fn action(fingerprint: &str) -> Option<v1::Action> {
    let certificate = fingerprint.to_owned();
    Some(v1::Action { kind: Kind::Certificate.into(), certificate, ..v1::Action::default() })
}

fn turn(generation: u64) -> Option<v1::Order> {
    Some(order(&format!("turn {NAME}"), generation))
}

async fn prepare(host: &Host, generation: u64, fingerprint: &str) -> Outcome {
    let action = action(fingerprint);
    let request = v1::PrepareRequest { order: turn(generation), action, ..v1::PrepareRequest::default() };
    host.service.prepare(Request::new(request)).await.unwrap().into_inner().outcome.unwrap()
}

async fn act(service: &Service, generation: u64, fingerprint: &str, revert: bool) -> Outcome {
    loop {
        let request = v1::ActRequest { order: turn(generation), action: action(fingerprint), revert };
        let reply = service.act(Request::new(request)).await.unwrap().into_inner().outcome.unwrap();
        if !matches!(reply, Outcome::GoingOn(_)) {
            return reply;
        }
    }
}

async fn verify(host: &Host, generation: u64, fingerprint: &str, back: bool) -> Outcome {
    let (order, action) = (turn(generation), action(fingerprint));
    let request = v1::VerifyRequest { order, action, back, ..v1::VerifyRequest::default() };
    host.service.verify(Request::new(request)).await.unwrap().into_inner().outcome.unwrap()
}

async fn observed(host: &Host) -> v1::HostCertificate {
    let observed = host.service.observe(Request::new(v1::ObserveRequest {})).await.unwrap().into_inner();
    observed.host_certificate.unwrap()
}

async fn list(host: &Host) -> Vec<v1::CertificateOnNode> {
    let listed = host.service.certificates(Request::new(v1::CertificatesRequest {})).await.unwrap();
    listed.into_inner().certificates
}

fn starts(host: &Host) -> usize {
    fs::read_to_string(host.dir.path().join("starts")).unwrap().lines().count()
}

async fn end(host: Host) {
    let service = host.service.node.turns.service("puppetserver").unwrap();
    service.act(Verb::Stop, std::time::Duration::from_secs(60)).await.unwrap();
}

fn failed(outcome: Outcome) -> v1::TurnFailed {
    match outcome {
        Outcome::Failed(failed) => failed,
        Outcome::Done(_) | Outcome::GoingOn(_) => panic!("{outcome:?}"),
    }
}

#[tokio::test]
async fn i5_orders_of_an_older_generation_or_another_subject_are_refused_and_the_same_one_gives_the_same() {
    let host = Host::new(|_| ()).await;
    let first = request(&host, 5, &[ALIAS]).await.unwrap();
    assert!(!first.request.is_empty() && first.refused.is_empty(), "{first:?}");
    assert_eq!(request(&host, 5, &[ALIAS]).await.unwrap(), first);
    assert_eq!(request(&host, 4, &[ALIAS]).await.unwrap_err().code(), Code::Aborted);
    let order = Some(order("certificates", 6));
    let wrong = v1::RequestCertificateRequest { order, dns_alt_names: Vec::new() };
    let wrong = host.service.request_certificate(Request::new(wrong)).await.unwrap_err();
    assert_eq!(wrong.code(), Code::InvalidArgument);
    let bad = request(&host, 7, &["10.0.0.5"]).await.unwrap();
    assert!(bad.request.is_empty() && bad.refused.contains("10.0.0.5") && !bad.hint.is_empty(), "{bad:?}");
    let foreign = stage(&host, 7, &Ca::new().issue(NAME, 3).0).await.unwrap();
    assert!(foreign.refused.contains("no request was made") && !foreign.hint.is_empty(), "{foreign:?}");
}

#[tokio::test]
async fn a_node_that_is_no_compiler_makes_no_request() {
    let host = Host::new(|config| config.code = None).await;
    assert_eq!(request(&host, 1, &[]).await.unwrap_err().code(), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_certificate_is_put_in_place_served_proven_and_taken_back() {
    let host = compiler().await;
    let before = observed(&host).await;
    assert_eq!((before.serial.as_str(), before.dns_alt_names.as_slice()), ("1", &[NAME.to_owned()][..]));
    let new = staged(&host, 1).await;
    assert_eq!(prepare(&host, 1, &new).await, Outcome::Done(v1::TurnDone::default()));
    assert_eq!(observed(&host).await, before, "nothing that is served has changed");
    let early = failed(verify(&host, 2, &new, false).await);
    assert!(early.reason.contains(&format!("not {}", &new[..16])) && !early.hint.is_empty(), "{early:?}");

    assert_eq!(act(&host.service, 3, &new, false).await, Outcome::Done(v1::TurnDone::default()));
    assert_eq!(act(&host.service, 3, &new, false).await, Outcome::Done(v1::TurnDone::default()));
    assert_eq!(starts(&host), 2, "once, however often it is asked");
    assert_eq!(verify(&host, 4, &new, false).await, Outcome::Done(v1::TurnDone::default()));
    let now = observed(&host).await;
    assert_eq!((now.fingerprint.as_str(), now.dns_alt_names.len()), (new.as_str(), 2));
    assert!(matches!(verify(&host, 5, &new, true).await, Outcome::Failed(_)), "that is not the one before");

    assert_eq!(act(&host.service, 6, &new, true).await, Outcome::Done(v1::TurnDone::default()));
    assert_eq!(verify(&host, 7, &new, true).await, Outcome::Done(v1::TurnDone::default()));
    assert_eq!((observed(&host).await, starts(&host)), (before, 3));
    end(host).await;
}

#[tokio::test]
async fn what_stands_in_the_way_is_found_before_the_drain() {
    let host = compiler().await;
    let new = staged(&host, 1).await;
    let other = failed(prepare(&host, 1, &"0".repeat(64)).await);
    assert!(other.unchanged && other.reason.contains("does not lie here"), "{other:?}");
    let conf = host.dir.path().join("conf.d/webserver.conf");
    fs::write(&conf, "webserver: { ssl-cert: /elsewhere.pem, ssl-key: /elsewhere.key }").unwrap();
    let elsewhere = failed(prepare(&host, 2, &new).await);
    assert!(elsewhere.unchanged && elsewhere.reason.contains("webserver.conf names /elsewhere.pem"));
    fs::write(&conf, "webserver: { ssl-port: 8140 }").unwrap();
    let (path, real) = (host.dir.path().join("key.pem"), host.dir.path().join("real.pem"));
    fs::rename(&path, &real).unwrap();
    std::os::unix::fs::symlink(&real, &path).unwrap();
    let link = failed(prepare(&host, 3, &new).await);
    assert!(link.unchanged && link.reason.contains("symbolic link"), "{link:?}");
    let link = failed(act(&host.service, 4, &new, false).await);
    assert!(link.unchanged && link.reason.contains("symbolic link"), "{link:?}");
    assert_eq!(starts(&host), 1);
    end(host).await;
}

/// How long what is signed lives where it is to end on its way: long enough for what comes before.
const SHORT: time::Duration = time::Duration::seconds(25);

async fn until_ended(host: &Host, fingerprint: &str) {
    until("it has ended", || async {
        let Outcome::Failed(found) = prepare(host, 1, fingerprint).await else { return false };
        found.unchanged && found.reason.contains("by this host's clock") && found.hint.contains("timedatectl")
    })
    .await;
}

#[tokio::test]
async fn f22_a_certificate_that_has_ended_when_it_comes_is_not_laid_beside() {
    let host = compiler().await;
    let asked = request(&host, 1, &[ALIAS]).await.unwrap();
    let ended = host.ca.sign_for(&asked.request, &[NAME, ALIAS], 9, -time::Duration::MINUTE);
    let refused = stage(&host, 1, &ended).await.unwrap();
    assert!(
        refused.refused.contains("it ended 6") && refused.hint.contains("ask for a new one"),
        "{refused:?}"
    );
    end(host).await;
}

#[tokio::test]
async fn f22_a_certificate_that_ends_while_its_compiler_is_drained_is_not_put_in_place() {
    let host = compiler().await;
    let before = observed(&host).await;
    let new = staged_for(&host, 1, SHORT).await;
    assert_eq!(prepare(&host, 1, &new).await, Outcome::Done(v1::TurnDone::default()));
    until_ended(&host, &new).await;
    let refused = failed(act(&host.service, 2, &new, false).await);
    assert!(refused.unchanged && refused.reason.contains("it ended"), "{refused:?}");
    assert_eq!((observed(&host).await, starts(&host)), (before, 1));
    end(host).await;
}

#[tokio::test]
async fn f22_a_certificate_that_ends_before_it_is_proven_is_taken_back() {
    let host = compiler().await;
    let before = observed(&host).await;
    let new = staged_for(&host, 1, SHORT).await;
    assert_eq!(act(&host.service, 1, &new, false).await, Outcome::Done(v1::TurnDone::default()));
    until("it has ended", || async {
        let Outcome::Failed(found) = verify(&host, 2, &new, false).await else { return false };
        found.reason.contains("certificate expired")
    })
    .await;
    assert_eq!(act(&host.service, 3, &new, true).await, Outcome::Done(v1::TurnDone::default()));
    assert_eq!(verify(&host, 4, &new, true).await, Outcome::Done(v1::TurnDone::default()));
    assert_eq!((observed(&host).await, starts(&host)), (before, 3));
    end(host).await;
}

#[tokio::test]
async fn f22_a_compiler_whose_certificate_has_ended_gets_the_next_one_as_ever() {
    let host = compiler().await;
    let (certificate, key) = host.ca.issue_for(NAME, 1, -time::Duration::HOUR / 2);
    fs::write(host.dir.path().join("key.pem"), key).unwrap();
    fs::write(host.dir.path().join("cert.pem"), certificate).unwrap();
    let new = staged(&host, 1).await;
    assert_eq!(prepare(&host, 1, &new).await, Outcome::Done(v1::TurnDone::default()));
    assert_eq!(act(&host.service, 2, &new, false).await, Outcome::Done(v1::TurnDone::default()));
    assert_eq!(verify(&host, 3, &new, false).await, Outcome::Done(v1::TurnDone::default()));
    assert_eq!(observed(&host).await.fingerprint, new);
    end(host).await;
}

#[tokio::test]
async fn without_the_service_granted_nothing_is_put_in_place() {
    let host = Host::new(|_| ()).await;
    let new = staged(&host, 1).await;
    for refused in [prepare(&host, 1, &new).await, act(&host.service, 2, &new, false).await] {
        let refused = failed(refused);
        assert!(refused.unchanged && refused.reason.contains("does not grant the service"), "{refused:?}");
    }
    assert_eq!(observed(&host).await.serial, "1");
}

const HOST: &str = "BUNRAKU_TEST_TURN_HOST";

/// The part of the process that is killed: run by itself it does nothing.
#[tokio::test]
async fn killed_while_it_acts() {
    let Some(dir) = std::env::var_os(HOST).map(PathBuf::from) else { return };
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap();
    let address: SocketAddr = read("address").parse().unwrap();
    let service = testing::open(&dir, address, serving(&dir)).await;
    act(&service, 1, &read("todo"), false).await;
}

#[tokio::test]
async fn killed_at_any_step_of_the_act_the_same_order_ends_it_with_one_restart() {
    let points = ["turn-act-noted", "certificate-between", "turn-certificate-placed", "turn-act-done"];
    for point in points {
        let host = compiler().await;
        let new = staged(&host, 1).await;
        fs::write(host.dir.path().join("todo"), &new).unwrap();
        fs::write(host.dir.path().join("address"), host.address.to_string()).unwrap();
        let dir = host.dir.path().to_owned();
        let killed = move |dir: &Path| {
            let mut itself = std::process::Command::new(std::env::current_exe().unwrap());
            itself.args(["certificate::tests::killed_while_it_acts", "--exact"]);
            let ended = itself.env(HOST, dir).env("BUNRAKU_CRASH_AT", point).output().unwrap();
            assert_eq!(ended.status.signal(), Some(9), "{point}: {}", String::from_utf8_lossy(&ended.stdout));
        };
        // The Puppet Server of this test needs a thread of its own meanwhile.
        let host = tokio::task::spawn_blocking({
            let handle = tokio::runtime::Handle::current();
            move || handle.block_on(host.again(killed, serving(&dir)))
        })
        .await
        .unwrap();
        assert_eq!(
            act(&host.service, 1, &new, false).await,
            Outcome::Done(v1::TurnDone::default()),
            "{point}"
        );
        assert_eq!(starts(&host), 2, "{point}");
        assert_eq!(verify(&host, 2, &new, false).await, Outcome::Done(v1::TurnDone::default()), "{point}");
        end(host).await;
    }
}

#[tokio::test]
async fn every_certificate_is_listed_with_what_is_wrong_with_it() {
    let host = Host::new(|config| {
        let dir = config.data_dir.parent().unwrap().to_owned();
        config.certificates.files =
            vec![dir.join("combined.pem"), dir.join("missing.pem"), dir.join("cut.pem")];
        config.certificates.servers = vec!["127.0.0.1:1".to_owned(), "localhost:1".to_owned()];
    })
    .await;
    let (certificate, key) = host.ca.issue("db.example", 9);
    let dir = host.dir.path();
    fs::write(dir.join("combined.pem"), format!("{key}{certificate}")).unwrap();
    fs::write(dir.join("cut.pem"), &certificate[..certificate.len() / 2]).unwrap();
    let rows = list(&host).await;
    let short: Vec<_> =
        rows.iter().map(|row| (row.what.as_str(), row.serial.as_str(), row.trouble.is_empty())).collect();
    let expected = [
        ("host", "1", true),
        ("puppet server", "1", true),
        ("identity", "", false),
        ("file", "9", true),
        ("file", "", false),
        ("file", "", false),
        ("server", "", false),
        ("server", "", false),
    ];
    assert_eq!(short, expected, "{rows:#?}");
    assert_eq!(rows[1].r#where, host.address.to_string());
    assert_eq!(
        (rows[3].dns_alt_names.as_slice(), rows[3].issuer.as_str()),
        (&["db.example".to_owned()][..], "CN=Puppet CA: test")
    );
    assert!(rows.iter().all(|row| !format!("{row:?}").contains("PRIVATE KEY")));
}

#[tokio::test]
async fn copies_follow_the_certificate_and_their_service_is_told_once() {
    let host = Host::new(|_| ()).await;
    let dir = host.dir.path().to_owned();
    let grant = serving(&dir);
    let bundle = |what, name: &str| BundleConfig {
        what,
        path: dir.join(name),
        owner: None,
        group: None,
        mode: None,
        reload: Some("puppetserver".to_owned()),
        restart: None,
    };
    let bundles = vec![bundle(What::CertificateAndKey, "both.pem"), bundle(What::Ca, "copy.pem")];
    let mut host = host
        .again(
            |_| (),
            |config| {
                grant(config);
                config.bundles = bundles;
            },
        )
        .await;
    let service = host.service.node.turns.service("puppetserver").unwrap();
    service.act(Verb::Start, std::time::Duration::from_secs(60)).await.unwrap();
    until("the service has begun", || async { has_begun(&dir) }).await;
    let node = host.service.node.clone();
    host.tasks.spawn(super::keep(node.clone()));
    host.tasks.spawn(super::reload(node.clone()));
    let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
    until("the copies are there", || async { read("both.pem") == read("cert.pem") + &read("key.pem") }).await;
    until("the service was told", || async { read("reloads").lines().count() == 1 }).await;
    until("nothing is owed", || async {
        node.copies.as_ref().unwrap().finding().found.ends_with("as it should be")
    })
    .await;

    let (certificate, key) = host.ca.issue(NAME, 2);
    for (name, text) in [("key.pem", &key), ("cert.pem", &certificate)] {
        fs::write(dir.join("new"), text).unwrap();
        fs::rename(dir.join("new"), dir.join(name)).unwrap();
    }
    until("the copy follows", || async { read("both.pem") == format!("{certificate}{key}") }).await;
    until("the service was told again", || async { read("reloads").lines().count() == 2 }).await;
    let rows = list(&host).await;
    assert!(rows.iter().any(|row| row.r#where.ends_with("both.pem") && row.serial == "2"), "{rows:?}");
    end(host).await;
}
