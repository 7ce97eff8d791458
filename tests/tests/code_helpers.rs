//! `code-id` and `code-content`, called as Puppet Server calls them: the real program through its links, before every
//! compile and for every file of a static catalog.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Output},
    time::{Duration, Instant},
};

use bunraku_common::Digest;
use bunraku_puppetserver::SwapLock;
use bunraku_tests::installed::program;

/// Asked this often, also a busy machine leaves one call alone.
const CALLS: usize = 100;

/// A compiler with one managed environment, and the links that an agent makes.
struct Compiler {
    root: tempfile::TempDir,
    live: Digest,
}

impl Compiler {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        let live = Digest::of(b"live");
        let at = |below: &str| root.path().join(below);
        let version = at("versions/production").join(format!("production_{live}"));
        fs::create_dir_all(version.join("modules/ntp/files")).unwrap();
        fs::write(version.join("modules/ntp/files/ntp.conf"), "server a\n").unwrap();
        for dir in ["environments", "locks", "data/bin"] {
            fs::create_dir_all(at(dir)).unwrap();
        }
        symlink(version, at("environments/production")).unwrap();
        let agent = PathBuf::from(program("bunraku-agent").unwrap().get_program());
        for helper in ["code-id", "code-content"] {
            symlink(&agent, at("data/bin").join(helper)).unwrap();
        }
        let places = serde_json::json!({
            "environments_dir": at("environments"),
            "versions": at("versions"),
            "locks": at("locks"),
        });
        fs::write(at("data/places.json"), places.to_string()).unwrap();
        // The agent makes it with the first commit.
        drop(SwapLock::exclusive(&lock(root.path()), None, Duration::ZERO).unwrap());
        Self { root, live }
    }

    fn ask(&self, helper: &str, arguments: &[&str]) -> Output {
        let link = self.root.path().join("data/bin").join(helper);
        // Puppet Server gives its programs no environment of ours.
        Command::new(link).args(arguments).env_clear().output().unwrap()
    }

    /// What `code-id` answers, and how long that took as a whole process.
    fn code_id(&self) -> (String, Duration) {
        let began = Instant::now();
        let answer = self.ask("code-id", &["production"]);
        let took = began.elapsed();
        assert!(answer.status.success() && answer.stderr.is_empty(), "{answer:?}");
        (String::from_utf8(answer.stdout).unwrap(), took)
    }
}

fn lock(root: &Path) -> PathBuf {
    SwapLock::path(&root.join("locks"), &"production".parse().unwrap())
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn a_code_id_costs_a_compile_less_than_5_ms_when_no_commit_runs() {
    let compiler = Compiler::new();
    let mut took = Vec::new();
    for _ in 0..CALLS {
        let (id, one) = compiler.code_id();
        assert_eq!(id, format!("{}\n", compiler.live));
        took.push(one);
    }
    took.sort();
    // The tests' neighbours cost the others more than that.
    assert!(took[0] < Duration::from_millis(5), "the quickest took {:?}, the median {:?}", took[0], took[50]);
}

#[test]
fn a_code_id_waits_less_than_a_second_for_a_commit_that_hangs_and_is_then_no_version() {
    let compiler = Compiler::new();
    let commit = SwapLock::exclusive(&lock(compiler.root.path()), None, Duration::ZERO).unwrap();
    let mut quickest = Duration::MAX;
    for _ in 0..3 {
        let (id, took) = compiler.code_id();
        assert_eq!(id, "live\n");
        assert!(took > Duration::from_millis(500), "it did not wait for the commit: {took:?}");
        quickest = quickest.min(took);
    }
    assert!(quickest < Duration::from_secs(1), "{quickest:?}");
    drop(commit);
    assert_eq!(compiler.code_id().0, format!("{}\n", compiler.live));
}

/// Puppet Server fails a compile on any exit but 0 of `code-id`, and logs its standard error.
#[test]
fn a_code_id_that_cannot_be_told_says_why_on_standard_error_and_fails_no_compile() {
    let compiler = Compiler::new();
    let places = compiler.root.path().join("data/places.json");
    fs::write(&places, "{").unwrap();
    let damaged = compiler.ask("code-id", &["production"]);
    assert_eq!((damaged.status.code(), text(&damaged.stdout)), (Some(0), "live\n"));
    assert!(text(&damaged.stderr).contains("places.json is damaged"), "{damaged:?}");
    let hostile = Compiler::new().ask("code-id", &["../production"]);
    assert_eq!((hostile.status.code(), text(&hostile.stdout)), (Some(0), "live\n"));
    assert!(text(&hostile.stderr).contains("`../production` is not the name"), "{hostile:?}");
    assert_eq!(compiler.ask("code-id", &[]).status.code(), Some(2));
}

/// Puppet Server sends what comes on standard output to the Puppet agent, if the exit is 0.
#[test]
fn a_files_content_is_exact_or_nothing_with_the_reason_on_standard_error() {
    let compiler = Compiler::new();
    let live = compiler.live.to_string();
    let file = "modules/ntp/files/ntp.conf";
    let served = compiler.ask("code-content", &["production", &live, file]);
    assert_eq!((served.status.code(), text(&served.stdout)), (Some(0), "server a\n"));
    assert!(served.stderr.is_empty(), "{served:?}");
    let unknown = Digest::of(b"unknown").to_string();
    for (id, path) in [(&unknown, file), (&live, "modules/ntp/files/none"), (&live, "../../../etc/passwd")] {
        let refused = compiler.ask("code-content", &["production", id, path]);
        assert_eq!(refused.status.code(), Some(1), "{path}: {refused:?}");
        assert!(refused.stdout.is_empty() && !refused.stderr.is_empty(), "{path}: {refused:?}");
    }
    assert_eq!(compiler.ask("code-content", &["production", &live]).status.code(), Some(2));
}
