//! A server that refuses the canary has loaded the CRL: and what only looks like it.

use std::time::{Duration, SystemTime};

use bunraku_puppetserver::{Canary, NotRefused, PuppetServer};

use crate::puppet_server::{Answer, Ca, Node, OWN, StandIn};

const CANARY: u64 = 7;
/// For servers that come to the expected end at once.
const LONG: Duration = Duration::from_secs(30);
/// For those that never do.
const SHORT: Duration = Duration::from_millis(400);

fn running() -> Answer {
    Answer::Bytes("HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nrunning".into())
}

fn canary(node: &Node, server: &PuppetServer) -> Canary {
    let (certificate, key) = node.ca.issue_numbered("canary.example", CANARY);
    server.canary(certificate.as_bytes(), key.as_bytes()).unwrap()
}

async fn asked(node: &Node, server: &StandIn, limit: Duration) -> Result<SystemTime, NotRefused> {
    let asks = node.asks(server);
    asks.prove_refusal(&canary(node, &asks), limit).await
}

#[tokio::test]
async fn a_server_that_refuses_the_canary_and_lets_the_host_in_has_loaded_the_crl() {
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let node = Node::new();
        let server = StandIn::start_with(&node.ca, &node.ca, running(), &[version]).await;
        server.load(&node.ca, &node.ca.crl(&[CANARY]));
        let before = SystemTime::now();
        let seen = asked(&node, &server, LONG).await.unwrap();
        assert!(seen >= before && seen <= SystemTime::now(), "{version:?}");
    }
}

#[tokio::test]
async fn it_is_asked_until_it_has_loaded_the_crl() {
    let node = Node::new();
    let server = StandIn::start(&node.ca, running()).await;
    let load_later = async {
        // The canary was let in before.
        while server.requests().is_empty() {
            tokio::task::yield_now().await;
        }
        server.load(&node.ca, &node.ca.crl(&[CANARY]));
    };
    let (seen, ()) = tokio::join!(asked(&node, &server, LONG), load_later);
    seen.unwrap();
}

#[tokio::test]
async fn a_server_that_lets_the_canary_in_has_not_loaded_it() {
    let node = Node::new();
    let server = StandIn::start(&node.ca, running()).await;
    server.load(&node.ca, &node.ca.crl(&[99]));
    let error = asked(&node, &server, SHORT).await.unwrap_err();
    assert!(matches!(error, NotRefused::LetIn { .. }), "{error}");
}

#[tokio::test]
async fn a_server_that_refuses_everybody_proves_nothing() {
    let node = Node::new();
    let server = StandIn::start(&node.ca, running()).await;
    server.load(&node.ca, &node.ca.crl(&[CANARY, OWN]));
    let error = asked(&node, &server, SHORT).await.unwrap_err();
    assert!(matches!(error, NotRefused::Everybody { .. }), "{error}");
    // Nor does one that is not ready.
    let server =
        StandIn::start(&node.ca, Answer::Bytes("HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n".into())).await;
    server.load(&node.ca, &node.ca.crl(&[CANARY]));
    let error = asked(&node, &server, SHORT).await.unwrap_err();
    assert!(matches!(&error, NotRefused::Everybody { why, .. } if why.starts_with("503")), "{error}");
}

#[tokio::test]
async fn who_does_not_answer_or_knows_neither_side_has_refused_nobody() {
    let node = Node::new();
    let address = {
        let server = StandIn::start(&node.ca, running()).await;
        server.address
    };
    let down = PuppetServer::new(&node.settings, address);
    let error = down.prove_refusal(&canary(&node, &down), SHORT).await.unwrap_err();
    assert!(matches!(error, NotRefused::Unknown { .. }), "{error}");

    // It closes the connection without a word, never says one, trusts another CA, is of another CA.
    let other = Ca::new();
    for (of, trusts, answer) in [
        (&node.ca, &node.ca, Answer::Bytes(String::new())),
        (&node.ca, &node.ca, Answer::Never),
        (&node.ca, &node.ca, Answer::PlainText),
        (&node.ca, &other, running()),
        (&other, &node.ca, running()),
    ] {
        let server = StandIn::start_with(of, trusts, answer.clone(), rustls::ALL_VERSIONS).await;
        let error = asked(&node, &server, SHORT).await.unwrap_err();
        assert!(matches!(error, NotRefused::Unknown { .. }), "{answer:?}: {error}");
    }
}

#[tokio::test]
async fn a_key_that_does_not_belong_to_the_canary_is_an_error() {
    let node = Node::new();
    let server = StandIn::start(&node.ca, running()).await;
    let asks = node.asks(&server);
    let (certificate, _) = node.ca.issue_numbered("canary.example", CANARY);
    let (_, key) = node.ca.issue_numbered("other.example", 8);
    let error = asks.canary(certificate.as_bytes(), key.as_bytes()).unwrap_err();
    assert!(error.to_string().contains("do not belong together"), "{error}");
    assert!(asks.canary(b"", key.as_bytes()).is_err() && asks.canary(certificate.as_bytes(), b"").is_err());
}
