//! F3, F16: kills at each step of the update of a package, of one that fails and is brought back, and of one that gets
//! another version on the way. Apt and dpkg are real; each case is a process with a package database of its own.

use std::{fs, process::Stdio};

use bunraku_proto::v1;
use bunraku_tests::{
    fleet::{left, turn, until},
    own_apt::{Apt, apart, directory, run, update},
};
use tokio::process::Command;

use super::{
    Case,
    rollouts::{WHEN, controller_dies_at, nothing_is_left},
    world::World,
};

/// What the script of a version waits for before it goes on, where a case wants it to wait.
const GATE: &str = "gate";
/// A line for each time that a version was configured.
const CONFIGURED: &str = "configured";

const LAUNCHED: &str = "order-launched";
/// On the compiler. Before the act, and after its answer is kept, an update is no other than a restart.
const UPDATE: [&str; 8] = [
    "packages-prepared",
    "turn-written",
    "turn-act-noted",
    "order-remembered",
    LAUNCHED,
    "packages-changed",
    "turn-act-done",
    "turn-written:2",
];
/// The update fails, dpkg is asked to finish what it left, and the version before is installed: three orders.
const BACK: [&str; 10] = [
    "turn-written:2",
    "turn-admitted:4",
    "turn-written:3",
    "turn-act-noted:2",
    "order-remembered:2",
    "order-launched:2",
    "order-remembered:3",
    "order-launched:3",
    "packages-changed",
    "turn-act-done:2",
];
/// Acting, reverting, verifying.
const MOVES_BACK: [usize; 3] = [4, 5, 6];

pub(crate) fn cases() -> Vec<Case> {
    let of_the_agent = UPDATE.map(|at| {
        case(format!("f3 f16 the agent is killed at {at} of an update"), move |apt| async move {
            good(agent_killed(&apt, at, "2.0").await, &apt).await;
        })
    });
    let of_the_agent_back = BACK.map(|at| {
        let name = format!("f3 f16 the agent is killed at {at} of an update that is brought back");
        case(name, move |apt| async move { back(agent_killed(&apt, at, "3.0").await, &apt).await })
    });
    let moves =
        MOVES_BACK.into_iter().flat_map(|number| WHEN.map(|when| format!("{when}:turn-moved:{number}")));
    let of_the_controller = moves.map(|at| {
        let name = format!("f3 f16 the controller is killed {at} of an update that is brought back");
        case(name, move |apt| async move { back(controller_killed(&at).await, &apt).await })
    });
    let another = WHEN.into_iter().flat_map(|when| {
        ["rollout-retargeted", "rollout-aimed"].map(|fact| {
            let name =
                format!("f3 f16 the controller is killed {when}:{fact} of an update to another version");
            case(name, move |apt| async move { retargeted(&apt, when, fact).await })
        })
    });
    of_the_agent.into_iter().chain(of_the_agent_back).chain(of_the_controller).chain(another).collect()
}

/// This process is the one of a single case.
pub(crate) fn is_apart() -> bool {
    directory().is_some()
}

/// In a process of its own, with these versions in its repository: 1.0 is installed, 3.0 fails whenever it is asked.
fn case<T>(name: String, test: impl FnOnce(Apt) -> T + Send + 'static) -> Case
where
    T: Future<Output = ()> + Send,
{
    let own = name.clone();
    Case::new(name, async move {
        let Some(directory) = directory() else { return in_a_process_of_its_own(&own).await };
        let script = |version: &str, end: &str| {
            let line = format!("echo {version} >> {}", directory.join(CONFIGURED).display());
            let gate = directory.join(GATE).display().to_string();
            format!(
                "test \"$1\" = configure || exit 0; {line}; while test -e {gate}; do sleep 0.05; done; {end}"
            )
        };
        let scripts = [("1.0", ""), ("2.0", ""), ("3.0", "echo no such luck >&2; exit 1"), ("4.0", "")];
        let scripts = scripts.map(|(version, end)| (version, script(version, end)));
        test(Apt::mount(directory.clone(), &scripts)).await;
    })
}

async fn in_a_process_of_its_own(name: &str) {
    let directory = tempfile::tempdir().unwrap();
    let mut command = Command::from(apart(directory.path()));
    let output = command.arg(name).stdin(Stdio::null()).kill_on_drop(true).output().await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 of 1 passed"), "{said}");
}

async fn agent_killed(apt: &Apt, at: &'static str, version: &str) -> World {
    let mut world = World::balanced().await;
    world.kill("c1");
    world.main().until_gone("c1").await;
    world.start("c1", Some(at)).await;
    world.main().until_balanced("c1", "in service").await;
    let gate = apt.path(GATE);
    if at == LAUNCHED {
        fs::write(&gate, "").unwrap();
    }
    world.main().start_rollout(update(version)).await.unwrap();
    world.until_dead("c1").await;
    assert!(world.in_service().await >= 1, "I3");
    world.start("c1", None).await;
    if at == LAUNCHED {
        until("the update goes on without its agent", || async { configured(apt).len() == 2 }).await;
        fs::remove_file(gate).unwrap();
    }
    world
}

async fn controller_killed(at: &str) -> World {
    let mut world = controller_dies_at(at).await;
    world.main().start_rollout(update("3.0")).await.unwrap();
    world.until_dead("controller").await;
    assert!(world.in_service().await >= 1, "I3");
    world.start("controller", None).await;
    world
}

/// It took effect, and the service was started with it, once.
async fn good(world: World, apt: &Apt) {
    world.main().until_rollout(1, "done").await;
    ends_with(world, apt, "2.0", &["1.0", "2.0"], 1).await;
}

/// It halts with the reason, and all is as it was. The version that fails is configured by the update and once more
/// when dpkg is asked to finish.
async fn back(world: World, apt: &Apt) {
    let paused = world.main().until_rollout(1, "paused").await;
    let reason = &turn(&paused, "c1").reason;
    assert!(reason.contains("no such luck"), "{reason}");
    assert!(reason.ends_with("; it was brought back to what was before"), "{reason}");
    world.main().until_balanced("c1", "in service").await;
    let abort = v1::AbortRolloutRequest { id: 1, reason: "t".into() };
    world.main().client().abort_rollout(abort).await.unwrap();
    world.main().until_rollout(1, "aborted").await;
    ends_with(world, apt, "1.0", &["1.0", "3.0", "3.0", "1.0"], 1).await;
}

/// The version is changed while the first one is being configured: both are installed, one after the other.
async fn retargeted(apt: &Apt, when: &str, fact: &str) {
    let mut world = controller_dies_at(&format!("{when}:{fact}")).await;
    let gate = apt.path(GATE);
    fs::write(&gate, "").unwrap();
    world.main().start_rollout(update("2.0")).await.unwrap();
    until("2.0 is being configured", || async { configured(apt).len() == 2 }).await;
    let request = v1::RetargetRolloutRequest { id: 1, version: "4.0".into() };
    let answer = world.main().client().retarget_rollout(request.clone()).await;
    if fact == "rollout-retargeted" {
        assert!(answer.is_err(), "it was acknowledged {when} it was on record");
        world.until_dead("controller").await;
        world.start("controller", None).await;
        assert_eq!(world.journal().await.count(fact), usize::from(when == "after"), "I6");
        world.main().client().retarget_rollout(request).await.unwrap();
        fs::remove_file(gate).unwrap();
    } else {
        answer.unwrap();
        fs::remove_file(gate).unwrap();
        world.until_dead("controller").await;
        world.start("controller", None).await;
    }
    world.main().until_rollout(1, "done").await;
    let journal = world.journal().await;
    assert_eq!(["rollout-retargeted", "rollout-aimed"].map(|fact| journal.count(fact)), [1, 1]);
    ends_with(world, apt, "4.0", &["1.0", "2.0", "4.0"], 2).await;
}

fn configured(apt: &Apt) -> Vec<String> {
    let text = fs::read_to_string(apt.path(CONFIGURED)).unwrap();
    text.lines().map(str::to_owned).collect()
}

async fn ends_with(world: World, apt: &Apt, version: &str, through: &[&str], starts: usize) {
    assert_eq!(apt.installed(), format!("installed {version}"));
    assert_eq!(configured(apt), through, "I5");
    assert_eq!(run("dpkg", &["--audit"]), "");
    assert_eq!(left(world.node("c1"), "did").len(), starts, "I5: {:?}", left(world.node("c1"), "did"));
    assert!(left(world.node("c2"), "did").is_empty());
    nothing_is_left(world).await;
}
