//! F11: wall clocks that are wrong, and wall clocks that jump during a deploy or a rollout.

use std::{
    fs::{self, File},
    time::{Duration, Instant},
};

use bunraku_agent::identity::enroll_with_token;
use bunraku_common::{Chain, NodeName};
use bunraku_proto::v1;
use bunraku_tests::fleet::{MainServer, left, restart, until};
use zeroize::Zeroizing;

use super::{
    Case,
    rollouts::{nothing_is_left, until_in_service},
    world::{BALANCER, ENVIRONMENT, NODES, World},
};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;
const JUMPS: [(&str, i64); 4] =
    [("an hour ahead", HOUR), ("an hour back", -HOUR), ("a year ahead", YEAR), ("a year back", -YEAR)];
/// More than this many renewals in one short test is a loop. One for each connection that is made is not.
const RENEWALS: usize = 4;
/// Long enough for a jump in the middle, in seconds.
const BAKE: u64 = 3;

const AGENTS: [&str; 3] = ["c1", "c2", BALANCER];
const PROCESSES: [&str; 4] = ["controller", BALANCER, "c1", "c2"];

pub(crate) fn cases() -> Vec<Case> {
    let of_the_controller = JUMPS.map(|(jump, off)| {
        let name =
            format!("f11_the_controllers_clock_jumps_{jump}_during_a_deploy_and_it_neither_ends_nor_hangs");
        Case::new(name.replace(' ', "_"), the_controllers_clock_jumps(off))
    });
    let of_an_agent = JUMPS.map(|(jump, off)| {
        let name = format!("f11_an_agents_clock_jumps_{jump}_during_a_deploy_and_it_neither_ends_nor_hangs");
        Case::new(name.replace(' ', "_"), an_agents_clock_jumps(off))
    });
    let of_rollouts = JUMPS.into_iter().flat_map(|(jump, off)| {
        [("the_controllers_clock_jumps", ["controller"].as_slice()), ("the_agents_clocks_jump", &AGENTS)].map(
            |(whose, who)| {
                let name = format!("f11_{whose}_{jump}_during_a_rollout_and_no_deadline_of_it_comes_early");
                Case::new(name.replace(' ', "_"), a_rollout_meets_a_jump(who, off))
            },
        )
    });
    let of_rollouts = of_rollouts.chain([Case::new(
        "f11_a_controller_that_starts_four_minutes_ahead_during_a_bake_begins_it_anew",
        a_bake_begins_anew(),
    )]);
    let served = [("an_hour_ahead", HOUR), ("four_minutes_behind", -240)].map(|(how, off)| {
        Case::new(format!("f11_an_agent_{how}_is_served_and_an_alarm_names_it"), served_with_an_alarm(off))
    });
    let refused =
        [("a_year_ahead", YEAR), ("a_year_behind", -YEAR), ("an_hour_behind", -HOUR)].map(|(how, off)| {
            let name =
                format!("f11_an_agent_{how}_says_that_clocks_differ_and_is_back_when_its_clock_is_right");
            Case::new(name, refused_until_mended(off))
        });
    let others = [
        Case::new("f11_an_agent_a_month_ahead_does_not_renew_all_the_time", a_month_ahead()),
        Case::new("f11_a_deploy_that_fails_because_of_a_nodes_clock_says_so", a_deploy_blames_the_clock()),
        Case::new(
            "f11_a_controller_that_starts_a_year_ahead_has_all_nodes_back_when_its_clock_is_right",
            controller_starts(YEAR),
        ),
        Case::new(
            "f11_a_controller_that_starts_a_year_behind_has_all_nodes_back_when_its_clock_is_right",
            controller_starts(-YEAR),
        ),
    ];
    of_the_controller
        .into_iter()
        .chain(of_an_agent)
        .chain(of_rollouts)
        .chain(served)
        .chain(refused)
        .chain(others)
        .collect()
}

/// `A` is live everywhere, and everybody has a clock of its own, which is right.
async fn world() -> World {
    let mut world = World::with_a_live().await;
    for who in ["controller", "c1", "c2"] {
        world.kill(who);
        world.set_clock(who, 0);
    }
    for who in ["controller", "c1", "c2"] {
        world.start(who, None).await;
    }
    world
}

/// The commit of `B` on `c1` waits for its lock, which a `code-id` holds, for as long as the test wants.
async fn committing(world: &World) -> (u64, File) {
    let lock = world.node("c1").config().data_dir.join("locks").join(format!("{ENVIRONMENT}.lock"));
    let lock = File::options().create(true).truncate(false).write(true).open(lock).unwrap();
    lock.lock_shared().unwrap();
    let deploy = world.ask_for("B").await.unwrap();
    until("c2 is proven", || async { world.journal().await.count("node-proven") == 3 }).await;
    (deploy, lock)
}

async fn goes_live(mut world: World, deploy: u64, lock: File) {
    assert_eq!(world.main().show_deploy(deploy).await.phase, "committing", "a jump ends no deadline");
    assert_eq!(world.node("c1").live(ENVIRONMENT), world.old, "c1 waits");
    drop(lock);
    let new = world.until_live(deploy).await;
    world.until_all_serve(new).await;
    assert_eq!(world.flushes(), [1, 1], "I5: each node swaps and flushes once");
    for who in ["controller", "c1", "c2"] {
        world.set_clock(who, 0);
    }
    world.holds(new).await;
}

async fn token(main: &MainServer) -> Zeroizing<String> {
    let request = v1::CreateTokenRequest { node: "lb".into(), roles: vec!["load-balancer".into()], ttl_s: 0 };
    Zeroizing::new(main.client().create_token(request).await.unwrap().into_inner().token)
}

/// A request is answered when everything that looks at deadlines had its turn.
async fn a_turn_of_the_controller(world: &World) {
    let request = v1::RevokeOperatorRequest { name: "nobody".into() };
    let refused = world.main().client().revoke_operator(request).await.unwrap_err();
    assert!(refused.message().contains("nobody"), "the engine was asked: {refused}");
}

async fn enrol(main: &MainServer, token: &Zeroizing<String>) -> Result<(), String> {
    let name = NodeName::parse("lb").unwrap();
    let enrolled = enroll_with_token(&main.address().to_string(), main.pin(), token, &name).await;
    enrolled.map(drop).map_err(|error| Chain(&error).to_string())
}

async fn alarms(world: &World) -> String {
    world.main().status().await.alarms.join("\n")
}

async fn the_controllers_clock_jumps(off: i64) {
    let mut world = world().await;
    let (deploy, lock) = committing(&world).await;
    let token = token(world.main()).await;
    world.set_clock("controller", off);
    let told = alarms(&world).await;
    assert!(told.contains("the clock jumped by") && told.contains("hint: set the clock right"), "{told}");
    let refused = enrol(world.main(), &token).await.unwrap_err();
    assert!(
        refused.contains("clock jumped by") && refused.contains("no certificates are issued"),
        "{refused}"
    );
    makes_no_tokens(world.main()).await;
    assert_eq!(world.main().show_deploy(deploy).await.phase, "committing", "a jump ends no deadline");
    world.set_clock("controller", 0);
    assert_eq!(alarms(&world).await, "", "the clock is right again");
    enrol(world.main(), &token).await.expect("a refusal costs no token");
    world.set_clock("controller", off);
    a_turn_of_the_controller(&world).await;
    goes_live(world, deploy, lock).await;
}

/// As `world`, behind a balancer.
async fn balanced() -> World {
    let mut world = World::balanced().await;
    for who in PROCESSES {
        world.kill(who);
        world.set_clock(who, 0);
    }
    for who in PROCESSES {
        world.start(who, None).await;
    }
    until_in_service(&world).await;
    world
}

/// Back and forth: while a compiler drains, which a Puppet agent's connection makes last, and while it bakes.
async fn a_rollout_meets_a_jump(who: &'static [&'static str], off: i64) {
    let mut world = balanced().await;
    // By turns: each compiler has one.
    let sessions = [world.session().await, world.session().await];
    let request = v1::RolloutRequest { bake_s: Some(BAKE), ..restart() };
    world.main().start_rollout(request).await.unwrap();
    until("c1 is out", || async { world.in_service().await == 1 }).await;
    who.iter().for_each(|who| world.set_clock(who, off));
    a_turn_of_the_controller(&world).await;
    assert_eq!(world.main().until_turn(1, "c1", "draining").await.reason, "", "a jump ends no deadline");
    let emptied = Instant::now();
    drop(sessions);
    world.main().until_turn(1, "c1", "baking").await;
    who.iter().for_each(|who| world.set_clock(who, 0));
    a_turn_of_the_controller(&world).await;
    who.iter().for_each(|who| world.set_clock(who, -off));
    world.main().until_turn(1, "c1", "done").await;
    assert!(emptied.elapsed() >= Duration::from_secs(BAKE), "a jump ends no bake");
    world.main().until_rollout(1, "done").await;
    assert_eq!(NODES.map(|node| left(world.node(node), "did")), [["start"], ["start"]], "I5");
    let journal = world.journal().await;
    assert_eq!(["turn-moved", "balance-wanted"].map(|fact| journal.count(fact)), [18, 4], "each step once");
    who.iter().for_each(|who| world.set_clock(who, 0));
    nothing_is_left(world).await;
}

/// Regression: what the clock had jumped by counted as bake, and so did any time in which no controller ran.
async fn a_bake_begins_anew() {
    let mut world = balanced().await;
    let request = v1::RolloutRequest { bake_s: Some(BAKE), nodes: vec!["c1".to_owned()], ..restart() };
    world.main().start_rollout(request).await.unwrap();
    world.main().until_turn(1, "c1", "baking").await;
    world.kill("controller");
    // Not too far off for the agents, and longer than the bake.
    world.set_clock("controller", 240);
    // The bake begins when the controller does, which is before anybody can see that it runs.
    let again = Instant::now();
    world.start("controller", None).await;
    until_in_service(&world).await;
    world.main().until_rollout(1, "done").await;
    assert!(again.elapsed() >= Duration::from_secs(BAKE), "it was in service for {:?}", again.elapsed());
    world.set_clock("controller", 0);
    nothing_is_left(world).await;
}

/// Regression: a token that was made by a clock a year ahead stayed good for that year.
async fn makes_no_tokens(main: &MainServer) {
    let known = main.client().list_tokens(v1::ListTokensRequest {}).await.unwrap().into_inner().tokens.len();
    let node = v1::CreateTokenRequest { node: "c9".into(), roles: vec!["compiler".into()], ttl_s: 0 };
    let operator = v1::AddOperatorRequest { name: "ann".into(), right: "viewer".into() };
    let refused =
        [main.client().create_token(node).await.err(), main.client().add_operator(operator).await.err()];
    for refused in refused {
        let refused = refused.expect("no token is made by a clock in doubt");
        let why = refused.message();
        assert!(why.contains("clock jumped by") && why.contains("no tokens are made"), "{why}");
        assert!(why.contains("hint: set the clock right"), "{why}");
    }
    let now = main.client().list_tokens(v1::ListTokensRequest {}).await.unwrap().into_inner().tokens.len();
    assert_eq!(known, now);
}

async fn an_agents_clock_jumps(off: i64) {
    let mut world = world().await;
    let (deploy, lock) = committing(&world).await;
    world.set_clock("c1", off);
    world.set_clock("c2", -off);
    a_turn_of_the_controller(&world).await;
    goes_live(world, deploy, lock).await;
}

async fn served_with_an_alarm(off: i64) {
    let mut world = World::with_a_live().await;
    world.kill("c1");
    world.main().until_gone("c1").await;
    world.set_clock("c1", off);
    world.start("c1", None).await;
    let told = alarms(&world).await;
    let way = if off > 0 { "ahead of the controller's" } else { "behind the controller's" };
    assert!(told.contains("the clock of c1 is ") && told.contains(way) && told.contains("hint: "), "{told}");
    let new = world.deploy("B").await;
    world.until_all_serve(new).await;
    world.kill("c1");
    world.main().until_gone("c1").await;
    world.set_clock("c1", 0);
    world.start("c1", None).await;
    assert_eq!(alarms(&world).await, "", "the clock is right again");
    world.holds(new).await;
}

/// It goes on serving what it has, says why it gets no further, and needs nobody once its clock is right.
async fn refused_until_mended(off: i64) {
    let mut world = World::with_a_live().await;
    world.kill("c1");
    world.main().until_gone("c1").await;
    world.set_clock("c1", off);
    world.spawn("c1", None);
    until_it_blames_clocks(&world, "c1").await;
    assert!(!world.main().node("c1").await.connected);
    world.nothing_has_changed();
    world.set_clock("c1", 0);
    world.main().until_connected("c1").await;
    let new = world.deploy("B").await;
    world.holds(new).await;
}

async fn until_it_blames_clocks(world: &World, node: &str) {
    until(&format!("{node} says that clocks differ"), || async {
        let said = fs::read_to_string(world.log(node)).unwrap_or_default();
        said.lines().any(|line| line.contains("by this host's clock") && line.contains("hint: "))
    })
    .await;
}

/// Regression: the deploy's reason was no more than that a TLS handshake had failed.
async fn a_deploy_blames_the_clock() {
    let mut world = world().await;
    // It is connected, and has not fetched anything yet: the next connection is judged by the wrong clock.
    world.set_clock("c1", YEAR);
    let id = world.ask_for("B").await.unwrap();
    let deploy = world.main().until_ended(id).await;
    assert_eq!(deploy.phase, "abandoned", "{deploy:#?}");
    assert!(deploy.reason.contains("c1") && deploy.reason.contains("by this host's clock"), "{deploy:#?}");
    assert!(deploy.hint.contains("date -u"), "{deploy:#?}");
    world.nothing_has_changed();
    world.set_clock("c1", 0);
    let again = world.main().ask_deploy(ENVIRONMENT).await.unwrap();
    let new = world.until_live(again).await;
    world.holds(new).await;
}

/// By its own clock its certificate has ended, and so has each new one.
async fn a_month_ahead() {
    let mut world = World::with_a_live().await;
    world.kill("c1");
    world.main().until_gone("c1").await;
    world.set_clock("c1", 30 * DAY);
    world.start("c1", None).await;
    let told = alarms(&world).await;
    assert!(told.contains("the clock of c1 is ") && told.contains("ahead of the controller's"), "{told}");
    let new = world.deploy("B").await;
    world.until_all_serve(new).await;
    let renewals = world.journal().await.renewals();
    assert!(renewals > 0, "by its clock each certificate has ended");
    assert!(renewals <= RENEWALS, "{renewals} renewals: each costs a record of the journal");
    world.set_clock("c1", 0);
    world.holds(new).await;
}

async fn controller_starts(off: i64) {
    let mut world = world().await;
    world.kill("controller");
    world.set_clock("controller", off);
    world.start("controller", None).await;
    for node in NODES {
        until_it_blames_clocks(&world, node).await;
    }
    world.nothing_has_changed();
    world.kill("controller");
    world.set_clock("controller", 0);
    world.start("controller", None).await;
    for node in NODES {
        world.main().until_connected(node).await;
    }
    let new = world.deploy("B").await;
    world.holds(new).await;
}
