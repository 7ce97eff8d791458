//! What a node's identity means for its orders: a renewal loses none, another fleet's are not mixed with this one's. And an
//! operator's, who calls from a host that is not the controller's.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod authority;
mod dead_ends;
mod doors;
mod rotation;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use bunraku_proto::v1;
use bunraku_tests::{
    fleet::{Fleet, Flow, digest_of, until},
    installed::program,
};

#[tokio::test(flavor = "multi_thread")]
async fn no_order_is_lost_over_a_renewal_and_the_node_is_never_gone() {
    let fleet = Fleet::new().nodes(1).up().await;
    fleet.deploy_change("production", "before").await;
    let node = fleet.node("c1");
    // A new connection takes half a second: in that time orders go over the one before.
    let far = Flow { delay: Duration::from_millis(50), ..Flow::default() };
    node.link().set_flows(far, far);
    for round in 0..3 {
        let before = fleet.main().node("c1").await;
        fleet.push("production", &[("manifests/site.pp", &format!("# round {round}\n"))]);
        let id = fleet.main().ask_deploy("production").await.unwrap();
        node.renew_identity().await;
        until("the controller calls the node on another connection", || async {
            let now = fleet.main().node("c1").await;
            assert!(now.connected, "round {round}: for a moment no order could reach the node");
            now.since_ms != before.since_ms
        })
        .await;
        let deploy = fleet.main().until_ended(id).await;
        assert_eq!(deploy.phase, "live", "{deploy:#?}");
        fleet.until_all_serve("production", digest_of(&deploy)).await;
        assert_eq!(node.puppet_server().flushes(), 2 + round, "I5: each commit takes effect once");
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_from_another_fleet_obeys_the_new_one_and_keeps_its_old_memory_aside() {
    let old = Fleet::new().nodes(1).up().await;
    old.deploy_change("production", "old").await;
    let new = Fleet::new().nodes(0).up().await;
    let node = old.node("c1");
    let memory = || -> Vec<String> {
        let names = std::fs::read_dir(node.config().data_dir).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("memory-of-other-fleet-")).collect()
    };
    node.restart().await;
    old.main().until_connected("c1").await;
    assert_eq!(memory(), Vec::<String>::new(), "the same CA: nothing is set aside");
    node.stop().await;
    node.link().lead_to(new.main().address());
    node.enrol(new.main()).await;
    node.start().await.unwrap();
    new.main().until_connected("c1").await;
    assert_eq!(memory().len(), 1);
    let standing = new.main().status().await.standing;
    assert!(!standing.contains("takeover"), "{standing}");
    new.end().await;
}

/// `bunraku` as it is called on another host, so many days from now.
fn elsewhere(home: &Path, days: u32, arguments: &[&str]) -> Output {
    let bunraku = program("bunraku").unwrap();
    // Debian's faketime: this process alone has another wall clock.
    Command::new("faketime")
        .arg(format!("+{days}days"))
        .arg(bunraku.get_program())
        .args(["--socket", "/nonexistent/control.sock", "--identity"])
        .arg(home)
        .args(arguments)
        .output()
        .unwrap()
}

/// `bunraku operator add NAME`, and the login on another host; answers where the identity is kept.
async fn log_in(fleet: &Fleet, name: &str, right: &str) -> PathBuf {
    let home = fleet.path(name);
    let asked = v1::AddOperatorRequest { name: name.into(), right: right.into() };
    let added = fleet.main().client().add_operator(asked).await.unwrap().into_inner();
    let token = fleet.path(&format!("token of {name}"));
    fs::write(&token, added.token).unwrap();
    let address = fleet.main().config().address.clone();
    let login = ["login", "--controller", &address, "--pin", &added.pin, "--name", name, "--token-file"];
    let login = elsewhere(&home, 0, &[&login[..], &[token.to_str().unwrap()]].concat());
    assert!(login.status.success(), "{login:?}");
    home
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operators_identity_is_renewed_by_use_around_half_of_its_thirty_days() {
    let fleet = Fleet::new().nodes(0).up().await;
    let home = log_in(&fleet, "alice", "viewer").await;

    let certificate = || fs::read_to_string(home.join("current/certificate.pem")).unwrap();
    let status = |days| {
        let said = elsewhere(&home, days, &["status"]);
        assert!(said.status.success(), "{days} days: {said:?}");
    };
    let first = certificate();
    status(1);
    status(10);
    assert_eq!(certificate(), first, "it is young");
    status(20);
    assert_ne!(certificate(), first, "it is past its half");
    fleet.end().await;
}
