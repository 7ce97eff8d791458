//! T10: names of branches, environments and commits that would like to be options or commands.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use bunraku_proto::v1;
use bunraku_tests::fleet::Fleet;
use tonic::Code;

/// A git that writes down how it was called.
fn witness(fleet: &Fleet) -> (PathBuf, PathBuf) {
    let dir = fleet.path("witness");
    fs::create_dir(&dir).unwrap();
    let (program, heard) = (dir.join("git"), dir.join("heard"));
    let script = format!(
        "#!/bin/sh\nfor word in \"$@\"; do printf '%s\\n' \"$word\" >> {}; done\nexec /usr/bin/git \"$@\"\n",
        heard.display()
    );
    fs::write(&program, script).unwrap();
    fs::write(&heard, "").unwrap();
    for (path, mode) in [(&dir, 0o755), (&program, 0o755), (&heard, 0o666)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    (program, heard)
}

/// Makes a branch as git itself would not, for its command line refuses some names that its protocol carries.
fn force_branch(control: &Path, name: &str) {
    let git = |args: &[&str]| {
        let mut git = Command::new("git");
        git.args(["-c", "safe.directory=*"]).args(args).current_dir(control);
        let out = git.output().unwrap();
        assert!(out.status.success(), "{name}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap().trim().to_owned()
    };
    let tip = git(&["rev-parse", "refs/heads/production"]);
    git(&["update-ref", &format!("refs/heads/{name}"), &tip]);
}

#[tokio::test(flavor = "multi_thread")]
async fn t10_branches_that_would_be_commands_are_named_and_never_reach_an_argument() {
    let mut fleet = Fleet::new().nodes(1).up().await;
    let trap = std::env::temp_dir().join(format!("bunraku-trap-{}", std::process::id()));
    let touch = format!("touch${{IFS}}{}", trap.display());
    let mut hostile = vec![
        format!("--upload-pack={touch}"),
        "--exec=x".into(),
        "-h".into(),
        format!("a;{touch}"),
        format!("$({touch})"),
        format!("`{touch}`"),
        format!("a|{touch}"),
        format!("a&{touch}"),
        "<script>alert(1)</script>".into(),
        "a'b\"c".into(),
        "umlaut-ä".into(),
        "\u{202e}reversed".into(),
        format!("{}/end", "long".repeat(60)),
    ];
    hostile.push("%2e%2e%2fetc".into());
    for name in &hostile {
        force_branch(&fleet.path("git/control"), name);
    }
    // Two that would be one environment.
    force_branch(&fleet.path("git/control"), "feature-x");
    force_branch(&fleet.path("git/control"), "feature.x");
    let owned = Command::new("chown").args(["-R", "nobody"]).arg(fleet.path("git")).status().unwrap();
    assert!(owned.success());
    let (program, heard) = witness(&fleet);
    fleet.main_mut().config_mut().build.git = program;
    fleet.main_mut().restart().await;
    let main = fleet.main();
    main.until_connected("c1").await;

    let asked = v1::DeployRequest { all: true, ..Default::default() };
    let reply = main.client().deploy(asked).await.unwrap().into_inner();
    let refused: Vec<&str> = reply.refused.iter().map(|refused| refused.environment.as_str()).collect();
    for name in &hostile {
        // Long names are cut where they are shown.
        let shown: String = name.chars().take(150).collect::<String>().escape_debug().collect();
        assert!(refused.iter().any(|named| named.starts_with(&shown)), "{name} is not named: {refused:#?}");
    }
    assert!(refused.contains(&"feature-x") && refused.contains(&"feature.x"), "{refused:#?}");
    let deployed: Vec<&str> = reply.deploys.iter().map(|deploy| deploy.environment.as_str()).collect();
    assert_eq!(deployed, ["production"]);
    let deploy = main.until_ended(reply.deploys[0].id).await;
    assert_eq!(deploy.phase, "live", "{deploy:#?}");

    let heard = fs::read_to_string(heard).unwrap();
    assert!(heard.lines().any(|word| word == "fetch"), "the witness was asked");
    for name in &hostile {
        let reached = heard.lines().any(|word| word == name || (name.len() > 5 && word.contains(name)));
        assert!(!reached, "{name} reached git as an argument");
    }
    assert!(!trap.exists(), "a name was run");
    for text in reply.refused.iter().map(|refused| format!("{} {}", refused.environment, refused.reason)) {
        assert!(!text.chars().any(|c| c.is_control() || c == '\u{202e}'), "{text:?}");
    }
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t10_names_from_the_wire_that_are_no_names_are_refused_before_anything_is_asked() {
    let fleet = Fleet::new().nodes(0).up().await;
    let main = fleet.main();
    let before = super::raw::audit_head(main).await;
    let long = "a".repeat(4096);
    for name in
        ["--upload-pack=x", "-h", "a;b", "$(x)", "a\nb", "..", "../x", "a/b", "a\0b", "A", "ä", " ", &long]
    {
        let mut client = main.client();
        let deploy = v1::DeployRequest { environments: vec![name.into()], ..Default::default() };
        let rollback = v1::RollbackRequest { environment: name.into(), to: String::new() };
        let sha = v1::DeployRequest {
            environments: vec!["production".into()],
            commit: name.into(),
            ..Default::default()
        };
        let node = v1::HoldNodeRequest { node: format!("{name}/"), reason: "x".into() };
        let token =
            v1::CreateTokenRequest { node: format!("{name}/"), roles: vec!["compiler".into()], ttl_s: 0 };
        let role = v1::CreateTokenRequest { node: "c1".into(), roles: vec![name.into()], ttl_s: 0 };
        let operator = v1::AddOperatorRequest { name: format!("{name}/"), right: "viewer".into() };
        let right = v1::AddOperatorRequest { name: "ann".into(), right: name.into() };
        for (what, status) in [
            ("deploy", client.deploy(deploy).await.map(drop).unwrap_err()),
            ("rollback", client.rollback(rollback).await.map(drop).unwrap_err()),
            ("commit", client.deploy(sha).await.map(drop).unwrap_err()),
            ("hold", client.hold_node(node).await.map(drop).unwrap_err()),
            ("token", client.create_token(token).await.map(drop).unwrap_err()),
            ("role", client.create_token(role).await.map(drop).unwrap_err()),
            ("operator", client.add_operator(operator).await.map(drop).unwrap_err()),
            ("right", client.add_operator(right).await.map(drop).unwrap_err()),
        ] {
            let codes = [Code::InvalidArgument, Code::FailedPrecondition];
            assert!(codes.contains(&status.code()), "{what} {name:?}: {status}");
            let told = status.message();
            assert!(told.len() < 1000, "{what} {name:.20}: {} bytes", told.len());
            assert!(!told.chars().any(|c| c.is_control() && c != '\n'), "{what}: {told:?}");
        }
    }
    assert_eq!(super::raw::audit_head(main).await, before);
    fleet.end().await;
}
