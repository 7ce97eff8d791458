//! What hostile branches, Puppetfiles and trees cannot do.

use std::{
    fs,
    os::unix::fs::symlink,
    process::{Child, Command, Stdio},
};

use bunraku_builder::{BuildConfig, BuildError, Kind};

use crate::world::{BOTH, World, build, until};

/// Names that git accepts in a packed-refs file, and some that it does not.
const HOSTILE: [&str; 8] = [
    "--upload-pack=touch${IFS}PWNED",
    "-h",
    "a;touch${IFS}PWNED",
    "$(touch${IFS}PWNED)",
    "`touch${IFS}PWNED`",
    "a|b&c",
    "a'b\"c",
    "%2e%2e",
];

#[tokio::test]
async fn hostile_branch_names_are_refused_by_name_and_never_become_arguments() {
    let world = World::new();
    let commit = world.git("control", &["rev-parse", "HEAD"]);
    let long = "x".repeat(230);
    world.git("control", &["pack-refs", "--all"]);
    let packed = world.path("control/.git/packed-refs");
    let mut refs = fs::read_to_string(&packed).unwrap();
    let names: Vec<&str> = HOSTILE.into_iter().chain(["UPPER", "a-b", "a_b", "fine", &long]).collect();
    refs.extend(names.iter().map(|name| format!("{commit} refs/heads/{name}\n")));
    fs::write(&packed, refs).unwrap();
    world.give("control");
    let log = world.path("argv");
    let bin = world.path("bin");
    fs::create_dir(&bin).unwrap();
    fs::write(&log, "").unwrap();
    world.give("argv");
    let record = format!(
        "#!/bin/sh\nfor a; do printf '<%s>' \"$a\" >>{0}; done; echo >>{0}\nexec /usr/bin/git \"$@\"\n",
        log.display()
    );
    let git = world.script("bin/git", &record);
    let builder = world.builder_with(BuildConfig { git, ..world.config(Kind::R10k) });
    let branches = builder.branches().await.unwrap();
    let kept: Vec<&str> = branches.environments.keys().map(|e| e.as_str()).collect();
    assert_eq!(kept, ["fine", "production"]);
    let refused: Vec<&str> = branches.refused.iter().map(|r| r.name.as_str()).collect();
    for name in ["UPPER", "a-b", "a_b", "a;touch${IFS}PWNED", "$(touch${IFS}PWNED)"] {
        assert!(refused.contains(&name), "{name} not in {refused:?}");
    }
    for name in HOSTILE {
        let environment = crate::world::environment("fine");
        let asked = builder.build(&environment, name, None, Default::default()).await;
        assert!(
            matches!(asked, Err(BuildError::BranchRefused { .. } | BuildError::NoBranch { .. })),
            "{name}: {asked:?}"
        );
    }
    build(&builder, "fine").await.unwrap();
    let argv = fs::read_to_string(&log).unwrap();
    assert!(argv.contains("fetch") && argv.contains("refs/heads/fine"), "the fake git was not used: {argv}");
    assert!(!argv.contains("PWNED") && !argv.contains("a|b"), "{argv}");
    let fetch = argv.lines().find(|line| line.contains("<fetch>")).unwrap();
    assert!(fetch.contains("<core.hooksPath=/dev/null>") && fetch.contains("<--end-of-options>"), "{fetch}");
}

#[tokio::test]
async fn a_remote_that_looks_like_an_option_is_not_one() {
    let world = World::new();
    let remote = format!("--upload-pack=touch {}", world.path("PWNED").display());
    let builder = world.builder_with(BuildConfig { remote, ..world.config(Kind::R10k) });
    builder.branches().await.unwrap_err();
    assert!(!world.path("PWNED").exists());
}

#[tokio::test]
async fn a_module_by_a_transport_that_runs_programs_is_never_run() {
    for kind in BOTH {
        let world = World::new();
        let mark = world.path("PWNED");
        fs::write(&mark, "").unwrap();
        world.give("PWNED");
        let line = format!("mod 'ntp', :git => 'ext::sh -c echo%20x%20>{}'\n", mark.display());
        world.commit("control", "production", &[("Puppetfile", &line)]);
        build(&world.builder(kind), "production").await.unwrap_err();
        assert_eq!(fs::read_to_string(&mark).unwrap(), "", "{kind:?}");
    }
}

#[tokio::test]
async fn a_module_by_a_transport_that_is_not_allowed_fails_the_build_with_its_name() {
    for kind in BOTH {
        let world = World::new();
        let daemon = GitDaemon::start(&world).await;
        let config = BuildConfig {
            remote: daemon.url("control"),
            transports: vec!["git".to_owned()],
            ..world.config(kind)
        };
        let builder = world.builder_with(config);
        let error = build(&builder, "production").await.unwrap_err().to_string();
        assert!(error.contains(&format!("ntp from {}", world.url("ntp"))), "{kind:?}: {error}");
        assert!(error.contains("add \"file\" to `transports`"), "{kind:?}: {error}");
        let allowed = format!("mod 'ntp', :git => '{}', :branch => 'main'\n", daemon.url("ntp"));
        world.commit("control", "production", &[("Puppetfile", &allowed)]);
        build(&builder, "production").await.expect("what an earlier Puppetfile left does not count");
    }
}

#[tokio::test]
async fn a_puppetfile_runs_as_the_build_user_without_the_controllers_environment() {
    let world = World::new();
    let ruby = "raise \"euid #{Process.euid} groups #{Process.groups} env #{ENV.keys.sort.join(' ')}\"\n";
    world.commit("control", "production", &[("Puppetfile", ruby)]);
    let error = build(&world.builder(Kind::R10k), "production").await.unwrap_err();
    let output = error.output();
    assert!(output.contains("euid 65534 groups []"), "{output}");
    assert!(!output.contains("CARGO"), "{output}");
}

#[tokio::test]
async fn a_built_tree_that_is_a_link_is_not_followed() {
    let world = World::new();
    fs::create_dir(world.path("secret")).unwrap();
    fs::write(world.path("secret/key"), "secret").unwrap();
    let exchange = format!(
        "#!/bin/sh\nbase={}\nrm -rf $base/production\nln -s {} $base/production\n",
        world.path("build/environments/production/r10k/base").display(),
        world.path("secret").display()
    );
    let r10k = world.script("r10k", &exchange);
    let builder = world.builder_with(BuildConfig { r10k, ..world.config(Kind::R10k) });
    let error = build(&builder, "production").await.unwrap_err();
    assert!(matches!(error, BuildError::Snapshot { .. }), "{error:?}");
    assert!(world.path("build/environments/production/r10k/base/production").is_symlink());
    assert_eq!(world.store.objects().list().unwrap(), []);
}

#[tokio::test]
async fn cleaning_up_after_a_build_follows_no_link_that_the_build_user_planted() {
    let world = World::new();
    let builder = world.builder(Kind::R10k);
    let good = build(&builder, "production").await.unwrap();
    let outside = world.path("outside");
    fs::create_dir_all(outside.join("repository")).unwrap();
    for file in ["x.lock", "repository/y.lock"] {
        fs::write(outside.join(file), "").unwrap();
    }
    fs::write(outside.join("repository/config"), "[remote \"origin\"]\n\turl = ext::sh\n").unwrap();
    let place = world.path("build/environments/production/r10k");
    fs::remove_dir_all(place.join("base/production")).unwrap();
    for link in ["cache/modules", "cache/deep", "base/production", "control.git/hooks"] {
        symlink(&outside, place.join(link)).unwrap();
    }
    symlink(outside.join("repository"), place.join("cache/repository")).unwrap();
    fs::write(place.join("running"), "").unwrap();
    assert_eq!(build(&builder, "production").await.unwrap().digest, good.digest);
    for file in ["x.lock", "repository/y.lock", "repository/config"] {
        assert!(outside.join(file).exists(), "{file} is gone");
    }
}

/// `git daemon` on a loopback port, ended when dropped.
struct GitDaemon {
    child: Child,
    port: u16,
    root: String,
}

impl GitDaemon {
    async fn start(world: &World) -> Self {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new("git")
            .args(["daemon", "--reuseaddr", "--export-all", "--listen=127.0.0.1", "--user=nobody"])
            .arg(format!("--port={port}"))
            .arg(world.root())
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .env("HOME", "/nonexistent")
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let daemon = Self { child, port, root: world.root().display().to_string() };
        until("git daemon listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()).await;
        daemon
    }

    fn url(&self, repository: &str) -> String {
        format!("git://127.0.0.1:{}{}/{repository}", self.port, self.root)
    }
}

impl Drop for GitDaemon {
    fn drop(&mut self) {
        // `git daemon` is a child of `git`: the whole family must go.
        let family = fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.child.id()));
        let pids: Vec<String> = family.unwrap_or_default().split_whitespace().map(str::to_owned).collect();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        for pid in pids {
            let _gone = Command::new("kill").arg(pid).stderr(Stdio::null()).status();
        }
    }
}
