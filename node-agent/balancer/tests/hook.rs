//! The keeper over a command of the operator's: a small script that keeps each server's state in a file.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use bunraku_balancer::{BalanceError, BalancerConfig, Keeper, NewServer, Trouble, Wanted, driver};
use support::{node, wish};

/// Keeps `ready` or `drain` for c1 and c2, and every request.
const SCRIPT: &str = r#"#!/bin/sh
cd "$1" || exit 1
request=$(cat)
echo "$request" >> requests
state() { cat "$1" 2>/dev/null || echo ready; }
case $request in
  *'"do":"status"'*)
    printf '{"incarnation":"1","servers":[{"backend":"puppet","server":"c1","admin":"%s","health":"up","sessions":3},' "$(state c1)"
    printf '{"backend":"puppet","server":"c2","admin":"%s","health":"up"}]}' "$(state c2)" ;;
  *'"do":"drain"'*'puppet/c1'*) echo drain > c1 ;;
  *'"do":"close"'*'puppet/c1'*) ;;
  *'"do":"ready"'*'puppet/c1'*) rm -f c1 ;;
  *) echo "what is this?" >&2; exit 3 ;;
esac
"#;

fn script(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("balancer");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn keeper(directory: &Path, text: &str) -> Keeper {
    let (script, d) = (script(directory, text), directory.display());
    let config: BalancerConfig = toml::from_str(&format!(
        "driver = 'hook'\n[compilers]\n'c1.example' = ['puppet/c1']\n'c2.example' = ['puppet/c2']\n\
         [hook]\ncommand = ['{}', '{d}', '$(touch {d}/shell)']\ndeadline_s = 2\n",
        script.display()
    ))
    .unwrap();
    let driver = driver(&config).unwrap();
    Keeper::open(config, driver, &directory.join("balancer.json")).unwrap()
}

#[tokio::test]
async fn a_command_drains_and_readies_by_the_documented_contract_and_meets_no_shell() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = keeper(directory.path(), SCRIPT);
    let servers = keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap();
    let c1 = servers[0].seen.clone().unwrap();
    assert_eq!((servers[0].admin(), c1.sessions, c1.sessions_known), ("drain", 3, true));
    assert!(!keeper.status().await.servers[1].seen.as_ref().unwrap().sessions_known);
    assert!(matches!(
        keeper.balance(wish("c2.example", Wanted::Drained, 1), || true).await,
        Err(BalanceError::BelowFloor(_))
    ));
    assert_eq!(keeper.close(&node("c1.example"), || true).await.unwrap(), "");
    let servers = keeper.balance(wish("c1.example", Wanted::Ready, 2), || true).await.unwrap();
    assert!(servers[0].in_service());
    let requests = fs::read_to_string(directory.path().join("requests")).unwrap();
    let orders: Vec<&str> = requests.lines().filter(|line| !line.contains("status")).collect();
    assert_eq!(
        orders,
        [
            r#"{"do":"drain","compiler":"c1.example","servers":["puppet/c1"]}"#,
            r#"{"do":"close","compiler":"c1.example","servers":["puppet/c1"]}"#,
            r#"{"do":"ready","compiler":"c1.example","servers":["puppet/c1"]}"#
        ]
    );
    assert!(!directory.path().join("shell").exists());
}

#[tokio::test]
async fn f14_a_command_that_hangs_fails_babbles_or_lies_is_a_clear_error() {
    let endless =
        "#!/bin/sh\nwhile :; do echo 0123456789012345678901234567890123456789012345678901234567890; done";
    let cases = [
        ("#!/bin/sh\nsleep 600 & echo $! > \"$1/child\"\nwait", "did not answer within 2 s"),
        ("#!/bin/sh\necho 'the API is away' >&2\nexit 4", "the API is away"),
        ("#!/bin/sh\necho 'ok'", "answered what is not understood"),
        (
            "#!/bin/sh\necho '{\"servers\":[{\"backend\":\"p;q\",\"server\":\"c1\",\"admin\":\"ready\",\"health\":\"up\"}]}'",
            "p;q",
        ),
        (endless, "says more than any status"),
    ];
    for (text, expected) in cases {
        let directory = tempfile::tempdir().unwrap();
        let keeper = keeper(directory.path(), text);
        let began = Instant::now();
        let error = keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap_err();
        assert!(matches!(error, BalanceError::Trouble(_)) && error.to_string().contains(expected), "{error}");
        assert!(began.elapsed() < Duration::from_secs(6));
        if let Ok(child) = fs::read_to_string(directory.path().join("child")) {
            support::until("the command's child to end", || async { !is_running(child.trim()) }).await;
        }
    }
}

fn is_running(pid: &str) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test]
async fn a_command_of_before_close_was_asked_for_says_so_and_the_drain_stays() {
    let directory = tempfile::tempdir().unwrap();
    let keeper = keeper(directory.path(), &SCRIPT.replace(r#""do":"close""#, "never"));
    keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap();
    let why = keeper.close(&node("c1.example"), || true).await.unwrap();
    assert!(why.contains("refused") && why.contains("what is this?"), "{why}");
    assert_eq!(keeper.status().await.servers[0].admin(), "drain");
}

#[tokio::test]
async fn a_command_that_says_yes_and_does_nothing_is_found_out() {
    let directory = tempfile::tempdir().unwrap();
    let lie = SCRIPT.replace("echo drain > c1", "true");
    let keeper = keeper(directory.path(), &lie);
    let error = keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap_err();
    assert!(matches!(error, BalanceError::Trouble(Trouble::Unconfirmed { .. })), "{error}");
}

#[tokio::test]
async fn what_a_driver_cannot_do_it_refuses_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let text = format!(
        "driver = 'hook'\n[compilers]\n'c1.example' = ['puppet/c1']\n[hook]\ncommand = ['{}']\n",
        script(directory.path(), SCRIPT).display()
    );
    let driver = driver(&toml::from_str(&text).unwrap()).unwrap();
    let name = support::name("puppet/c1");
    let new = NewServer { name: name.clone(), address: "192.0.2.1:8140".into(), parameters: Vec::new() };
    let refused = [driver.add(&new).await, driver.remove(&name).await, driver.weigh(&name, 50).await];
    for refused in refused {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.starts_with("hook cannot") && refused.contains("puppet/c1"), "{refused}");
    }
}
