//! The client against a stand-in that fails in every way.

use bunraku_common::Chain;

use super::*;
use crate::stand_in::{Act, StandIn, authority, request};

fn name(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

/// The whole chain of an error, without the port.
fn told(main: &StandIn, error: &CaError) -> String {
    Chain(error).to_string().replace(&main.address, "MAIN")
}

#[tokio::test]
async fn a_name_goes_from_its_request_to_its_end() {
    let (main, c1) = (StandIn::start().await, name("c1"));
    let ca = main.ca();
    assert_eq!(ca.status(&c1).await.unwrap(), None);
    let csr = request("c1", &[]);
    ca.submit(&c1, &csr).await.unwrap();
    ca.submit(&c1, &csr).await.unwrap();
    assert_eq!(ca.status(&c1).await.unwrap().unwrap().state, State::Requested);
    let pending = ca.request(&c1).await.unwrap().unwrap();
    assert_eq!(ca.status(&c1).await.unwrap().unwrap().fingerprint, Some(pending.fingerprint()));

    ca.sign(&c1, Some(Duration::from_secs(60))).await.unwrap();
    ca.submit(&c1, &csr).await.unwrap();
    let issued = ca.certificate(&c1).await.unwrap().unwrap();
    assert!(issued.certificate.has_key_of(&pending));
    assert!(issued.certificate.is_issued_by(&ca.authorities().unwrap()));
    ca.revoke(&c1).await.unwrap();
    assert!(matches!(ca.submit(&c1, &csr).await.unwrap_err().why(), Why::Revoked { .. }));
    assert_eq!(ca.statuses(None).await.unwrap().len(), 1);
    ca.forget(&c1).await.unwrap();
    assert_eq!(ca.statuses(None).await.unwrap(), []);
}

#[tokio::test]
async fn a_request_with_another_key_is_told_apart_and_nothing_is_handed_in() {
    let (main, c1) = (StandIn::start().await, name("c1"));
    let ca = main.ca();
    ca.submit(&c1, &request("c1", &[])).await.unwrap();
    let error = ca.submit(&c1, &request("c1", &[])).await.unwrap_err();
    assert_eq!(
        told(&main, &error),
        "could not hand in the request of c1: Puppet's CA has one of c1 already (requested), with another key \
         (hint: if c1 was made anew: puppetserver ca clean --certname c1)"
    );
    assert!(!error.outcome_is_unknown());
    assert_eq!(main.state.lock().unwrap().asked.iter().filter(|it| it.starts_with("PUT")).count(), 1);
}

#[tokio::test]
async fn a_request_of_another_name_is_not_handed_in() {
    let main = StandIn::start().await;
    let error = main.ca().submit(&name("c1"), &request("c2", &[])).await.unwrap_err();
    assert!(matches!(error.why(), Why::OtherName { .. }));
    assert_eq!(main.state.lock().unwrap().asked.len(), 0);
}

#[tokio::test]
async fn what_is_not_there_is_none_for_reading_and_an_error_for_the_rest() {
    let (main, c1) = (StandIn::start().await, name("c1"));
    let ca = main.ca();
    assert!(ca.request(&c1).await.unwrap().is_none() && ca.certificate(&c1).await.unwrap().is_none());
    assert_eq!(ca.expirations().await.unwrap(), None);
    assert!(matches!(ca.sign(&c1, None).await.unwrap_err().why(), Why::NoRequest { .. }));
    assert!(matches!(ca.revoke(&c1).await.unwrap_err().why(), Why::NoCertificate { .. }));
    ca.forget(&c1).await.unwrap();
}

#[tokio::test]
async fn names_in_one_state_are_asked_for_by_its_word() {
    let main = StandIn::start().await;
    main.always(Act::Answer(200, "[]".into()));
    let ca = main.ca();
    for state in [None, Some(State::Other), Some(State::Revoked)] {
        assert_eq!(ca.statuses(state).await.unwrap(), []);
    }
    let any = "GET /puppet-ca/v1/certificate_statuses/any";
    let revoked = format!("{any}?state=revoked");
    assert_eq!(main.state.lock().unwrap().asked, [any, any, &revoked]);
}

#[tokio::test]
async fn forbidden_names_the_extension_and_the_file() {
    let main = StandIn::start().await;
    main.always(Act::Answer(403, "Forbidden request".into()));
    let error = main.ca().sign(&name("c1"), None).await.unwrap_err();
    assert_eq!(
        told(&main, &error),
        "could not sign the request of c1: the main server's certificate may not use Puppet's CA API: Forbidden \
         request (hint: the certificate needs the extension pp_cli_auth (puppetserver ca setup gives it), and Puppet \
         Server's conf.d/auth.conf the rules that allow it: grep -B12 pp_cli_auth auth.conf)"
    );
    assert!(!error.outcome_is_unknown());
}

#[tokio::test]
async fn names_that_the_ca_does_not_sign_point_to_ca_conf() {
    let (main, c1) = (StandIn::start().await, name("c1"));
    main.state.lock().unwrap().requests.insert("c1".into(), request("c1", &["puppet"]));
    main.act(
        |_, method, _| {
            if method == "PUT" { Act::Answer(409, "names are disallowed.".into()) } else { Act::Work }
        },
    );
    let error = main.ca().sign(&c1, None).await.unwrap_err();
    assert!(matches!(error.why(), Why::NotAllowed { why, .. } if why == "names are disallowed."));
    assert_eq!(
        told(&main, &error),
        "could not sign the request of c1: names are disallowed. (hint: in Puppet Server's conf.d/ca.conf set \
         certificate-authority.allow-subject-alt-names: true, and: systemctl restart puppetserver)"
    );
}

#[tokio::test]
async fn a_host_without_a_ca_is_no_ca_without_the_name() {
    let main = StandIn::start().await;
    main.always(Act::Say(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_vec()));
    let error = main.ca().status(&name("c1")).await.unwrap_err();
    assert!(matches!(error.why(), Why::NoCa { .. }), "{error:?}");
    let error = main.ca().forget(&name("c1")).await.unwrap_err();
    assert!(matches!(error.why(), Why::NoCa { .. }) && !error.outcome_is_unknown(), "{error:?}");
}

/// (what the server does, whether a sign may have happened, whether the reason is the right one)
type Fault = (Act, bool, fn(&Why) -> bool);

#[tokio::test]
async fn an_answer_that_is_none_leaves_a_change_unknown_and_never_a_question() {
    let faults: [Fault; 9] = [
        (Act::Answer(500, "Internal Server Error".into()), true, |why| {
            matches!(why, Why::Answer { status: 500, .. })
        }),
        (Act::Answer(302, String::new()), false, |why| matches!(why, Why::Answer { status: 302, .. })),
        (Act::Answer(406, String::new()), false, |why| matches!(why, Why::Answer { status: 406, .. })),
        (Act::Say(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{\"name\"".to_vec()), true, |why| {
            matches!(why, Why::Broken { .. })
        }),
        (Act::Say(b"HTTP/1.1 200 OK\r\nConte".to_vec()), true, |why| matches!(why, Why::Broken { .. })),
        (Act::Say(Vec::new()), true, |why| matches!(why, Why::Broken { .. })),
        (Act::Say(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), true, |why| matches!(why, Why::Strange { .. })),
        (Act::Endless, true, |why| matches!(why, Why::Strange { .. })),
        (Act::WorkAndBreak, true, |why| matches!(why, Why::Broken { .. })),
    ];
    let (main, c1) = (StandIn::start().await, name("c1"));
    let ca = main.ca();
    for (act, unknown, is_right) in faults {
        main.state.lock().unwrap().requests.insert("c1".into(), request("c1", &[]));
        main.always(act.clone());
        let change = ca.sign(&c1, None).await.unwrap_err();
        assert!(is_right(change.why()), "{act:?}: {change:?}");
        assert_eq!(change.outcome_is_unknown(), unknown, "{act:?}: {change:?}");
        let question = ca.status(&c1).await.unwrap_err();
        assert!(is_right(question.why()), "{act:?}: {question:?}");
        assert!(!question.outcome_is_unknown(), "{act:?}: {question:?}");
    }
}

#[tokio::test]
async fn a_deadline_makes_a_change_unknown() {
    let main = StandIn::start().await;
    main.always(Act::Silence);
    let short = Duration::from_millis(300);
    let ca =
        PuppetCa::new(PuppetCaConfig { deadlines: Deadlines { read: short, write: short }, ..main.config() });
    let error = ca.revoke(&name("c1")).await.unwrap_err();
    assert!(matches!(error.why(), Why::Deadline { .. }) && error.outcome_is_unknown(), "{error:?}");
    assert!(!ca.status(&name("c1")).await.unwrap_err().outcome_is_unknown());
}

#[tokio::test]
async fn a_deadline_before_the_request_has_left_is_sure() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (main, short) = (StandIn::start().await, Duration::from_millis(300));
    let ca = PuppetCa::new(PuppetCaConfig {
        address: listener.local_addr().unwrap().to_string(),
        deadlines: Deadlines { read: short, write: short },
        ..main.config()
    });
    let error = ca.revoke(&name("c1")).await.unwrap_err();
    assert!(matches!(error.why(), Why::Deadline { .. }) && !error.outcome_is_unknown(), "{error:?}");
}

#[tokio::test]
async fn a_port_where_nobody_listens_is_told() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let main = StandIn::start().await;
    let ca = PuppetCa::new(PuppetCaConfig { address: address.clone(), ..main.config() });
    let error = ca.sign(&name("c1"), None).await.unwrap_err();
    assert!(!error.outcome_is_unknown());
    let told = Chain(&error).to_string();
    assert!(
        told.starts_with(&format!(
            "could not sign the request of c1: Puppet Server does not answer at {address}"
        )),
        "{told}"
    );
}

#[tokio::test]
async fn garbage_is_no_status() {
    let main = StandIn::start().await;
    for text in ["", "{", "[1]", "<html>", "{\"name\":[]}"] {
        main.always(Act::Answer(200, text.into()));
        assert!(matches!(main.ca().status(&name("c1")).await.unwrap_err().why(), Why::Json { .. }), "{text}");
    }
    main.always(Act::Answer(200, "no PEM".into()));
    assert!(matches!(main.ca().request(&name("c1")).await.unwrap_err().why(), Why::Request(_)));
    assert!(matches!(main.ca().certificate(&name("c1")).await.unwrap_err().why(), Why::Certificate(_)));
}

#[tokio::test]
async fn a_certificate_of_another_name_is_not_taken() {
    let main = StandIn::start().await;
    let own = std::fs::read_to_string(main.dir.path().join("cert.pem")).unwrap();
    main.always(Act::Answer(200, own));
    assert!(main.ca().certificate(&name("c1")).await.is_err());
}

#[tokio::test]
async fn a_server_of_another_authority_gets_no_request() {
    let main = StandIn::start().await;
    let other = authority("Puppet CA: test", &main.dir.path().join("ca.pem"));
    drop(other);
    let error = main.ca().sign(&name("c1"), None).await.unwrap_err();
    assert!(matches!(error.why(), Why::Untrusted { .. }) && !error.outcome_is_unknown(), "{error:?}");
    assert_eq!(main.state.lock().unwrap().asked.len(), 0);
}

#[tokio::test]
async fn a_server_that_has_the_name_only_as_an_alias_gets_no_request() {
    let main = StandIn::with_server_name("c7.example.com").await;
    let error = main.ca().sign(&name("c1"), None).await.unwrap_err();
    assert!(matches!(error.why(), Why::OtherHost { .. }) && !error.outcome_is_unknown(), "{error:?}");
    assert_eq!(main.state.lock().unwrap().asked.len(), 0);
}

#[tokio::test]
async fn a_main_server_whose_certificate_is_revoked_gets_no_request() {
    let (main, c1) = (StandIn::start().await, name("c1"));
    let ca = main.ca();
    ca.status(&c1).await.unwrap();
    // The certificate that the server shows was the first.
    main.state.lock().unwrap().revoked.push(1);
    std::fs::write(main.dir.path().join("crl.pem"), main.crl()).unwrap();
    let error = ca.sign(&c1, None).await.unwrap_err();
    assert!(matches!(error.why(), Why::Untrusted { .. }) && !error.outcome_is_unknown(), "{error:?}");
    assert_eq!(main.state.lock().unwrap().asked.len(), 1);
}

#[tokio::test]
async fn an_own_certificate_that_the_server_refuses_is_sure() {
    let main = StandIn::start().await;
    let foreign = StandIn::start().await;
    let path = |file: &str| foreign.dir.path().join(file);
    let config = PuppetCaConfig { certificate: path("cert.pem"), key: path("key.pem"), ..main.config() };
    let error = PuppetCa::new(config).sign(&name("c1"), None).await.unwrap_err();
    assert!(matches!(error.why(), Why::Untrusted { .. }) && !error.outcome_is_unknown(), "{error:?}");
}

#[tokio::test]
async fn files_are_read_again_when_they_change() {
    let main = StandIn::start().await;
    let (ca, path) = (main.ca(), main.dir.path().join("cert.pem"));
    ca.status(&name("c1")).await.unwrap();
    let own = std::fs::read(&path).unwrap();
    std::fs::write(&path, "nothing").unwrap();
    assert!(matches!(ca.status(&name("c1")).await.unwrap_err().why(), Why::Identity(_)));
    std::fs::write(&path, own).unwrap();
    ca.status(&name("c1")).await.unwrap();
}
