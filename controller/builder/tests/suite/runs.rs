//! Deadlines, cancellation, and what a build that was cut off leaves for the next one.

use std::{fs, time::Duration};

use bunraku_builder::{BuildConfig, BuildError, Kind};
use tokio_util::sync::CancellationToken;

use crate::world::{World, build, environment, lives, until};

/// A builder that hangs with a child, both deaf to a polite end, and says their numbers.
fn hanging(world: &World) -> (BuildConfig, std::path::PathBuf) {
    let pids = world.path("pids");
    fs::write(&pids, "").unwrap();
    world.give("pids");
    let script = format!(
        "#!/bin/sh\ntrap '' TERM\necho it hangs\nsleep 600 &\necho $$ $! >>{}\nwait $!\nwait\n",
        pids.display()
    );
    let r10k = world.script("r10k", &script);
    (BuildConfig { r10k, deadline_s: 1, ..world.config(Kind::R10k) }, pids)
}

fn all_dead(pids: &std::path::Path) -> bool {
    let pids = fs::read_to_string(pids).unwrap();
    pids.split_whitespace().count() >= 2 && !pids.split_whitespace().any(lives)
}

#[tokio::test]
async fn a_build_that_takes_too_long_is_ended_with_all_its_children() {
    let world = World::new();
    let (config, pids) = hanging(&world);
    let error = build(&world.builder_with(config), "production").await.unwrap_err();
    assert!(error.to_string().contains("took longer than 1 s"), "{error}");
    assert_eq!(error.output(), "it hangs\n");
    until("the processes are gone", || all_dead(&pids)).await;
}

#[tokio::test]
async fn a_cancelled_build_ends_its_processes() {
    let world = World::new();
    let (config, pids) = hanging(&world);
    let builder = world.builder_with(BuildConfig { deadline_s: 600, ..config });
    let cancel = CancellationToken::new();
    let production = environment("production");
    let build = builder.build(&production, "production", None, cancel.clone());
    let cancelling = async {
        until("the build has begun", || !fs::read_to_string(&pids).unwrap().is_empty()).await;
        cancel.cancel();
    };
    let (built, ()) = tokio::join!(build, cancelling);
    let error = built.unwrap_err();
    assert!(error.is_cancelled(), "{error}");
    until("the processes are gone", || all_dead(&pids)).await;
}

#[tokio::test]
async fn a_build_whose_caller_goes_away_ends_its_processes() {
    let world = World::new();
    let (config, pids) = hanging(&world);
    let builder = world.builder_with(BuildConfig { deadline_s: 600, ..config });
    let begun = until("the build has begun", || !fs::read_to_string(&pids).unwrap().is_empty());
    tokio::select! {
        built = build(&builder, "production") => panic!("{built:?}"),
        () = begun => {}
    }
    until("the processes are gone", || all_dead(&pids)).await;
}

#[tokio::test]
async fn a_build_that_was_cut_off_is_followed_by_a_good_one() {
    let world = World::new();
    let good = build(&world.builder(Kind::R10k), "production").await.unwrap();
    // What kill -9 of controller and builder leaves: a mark, locks, half a tree, and here a builder that still runs.
    let place = world.path("build/environments/production/r10k");
    let cached = fs::read_dir(place.join("cache")).unwrap().next().unwrap().unwrap().path();
    for lock in [cached.join("packed-refs.lock"), place.join("base/production/.git/index.lock")] {
        fs::write(lock, "").unwrap();
    }
    fs::write(place.join("base/production/manifests/left.pp"), "").unwrap();
    let mut left = std::process::Command::new("setsid").args(["sleep", "600"]).spawn().unwrap();
    let started = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", left.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit_once(") ").unwrap().1.split(' ').collect();
        // Its own group, and `sleep` already: setsid has made the session and started it.
        (fields[2] == left.id().to_string() && stat.contains("(sleep)")).then(|| fields[19].to_owned())
    };
    until("the left process leads its group", || started().is_some()).await;
    fs::write(place.join("running"), format!("{} {}", left.id(), started().unwrap())).unwrap();
    let again = build(&world.builder(Kind::R10k), "production").await.unwrap();
    assert_eq!(again.digest, good.digest);
    assert!(!left.wait().unwrap().success(), "the process that was left must have been killed");
}

/// Regression: a clone that is killed between its remote's address and its refspec leaves a mirror that git fetches
/// nothing into, without an error.
#[tokio::test]
async fn a_mirror_whose_clone_was_cut_off_is_made_anew() {
    let world = World::new();
    for (kind, below) in [(Kind::G10k, "g10k/cache/environments/control.git"), (Kind::R10k, "r10k/cache")] {
        let good = build(&world.builder(kind), "production").await.unwrap();
        let place = world.path("build/environments/production");
        let cached = place.join(below);
        let mirror = if cached.join("config").exists() {
            cached
        } else {
            fs::read_dir(cached).unwrap().next().unwrap().unwrap().path()
        };
        let config = fs::read_to_string(mirror.join("config")).unwrap();
        let half: Vec<&str> = config.lines().filter(|line| !line.contains("fetch =")).collect();
        fs::write(mirror.join("config"), half.join("\n")).unwrap();
        for refs in ["packed-refs", "FETCH_HEAD"] {
            let _may_not_be_there = fs::remove_file(mirror.join(refs));
        }
        fs::remove_dir_all(place.join(kind.as_str()).join("base")).unwrap();
        fs::write(place.join(kind.as_str()).join("running"), "").unwrap();
        let again = build(&world.builder(kind), "production").await.unwrap();
        assert_eq!(again.digest, good.digest, "{kind:?}");
    }
}

#[tokio::test]
async fn a_mark_whose_process_number_belongs_to_somebody_else_ends_nobody() {
    let world = World::new();
    build(&world.builder(Kind::R10k), "production").await.unwrap();
    let place = world.path("build/environments/production/r10k");
    let mut other = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    fs::write(place.join("running"), format!("{} 1", other.id())).unwrap();
    build(&world.builder(Kind::R10k), "production").await.unwrap();
    assert!(lives(&other.id().to_string()));
    other.kill().unwrap();
    other.wait().unwrap();
}

#[tokio::test]
async fn a_builder_that_says_success_and_deployed_something_else_is_not_believed() {
    let world = World::new();
    let liar = format!(
        "#!/bin/sh\nd={}/production; mkdir -p $d; printf '{{\"deploy_success\":true,\"signature\":\"abc\"}}' >$d/.r10k-deploy.json\n",
        world.path("build/environments/production/r10k/base").display()
    );
    let r10k = world.script("r10k", &liar);
    let builder = world.builder_with(BuildConfig { r10k, ..world.config(Kind::R10k) });
    let error = build(&builder, "production").await.unwrap_err();
    assert!(matches!(&error, BuildError::NotDeployed { reason, .. } if reason.contains("abc")), "{error:?}");
}

#[tokio::test]
async fn endless_output_is_bounded_and_its_end_kept() {
    let world = World::new();
    let r10k = world
        .script("r10k", "#!/bin/sh\nyes 'a line of output' | head -c 3000000\necho the end >&2\nexit 3\n");
    let builder = world.builder_with(BuildConfig { r10k, ..world.config(Kind::R10k) });
    let error = build(&builder, "production").await.unwrap_err();
    assert!(error.output().len() <= bunraku_common::limits::OUTPUT_BYTES);
    assert!(error.output().contains("the end"), "{}", &error.output()[error.output().len() - 100..]);
}

#[tokio::test]
async fn a_missing_program_and_a_missing_user_are_named() {
    let world = World::new();
    let builder =
        world.builder_with(BuildConfig { r10k: "/nowhere/r10k".into(), ..world.config(Kind::R10k) });
    let error = build(&builder, "production").await.unwrap_err().to_string();
    assert!(error.contains("/nowhere/r10k"), "{error}");
    let config = BuildConfig { user: "no-such-user".to_owned(), ..world.config(Kind::R10k) };
    let error = bunraku_builder::Builder::new(config, std::sync::Arc::clone(&world.store)).unwrap_err();
    assert!(error.to_string().contains("hint: useradd"), "{error}");
    tokio::time::timeout(Duration::from_secs(30), builder.branches()).await.unwrap().unwrap();
}
