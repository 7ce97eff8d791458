//! Rollouts over real node agents: what each of them does to its own host, once, and what it refuses. The service is a
//! process that counts its starts; Puppet Server's door and `puppet` are stand-ins, conf.d is read by the real Ruby.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use bunraku_proto::v1::{self, action::Kind};
use bunraku_tests::fleet::{Fleet, Mood, Node, end_services, grant, left, restart, turn, until};

async fn fleet() -> Fleet {
    let mut fleet =
        Fleet::new().nodes(2).agents(grant).controller(|config| config.balancers.agree_s = 4).up().await;
    fleet.push("production", &[("manifests/site.pp", "")]);
    assert_eq!(fleet.deploy("production").await.phase, "live");
    fleet.add_balancer("lb1", &["c1", "c2"]).await;
    fleet
}

fn request(kind: Kind) -> v1::RolloutRequest {
    let action = Some(v1::Action { kind: kind.into(), ..v1::Action::default() });
    v1::RolloutRequest { action, ..restart() }
}

fn exec(command: &str) -> v1::RolloutRequest {
    let action = v1::Action { kind: Kind::Exec.into(), command: command.to_owned(), ..v1::Action::default() };
    v1::RolloutRequest { action: Some(action), ..restart() }
}

async fn done(fleet: &Fleet, request: v1::RolloutRequest) -> v1::RolloutInfo {
    let id = fleet.main().start_rollout(request).await.unwrap();
    fleet.main().until_rollout(id, "done").await
}

async fn end(fleet: Fleet) {
    fleet.nodes().iter().for_each(end_services);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_a_rolling_restart_and_a_reload_reach_every_compiler_once() {
    let fleet = fleet().await;
    done(&fleet, request(Kind::Restart)).await;
    for node in fleet.nodes() {
        assert_eq!(left(node, "did"), ["start"], "{}", node.name());
    }
    done(&fleet, request(Kind::Restart)).await;
    let ended = done(&fleet, request(Kind::Reload)).await;
    assert!(ended.turns.iter().all(|turn| turn.phase == "done"), "{ended:#?}");
    for node in fleet.nodes() {
        assert_eq!(left(node, "did"), ["start", "start", "reload"], "{}", node.name());
        assert!(!node.dir().join("disabled.lock").exists(), "its Puppet agent may run again");
        fleet.main().until_balanced(node.name(), "in service").await;
    }
    end(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f3_i5_an_agent_that_ends_in_the_middle_of_a_restart_finishes_it_and_does_not_do_it_twice() {
    let fleet = fleet().await;
    let c1 = fleet.node("c1");
    c1.puppet_server().set_mood(Mood::Starting);
    let id = fleet.main().start_rollout(request(Kind::Restart)).await.unwrap();
    until("c1 was started", || async { left(c1, "did") == ["start"] }).await;
    c1.restart().await;
    until("it is asked again", || async {
        let turn = turn(&fleet.main().rollout(id).await, "c1").clone();
        turn.phase == "acting" && turn.says.contains("the restart of Puppet Server")
    })
    .await;
    c1.puppet_server().set_mood(Mood::Running);
    fleet.main().until_rollout(id, "done").await;
    assert_eq!(left(c1, "did"), ["start"], "I5");
    end(fleet).await;
}

/// 503 for as long as it likes: its service runs, and that is not enough.
#[tokio::test(flavor = "multi_thread")]
async fn f15_a_puppet_server_that_answers_503_after_its_restart_stays_drained_and_nobody_else_begins() {
    let fleet = fleet().await;
    let c1 = fleet.node("c1");
    c1.puppet_server().set_mood(Mood::Starting);
    let id = fleet.main().start_rollout(request(Kind::Restart)).await.unwrap();
    until("c1 was started", || async { left(c1, "did") == ["start"] }).await;
    until("it is asked and asked again", || async {
        turn(&fleet.main().rollout(id).await, "c1").says.contains("the restart of Puppet Server")
    })
    .await;
    let shown = fleet.main().rollout(id).await;
    assert_eq!((turn(&shown, "c1").phase.as_str(), turn(&shown, "c2").phase.as_str()), ("acting", "waiting"));
    assert!(turn(&shown, "c1").waits_until_ms > 0 && !turn(&shown, "c1").then.is_empty(), "{shown:#?}");
    assert!(fleet.balancer("lb1").haproxy().shows("c1").await.starts_with("DRAIN"));
    assert_eq!(left(fleet.node("c2"), "did"), Vec::<String>::new());
    c1.puppet_server().set_mood(Mood::Running);
    fleet.main().until_rollout(id, "done").await;
    assert_eq!(left(c1, "did"), ["start"], "I5");
    end(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_a_compiler_that_runs_and_compiles_no_catalog_is_not_enabled_before_it_does() {
    let fleet = fleet().await;
    let c1 = fleet.node("c1");
    let request = v1::RolloutRequest { test_catalog: "probe.example".to_owned(), ..request(Kind::Restart) };
    // What fails before is not the restart's fault: nobody is drained for it.
    c1.puppet_server().set_mood(Mood::Failing);
    let id = fleet.main().start_rollout(request.clone()).await.unwrap();
    let halted = fleet.main().until_rollout(id, "paused").await;
    let reason = &turn(&halted, "c1").reason;
    assert!(reason.starts_with("before it is changed: ") && reason.contains("no such luck"), "{reason}");
    assert!(fleet.balancer("lb1").haproxy().shows("c1").await.starts_with("UP"));
    let abort = v1::AbortRolloutRequest { id, reason: "mend it".into() };
    fleet.main().client().abort_rollout(abort).await.unwrap();
    fleet.main().until_rollout(id, "aborted").await;

    c1.puppet_server().set_mood(Mood::Starting);
    let id = fleet.main().start_rollout(request).await.unwrap();
    until("c1 was started", || async { left(c1, "did") == ["start"] }).await;
    c1.puppet_server().set_mood(Mood::Failing);
    until("its failure is told", || async {
        let turn = turn(&fleet.main().rollout(id).await, "c1").clone();
        turn.phase == "verifying" && turn.says.contains("500") && turn.says.contains("no such luck")
    })
    .await;
    assert!(fleet.balancer("lb1").haproxy().shows("c1").await.starts_with("DRAIN"));
    c1.puppet_server().set_mood(Mood::Running);
    fleet.main().until_rollout(id, "done").await;
    for node in fleet.nodes() {
        fleet.main().until_balanced(node.name(), "in service").await;
    }
    end(fleet).await;
}

/// As packages ship webserver.conf, without an address: only callers at loopback were seen.
#[tokio::test(flavor = "multi_thread")]
async fn i3_who_is_served_at_another_address_of_the_host_is_waited_for_before_the_restart() {
    let fleet = fleet().await;
    let c1 = fleet.node("c1");
    let port = c1.puppet_server().address().port();
    let door = std::net::TcpListener::bind(("127.77.7.7", port)).unwrap();
    let hold = format!("exec 3<>/dev/tcp/127.77.7.7/{port}; read -r -u 3 end");
    let mut caller = Command::new("bash").args(["-c", &hold]).spawn().unwrap();
    let served = door.accept().unwrap();
    let id = fleet.main().start_rollout(request(Kind::Restart)).await.unwrap();
    until("the caller is waited for", || async {
        turn(&fleet.main().rollout(id).await, "c1").waits_for.starts_with("to be empty: 1 connection")
    })
    .await;
    assert!(fleet.balancer("lb1").haproxy().shows("c1").await.starts_with("DRAIN"));
    assert_eq!(left(c1, "did"), Vec::<String>::new());
    drop(served);
    caller.wait().unwrap();
    fleet.main().until_rollout(id, "done").await;
    assert_eq!(left(c1, "did"), ["start"]);
    end(fleet).await;
}

/// A process that Puppet would take for a run of its own.
fn puppet_run(node: &Node) -> Child {
    let mut command = Command::new("/bin/sh");
    command.args(["-c", "read x; exit", "puppet agent: applying"]).stdin(Stdio::piped());
    let child = command.spawn().unwrap();
    fs::write(node.dir().join("run.lock"), child.id().to_string()).unwrap();
    child
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_of_the_compilers_own_puppet_agent_is_waited_for_and_none_begins_during_the_turn() {
    let fleet = fleet().await;
    let c1 = fleet.node("c1");
    let mut run = puppet_run(c1);
    c1.puppet_server().set_mood(Mood::Running);
    let id = fleet.main().start_rollout(request(Kind::Restart)).await.unwrap();
    until("it waits for the run", || async {
        turn(&fleet.main().rollout(id).await, "c1").says.starts_with("a Puppet run goes on there")
    })
    .await;
    assert!(left(c1, "did").is_empty());
    fleet.main().until_balanced("c1", "in service").await;
    c1.puppet_server().set_mood(Mood::Starting);
    run.kill().unwrap();
    run.wait().unwrap();
    fleet.main().until_turn(id, "c1", "acting").await;
    let disabled = fs::read_to_string(c1.dir().join("disabled.lock")).unwrap();
    assert_eq!(disabled, format!("{{\"disabled_message\":\"bunraku: rollout {id}\"}}"));
    c1.puppet_server().set_mood(Mood::Running);
    fleet.main().until_rollout(id, "done").await;
    assert!(!c1.dir().join("disabled.lock").exists());
    end(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_somebody_else_disabled_stays_disabled() {
    let fleet = fleet().await;
    let lock = fleet.node("c1").dir().join("disabled.lock");
    fs::write(&lock, "{\"disabled_message\":\"by hand\"}").unwrap();
    let ended = done(&fleet, request(Kind::Restart)).await;
    assert!(turn(&ended, "c1").notes.iter().any(|note| note.ends_with("by hand")), "{ended:#?}");
    assert_eq!(fs::read_to_string(&lock).unwrap(), "{\"disabled_message\":\"by hand\"}");
    end(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_puppet_runs_and_flushes_of_the_pool_are_done_once_and_failures_are_told_with_their_output()
{
    let fleet = fleet().await;
    // What does not run is not healthy afterwards, whatever was done to it.
    done(&fleet, request(Kind::Restart)).await;
    done(&fleet, exec("say")).await;
    done(&fleet, request(Kind::FlushPool)).await;
    for node in fleet.nodes() {
        fs::write(node.dir().join("exit-code"), "2").unwrap();
    }
    let ended = done(&fleet, request(Kind::PuppetRun)).await;
    assert_eq!(turn(&ended, "c1").notes, ["the Puppet run made changes"]);
    for node in fleet.nodes() {
        assert_eq!(
            (left(node, "said"), left(node, "runs")),
            (vec!["said".to_owned()], vec!["run".to_owned()])
        );
        assert_eq!(node.puppet_server().pools_flushed(), 1);
    }
    let id = fleet.main().start_rollout(exec("fail")).await.unwrap();
    let paused = fleet.main().until_rollout(id, "paused").await;
    let reason = &turn(&paused, "c1").reason;
    assert!(reason.starts_with("the command fail ended with 3: no such luck"), "{paused:#?}");
    assert_eq!(turn(&paused, "c2").phase, "waiting");
    fleet.main().client().abort_rollout(v1::AbortRolloutRequest { id, reason: "test".into() }).await.unwrap();
    fleet.main().until_rollout(id, "aborted").await;
    end(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_configuration_or_a_command_without_a_grant_fails_before_the_drain() {
    let fleet = fleet().await;
    let c1 = fleet.node("c1");
    fs::write(c1.dir().join("conf.d/bad.conf"), "webserver: {").unwrap();
    for (request, reason) in [
        (request(Kind::Restart), "Puppet Server's configuration has errors"),
        (exec("rm"), "this node does not grant the command `rm`, only fail, near, say"),
        (exec("near"), "[rollout.exec] names `sh` for `near`, which is no program by its whole path"),
    ] {
        let id = fleet.main().start_rollout(request).await.unwrap();
        let paused = fleet.main().until_rollout(id, "paused").await;
        assert!(turn(&paused, "c1").reason.contains(reason), "{paused:#?}");
        assert!(left(c1, "did").is_empty());
        fleet.main().until_balanced("c1", "in service").await;
        let abort = v1::AbortRolloutRequest { id, reason: "test".into() };
        fleet.main().client().abort_rollout(abort).await.unwrap();
        fleet.main().until_rollout(id, "aborted").await;
    }
    end(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_what_another_fleet_ordered_under_the_same_number_is_not_taken_for_done() {
    let fleet = fleet().await;
    let c1 = fleet.node("c1");
    let only = || v1::RolloutRequest { nodes: vec!["c1".to_owned()], ..request(Kind::Restart) };
    done(&fleet, only()).await;
    let path = c1.config().data_dir.join("turns/acting.json");
    let record = || -> serde_json::Value { serde_json::from_slice(&fs::read(&path).unwrap()).unwrap() };
    let first = record()["fence"]["generation"].as_u64().unwrap();
    done(&fleet, only()).await;
    let each = record()["fence"]["generation"].as_u64().unwrap() - first;

    // As if another fleet's controller had given the order with the number that comes next.
    c1.stop().await;
    let mut other = record();
    other["fleet"] = "00".repeat(32).into();
    other["fence"]["generation"] = (first + 2 * each).into();
    fs::write(&path, other.to_string()).unwrap();
    c1.start().await.unwrap();
    fleet.main().until_connected("c1").await;
    done(&fleet, only()).await;
    assert_eq!(record()["fence"]["generation"], first + 2 * each);
    assert_eq!(left(c1, "did"), ["start", "start", "start"]);
    end(fleet).await;
}
