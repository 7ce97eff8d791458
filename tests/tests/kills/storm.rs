//! Kills at random instants during a stream of pushes.

use std::time::{Duration, Instant};

use super::{
    Case,
    world::{ENVIRONMENT, NODES, World},
};

const STORM: Duration = Duration::from_secs(20);
/// The longest calm between two blows, in milliseconds.
const CALM: u64 = 250;

pub(crate) fn cases() -> Vec<Case> {
    vec![Case::new(
        "f1 f2 a storm of kills during a stream of pushes ends with the newest push everywhere",
        storm(),
    )]
}

/// SplitMix64: the same seed, the same storm, as far as the machine's timing lets it be.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}

async fn storm() {
    let seed = std::env::var("SEED").ok().map(|text| text.parse().unwrap());
    let seed: u64 = seed.unwrap_or_else(|| getrandom::u64().unwrap());
    println!("storm: SEED={seed}");
    let mut random = Random(seed);
    let mut world = World::with_a_live().await;
    let (mut pushes, mut kills, mut acknowledged) = (0, 0, Vec::new());
    let until = Instant::now() + STORM;
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(random.below(CALM))).await;
        match random.below(5) {
            0 | 1 => {
                pushes += 1;
                let asked = world.ask_for(&format!("push {pushes}")).await;
                acknowledged.extend(asked.map(|deploy| (deploy, pushes)));
            }
            who => {
                kills += 1;
                let who = ["controller", NODES[0], NODES[1]][who as usize - 2];
                blow(&mut world, who, &mut random).await;
            }
        }
    }
    println!("storm: {kills} kills, {pushes} pushes, {} acknowledged", acknowledged.len());

    world.until_controller_answers().await;
    let requested = world.journal().await.requested();
    for (deploy, push) in &acknowledged {
        assert!(requested.contains(deploy), "I6: deploy {deploy} (push {push}) was acknowledged and is lost");
    }
    for deploy in requested {
        world.main().until_ended(deploy).await;
    }
    if let Some((deploy, push)) = acknowledged.last() {
        let ended = world.main().show_deploy(*deploy).await;
        assert!(["live", "unchanged"].contains(&ended.phase.as_str()), "I4: push {push}: {ended:#?}");
    }
    let last = world.main().ask_deploy(ENVIRONMENT).await.unwrap();
    let last = world.main().until_ended(last).await;
    assert!(["live", "unchanged"].contains(&last.phase.as_str()), "I7: {last:#?}");
    world.until_all_serve(last.snapshot.parse().unwrap()).await;
    for node in NODES {
        let serves = world.node(node).read(ENVIRONMENT, "manifests/site.pp");
        assert_eq!(serves, format!("# push {pushes}\n"), "I4: the newest push is served");
    }
    world.ends_whole().await;
    world.end().await;
}

/// Kills it, and starts it again after a while.
async fn blow(world: &mut World, who: &str, random: &mut Random) {
    world.kill(who);
    tokio::time::sleep(Duration::from_millis(random.below(CALM))).await;
    world.spawn(who, None);
}
