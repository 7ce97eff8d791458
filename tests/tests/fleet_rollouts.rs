//! Rollouts over real mTLS and a real HAProxy, with compilers that play their parts: what the controller orders, when, and
//! what operators see of it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use bunraku_proto::v1::{self, action::Kind};
use bunraku_tests::fleet::{Actor, Fleet, restart, three_actors, turn, until};
use tonic::Code;

const COMPILERS: [&str; 3] = ["c1", "c2", "c3"];

/// The least number of compilers that HAProxy ever showed up while `during` lasted.
async fn fewest_in_service<T>(fleet: &Fleet, during: impl Future<Output = T>) -> (usize, T) {
    let (fewest, looks, over) =
        (AtomicUsize::new(usize::MAX), AtomicUsize::new(0), Arc::new(AtomicBool::new(false)));
    let watch = async {
        while !over.load(Ordering::Relaxed) {
            fewest.fetch_min(fleet.balancer("lb1").haproxy().up().await, Ordering::Relaxed);
            looks.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let during = async {
        let done = during.await;
        over.store(true, Ordering::Relaxed);
        done
    };
    let ((), done) = tokio::join!(watch, during);
    assert!(looks.into_inner() > 10);
    (fewest.into_inner(), done)
}

fn actions(id: u64, reason: &str) -> (v1::PauseRolloutRequest, v1::AbortRolloutRequest) {
    let reason = || reason.to_owned();
    (v1::PauseRolloutRequest { id, reason: reason() }, v1::AbortRolloutRequest { id, reason: reason() })
}

fn of_node(id: u64, node: &str) -> v1::TurnRequest {
    v1::TurnRequest { id, node: node.to_owned() }
}

#[tokio::test(flavor = "multi_thread")]
async fn i3_i5_a_rolling_restart_takes_out_one_after_the_other_does_each_once_and_leaves_nothing_behind() {
    let (fleet, actors) = three_actors().await;
    actors[1].goes_on("act", "puppetserver.service restarts");
    let plan = fleet.main().client().plan_rollout(restart()).await.unwrap().into_inner();
    let waves: Vec<_> = plan.waves.iter().map(|wave| wave.nodes.join(" ")).collect();
    assert_eq!((waves.join(", ").as_str(), plan.blocks.len()), ("c1, c2, c3", 0));
    let (fewest, ended) = fewest_in_service(&fleet, async {
        let id = fleet.main().start_rollout(restart()).await.unwrap();
        fleet.main().until_turn(id, "c2", "acting").await;
        let balance = fleet.main().at_balancers("c2").await;
        assert_eq!((balance.owner.as_str(), balance.state.as_str()), ("rollout 1", "drained"));
        assert!(fleet.balancer("lb1").haproxy().shows("c2").await.starts_with("DRAIN"));
        let status = fleet.main().status().await;
        assert_eq!((status.rollouts.len(), status.rollouts[0].phase.as_str()), (1, "running"));
        let shown = fleet.main().node("c2").await.turn;
        assert!(
            shown.starts_with("acting in rollout 1 (restart), waits for the end of its restart"),
            "{shown}"
        );
        actors[1].goes_well("act");
        fleet.main().until_rollout(id, "done").await
    })
    .await;
    assert_eq!(fewest, 2, "I3");
    assert!(ended.turns.iter().all(|turn| turn.phase == "done"), "{ended:#?}");
    for actor in &actors {
        let (name, times) = (actor.name(), |what| actor.times(what));
        let done = ["prepare", "hold", "act", "verify", "release"].map(times);
        assert_eq!(done, [1, 1, 1, 1, 1], "I5: {name}");
        assert_eq!(actor.orders("act")[0].subject, format!("turn {name}"));
        assert_eq!(actor.orders("hold")[0].owner, "rollout 1");
        fleet.main().until_balanced(name, "in service").await;
    }
    assert!(actors[1].orders("act").len() > 1, "it was asked again under the same number");
    let texts: Vec<String> = fleet.main().events_after(0).await.into_iter().map(|event| event.text).collect();
    assert!(texts.contains(&"root started rollout 1: restart of c1, c2, c3".to_owned()), "{texts:#?}");
    assert!(texts.contains(&"rollout 1: c2 is acting".to_owned()), "{texts:#?}");
    assert_eq!(texts.last().unwrap(), "rollout 1 ended: done");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_goes_on_is_asked_again_under_the_same_number_and_its_words_are_shown_and_made_plain() {
    let (fleet, [c1, _c2, _c3]) = three_actors().await;
    c1.goes_on("hold", "a Puppet run goes on since 12:03:11\x1b[2J");
    let id = fleet.main().start_rollout(restart()).await.unwrap();
    until("c1 is asked three times", || async { c1.orders("hold").len() >= 3 }).await;
    assert_eq!(c1.times("hold"), 1, "{:#?}", c1.orders("hold"));
    let shown = fleet.main().until_turn(id, "c1", "settling").await;
    assert_eq!(shown.says, "a Puppet run goes on since 12:03:11\u{fffd}[2J", "T6");
    assert!(shown.waits_for.starts_with("for its own Puppet agent"), "{shown:#?}");
    assert!(shown.waits_until_ms > 0 && shown.then.starts_with("the turn fails"), "{shown:#?}");
    c1.notes("hold", "it was disabled already: by hand");
    fleet.main().until_turn(id, "c1", "done").await;
    let shown = turn(&fleet.main().rollout(id).await, "c1").clone();
    assert_eq!(shown.notes, ["it was disabled already: by hand"]);
    fleet.main().until_rollout(id, "done").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_asked_whether_it_is_idle_unless_a_turn_is_open_or_a_drain_is_young() {
    let (fleet, actors) = three_actors().await;
    until("the balancers were seen", || async { !fleet.main().at_balancers("c1").await.state.is_empty() })
        .await;
    actors[0].is_idle(v1::IdleReply { connections: 2, jrubies: 4, jrubies_free: 3, ..Default::default() });
    assert_eq!(actors.each_ref().map(Actor::questions), [0, 0, 0]);
    let id = fleet.main().start_rollout(restart()).await.unwrap();
    until("c1 is waited for", || async {
        turn(&fleet.main().rollout(id).await, "c1").waits_for
            == "to be empty: 2 connections, 1 of 4 JRubies at work"
    })
    .await;
    assert_eq!((actors[0].times("act"), actors[1].questions(), actors[2].questions()), (0, 0, 0));
    // Not to be trusted is not idle.
    let unsure = v1::IdleReply { trouble: "ss is not there".into(), ..Default::default() };
    actors[0].is_idle(unsure);
    until("the doubt is shown", || async {
        turn(&fleet.main().rollout(id).await, "c1").says == "whether it is idle is not known: ss is not there"
    })
    .await;
    assert_eq!(actors[0].times("act"), 0);
    actors[0].is_idle(v1::IdleReply::default());
    fleet.main().until_rollout(id, "done").await;
    let asked = actors.each_ref().map(Actor::questions);
    assert!(asked.iter().all(|asked| *asked > 0), "{asked:?}");
    // Longer than the pause between two questions, and nothing to wait for.
    let head = fleet.main().audit().await.len();
    tokio::time::sleep(Duration::from_millis(2500)).await;
    assert_eq!((actors.each_ref().map(Actor::questions), fleet.main().audit().await.len()), (asked, head));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_rollout_over_the_same_compilers_is_refused_with_the_number_of_the_first() {
    let (fleet, [c1, _c2, _c3]) = three_actors().await;
    c1.goes_on("prepare", "it looks");
    let only = |node: &str| v1::RolloutRequest { nodes: vec![node.into()], ..restart() };
    let first = fleet.main().start_rollout(only("c1")).await.unwrap();
    let refused = fleet.main().start_rollout(restart()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused
            .message()
            .contains(&format!("c1 is part of rollout {first}\nhint: bunraku rollout show {first}"))
    );
    let plan = fleet.main().client().plan_rollout(restart()).await.unwrap().into_inner();
    assert_eq!(plan.blocks.len(), 1, "{plan:#?}");
    let second = fleet.main().start_rollout(only("c2")).await.unwrap();
    fleet.main().until_rollout(second, "done").await;
    c1.goes_well("prepare");
    fleet.main().until_rollout(first, "done").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_lets_the_open_turn_end_and_two_operators_have_their_names_on_what_they_did() {
    let (fleet, [c1, c2, _c3]) = three_actors().await;
    let (mut alice, mut bob) =
        (fleet.main().operator("alice", "operator").await, fleet.main().operator("bob", "operator").await);
    let mut eve = fleet.main().operator("eve", "viewer").await;
    assert_eq!(eve.start_rollout(restart()).await.unwrap_err().code(), Code::PermissionDenied);
    eve.plan_rollout(restart()).await.unwrap();
    c1.goes_on("act", "it restarts");
    let id = alice.start_rollout(restart()).await.unwrap().into_inner().id;
    let (pause, abort) = actions(id, "lunch");
    assert_eq!(eve.pause_rollout(pause.clone()).await.unwrap_err().code(), Code::PermissionDenied);
    fleet.main().until_turn(id, "c1", "acting").await;
    let paused = bob.pause_rollout(pause).await.unwrap().into_inner();
    assert_eq!((paused.phase.as_str(), paused.reason.as_str()), ("paused", "bob: lunch"));
    assert_eq!(paused.next, format!("bunraku rollout resume {id}"));
    c1.goes_well("act");
    fleet.main().until_turn(id, "c1", "done").await;
    fleet.main().until_balanced("c1", "in service").await;
    assert_eq!((fleet.main().rollout(id).await.phase.as_str(), c2.orders("prepare").len()), ("paused", 0));
    alice.resume_rollout(v1::ResumeRolloutRequest { id }).await.unwrap();
    fleet.main().until_rollout(id, "done").await;
    let refused = bob.abort_rollout(abort).await.unwrap_err();
    assert!(refused.message().contains(&format!("rollout {id} has ended: done")), "{refused}");
    let audit = fleet.main().audit().await;
    let who = |kind: &str| audit.iter().find(|record| record.kind == kind).map(|record| record.who.as_str());
    let names = ["rollout-started", "rollout-paused", "rollout-resumed"].map(who);
    assert_eq!(names, [Some("alice"), Some("bob"), Some("alice")], "I12");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i7_an_abort_while_a_compiler_is_drained_brings_it_back_unchanged_and_touches_no_other() {
    let (fleet, actors) = three_actors().await;
    let haproxy = fleet.balancer("lb1").haproxy();
    // One of each compiler: the drain cannot end.
    let sessions = [haproxy.session().await, haproxy.session().await, haproxy.session().await];
    let id = fleet.main().start_rollout(restart()).await.unwrap();
    until("c1 is waited for", || async {
        turn(&fleet.main().rollout(id).await, "c1").waits_for.contains("sessions are open at the balancers")
    })
    .await;
    fleet.main().client().abort_rollout(actions(id, "wrong night").1).await.unwrap();
    let ended = fleet.main().until_rollout(id, "aborted").await;
    assert_eq!(ended.reason, "root: wrong night");
    assert!(ended.turns.iter().all(|turn| turn.phase == "skipped"), "{ended:#?}");
    for actor in &actors {
        assert_eq!(actor.times("act"), 0);
        fleet.main().until_balanced(actor.name(), "in service").await;
    }
    assert_eq!((actors[0].times("release"), fleet.main().status().await.alarms), (1, Vec::new()));
    drop(sessions);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn by_force_haproxy_closes_the_sessions_of_a_compiler_before_it_is_changed_and_those_of_no_other() {
    let (fleet, actors) = three_actors().await;
    let haproxy = fleet.balancer("lb1").haproxy();
    // One of each compiler, in this order or another.
    let mut sessions = [haproxy.session().await, haproxy.session().await, haproxy.session().await];
    actors[0].goes_on("act", "it restarts");
    let forced =
        v1::RolloutRequest { drain_deadline_s: Some(1), on_drain_deadline: "force".into(), ..restart() };
    let only_c1 = v1::RolloutRequest { nodes: vec!["c1".into()], ..forced };
    let id = fleet.main().start_rollout(only_c1).await.unwrap();
    let began = std::time::Instant::now();
    let acting = fleet.main().until_turn(id, "c1", "acting").await;
    assert!(began.elapsed() < Duration::from_secs(9), "what was closed is not waited for");
    assert_eq!((haproxy.sessions("c1").await, acting.notes), (Some(0), Vec::new()));
    let mut open = 0;
    for session in &mut sessions {
        open += usize::from(serves(session).await);
    }
    assert_eq!(open, 2, "those of c2 and c3 go on");
    let texts: Vec<String> = fleet.main().events_after(0).await.into_iter().map(|event| event.text).collect();
    let moved = |phase: &str| texts.iter().position(|text| *text == format!("rollout {id}: c1 is {phase}"));
    assert!(moved("closing").is_some() && moved("closing") < moved("acting"), "{texts:#?}");
    actors[0].goes_well("act");
    fleet.main().until_rollout(id, "done").await;
    fleet.main().until_balanced("c1", "in service").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_nginx_a_held_connection_delays_the_restart_until_it_ends_and_new_ones_go_elsewhere() {
    let mut fleet = Fleet::new().nodes(0).up().await;
    let actors = [fleet.add_actor("c1").await, fleet.add_actor("c2").await];
    fleet.add_nginx("lb1", &[&actors[0], &actors[1]]).await;
    let mut held = fleet.balancer("lb1").nginx().session().await;
    while fleet.held("c1") == 0 {
        held = fleet.balancer("lb1").nginx().session().await;
    }
    until("c1 alone holds one", || async { (fleet.held("c1"), fleet.held("c2")) == (1, 0) }).await;
    let id = fleet.main().start_rollout(restart()).await.unwrap();
    until("c1 is waited for", || async {
        turn(&fleet.main().rollout(id).await, "c1").waits_for.starts_with("to be empty: 1 connection,")
    })
    .await;
    let new = fleet.balancer("lb1").nginx().session().await;
    assert_eq!((fleet.held("c1"), fleet.held("c2")), (1, 1));
    drop(new);
    assert!(serves(&mut held).await, "the reload left it alone");
    assert_eq!(
        (turn(&fleet.main().rollout(id).await, "c1").phase.as_str(), actors[0].times("act")),
        ("draining", 0)
    );
    drop(held);
    fleet.main().until_rollout(id, "done").await;
    for actor in &actors {
        assert_eq!(actor.times("act"), 1, "{}", actor.name());
        fleet.main().until_balanced(actor.name(), "in service").await;
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_nginx_force_notes_that_no_session_can_be_closed_and_goes_on() {
    let mut fleet = Fleet::new().nodes(0).up().await;
    let actors = [fleet.add_actor("c1").await, fleet.add_actor("c2").await];
    fleet.add_nginx("lb1", &[&actors[0], &actors[1]]).await;
    actors[0].is_idle(v1::IdleReply { connections: 1, ..Default::default() });
    let forced =
        v1::RolloutRequest { drain_deadline_s: Some(1), on_drain_deadline: "force".into(), ..restart() };
    let only_c1 = v1::RolloutRequest { nodes: vec!["c1".into()], ..forced };
    let id = fleet.main().start_rollout(only_c1).await.unwrap();
    let ended = fleet.main().until_rollout(id, "done").await;
    let note = "lb1 did not close its sessions: nginx cannot close the sessions of puppet/c1";
    assert_eq!((turn(&ended, "c1").notes.join(", ").as_str(), actors[0].times("act")), (note, 1));
    fleet.end().await;
}

/// Whether the compiler at the other end answers.
async fn serves(session: &mut tokio::net::TcpStream) -> bool {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    session.write_all(b"x").await.is_ok() && session.read_exact(&mut [0]).await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_a_compiler_that_fails_halts_the_rollout_with_an_alarm_until_it_is_retried_or_skipped() {
    let (fleet, [c1, c2, c3]) = three_actors().await;
    c1.fails("prepare", "conf.d/web.conf: line 3 is no HOCON");
    let id = fleet.main().start_rollout(restart()).await.unwrap();
    let halted = fleet.main().until_rollout(id, "paused").await;
    assert_eq!(turn(&halted, "c1").reason, "conf.d/web.conf: line 3 is no HOCON");
    assert!(halted.next.starts_with(&format!("bunraku rollout retry {id} c1")), "{halted:#?}");
    assert_eq!((c1.times("act"), c2.orders("prepare").len()), (0, 0));

    c1.goes_well("prepare");
    c1.fails("act", "the restart failed");
    fleet.main().client().retry_turn(of_node(id, "c1")).await.unwrap();
    until("c1 has failed again", || async {
        turn(&fleet.main().rollout(id).await, "c1").reason.starts_with("the restart failed")
    })
    .await;
    let halted = fleet.main().until_rollout(id, "paused").await;
    assert!(turn(&halted, "c1").drained, "{halted:#?}");
    let alarms = fleet.main().status().await.alarms;
    assert!(
        alarms.iter().any(|alarm| alarm.contains("c1 stays out of service, and rollout 1 is paused")),
        "{alarms:#?}"
    );
    assert_eq!(fleet.main().at_balancers("c1").await.owner, "rollout 1");

    // It is healthy by now.
    fleet.main().client().skip_turn(of_node(id, "c1")).await.unwrap();
    fleet.main().until_turn(id, "c1", "skipped").await;
    fleet.main().until_balanced("c1", "in service").await;
    c3.fails("verify", "puppetserver.service is failed");
    fleet.main().client().resume_rollout(v1::ResumeRolloutRequest { id }).await.unwrap();
    let stuck = fleet.main().until_turn(id, "c3", "verifying").await;
    until("its words are shown", || async {
        turn(&fleet.main().rollout(id).await, "c3").says == "puppetserver.service is failed"
    })
    .await;
    assert!(stuck.then.contains("it stays drained"), "{stuck:#?}");
    c3.goes_well("verify");
    fleet.main().until_rollout(id, "done").await;
    assert_eq!((c1.times("act"), c2.times("act"), c3.times("act")), (1, 1, 1));
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_that_left_everything_as_it_was_ends_with_the_compiler_in_service() {
    let (fleet, [c1, _c2, _c3]) = three_actors().await;
    c1.fails_in_vain("act", "the new configuration was refused, and the old one put back");
    let id = fleet.main().start_rollout(restart()).await.unwrap();
    let halted = fleet.main().until_rollout(id, "paused").await;
    let failed = turn(&halted, "c1");
    assert_eq!(failed.reason, "the new configuration was refused, and the old one put back");
    assert_eq!((failed.drained, c1.times("verify"), c1.times("release")), (false, 1, 1));
    fleet.main().until_balanced("c1", "in service").await;
    assert_eq!(fleet.main().status().await.alarms, Vec::<String>::new());
    fleet.main().client().abort_rollout(actions(id, "mend it first").1).await.unwrap();
    fleet.main().until_rollout(id, "aborted").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i5_a_controller_that_restarts_in_the_middle_asks_for_the_same_and_goes_on() {
    let (mut fleet, [c1, c2, c3]) = three_actors().await;
    c2.goes_on("act", "it restarts");
    let id = fleet.main().start_rollout(restart()).await.unwrap();
    fleet.main().until_turn(id, "c2", "acting").await;
    until("c2 was ordered", || async { !c2.orders("act").is_empty() }).await;
    let before = c2.orders("act").pop().unwrap();
    fleet.main_mut().restart().await;
    assert!(fleet.balancer("lb1").haproxy().shows("c2").await.starts_with("DRAIN"), "I9");
    until("c2 is ordered anew", || async { c2.orders("act").pop().unwrap().term > before.term }).await;
    assert_eq!((c2.orders("act").pop().unwrap().generation, c2.times("act")), (before.generation, 1));
    c2.goes_well("act");
    fleet.main().until_rollout(id, "done").await;
    assert_eq!((c1.times("act"), c2.times("act"), c3.times("act")), (1, 1, 1));
    for compiler in COMPILERS {
        fleet.main().until_balanced(compiler, "in service").await;
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_agent_of_before_rollouts_fails_its_turn_with_a_hint_and_is_not_touched() {
    let (fleet, [c1, _c2, _c3]) = three_actors().await;
    c1.is_too_old();
    let id = fleet.main().start_rollout(restart()).await.unwrap();
    let halted = fleet.main().until_rollout(id, "paused").await;
    let reason = &turn(&halted, "c1").reason;
    assert!(reason.contains("does not know the orders of a rollout (hint: "), "{reason}");
    assert_eq!(fleet.balancer("lb1").haproxy().shows("c1").await, "UP");
    fleet.main().client().abort_rollout(actions(id, "upgrade first").1).await.unwrap();
    fleet.main().until_rollout(id, "aborted").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_rolled_out_is_refused_with_a_hint_and_nothing_is_on_record() {
    let (fleet, _actors) = three_actors().await;
    let before = fleet.main().audit().await.len();
    let nodes = |pattern: &str| v1::RolloutRequest { nodes: vec![pattern.into()], ..restart() };
    let refused = fleet.main().start_rollout(nodes("nobody*")).await.unwrap_err();
    assert!(
        refused.message().contains("no compiler is called nobody*\nhint: bunraku nodes list"),
        "{refused}"
    );
    let floor = v1::RolloutRequest { min_available: 3, ..restart() };
    let refused = fleet.main().start_rollout(floor).await.unwrap_err();
    assert!(refused.message().contains("3 must stay"), "{refused}");
    for wrong in [nodes("../c1"), v1::RolloutRequest { batch: "0".into(), ..restart() }, Default::default()] {
        assert_eq!(fleet.main().start_rollout(wrong).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let unknown = fleet.main().client().show_rollout(v1::ShowRolloutRequest { id: 7 }).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let unknown = fleet.main().client().skip_turn(of_node(7, "c1")).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    let (pause, _) = actions(7, " ");
    assert_eq!(fleet.main().client().pause_rollout(pause).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(fleet.main().audit().await.len(), before, "I6");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_whose_configuration_grants_no_services_blocks_the_plan_and_the_start() {
    let mut fleet = Fleet::new().nodes(0).up().await;
    let _able = fleet.add_actor("c1").await;
    let _unable = fleet.add_able_actor("c2", &["code"]).await;
    fleet.add_balancer("lb1", &["c1", "c2"]).await;
    let plan = fleet.main().client().plan_rollout(restart()).await.unwrap().into_inner();
    let block = plan.blocks.first().unwrap();
    assert_eq!(block.reason, "c2 grants nothing that a rollout could do to its services");
    assert!(block.hint.starts_with("on c2: [services] in /etc/bunraku/agent.toml"), "{block:?}");
    let refused = fleet.main().start_rollout(restart()).await.unwrap_err();
    assert_eq!((refused.code(), plan.blocks.len()), (Code::FailedPrecondition, 1));
    let only = v1::RolloutRequest { nodes: vec!["c1".into()], ..restart() };
    let id = fleet.main().start_rollout(only).await.unwrap();
    fleet.main().until_rollout(id, "done").await;
    fleet.end().await;
}

/// An update that is judged by the numbers of its siblings, as one is where nobody says otherwise.
fn judged_update() -> v1::RolloutRequest {
    let (package, version) = ("puppetserver".to_owned(), "7.9.5-2".to_owned());
    let action = v1::Action { kind: Kind::Update.into(), package, version, ..v1::Action::default() };
    v1::RolloutRequest { action: Some(action), verdict: String::new(), ..restart() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_fares_worse_than_its_siblings_is_drained_again_and_brought_back_before_any_other_begins()
 {
    let (fleet, actors) = three_actors().await;
    actors.iter().for_each(|actor| actor.fares(30, 0));
    actors[0].fares(30, 9);
    let (fewest, paused) = fewest_in_service(&fleet, async {
        let id = fleet.main().start_rollout(judged_update()).await.unwrap();
        fleet.main().until_turn(id, "c1", "baking").await;
        actors[0].goes_on("act", "puppetserver 7.9.5-1 is installed again");
        fleet.main().until_turn(id, "c1", "reverting").await;
        assert!(fleet.balancer("lb1").haproxy().shows("c1").await.starts_with("DRAIN"));
        actors[0].goes_well("act");
        fleet.main().until_rollout(id, "paused").await
    })
    .await;
    assert_eq!(fewest, 2);
    let c1 = turn(&paused, "c1");
    assert_eq!((c1.phase.as_str(), c1.verdict.as_str(), c1.drained), ("failed", "fail", false), "{c1:#?}");
    assert!(
        c1.reason.starts_with("it fares worse than its siblings: 9 failed of 30 catalogs"),
        "{}",
        c1.reason
    );
    assert!(c1.reason.ends_with("; it was brought back to what was before"), "{}", c1.reason);
    assert_eq!((turn(&paused, "c2").phase.as_str(), turn(&paused, "c2").verdict.as_str()), ("waiting", ""));
    fleet.main().until_balanced("c1", "in service").await;
    // The next version is better.
    actors[0].fares(30, 0);
    fleet.main().client().retry_turn(of_node(paused.id, "c1")).await.unwrap();
    let done = fleet.main().until_rollout(paused.id, "done").await;
    assert!(done.turns.iter().all(|turn| turn.verdict == "pass"), "{done:#?}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nothing_is_compiled_there_is_no_verdict_and_the_rollout_waits_or_goes_on_as_asked() {
    let (fleet, _actors) = three_actors().await;
    let request = v1::RolloutRequest { bake_max_s: Some(0), ..judged_update() };
    let id = fleet.main().start_rollout(request.clone()).await.unwrap();
    let paused = fleet.main().until_rollout(id, "paused").await;
    let c1 = turn(&paused, "c1");
    assert_eq!((c1.phase.as_str(), c1.verdict.as_str()), ("done", "inconclusive"), "{c1:#?}");
    assert!(paused.reason.contains("nothing can be said of c1: 0 catalogs"), "{}", paused.reason);
    let (_, abort) = actions(id, "t");
    fleet.main().client().abort_rollout(abort).await.unwrap();
    fleet.main().until_rollout(id, "aborted").await;
    let goes_on = v1::RolloutRequest { on_inconclusive: "continue".to_owned(), ..request };
    let id = fleet.main().start_rollout(goes_on).await.unwrap();
    let done = fleet.main().until_rollout(id, "done").await;
    assert!(done.turns.iter().all(|turn| turn.verdict == "inconclusive"), "{done:#?}");
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f7_i3_a_balancer_that_is_cut_off_proves_no_drain_and_its_compiler_comes_back_when_it_is_seen_again()
{
    let (fleet, [c1, _c2, _c3]) = three_actors().await;
    c1.goes_on("hold", "a Puppet run goes on");
    let id = fleet.main().start_rollout(restart()).await.unwrap();
    until("c1 is asked to rest", || async { c1.times("hold") == 1 }).await;
    fleet.balancer("lb1").node().partition();
    fleet.main().until_gone("lb1").await;
    c1.goes_well("hold");
    let waits = |what: &'static str| {
        let fleet = &fleet;
        async move {
            until(what, || async { turn(&fleet.main().rollout(id).await, "c1").waits_for.contains(what) })
                .await;
        }
    };
    waits("lb1").await;
    assert_eq!(c1.orders("act").len(), 0, "nobody has seen it drained");
    assert!(fleet.balancer("lb1").haproxy().shows("c1").await.starts_with("UP"));

    c1.goes_on("verify", "puppetserver.service starts");
    fleet.balancer("lb1").node().reconnect();
    fleet.main().until_turn(id, "c1", "verifying").await;
    fleet.balancer("lb1").node().partition();
    fleet.main().until_gone("lb1").await;
    c1.goes_well("verify");
    fleet.main().until_turn(id, "c1", "enabling").await;
    assert!(fleet.balancer("lb1").haproxy().shows("c1").await.starts_with("DRAIN"), "nobody could enable it");
    fleet.balancer("lb1").node().reconnect();
    fleet.main().until_rollout(id, "done").await;
    assert_eq!(c1.times("act"), 1);
    fleet.main().until_balanced("c1", "in service").await;
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_a_haproxy_that_forgot_a_drain_in_the_middle_of_an_action_is_told_again_and_nobody_else_goes_out()
{
    let (mut fleet, [c1, c2, _c3]) = three_actors().await;
    c1.goes_on("act", "it restarts");
    let id = fleet.main().start_rollout(restart()).await.unwrap();
    fleet.main().until_turn(id, "c1", "acting").await;
    fleet.balancer_mut("lb1").haproxy_mut().restart_without_memory().await;
    until("the drain is asserted again", || async {
        fleet.balancer("lb1").haproxy().shows("c1").await.starts_with("DRAIN")
    })
    .await;
    assert_eq!((c1.times("act"), c2.orders("prepare").len()), (1, 0));
    c1.goes_well("act");
    let (fewest, done) = fewest_in_service(&fleet, fleet.main().until_rollout(id, "done")).await;
    assert_eq!(fewest, 2, "I3");
    assert!(done.turns.iter().all(|turn| turn.phase == "done"), "{done:#?}");
    for compiler in COMPILERS {
        fleet.main().until_balanced(compiler, "in service").await;
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f15_a_compiler_that_dies_while_it_bakes_halts_the_rollout_and_the_others_stay() {
    let (mut fleet, [c1, c2, c3]) = three_actors().await;
    let bakes = v1::RolloutRequest { bake_s: Some(300), ..restart() };
    let id = fleet.main().start_rollout(bakes).await.unwrap();
    fleet.main().until_turn(id, "c1", "baking").await;
    fleet.close_port("c1");
    let halted = fleet.main().until_rollout(id, "paused").await;
    assert_eq!(turn(&halted, "c1").reason, "it went out of service while it baked");
    assert_eq!((c1.times("act"), c2.times("act"), c3.times("act")), (1, 0, 0));
    for compiler in ["c2", "c3"] {
        fleet.main().until_balanced(compiler, "in service").await;
    }
    fleet.main().client().abort_rollout(actions(id, "look at c1").1).await.unwrap();
    fleet.main().until_rollout(id, "aborted").await;
    fleet.end().await;
}

/// Usually the main server.
#[tokio::test(flavor = "multi_thread")]
async fn a_compiler_in_no_backend_is_changed_only_undrained_and_no_balancer_hears_of_it() {
    let (fleet, [c1, _c2, _c3]) = three_actors().await;
    let main = fleet.add_actor("main").await;
    let of_main = v1::RolloutRequest { nodes: vec!["main".to_owned()], ..restart() };
    let refused = fleet.main().start_rollout(of_main.clone()).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("main is in no backend"), "{refused}");
    assert!(refused.message().ends_with("hint: add --undrained"), "{refused}");
    let all = fleet.main().client().plan_rollout(restart()).await.unwrap().into_inner();
    assert!(all.waves.iter().all(|wave| !wave.nodes.contains(&"main".to_owned())), "{all:#?}");

    let id = fleet.main().start_rollout(v1::RolloutRequest { undrained: true, ..of_main }).await.unwrap();
    let done = fleet.main().until_rollout(id, "done").await;
    let turned = ["prepare", "hold", "act", "verify", "release"].map(|what| main.times(what));
    assert_eq!((turned, c1.times("act")), ([1, 1, 1, 1, 1], 0), "{done:#?}");
    let texts: Vec<String> = fleet.main().events_after(0).await.into_iter().map(|event| event.text).collect();
    assert!(!texts.iter().any(|text| text.contains("drain")), "{texts:#?}");
    fleet.end().await;
}
