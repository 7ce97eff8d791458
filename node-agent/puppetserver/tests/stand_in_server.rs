//! The client against a stand-in for Puppet Server that answers well, badly, late, without end or not at all.

#![expect(
    clippy::unwrap_used,
    reason = "what helps tests, outside of the functions that clippy knows as tests"
)]

#[path = "stand_in/canary.rs"]
mod canary;
#[path = "stand_in/puppet_server.rs"]
mod puppet_server;

use std::{path::Path, time::Duration};

use bunraku_common::{Chain, EnvironmentName};
use bunraku_puppetserver::{NotShown, PuppetServer, ServerError, server::Status, shown};
use puppet_server::{Answer, Ca, Node, StandIn};

fn production() -> EnvironmentName {
    EnvironmentName::parse("production").unwrap()
}

fn http(status: &str, body: &str) -> Answer {
    Answer::Bytes(format!(
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    ))
}

async fn flushing(answer: Answer) -> (Result<(), ServerError>, Vec<String>) {
    let node = Node::new();
    let server = StandIn::start(&node.ca, answer).await;
    let result = node.asks(&server).with_deadline(Duration::from_secs(20)).flush(&production()).await;
    (result, server.requests())
}

async fn refused(answer: Answer) -> ServerError {
    flushing(answer).await.0.unwrap_err()
}

#[tokio::test]
async fn a_flush_is_one_request_with_the_certname_as_host() {
    let (result, requests) = flushing(Answer::Bytes("HTTP/1.1 204 No Content\r\n\r\n".into())).await;
    result.unwrap();
    let [request] = requests.as_slice() else { panic!("{requests:?}") };
    let first = "DELETE /puppet-admin-api/v1/environment-cache?environment=production HTTP/1.1\r\n";
    assert!(request.starts_with(first), "{request}");
    assert!(request.contains("host: c1.example:"), "{request}");
}

#[tokio::test]
async fn a_forbidden_flush_names_the_rule_that_is_missing() {
    let error = refused(http("403 Forbidden", "Forbidden request")).await;
    assert!(matches!(error, ServerError::Forbidden { .. }) && !error.is_owed());
    let text = error.to_string();
    for part in
        ["doctor --fix", "c1.example", "auth.conf", "/puppet-admin-api/v1/environment-cache", "delete"]
    {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test]
async fn what_may_be_asked_again_unchanged_is_owed() {
    for answer in [http("503 Service Unavailable", "starting"), Answer::Bytes(String::new())] {
        let error = refused(answer.clone()).await;
        assert!(error.is_owed(), "{answer:?}: {}", Chain(&error));
    }
    let error = refused(Answer::Bytes("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\ncut".into())).await;
    assert!(error.is_owed(), "{}", Chain(&error));
}

#[tokio::test]
async fn a_server_that_never_answers_is_owed_after_the_deadline() {
    let node = Node::new();
    let server = StandIn::start(&node.ca, Answer::Never).await;
    let asking = node.asks(&server).with_deadline(Duration::from_millis(300));
    let error = asking.flush(&production()).await.unwrap_err();
    assert!(error.is_owed());
    assert!(Chain(&error).to_string().ends_with("no answer within 300ms"), "{}", Chain(&error));
}

#[tokio::test]
async fn a_closed_port_is_owed_and_reported_as_down() {
    let node = Node::new();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let server = PuppetServer::new(&node.settings, nobody);
    assert!(server.flush(&production()).await.unwrap_err().is_owed());
    assert!(matches!(server.status().await, Status::Down(why) if why.contains("refused")));
}

#[tokio::test]
async fn what_is_not_a_puppet_server_is_not_waited_for() {
    for answer in [
        Answer::PlainText,
        Answer::Bytes("SSH-2.0-OpenSSH\r\n\r\n".into()),
        Answer::Endless,
        http("500 No", "broken"),
    ] {
        let error = refused(answer.clone()).await;
        assert!(!error.is_owed(), "{answer:?}: {}", Chain(&error));
    }
    assert!(matches!(refused(Answer::Endless).await, ServerError::Garbled { .. }));
    assert!(
        refused(http("500 No", "broken"))
            .await
            .to_string()
            .ends_with("500 Internal Server Error (flushing environment production): broken")
    );
}

#[tokio::test]
async fn neither_a_foreign_server_nor_a_server_that_refuses_us_is_trusted_or_waited_for() {
    let node = Node::new();
    let foreign = Ca::new();
    for versions in [rustls::ALL_VERSIONS, &[&rustls::version::TLS12]] {
        for (of, trusts) in [(&foreign, &node.ca), (&node.ca, &foreign)] {
            let server = StandIn::start_with(of, trusts, http("204 No Content", ""), versions).await;
            let error = node.asks(&server).flush(&production()).await.unwrap_err();
            assert!(matches!(error, ServerError::Untrusted { .. }), "{}", Chain(&error));
            assert!(!error.is_owed());
            assert_eq!(server.requests(), [""; 0]);
        }
    }
}

#[tokio::test]
async fn a_server_limited_to_tls_1_2_is_good_enough_on_the_same_host() {
    let node = Node::new();
    let answer = http("204 No Content", "");
    let server = StandIn::start_with(&node.ca, &node.ca, answer, &[&rustls::version::TLS12]).await;
    node.asks(&server).flush(&production()).await.unwrap();
}

#[tokio::test]
async fn a_renewed_certificate_is_used_from_the_next_request_on() {
    let node = Node::new();
    let renewed = Ca::new();
    let old = StandIn::start(&node.ca, http("204 No Content", "")).await;
    let asking = node.asks(&old);
    asking.flush(&production()).await.unwrap();
    renewed.settings(&node.dir());
    let error = asking.flush(&production()).await.unwrap_err();
    assert!(matches!(error, ServerError::Untrusted { .. }), "{}", Chain(&error));
    std::fs::write(node.dir().join("key.pem"), "").unwrap();
    let error = asking.flush(&production()).await.unwrap_err();
    assert!(matches!(error, ServerError::Identity { .. }) && !error.is_owed(), "{}", Chain(&error));
}

/// A host that is to become a compiler: there is no certificate yet, and Puppet Server was never started.
#[tokio::test]
async fn without_a_certificate_a_closed_port_is_owed_all_the_same() {
    let node = Node::new();
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let asking = PuppetServer::new(&node.settings, nobody);
    std::fs::remove_file(node.dir().join("key.pem")).unwrap();
    let error = asking.flush(&production()).await.unwrap_err();
    assert!(error.is_owed(), "{}", Chain(&error));
    assert!(matches!(asking.status().await, Status::Down(_)));
}

fn listing(root: &str) -> Answer {
    http(
        "200 OK",
        &format!(
            r#"{{"search_paths":["file:///c"],"environments":{{"production":{{"settings":{{
            "modulepath":["{root}/site","{root}/modules","/c/modules"],"manifest":"{root}/manifests",
            "environment_timeout":"unlimited","config_version":""}}}},"testing":{{"settings":{{
            "modulepath":[],"manifest":null,"environment_timeout":0,"config_version":""}}}}}}}}"#
        ),
    )
}

#[tokio::test]
async fn a_version_is_proven_by_its_path_and_by_no_other() {
    let node = Node::new();
    let server = StandIn::start(&node.ca, listing("/v/production_1")).await;
    let asking = node.asks(&server);
    let proof = asking.prove(&production(), Path::new("/v/production_1")).await.unwrap();
    assert_eq!(proof.paths.len(), 3, "{proof:?}");
    let error = asking.prove(&production(), Path::new("/v/production_12")).await.unwrap_err();
    assert!(
        matches!(&error, ServerError::NotProven { found, .. } if found.contains("/v/production_1/modules")),
        "{error}"
    );
    assert!(
        asking.prove(&production(), Path::new("/v/production")).await.is_err(),
        "a name that begins alike"
    );
    let gone = EnvironmentName::parse("gone").unwrap();
    assert!(matches!(asking.prove(&gone, Path::new("/v")).await, Err(ServerError::NotProven { .. })));
    let live = asking.environments().await.unwrap();
    assert_eq!(
        (live["production"].environment_timeout.as_str(), live["testing"].environment_timeout.as_str()),
        ("unlimited", "0")
    );
}

#[tokio::test]
async fn a_rehearsal_fails_without_versioned_environment_dirs_before_anything_is_asked() {
    let node = Node::new();
    let server = StandIn::start(&node.ca, http("204 No Content", "")).await;
    let mut settings = node.settings.clone();
    settings.versioned_environment_dirs = Some(false);
    let error = node.asks(&server).rehearse(&settings).await.unwrap_err();
    assert!(matches!(error, ServerError::NotVersioned { .. }) && !error.is_owed());
    assert_eq!(server.requests(), [""; 0]);
}

#[tokio::test]
async fn every_word_of_the_status_service_has_a_meaning() {
    for (answer, expected) in [
        (http("200 OK", "running"), "Running"),
        (http("503 Service Unavailable", "starting"), "Starting"),
        (http("503 Service Unavailable", "stopping"), "Stopping"),
        (http("503 Service Unavailable", "error"), "Ailing"),
        (http("200 OK", "unknown"), "Ailing"),
        (Answer::Bytes("220 ready\r\n\r\n".into()), "Down"),
    ] {
        let node = Node::new();
        let server = StandIn::start(&node.ca, answer.clone()).await;
        let status = node.asks(&server).status().await;
        assert!(format!("{status:?}").starts_with(expected), "{answer:?}: {status:?}");
    }
}

/// As Puppet Server 7.9.5 answers, shortened.
fn pool(free: u32, borrowed: &str) -> Answer {
    let metrics = format!(
        r#"{{"num-jrubies":2,"num-free-jrubies":{free},"requested-instances":[],"borrowed-instances":[{borrowed}],
        "borrow-count":17,"borrow-timeout-count":1,"average-borrow-time":250.5,"average-wait-time":3,"more":{{}}}}"#
    );
    let status = format!(r#"{{"jruby-pool-lock-status":{{}},"metrics":{metrics}}}"#);
    http("200 OK", &format!(r#"{{"state":"running","status":{{"experimental":{status}}}}}"#))
}

#[tokio::test]
async fn the_pool_is_idle_when_nobody_holds_or_awaits_an_interpreter() {
    let node = Node::new();
    let idle = StandIn::start(&node.ca, pool(2, "")).await;
    let seen = node.asks(&idle).pool().await.unwrap();
    assert!(seen.is_idle() && (seen.borrow_count, seen.borrow_timeout_count) == (17, 1), "{seen:?}");
    let held = r#"{"duration-millis":4200,"reason":{"request":{"uri":"/puppet/v3/catalog/a"}},"time":1}"#;
    let busy = StandIn::start(&node.ca, pool(1, held)).await;
    let seen = node.asks(&busy).pool().await.unwrap();
    assert!(!seen.is_idle() && seen.borrowed_instances[0].duration_millis == 4200, "{seen:?}");
    let other = StandIn::start(&node.ca, http("200 OK", "{}")).await;
    assert!(matches!(node.asks(&other).pool().await, Err(ServerError::Garbled { .. })));
}

#[tokio::test]
async fn a_forbidden_flush_of_the_pool_names_its_own_rule() {
    let node = Node::new();
    let forbidding = StandIn::start(&node.ca, http("403 Forbidden", "Forbidden request")).await;
    let error = node.asks(&forbidding).flush_pool().await.unwrap_err().to_string();
    assert!(
        error.contains("doctor --fix`, or add a rule")
            && error.contains("method delete on path /puppet-admin-api/v1/jruby-pool,"),
        "{error}"
    );
    let obeying = StandIn::start(&node.ca, Answer::Bytes("HTTP/1.1 204 No Content\r\n\r\n".into())).await;
    node.asks(&obeying).flush_pool().await.unwrap();
    assert!(obeying.requests()[0].starts_with("DELETE /puppet-admin-api/v1/jruby-pool HTTP"));
}

#[tokio::test]
async fn the_certificate_of_a_server_that_does_not_let_anybody_in_is_seen_all_the_same() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let node = Node::new();
        let server = StandIn::start_with(&Ca::new(), &node.ca, Answer::Never, &[version]).await;
        for name in [None, Some(puppet_server::CERTNAME)] {
            let seen = shown(server.address, name, Duration::from_secs(20)).await.unwrap();
            let certificate = bunraku_certificates::Certificate::from_der(&seen.certificate).unwrap();
            assert_eq!(certificate.serial(), puppet_server::OWN.to_string());
            assert_eq!(seen.broken.is_some(), *version == rustls::version::TLS12, "{seen:?}");
        }
        assert!(server.requests().is_empty());
    }
}

#[tokio::test]
async fn who_shows_no_certificate_is_told_apart_from_who_is_silent() {
    let node = Node::new();
    let text = StandIn::start(&node.ca, Answer::PlainText).await;
    let error = shown(text.address, None, Duration::from_secs(20)).await.unwrap_err();
    assert!(matches!(error, NotShown::Handshake { .. }), "{error}");
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap();
    let error = shown(address, None, Duration::from_millis(100)).await.unwrap_err();
    assert!(matches!(error, NotShown::Deadline { .. }), "{error}");
}
