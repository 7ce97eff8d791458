//! Everything at once: faults of all kinds while deploys are asked for, then good weather (I1, I4, I5, I6, I7, I12).
//!
//! What happens is drawn from a seed that is printed; `SEED=… cargo test --test fleet_storm` draws the same again (when
//! the threads run is not drawn, so it may end differently).

use std::time::Duration;

use bunraku_tests::fleet::{Fleet, Flow, Mood, digest_of};

const ROUNDS: u64 = 40;
const NODES: u64 = 3;

/// splitmix64
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % sides
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_any_storm_every_deploy_has_ended_and_all_serve_the_newest_commit() {
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or_else(|| u64::from(std::process::id()));
    println!("SEED={seed}");
    let mut dice = Dice(seed);
    let mut fleet = Fleet::new()
        .nodes(usize::try_from(NODES).unwrap())
        .controller(|config| {
            config.deploy.unreachable_s = 1;
            config.deploy.stage_deadline_s = 3;
            config.deploy.commit_deadline_s = 2;
        })
        .up()
        .await;
    let mut asked = Vec::new();
    let mut pauses = Vec::new();
    for round in 0..ROUNDS {
        let name = format!("c{}", 1 + dice.roll(NODES));
        let what = dice.roll(14);
        println!("round {round}: {what} {name}");
        match what {
            0..=4 => {
                fleet.push("production", &[("manifests/site.pp", &format!("# {round}\n"))]);
                let request = if dice.roll(2) == 0 {
                    fleet.main().ask_deploy("production").await
                } else {
                    fleet.main().ask_skipping_deploy("production").await
                };
                asked.push(request.unwrap());
            }
            5 => fleet.node(&name).partition(),
            6 => fleet.node(&name).silence(),
            7 => {
                let slow = Flow { bytes_per_second: 2000, delay: Duration::from_millis(20), held: false };
                fleet.node(&name).link().set_flows(slow, slow);
            }
            8 => fleet.node(&name).reconnect(),
            9 => fleet.node(&name).link().flip_bits(1),
            10 => {
                let moods = [Mood::Down, Mood::Starting, Mood::Forbidding, Mood::Running];
                let mood = moods[usize::try_from(dice.roll(4)).unwrap()];
                fleet.node(&name).puppet_server().set_mood(mood);
            }
            11 if pauses.is_empty() => pauses.push(fleet.node(&name).pause().await),
            12 if pauses.is_empty() => fleet.node(&name).restart().await,
            13 => fleet.main_mut().restart().await,
            _ => pauses.clear(),
        }
        // The storm blows on while this and that is under way.
        tokio::time::sleep(Duration::from_millis(dice.roll(300))).await;
    }
    pauses.clear();
    for node in fleet.nodes() {
        node.link().flip_bits(0);
        node.reconnect();
        node.puppet_server().set_mood(Mood::Running);
    }
    for id in asked {
        let deploy = fleet.main().until_ended(id).await;
        println!("deploy {id} ended {}: {}", deploy.phase, deploy.reason);
    }
    for node in fleet.nodes() {
        fleet.main().until_connected(node.name()).await;
    }
    fleet.push("production", &[("manifests/site.pp", "# the sun shines\n")]);
    let last = fleet.deploy("production").await;
    assert_eq!(last.phase, "live", "I7: {last:#?}");
    fleet.until_all_serve("production", digest_of(&last)).await;
    assert_eq!(fleet.main().status().await.alarms, Vec::<String>::new());
    fleet.end().await;
}
