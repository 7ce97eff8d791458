//! Compilers are drained and enabled by hand, at real HAProxys, by a real controller and real node agents.

use bunraku_proto::v1;
use bunraku_tests::fleet::{Fleet, digest_of, until};
use tonic::Code;

/// Three compilers behind these balancers.
async fn balanced(balancers: &[&str]) -> Fleet {
    let mut fleet = Fleet::new().nodes(3).controller(|config| config.balancers.agree_s = 4).up().await;
    for balancer in balancers {
        fleet.add_balancer(balancer, &["c1", "c2", "c3"]).await;
    }
    fleet
}

async fn head(fleet: &Fleet) -> u64 {
    fleet.main().audit().await.last().map_or(0, |record| record.sequence)
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_a_drain_by_hand_has_owner_and_reason_and_outlives_controller_and_agents_until_it_is_ended() {
    let mut fleet = balanced(&["lb1"]).await;
    let mut alice = fleet.main().operator("alice", "operator").await;
    let request =
        v1::DrainCompilerRequest { compiler: "c1".into(), reason: "new memory".into(), min_available: 1 };
    let decided = alice.drain_compiler(request).await.unwrap().into_inner();
    assert_eq!((decided.wanted.as_str(), decided.owner.as_str()), ("drained", "operator alice"));
    fleet.main().until_balanced("c1", "drained").await;
    let lb1 = fleet.balancer("lb1").haproxy();
    assert!(lb1.shows("c1").await.starts_with("DRAIN"), "{}", lb1.shows("c1").await);

    fleet.main_mut().stop().await;
    assert!(fleet.balancer("lb1").haproxy().shows("c1").await.starts_with("DRAIN"), "I9");
    fleet.balancer("lb1").node().restart().await;
    fleet.main_mut().start().await.unwrap();
    fleet.main().until_balanced("c1", "drained").await;
    let after = fleet.main().at_balancers("c1").await;
    assert_eq!(after.generation, decided.generation, "nothing was decided anew");
    assert_eq!((after.owner.as_str(), after.reason.as_str()), ("operator alice", "new memory"));
    let status = fleet.main().status().await;
    assert_eq!(status.out_of_service.len(), 1, "{:#?}", status.out_of_service);
    assert_eq!(status.out_of_service[0].owner, "operator alice");

    fleet.main().enable("c1").await.unwrap();
    fleet.main().until_balanced("c1", "in service").await;
    assert_eq!(fleet.balancer("lb1").haproxy().shows("c1").await, "UP");
    assert_eq!(fleet.main().status().await.out_of_service, []);
    let wanted: Vec<_> =
        fleet.main().audit().await.into_iter().filter(|record| record.kind == "balance-wanted").collect();
    let who: Vec<&str> = wanted.iter().map(|record| record.who.as_str()).collect();
    assert_eq!(who, ["alice", "root"], "I12");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_is_drained_only_when_its_last_session_has_ended() {
    let fleet = balanced(&["lb1"]).await;
    let haproxy = fleet.balancer("lb1").haproxy();
    // One of each compiler, whichever comes first.
    let sessions = [haproxy.session().await, haproxy.session().await, haproxy.session().await];
    fleet.main().drain("c2", "new memory").await.unwrap();
    until("c2 waits for its session", || async {
        fleet.main().at_balancers("c2").await.waits_for == "1 session to end"
    })
    .await;
    let waiting = fleet.main().at_balancers("c2").await;
    assert_eq!((waiting.state.as_str(), waiting.sessions, waiting.sessions_known), ("draining", 1, true));
    drop(sessions);
    fleet.main().until_balanced("c2", "drained").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_the_last_compiler_in_service_is_not_drained_and_nothing_is_on_record() {
    let fleet = balanced(&["lb1"]).await;
    for compiler in ["c1", "c2"] {
        fleet.main().drain(compiler, "new memory").await.unwrap();
        fleet.main().until_balanced(compiler, "drained").await;
    }
    let before = head(&fleet).await;
    let refused = fleet.main().drain("c3", "new memory").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("backend puppet of lb1 would have 0 compilers in service"),
        "{refused}"
    );
    assert_eq!(head(&fleet).await, before, "I6");
    assert_eq!(fleet.balancer("lb1").haproxy().shows("c3").await, "UP");
    // Whoever asks for more keeps it as long as the drain lasts.
    fleet.main().enable("c1").await.unwrap();
    fleet.main().until_balanced("c1", "in service").await;
    let request = v1::DrainCompilerRequest { compiler: "c1".into(), reason: "x".into(), min_available: 2 };
    assert_eq!(
        fleet.main().client().drain_compiler(request).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_operators_meet_each_others_drain_by_name_and_either_may_end_it() {
    let fleet = balanced(&["lb1"]).await;
    let (mut alice, mut bob) =
        (fleet.main().operator("alice", "operator").await, fleet.main().operator("bob", "operator").await);
    let request = |reason: &str| v1::DrainCompilerRequest {
        compiler: "c1".into(),
        reason: reason.into(),
        min_available: 0,
    };
    alice.drain_compiler(request("new memory")).await.unwrap();
    let refused = bob.drain_compiler(request("new disk")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("c1 is drained by operator alice: new memory"), "{refused}");
    fleet.main().until_balanced("c1", "drained").await;
    bob.enable_compiler(v1::EnableCompilerRequest { compiler: "c1".into() }).await.unwrap();
    fleet.main().until_balanced("c1", "in service").await;
    let last =
        fleet.main().audit().await.into_iter().rfind(|record| record.kind == "balance-wanted").unwrap();
    assert_eq!((last.who.as_str(), last.what.as_str()), ("bob", "c1 is to be enabled"));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_a_balancer_that_is_away_forbids_drains_and_the_others_are_left_alone() {
    let fleet = balanced(&["lb1", "lb2"]).await;
    fleet.balancer("lb2").node().partition();
    fleet.main().until_gone("lb2").await;
    let before = head(&fleet).await;
    let refused = fleet.main().drain("c1", "new memory").await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("balancer lb2 cannot be seen: it is not connected"), "{refused}");
    assert_eq!(
        (head(&fleet).await, fleet.balancer("lb1").haproxy().shows("c1").await),
        (before, "UP".into())
    );
    fleet.balancer("lb2").node().reconnect();
    fleet.main().until_balanced("c1", "in service").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_a_drain_that_one_balancer_does_not_do_in_time_is_undone_at_the_other() {
    let fleet = balanced(&["lb1", "lb2"]).await;
    fleet.balancer("lb2").node().silence();
    fleet.main().drain("c1", "new memory").await.unwrap();
    until("lb1 has drained c1", || async {
        fleet.balancer("lb1").haproxy().shows("c1").await.starts_with("DRAIN")
    })
    .await;
    until("the drain is undone", || async { !fleet.main().at_balancers("c1").await.undone.is_empty() }).await;
    until("c1 is back at lb1", || async { fleet.balancer("lb1").haproxy().shows("c1").await == "UP" }).await;
    let undone = fleet.main().at_balancers("c1").await;
    assert_eq!((undone.wanted.as_str(), undone.owner.as_str()), ("ready", ""));
    fleet.balancer("lb2").node().reconnect();
    fleet.main().until_balanced("c1", "in service").await;
    assert_eq!(fleet.balancer("lb2").haproxy().shows("c1").await, "UP", "what came late was overruled");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_put_out_by_somebody_else_is_named_and_never_enabled_by_us() {
    let fleet = balanced(&["lb1"]).await;
    let haproxy = fleet.balancer("lb1").haproxy();
    haproxy.set("c1", "maint").await;
    until("c1 is named", || async { fleet.main().at_balancers("c1").await.foreign == ["puppet/c1 at lb1"] })
        .await;
    assert_eq!(fleet.main().enable("c1").await.unwrap_err().code(), Code::FailedPrecondition);
    fleet.main().drain("c1", "new memory").await.unwrap();
    fleet.main().until_balanced("c1", "drained").await;
    fleet.main().enable("c1").await.unwrap();
    fleet.main().until_balanced("c1", "out of service").await;
    assert!(haproxy.shows("c1").await.starts_with("MAINT"));
    haproxy.set("c1", "ready").await;
    fleet.main().until_balanced("c1", "in service").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t6_a_compiler_that_claims_to_be_a_balancer_is_neither_asked_nor_heard() {
    let mut fleet = Fleet::new()
        .nodes(2)
        .agents(|config| {
            let mapping = "driver = 'haproxy'\n[compilers]\nc1 = ['puppet/c1']\nc2 = ['puppet/c2']";
            config.balancer = Some(toml::from_str(mapping).unwrap());
        })
        .up()
        .await;
    // A true one, so that the controller has asked all whom it asks when this one is known.
    fleet.add_balancer("lb1", &["c2"]).await;
    let reply =
        fleet.main().client().balancer_status(v1::BalanceStatusRequest {}).await.unwrap().into_inner();
    let names: Vec<&str> = reply.balancers.iter().map(|balancer| balancer.balancer.as_str()).collect();
    assert_eq!(names, ["lb1"]);
    assert!(reply.compilers.iter().all(|compiler| compiler.compiler != "c1"), "{reply:?}");
    let refused = fleet.main().drain("c1", "new memory").await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains("no balancer carries c1"), "{refused}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_carried_and_what_is_no_compiler_is_refused_with_a_hint() {
    let mut fleet = Fleet::new().nodes(3).up().await;
    fleet.add_balancer("lb1", &["c1", "c2"]).await;
    let refused = fleet.main().drain("c3", "new memory").await.unwrap_err();
    assert!(refused.message().contains("hint: name its servers under [balancer.compilers]"), "{refused}");
    let refused = fleet.main().drain("lb1", "new memory").await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message().contains("lb1 is no compiler")),
        (Code::InvalidArgument, true)
    );
    let refused = fleet.main().drain("c1", " ").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let heal = v1::HealNodeRequest { node: "lb1".into(), environment: String::new() };
    let refused = fleet.main().client().heal_node(heal).await.unwrap_err();
    assert!(refused.message().contains("lb1 is no compiler"), "{refused}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i2_a_compiler_that_is_away_during_a_deploy_is_drained_before_the_others_swap_and_comes_back_when_it_follows()
 {
    let mut fleet = Fleet::new()
        .nodes(3)
        .controller(|config| {
            config.balancers.agree_s = 4;
            config.deploy.unreachable_s = 1;
        })
        .up()
        .await;
    fleet.add_balancer("lb1", &["c1", "c2", "c3"]).await;
    fleet.deploy_change("production", "old").await;
    fleet.main().until_balanced("c2", "in service").await;
    fleet.node("c2").stop().await;
    fleet.main().until_gone("c2").await;
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let deploy = fleet.main().ask_deploy("production").await.unwrap();
    let ended = fleet.main().until_ended(deploy).await;
    assert_eq!(ended.phase, "behind", "{ended:#?}");
    let balance = fleet.main().at_balancers("c2").await;
    assert_eq!((balance.owner, balance.state.as_str()), (format!("deploy {deploy}"), "drained"));
    assert!(fleet.balancer("lb1").haproxy().shows("c2").await.starts_with("DRAIN"));
    let alarms = fleet.main().status().await.alarms;
    assert!(alarms.iter().any(|alarm| alarm.contains("until it serves what is committed")), "{alarms:?}");

    fleet.node("c2").start().await.unwrap();
    fleet.node("c2").until_serves("production", digest_of(&ended)).await;
    fleet.main().until_balanced("c2", "in service").await;
    assert_eq!(fleet.main().status().await.alarms, Vec::<String>::new());
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_a_deploy_that_would_need_the_last_compiler_out_of_service_is_abandoned_everywhere() {
    let mut fleet = Fleet::new().nodes(2).controller(|config| config.deploy.unreachable_s = 1).up().await;
    fleet.add_balancer("lb1", &["c2"]).await;
    fleet.deploy_change("production", "old").await;
    fleet.main().until_balanced("c2", "in service").await;
    fleet.node("c2").stop().await;
    fleet.main().until_gone("c2").await;
    fleet.push("production", &[("manifests/site.pp", "# new\n")]);
    let deploy = fleet.main().ask_deploy("production").await.unwrap();
    let ended = fleet.main().until_ended(deploy).await;
    assert_eq!(ended.phase, "abandoned", "{ended:#?}");
    assert!(ended.reason.contains("c2 cannot be drained: without c2"), "{}", ended.reason);
    assert!(fleet.balancer("lb1").haproxy().shows("c2").await.starts_with("UP"));
    fleet.end().await;
}
