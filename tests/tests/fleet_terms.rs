//! A turn that is under way while the controller changes its term: real node agents, a real HAProxy.

use std::{fs, path::Path};

use bunraku_tests::fleet::{Fleet, Mood, Node, restart, turn, until};
use serde_json::json;

/// A service that stands for Puppet Server's process: it notes each start, serves nothing (that the stand-in does), and
/// ends with this test.
fn grant(config: &mut bunraku_agent::Config) {
    let dir = config.data_dir.parent().unwrap_or(Path::new("/")).to_owned();
    let conf_d = dir.join("etc/puppetserver/conf.d");
    fs::create_dir_all(&conf_d).expect("a directory of the test's own");
    let (starts, test) = (dir.join("starts"), std::process::id());
    let script = format!("echo started >> {}; exec tail --pid={test} -f /dev/null", starts.display());
    let command = ["/bin/sh", "-c", &script];
    let service = json!({ "driver": "process", "pid_file": dir.join("server.pid"), "command": command });
    let grant = serde_json::from_value(service).expect("as an operator writes it");
    config.services.insert("puppetserver".into(), grant);
}

fn starts(node: &Node) -> usize {
    fs::read_to_string(node.dir().join("starts")).unwrap_or_default().lines().count()
}

/// Regression: the order that came again in the next term was taken for another one, and the server restarted twice.
#[tokio::test(flavor = "multi_thread")]
async fn i5_a_restart_under_way_is_not_done_again_for_a_controller_that_restarted_nor_for_its_agent() {
    let mut fleet = Fleet::new().nodes(2).agents(grant).up().await;
    fleet.add_balancer("lb1", &["c1", "c2"]).await;
    fleet.node("c1").puppet_server().set_mood(Mood::Starting);
    let id = fleet.main().start_rollout(restart()).await.unwrap();
    until("c1 was started", || async { starts(fleet.node("c1")) == 1 }).await;
    fleet.main_mut().restart().await;
    // The next term's order has come, and one of an agent that knows only its record.
    for again in ["of the next term", "of the next term, after a restart of the agent"] {
        until(&format!("c1 answers an order {again}"), || async {
            turn(&fleet.main().rollout(id).await, "c1").says.contains("the restart of Puppet Server")
        })
        .await;
        fleet.node("c1").restart().await;
        fleet.main_mut().restart().await;
    }
    fleet.node("c1").puppet_server().set_mood(Mood::Running);
    fleet.main().until_rollout(id, "done").await;
    assert_eq!(fleet.nodes().iter().map(starts).collect::<Vec<_>>(), [1, 1], "I5");
    for compiler in ["c1", "c2"] {
        fleet.main().until_balanced(compiler, "in service").await;
    }
    fleet.end().await;
}
