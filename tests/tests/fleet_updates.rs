//! Updates of packages by a rollout: real apt and dpkg over a repository of this test, a real node agent, and a service
//! that counts its starts. The package database is an overlay that only this test's own process sees.
#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use bunraku_proto::v1;
use bunraku_tests::{
    fleet::{Fleet, Mood, end_services, grant, left, turn, until},
    own_apt::{Apt, allow, apart, directory, run, update},
};
use rustix::fs::{FlockOperation, fcntl_lock};

/// Runs the test in a process with mounts of its own; there, it goes on with toyserver 1.0 installed.
fn alone(test: &str) -> Option<Apt> {
    if let Some(directory) = directory() {
        return Some(Apt::mount(directory, &[("1.0", "exit 0".to_owned())]));
    }
    let directory = tempfile::tempdir().unwrap();
    let output = apart(directory.path()).args(["--exact", test, "--nocapture"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(said.contains("1 passed"), "{said}");
    None
}

async fn fleet() -> Fleet {
    let granted = |config: &mut bunraku_agent::Config| {
        grant(config);
        allow(config);
    };
    let fleet = Fleet::new().nodes(2).agents(granted).controller(|config| config.balancers.agree_s = 4);
    let mut fleet = fleet.up().await;
    fleet.push("production", &[("manifests/site.pp", "")]);
    assert_eq!(fleet.deploy("production").await.phase, "live");
    fleet.add_balancer("lb1", &["c1", "c2"]).await;
    fleet
}

async fn refused(fleet: &Fleet, request: v1::RolloutRequest) -> String {
    let id = fleet.main().start_rollout(request).await.unwrap();
    let paused = fleet.main().until_rollout(id, "paused").await;
    fleet.main().until_balanced("c1", "in service").await;
    fleet.main().client().abort_rollout(v1::AbortRolloutRequest { id, reason: "t".into() }).await.unwrap();
    fleet.main().until_rollout(id, "aborted").await;
    turn(&paused, "c1").reason.clone()
}

async fn end(fleet: Fleet) {
    fleet.nodes().iter().for_each(end_services);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f16_an_update_comes_with_a_restart_and_one_that_fails_is_brought_back_and_serves() {
    let Some(apt) = alone("f16_an_update_comes_with_a_restart_and_one_that_fails_is_brought_back_and_serves")
    else {
        return;
    };
    apt.package("2.0", "exit 0");
    apt.package("3.0", "echo no such luck >&2; exit 1");
    let fleet = fleet().await;
    let c1 = fleet.node("c1");
    let plan = fleet.main().client().plan_rollout(update("2.0")).await.unwrap().into_inner();
    assert_eq!(plan.changes, ["c1: toyserver from 1.0 to 2.0"]);
    assert!(plan.blocks.is_empty(), "{plan:#?}");
    let plan = fleet.main().client().plan_rollout(update("9.0")).await.unwrap().into_inner();
    assert_eq!(plan.blocks[0].reason, "c1: no repository of this host has toyserver 9.0");
    let id = fleet.main().start_rollout(update("2.0")).await.unwrap();
    fleet.main().until_rollout(id, "done").await;
    assert_eq!(apt.installed(), "installed 2.0");
    assert_eq!(left(c1, "did"), ["start"], "the service runs what was installed");

    let id = fleet.main().start_rollout(update("3.0")).await.unwrap();
    let paused = fleet.main().until_rollout(id, "paused").await;
    let reason = &turn(&paused, "c1").reason;
    assert!(reason.contains("no such luck"), "{reason}");
    assert!(reason.ends_with("; it was brought back to what was before"), "{reason}");
    assert_eq!(apt.installed(), "installed 2.0");
    assert_eq!(fs::read_to_string("/opt/toyserver/version").unwrap(), "2.0");
    assert_eq!(left(c1, "did"), ["start", "start"]);
    fleet.main().until_balanced("c1", "in service").await;
    run("dpkg", &["--audit"]);
    end(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_update_that_is_asked_for_again_does_nothing_and_has_no_way_to_before_the_first() {
    let Some(apt) =
        alone("an_update_that_is_asked_for_again_does_nothing_and_has_no_way_to_before_the_first")
    else {
        return;
    };
    apt.package("2.0", "exit 0");
    let fleet = fleet().await;
    let c1 = fleet.node("c1");
    let id = fleet.main().start_rollout(update("2.0")).await.unwrap();
    fleet.main().until_rollout(id, "done").await;
    let id = fleet.main().start_rollout(update("2.0")).await.unwrap();
    fleet.main().until_rollout(id, "done").await;
    assert_eq!(left(c1, "did"), ["start"], "nothing was done the second time");

    let plan = fs::read_to_string(c1.dir().join("data/turns/packages/plan.json")).unwrap();
    assert!(plan.contains(r#""changes":[]"#), "{plan}");
    end(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f3_i5_an_agent_that_ends_during_an_update_finds_its_end_and_does_not_begin_it_again() {
    let Some(apt) =
        alone("f3_i5_an_agent_that_ends_during_an_update_finds_its_end_and_does_not_begin_it_again")
    else {
        return;
    };
    let (begun, gate) = (apt.path("begun"), apt.path("gate"));
    run("mkfifo", &[gate.to_str().unwrap()]);
    apt.package("2.0", &format!("echo begun >> {}; read line < {}", begun.display(), gate.display()));
    let fleet = fleet().await;
    let c1 = fleet.node("c1");
    let id = fleet.main().start_rollout(update("2.0")).await.unwrap();
    until("the update has begun", || async { begun.exists() }).await;
    c1.restart().await;
    fleet.main().until_connected("c1").await;
    open(&gate);
    fleet.main().until_rollout(id, "done").await;
    assert_eq!(fs::read_to_string(&begun).unwrap(), "begun\n", "I5");
    assert_eq!(apt.installed(), "installed 2.0");
    assert_eq!(left(c1, "did"), ["start"]);
    end(fleet).await;
}

/// Lets one reader of a pipe go on.
fn open(gate: &Path) {
    fs::write(gate, "go\n").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn f16_what_is_not_granted_older_missing_or_without_a_way_back_is_refused_before_the_drain() {
    let Some(apt) =
        alone("f16_what_is_not_granted_older_missing_or_without_a_way_back_is_refused_before_the_drain")
    else {
        return;
    };
    let fleet = fleet().await;
    let mut other = update("1.0");
    other.action.as_mut().unwrap().package = "bash".to_owned();
    let why = refused(&fleet, other).await;
    assert!(why.contains("does not grant changes of the package bash, only of toyserver"), "{why}");
    let why = refused(&fleet, update("9.0")).await;
    assert!(why.contains("no repository of this host has toyserver 9.0"), "{why}");
    apt.package("0.5", "exit 0");
    let why = refused(&fleet, update("0.5")).await;
    assert!(why.contains("toyserver 0.5 would be older than what is installed"), "{why}");
    let why = refused(&fleet, v1::RolloutRequest { downgrade: true, ..update("0.5") }).await;
    assert!(why.contains("this node does not grant that toyserver becomes older"), "{why}");

    fs::remove_file(apt.path("repo/toyserver_1.0_all.deb")).unwrap();
    apt.package("2.0", "exit 0");
    run("sh", &["-c", "mount --bind /dev/null /usr/bin/dpkg-repack"]);
    let plan = fleet.main().client().plan_rollout(update("2.0")).await.unwrap().into_inner();
    assert!(plan.blocks[0].reason.starts_with("c1: there is no way back from toyserver 2.0"), "{plan:#?}");
    assert!(plan.blocks[0].hint.contains("--no-revert"), "{plan:#?}");
    let all_the_same = v1::RolloutRequest { no_revert: true, ..update("2.0") };
    let plan = fleet.main().client().plan_rollout(all_the_same).await.unwrap().into_inner();
    assert!(plan.blocks.is_empty(), "{plan:#?}");
    let lost = "no way back: the present version of toyserver is nowhere";
    assert_eq!(plan.changes, [format!("c1: {lost}, toyserver from 1.0 to 2.0")]);
    let why = refused(&fleet, update("2.0")).await;
    assert!(why.contains("there is no way back from toyserver 2.0"), "{why}");
    assert_eq!(apt.installed(), "installed 1.0");
    // A mirror that lists what it does not give.
    let (listed, away) = (apt.path("repo/toyserver_2.0_all.deb"), apt.path("away"));
    fs::rename(&listed, &away).unwrap();
    let why = refused(&fleet, v1::RolloutRequest { no_revert: true, ..update("2.0") }).await;
    assert!(why.contains("could not fetch toyserver 2.0: "), "{why}");
    assert_eq!(apt.installed(), "installed 1.0");
    fs::rename(&away, &listed).unwrap();
    let id =
        fleet.main().start_rollout(v1::RolloutRequest { no_revert: true, ..update("2.0") }).await.unwrap();
    let ended = fleet.main().until_rollout(id, "done").await;
    let notes = &turn(&ended, "c1").notes;
    assert!(notes.iter().any(|note| note.starts_with("no way back")), "{notes:?}");
    assert_eq!(apt.installed(), "installed 2.0");
    end(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f16_an_update_waits_for_whoever_is_at_the_package_database() {
    let Some(apt) = alone("f16_an_update_waits_for_whoever_is_at_the_package_database") else {
        return;
    };
    apt.package("2.0", "exit 0");
    let fleet = fleet().await;
    let lock = File::options().write(true).open("/var/lib/dpkg/lock-frontend").unwrap();
    fcntl_lock(&lock, FlockOperation::NonBlockingLockExclusive).unwrap();
    let id = fleet.main().start_rollout(update("2.0")).await.unwrap();
    let waits = |process: &Path| {
        let read = |file: &str| fs::read_to_string(process.join(file)).unwrap_or_default();
        read("cmdline").starts_with("apt-get") && read("cmdline").contains("toyserver_2.0")
    };
    until("apt is at it", || async { processes().iter().any(|process| waits(process)) }).await;
    fleet.main().until_turn(id, "c1", "acting").await;
    assert_eq!(apt.installed(), "installed 1.0");
    drop(lock);
    fleet.main().until_rollout(id, "done").await;
    assert_eq!(apt.installed(), "installed 2.0");
    end(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f3_f16_a_dpkg_that_was_killed_is_finished_and_the_update_brought_back() {
    let Some(apt) = alone("f3_f16_a_dpkg_that_was_killed_is_finished_and_the_update_brought_back") else {
        return;
    };
    let (begun, gate) = (apt.path("begun"), apt.path("gate"));
    run("mkfifo", &[gate.to_str().unwrap()]);
    let once = format!("test -e {0} && exit 0; echo > {0}; read line < {1}", begun.display(), gate.display());
    apt.package("2.0", &once);
    let fleet = fleet().await;
    let c1 = fleet.node("c1");
    let id = fleet.main().start_rollout(update("2.0")).await.unwrap();
    until("the update has begun", || async { begun.exists() }).await;
    // The database's own programs, of this update alone.
    let ours = |process: &&PathBuf| {
        let line = fs::read_to_string(process.join("cmdline")).unwrap_or_default();
        let namespace = |of: &Path| fs::read_link(of.join("ns/mnt")).ok();
        let here = namespace(process) == namespace(Path::new("/proc/self"));
        here && ["apt-get", "/usr/bin/dpkg", "/bin/sh\0/var/lib/dpkg/info/toyserver"]
            .iter()
            .any(|program| line.starts_with(program))
    };
    let found: Vec<PathBuf> = processes();
    let killed: Vec<&str> =
        found.iter().filter(ours).filter_map(|process| process.file_name()?.to_str()).collect();
    assert!(killed.len() >= 3, "{killed:?}");
    run("kill", &[&["-9"], killed.as_slice()].concat());
    let paused = fleet.main().until_rollout(id, "paused").await;
    let reason = &turn(&paused, "c1").reason;
    assert!(reason.ends_with("; it was brought back to what was before"), "{reason}");
    assert_eq!(apt.installed(), "installed 1.0");
    assert_eq!(run("dpkg", &["--audit"]), "");
    assert_eq!(left(c1, "did"), ["start"]);
    fleet.main().until_balanced("c1", "in service").await;
    end(fleet).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_types_are_made_again_before_the_enable_when_puppet_has_another_version() {
    let Some(apt) = alone("generated_types_are_made_again_before_the_enable_when_puppet_has_another_version")
    else {
        return;
    };
    let fleet = fleet().await;
    let c1 = fleet.node("c1");
    let served = || fs::canonicalize(c1.environment("production")).unwrap();
    let old = served();
    fleet.push("production", &[("manifests/site.pp", "notice(2)")]);
    assert_eq!(fleet.deploy("production").await.phase, "live");
    let live = served();
    for version in [&old, &live] {
        fs::create_dir(version.join(".resource_types")).unwrap();
        fs::write(version.join(".resource_types/by-puppet-7.pp"), "").unwrap();
    }
    // It plays a Puppet that the update brings.
    let script = fs::read_to_string(c1.dir().join("puppet")).unwrap();
    let made = "made=$(printf '%s' \"$*\" | sed 's/.*--environmentpath \\([^ ]*\\).*/\\1/')/production/.resource_types";
    let newer = format!(
        "--version*) cat puppet-version ;;\n'generate types'*) {made}; mkdir -p \"$made\"; echo > \"$made/by-puppet-8.pp\" ;;"
    );
    fs::write(c1.dir().join("puppet-version"), "7.23.0\n").unwrap();
    fs::write(c1.dir().join("puppet"), script.replace("--version*) echo 7.23.0 ;;", &newer)).unwrap();
    apt.package("1.5", "exit 0");
    let id = fleet.main().start_rollout(update("1.5")).await.unwrap();
    fleet.main().until_rollout(id, "done").await;
    assert!(live.join(".resource_types/by-puppet-7.pp").exists(), "the same Puppet needs no others");

    let bump = format!("echo 8.10.0 > {}", c1.dir().join("puppet-version").display());
    apt.package("2.0", &bump);
    c1.puppet_server().set_mood(Mood::Starting);
    let id = fleet.main().start_rollout(update("2.0")).await.unwrap();
    until("they are made", || async { live.join(".resource_types/by-puppet-8.pp").exists() }).await;
    assert_eq!(turn(&fleet.main().rollout(id).await, "c1").phase, "acting", "long before the enable");
    c1.puppet_server().set_mood(Mood::Running);
    fleet.main().until_rollout(id, "done").await;
    assert!(!live.join(".resource_types/by-puppet-7.pp").exists());
    assert!(!old.join(".resource_types").exists(), "a rollback makes them");
    end(fleet).await;
}

/// `/proc/PID` of all that run.
fn processes() -> Vec<PathBuf> {
    let entries = fs::read_dir("/proc").unwrap().map(|entry| entry.unwrap());
    let is_pid = |name: &str| name.bytes().all(|byte| byte.is_ascii_digit());
    let processes = entries.filter(|entry| is_pid(&entry.file_name().to_string_lossy()));
    processes.map(|entry| entry.path()).collect()
}
