//! Builds with the real git, r10k and g10k.

use std::fs;

use crate::world::{BOTH, World, build, build_at, environment};
use bunraku_builder::{BuildConfig, BuildError, modules, summarize};

#[tokio::test]
async fn the_same_commits_give_the_same_digest_also_from_nothing() {
    for kind in BOTH {
        let world = World::new();
        let builder = world.builder(kind);
        let first = build(&builder, "production").await.unwrap();
        let second = build(&builder, "production").await.unwrap();
        assert_eq!(first.digest, second.digest, "{kind:?}");
        fs::remove_dir_all(world.path("build")).unwrap();
        let fresh = build(&world.builder(kind), "production").await.unwrap();
        assert_eq!(first.digest, fresh.digest, "{kind:?}");
        let elsewhere = BuildConfig { root: world.path("elsewhere"), ..world.config(kind) };
        let elsewhere = build(&world.builder_with(elsewhere), "production").await.unwrap();
        assert_eq!(first.digest, elsewhere.digest, "{kind:?}: the place of the build root must not matter");
        assert_eq!(first.commit, world.git("control", &["rev-parse", "production"]));
        assert!(first.builder.starts_with(kind.as_str()), "{}", first.builder);
        assert_eq!(first.modules.len(), 1);
        assert_eq!(first.modules[0].name, "ntp");
        let sha = world.git("ntp", &["rev-parse", "main"]);
        assert!(first.modules[0].version.contains(&sha[..8]), "{}", first.modules[0]);
    }
}

#[tokio::test]
async fn files_that_did_not_change_are_not_opened() {
    for kind in BOTH {
        let world = World::new();
        let builder = world.builder(kind);
        let first = build(&builder, "production").await.unwrap();
        assert_eq!(first.opened, first.files);
        build(&builder, "production").await.unwrap();
        let third = build(&builder, "production").await.unwrap();
        assert_eq!(third.opened, 1, "{kind:?}: only the builder's own manifest");
        world.commit("control", "production", &[("manifests/site.pp", "node default { notify { 'x': } }\n")]);
        let fourth = build(&builder, "production").await.unwrap();
        assert_ne!(fourth.digest, first.digest);
        assert!(fourth.opened < fourth.files, "{kind:?}: {} of {}", fourth.opened, fourth.files);
    }
}

#[tokio::test]
async fn what_was_built_before_leaves_no_trace() {
    for kind in BOTH {
        let world = World::new();
        let builder = world.builder(kind);
        world.repository("apt", "main");
        world.commit("apt", "main", &[("manifests/init.pp", "class apt {}")]);
        let both = world.puppetfile(&["ntp", "apt"]);
        world.commit("control", "production", &[("Puppetfile", &both), ("data/deep/er/x.yaml", "a: 1\n")]);
        let before = build(&builder, "production").await.unwrap();
        assert_eq!(before.modules.len(), 2, "{kind:?}");
        let only = world.puppetfile(&["ntp"]);
        world.commit("control", "production", &[("Puppetfile", &only)]);
        world.remove("control", "production", "data");
        let after = build(&builder, "production").await.unwrap();
        fs::remove_dir_all(world.path("build")).unwrap();
        let fresh = build(&world.builder(kind), "production").await.unwrap();
        let between = summarize(&world.store, Some(&fresh.digest), &after.digest).unwrap();
        assert_eq!(fresh.digest, after.digest, "{kind:?}: {between:?}");
        let summary = summarize(&world.store, Some(&before.digest), &after.digest).unwrap();
        assert!(summary.removed.contains(&"data".to_owned()), "{summary:?}");
        assert!(summary.modules.iter().any(|m| m.starts_with("apt removed")), "{summary:?}");
    }
}

#[tokio::test]
async fn a_push_moves_the_environment_and_its_modules() {
    for kind in BOTH {
        let world = World::new();
        let builder = world.builder(kind);
        let before = build(&builder, "production").await.unwrap();
        world.commit("ntp", "main", &[("metadata.json", r#"{"version": "1.3.0"}"#)]);
        let after = build(&builder, "production").await.unwrap();
        let summary = summarize(&world.store, Some(&before.digest), &after.digest).unwrap();
        assert!(summary.changed.contains(&"modules/ntp/metadata.json".to_owned()), "{summary:?}");
        assert_eq!(summary.modules.len(), 1, "{summary:?}");
        assert!(summary.modules[0].contains(" → "), "{summary:?}");
        assert_eq!(modules(&world.store, &after.digest).unwrap(), after.modules);
    }
}

#[tokio::test]
async fn an_older_commit_can_be_built_by_its_full_id_also_after_a_forced_push() {
    for kind in BOTH {
        let world = World::new();
        let builder = world.builder(kind);
        let first = build(&builder, "production").await.unwrap();
        world.commit("control", "production", &[("manifests/site.pp", "# 2\n")]);
        build(&builder, "production").await.unwrap();
        let again = build_at(&builder, "production", Some(&first.commit)).await.unwrap();
        assert_eq!((again.digest, &again.commit), (first.digest, &first.commit), "{kind:?}");
        let second = world.git("control", &["rev-parse", "production"]);
        world.git("control", &["commit", "--quiet", "--amend", "--message", "other"]);
        world.give("control");
        let forced = build_at(&builder, "production", Some(&second)).await.unwrap();
        assert_eq!(forced.commit, second);
        assert!(matches!(
            build_at(&builder, "production", Some(&second[..10])).await,
            Err(BuildError::NotACommit(_))
        ));
        assert!(matches!(
            build_at(&builder, "production", Some(&"0".repeat(40))).await,
            Err(BuildError::NoCommit { .. })
        ));
        assert!(matches!(
            build_at(&builder, "production", Some("--help")).await,
            Err(BuildError::NotACommit(_))
        ));
    }
}

#[tokio::test]
async fn a_puppetfile_that_cannot_be_resolved_fails_the_build_and_says_why() {
    let world = World::new();
    let cases = [
        ("broken", "mod 'ntp', :git => \n".to_owned(), "Puppetfile"),
        ("unreachable", format!("mod 'x', :git => '{}'\n", world.url("nowhere")), "nowhere"),
        ("badref", format!("mod 'ntp', :git => '{}', :ref => 'nope'\n", world.url("ntp")), "nope"),
    ];
    for (branch, puppetfile, _) in &cases {
        world.commit("control", "production", &[]);
        world.commit("control", branch, &[("Puppetfile", puppetfile)]);
        world.git("control", &["checkout", "--quiet", "production"]);
    }
    for kind in BOTH {
        let builder = world.builder(kind);
        for (branch, _, named) in &cases {
            let error = build(&builder, branch).await.unwrap_err();
            assert!(matches!(error, BuildError::Run(_)), "{kind:?} {branch}: {error}");
            assert!(error.output().contains(named), "{kind:?} {branch}: {}", error.output());
        }
        build(&builder, "production").await.expect("broken branches do not stop the others");
    }
}

#[tokio::test]
async fn a_failed_build_is_followed_by_a_good_one() {
    for kind in BOTH {
        let world = World::new();
        let builder = world.builder(kind);
        let good = build(&builder, "production").await.unwrap();
        let puppetfile = world.puppetfile(&["ntp"]);
        world.commit("control", "production", &[("Puppetfile", "mod 'ntp', :git => \n")]);
        build(&builder, "production").await.unwrap_err();
        world.commit("control", "production", &[("Puppetfile", &puppetfile)]);
        let mended = build(&builder, "production").await.unwrap();
        let between = summarize(&world.store, Some(&good.digest), &mended.digest).unwrap();
        assert_eq!(between.total, 1, "{kind:?}: only the manifest, which names the commit: {between:?}");
    }
}

#[tokio::test]
async fn several_environments_are_built_side_by_side() {
    let world = World::new();
    world.commit("control", "feature/x-1", &[("manifests/site.pp", "# x\n")]);
    for kind in BOTH {
        let builder = world.builder(kind);
        let (one, two) = tokio::join!(build(&builder, "production"), build(&builder, "feature/x-1"));
        assert_ne!(one.unwrap().digest, two.unwrap().digest);
        let (one, two) = tokio::join!(build(&builder, "production"), build(&builder, "production"));
        assert_eq!(one.unwrap().digest, two.unwrap().digest, "{kind:?}");
    }
}

#[tokio::test]
async fn a_new_environment_takes_over_the_modules_of_another_and_nothing_else() {
    for kind in BOTH {
        let world = World::new();
        world.commit("control", "feature", &[("manifests/site.pp", "# feature\n")]);
        build(&world.builder(kind), "production").await.unwrap();
        let log = world.path("argv");
        fs::write(&log, "").unwrap();
        world.give("argv");
        fs::create_dir(world.path("bin")).unwrap();
        let record = format!("#!/bin/sh\necho \"$@\" >>{}\nexec /usr/bin/git \"$@\"\n", log.display());
        let config = BuildConfig { git: world.script("bin/git", &record), ..world.config(kind) };
        let seeded = build(&world.builder_with(config), "feature").await.unwrap();
        let calls = fs::read_to_string(&log).unwrap();
        let clones = calls.lines().filter(|call| call.contains("clone --mirror") && call.contains("/ntp"));
        assert_eq!(clones.count(), 0, "{kind:?}: {calls}");
        assert!(calls.contains("clone"), "the recording git was not used");
        fs::remove_dir_all(world.path("build")).unwrap();
        assert_eq!(build(&world.builder(kind), "feature").await.unwrap().digest, seeded.digest, "{kind:?}");
    }
}

#[tokio::test]
async fn a_commit_that_is_known_is_built_without_asking_the_remote() {
    let world = World::new();
    let builder = world.builder(BOTH[0]);
    let branches = builder.branches().await.unwrap();
    fs::rename(world.path("control"), world.path("away")).unwrap();
    let commit = branches.environments[&environment("production")].commit.clone();
    assert_eq!(build_at(&builder, "production", Some(&commit)).await.unwrap().commit, commit);
    build(&builder, "production").await.unwrap_err();
}

/// Regression: r10k's first line about it says that a command failed, and neither which nor why.
#[tokio::test]
async fn a_module_that_cannot_be_reached_is_named_in_the_reason() {
    for kind in BOTH {
        let world = World::new();
        let module = "mod 'apt', :git => 'https://127.0.0.1:1/some/apt.git', :branch => 'main'\n";
        world.commit("control", "production", &[("Puppetfile", module)]);
        let transports = vec!["file".to_owned(), "https".to_owned()];
        let builder = world.builder_with(BuildConfig { transports, ..world.config(kind) });
        let reason = build(&builder, "production").await.unwrap_err().to_string();
        assert!(reason.contains("https://127.0.0.1:1/some/apt.git"), "{kind:?}: {reason}");
        assert!(reason.contains("unable to access") || reason.contains("unreachable"), "{kind:?}: {reason}");
    }
}
