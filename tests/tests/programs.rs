//! The two programs as somebody at a shell meets them before anything runs: a wrong configuration, and a controller that
//! does not answer.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::{fs, path::Path, process::Output};

use bunraku_tests::installed::program;

/// Documented in docs/exit-codes.md.
const WRONG_USE: i32 = 2;
const NO_ANSWER: i32 = 3;

fn run(name: &str, arguments: &[&str]) -> Output {
    program(name).unwrap().args(arguments).env_remove("BUNRAKU_SOCKET").output().unwrap()
}

fn is_refused(name: &str, arguments: &[&str], code: i32, said: &[&str]) {
    let output = run(name, arguments);
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{name} {arguments:?}: {err}");
    assert!(output.stdout.is_empty(), "{name} {arguments:?}");
    for part in said {
        assert!(err.contains(part), "{name} {arguments:?} says {err:?} and not {part:?}");
    }
}

#[test]
fn a_wrong_configuration_is_told_by_line_key_and_nearest_key() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("b.toml");
    let path = file.to_str().unwrap();
    let controller: &[(&str, &str, &str)] = &[
        ("adress = 'main:8170'", " line 1: unknown field `adress`", "hint: did you mean `address`?"),
        ("address = 'main:8170'\n[bild]", " line 2: unknown field `bild`", "hint: did you mean `build`?"),
        ("[build]\nkindd = 'r10k'", " line 2: unknown field `kindd`", "hint: did you mean `kind`?"),
        (
            "[[puppet.allow]]\ncertnam = '*'",
            " line 2: unknown field `certnam`",
            "hint: did you mean `certname`?",
        ),
        ("address = 5", " line 1: invalid type: integer `5`", "expected a string"),
        ("address = 'main:8170", " line 1: ", "invalid"),
    ];
    for (text, place, rest) in controller {
        fs::write(&file, text).unwrap();
        is_refused("bunraku", &["serve", "--config", path], WRONG_USE, &[path, place, rest]);
    }
    let agent: &[(&str, &str, &str)] = &[
        ("controler = 'main:8170'", " line 1: unknown field `controler`", "hint: did you mean `controller`?"),
        (
            "controller = 'main:8170'\n[code]\nversions_dri = '/x'",
            " line 3: unknown field `versions_dri`",
            "hint: did you mean `versions_dir`?",
        ),
        ("[code]\nkeep_versions = 'x'", " line 2: invalid type: string \"x\"", "expected"),
        ("[enroll]\nrols = ['compiler']", " line 2: unknown field `rols`", "hint: did you mean `roles`?"),
    ];
    for (text, place, rest) in agent {
        fs::write(&file, text).unwrap();
        for command in ["run", "doctor"] {
            is_refused("bunraku-agent", &[command, "--config", path], WRONG_USE, &[path, place, rest]);
        }
    }
}

#[test]
fn only_a_configuration_that_is_not_there_is_answered_with_how_to_make_one() {
    let dir = tempfile::tempdir().unwrap();
    let missing = dir.path().join("none.toml");
    let calls = [("bunraku", "serve", "bunraku init"), ("bunraku-agent", "run", ".example")];
    for (name, command, mend) in calls {
        let asked = |path: &Path| run(name, &[command, "--config", path.to_str().unwrap()]);
        is_refused(name, &[command, "--config", missing.to_str().unwrap()], WRONG_USE, &["hint: ", mend]);
        // A directory stands for whatever is there and cannot be read; root reads all files.
        let unreadable = asked(dir.path());
        let err = String::from_utf8(unreadable.stderr).unwrap();
        assert_eq!(unreadable.status.code(), Some(WRONG_USE), "{err}");
        assert!(err.contains("could not read") && !err.contains("hint"), "{err}");
    }
}

#[test]
fn a_controller_that_does_not_answer_is_told_as_that_by_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
    let identity = at("identity");
    // Nothing there, and what a killed controller left.
    let left = at("left.sock");
    drop(std::os::unix::net::UnixListener::bind(&left).unwrap());
    let commands = [
        "status",
        "deploy production",
        "deploys list",
        "rollback production",
        "release production",
        "environments list",
        "snapshots list",
        "nodes list",
        "nodes revoke c1 --reason x --yes",
        "heal c1",
        "lb status",
        "rollout list",
        "token list",
        "operator list",
        "ca status",
        "ca rotate --yes",
        "takeover --reason x --yes",
        "events",
        "audit verify",
        "doctor",
        "-o json status",
    ];
    for (socket, mend) in [(at("none.sock"), "bunraku login"), (left, "systemctl status bunraku")] {
        for command in commands {
            let arguments: Vec<&str> = ["--socket", &socket, "--identity", &identity]
                .into_iter()
                .chain(command.split(' '))
                .collect();
            is_refused(
                "bunraku",
                &arguments,
                NO_ANSWER,
                &["error: no controller answers at", "hint: ", mend],
            );
        }
    }
}
