//! What is built for a release cannot be killed by an environment variable.

use std::{fs, path::Path, process::Command};

use bunraku_tests::installed::program;

use super::Case;

/// The variable's name is in every program that has crash points.
const TRACE: &str = "BUNRAKU_CRASH_AT";
const PROGRAMS: [&str; 2] = ["bunraku", "bunraku-agent"];

pub(crate) fn cases() -> Vec<Case> {
    vec![
        Case::new("release builds have no crash points", release_builds_have_no_crash_points()),
        Case::new("the programs of these tests have crash points", these_programs_have_crash_points()),
    ]
}

#[expect(clippy::unused_async, reason = "a case is a future")]
async fn release_builds_have_no_crash_points() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let workspace: toml::Table = fs::read_to_string(root.join("Cargo.toml")).unwrap().parse().unwrap();
    // They exist where debug assertions do, and a release has none unless its profile asks for them.
    for profile in workspace["profile"].as_table().unwrap().iter().filter(|(name, _)| *name != "dev") {
        assert!(profile.1.get("debug-assertions").is_none(), "{profile:?}");
    }
    for name in PROGRAMS {
        let built = root.join("target/release").join(name);
        assert!(!built.exists() || !has_crash_points(&built), "{} has crash points", built.display());
    }
}

#[expect(clippy::unused_async, reason = "a case is a future")]
async fn these_programs_have_crash_points() {
    for name in PROGRAMS {
        let built = program(name).unwrap();
        assert!(
            has_crash_points(Path::new(built.get_program())),
            "{name} (hint: cargo build --workspace --bins)"
        );
    }
}

fn has_crash_points(program: &Path) -> bool {
    let looked = Command::new("grep").args(["-qaF", TRACE]).arg(program).status().unwrap();
    looked.success()
}
