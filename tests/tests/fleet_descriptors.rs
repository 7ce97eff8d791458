//! F24: no descriptors left. A limit counts for a whole process, so this suite is one test.

use std::fs::File;

use bunraku_proto::v1;
use bunraku_tests::fleet::{Fleet, until};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpSocket;

/// Enough for the fleet, and few enough that the test uses them up at once.
const DESCRIPTORS: u64 = 400;

#[tokio::test(flavor = "multi_thread")]
async fn f24_without_descriptors_nothing_ends_and_with_new_ones_everything_goes_on() {
    let whole = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: Some(DESCRIPTORS), ..whole }).unwrap();
    let fleet = Fleet::new().nodes(2).up().await;
    let old = fleet.deploy_change("production", "old").await;
    let mut client = fleet.main().client();
    client.status(v1::StatusRequest {}).await.unwrap();
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);

    // Made while there are descriptors: it knocks at a controller that has none left to take it in.
    let knocking = TcpSocket::new_v4().unwrap();
    let mut taken = Vec::new();
    take_all(&mut taken);
    fleet.node("c2").partition();
    until("the node is gone", || async {
        let mut client = client.clone();
        let nodes = client.list_nodes(v1::ListNodesRequest {}).await.unwrap().into_inner().nodes;
        nodes.iter().any(|node| node.name == "c2" && !node.connected)
    })
    .await;
    // Also what the cut connections gave back.
    take_all(&mut taken);
    let _knocked = knocking.connect(fleet.main().address()).await.unwrap();
    fleet.node("c2").reconnect();
    // What is connected goes on: the request is answered, though it cannot be carried out.
    let environments = vec!["production".to_owned()];
    let refused = client.deploy(v1::DeployRequest { environments, ..Default::default() }).await;
    assert!(refused.is_err(), "{refused:#?}");
    assert_eq!(fleet.node("c1").live("production"), Some(old));

    drop(taken);
    fleet.main().until_connected("c2").await;
    let deploy = fleet.deploy("production").await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");
    fleet.end().await;
    setrlimit(Resource::Nofile, whole).unwrap();
}

fn take_all(taken: &mut Vec<File>) {
    while let Ok(file) = File::open("/dev/null") {
        taken.push(file);
    }
}
