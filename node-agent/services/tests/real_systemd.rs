//! Units and orders with a real systemd: a systemd-nspawn machine over this host's own files, in memory, gone afterwards.
//!
//! Needs root and the packages systemd-container and dbus. The machine is booted twice: what a reboot does to an order
//! is part of the story. A boot takes a second.

#![expect(clippy::unwrap_used, reason = "a test, which clippy cannot see: it has no test harness")]

#[path = "real/machine.rs"]
mod machine;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use bunraku_services::{
    Acted, OrderId, Orders, Outcome, Service, ServiceError, Services, State, UnitName, Verb,
    order::TransientUnits, service::Grant,
};
use machine::Machine;

/// What there is to be told.
const UNITS: &[(&str, &str)] = &[
    (
        "small.service",
        "[Service]\nExecStart=/bin/sleep infinity\nExecReload=/bin/sh -c 'test ! -e /run/small-broken'\n",
    ),
    (
        "slow.service",
        "[Service]\nExecStartPre=/bin/sh -c 'while [ ! -e /run/go ]; do sleep 0.05; done'\n\
         ExecStart=/bin/sleep infinity\n",
    ),
    ("failing.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n"),
];

/// The agent's own unit, whose rights must do.
const AGENT: &str = include_str!("../../../packaging/systemd/bunraku-agent.service");

const STORY: &str = "real_systemd_runs_units_and_orders_and_a_reboot_loses_results";
const SOON: Duration = Duration::from_secs(60);

/// In the machine: on its disk, so that it is there after a reboot.
const ORDERS: &str = "/var/lib/orders";

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let inside = |story: fn() -> Story| {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(story());
    };
    match args.get(1).map(String::as_str) {
        Some("first-boot") => return inside(|| Box::pin(first_boot())),
        Some("second-boot") => return inside(|| Box::pin(second_boot())),
        Some("ask") => return inside(|| Box::pin(ask())),
        _ => {}
    }
    let wanted = |arg: &String| arg.starts_with('-') || STORY.contains(arg.as_str());
    if args.iter().any(|arg| arg == "--list") {
        println!("{STORY}: test");
    } else if args.iter().skip(1).all(wanted) {
        let began = Instant::now();
        let mut units: Vec<_> = UNITS.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
        units.push(("asking.service", asking()));
        Machine { units, files: &[] }.boots(&["first-boot", "second-boot"]);
        println!("test {STORY} ... ok ({:.1} s)", began.elapsed().as_secs_f64());
    }
}

/// The agent's unit with this program in its place.
fn asking() -> String {
    let lines = AGENT.lines().map(|line| match line.split_once('=') {
        Some(("ExecStart", _)) => "ExecStart=/bunraku-test ask",
        Some(("Type" | "WatchdogSec" | "Restart" | "StateDirectory", _)) => "",
        _ => line,
    });
    lines.collect::<Vec<_>>().join("\n")
}

type Story = std::pin::Pin<Box<dyn Future<Output = ()>>>;

fn services() -> Services {
    let grant = |name: &str| (name.to_owned(), Grant::Systemd { unit: UnitName::parse(name).unwrap() });
    let names = UNITS.iter().map(|(name, _)| name.trim_end_matches(".service")).chain(["asking", "absent"]);
    Services::new(names.map(grant).collect::<BTreeMap<_, _>>())
}

fn orders() -> Orders {
    Orders::new(ORDERS, Box::new(TransientUnits))
}

fn id(text: &str) -> OrderId {
    OrderId::parse(text).unwrap()
}

fn shell(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(Into::into).into()
}

async fn first_boot() {
    let services = services();
    let unit = |name| services.granted(name).unwrap();
    starts_reloads_restarts_and_stops(unit("small")).await;
    refuses_what_cannot_be(&services).await;
    a_late_job_is_unknown_and_then_done(unit("slow")).await;
    words_arrive_as_they_are().await;
    an_order_survives_its_agent(unit("asking")).await;
    a_killed_order_is_unknown().await;
    assert_eq!(orders().run(&id("long"), &shell("sleep 600")).await.unwrap(), Outcome::Running);
}

async fn starts_reloads_restarts_and_stops(small: &dyn Service) {
    let before = small.status().await.unwrap();
    assert_eq!((before.state, before.detail.as_str()), (State::Stopped, "inactive (dead)"));
    small.act(Verb::Start, SOON).await.unwrap();
    let started = small.status().await.unwrap();
    assert_eq!((started.state, started.detail.as_str()), (State::Running, "active (running)"));
    assert!(started.main_pid.is_some() && started.mark.invocation.len() == 32, "{started:?}");
    assert_eq!(small.acted_since(Verb::Start, &before.mark).await.unwrap(), Acted::Yes);
    assert_eq!(small.acted_since(Verb::Reload, &started.mark).await.unwrap(), Acted::No);
    assert_eq!(small.acted_since(Verb::Restart, &started.mark).await.unwrap(), Acted::No);

    small.act(Verb::Reload, SOON).await.unwrap();
    let reloaded = small.status().await.unwrap();
    assert_eq!(reloaded.mark.invocation, started.mark.invocation, "a reload is the same run");
    assert_eq!(small.acted_since(Verb::Reload, &started.mark).await.unwrap(), Acted::Yes);
    assert_eq!(small.acted_since(Verb::Restart, &started.mark).await.unwrap(), Acted::No);

    fs::write("/run/small-broken", "").unwrap();
    let error = small.act(Verb::Reload, SOON).await.unwrap_err();
    assert!(matches!(error, ServiceError::Failed { .. }), "{error}");
    let amiss = small.acted_since(Verb::Reload, &reloaded.mark).await.unwrap();
    assert!(matches!(&amiss, Acted::Amiss(why) if why.contains("reload failed")), "{amiss:?}");

    small.act(Verb::Restart, SOON).await.unwrap();
    assert_eq!(small.acted_since(Verb::Restart, &reloaded.mark).await.unwrap(), Acted::Yes);
    let restarted = small.status().await.unwrap();
    small.act(Verb::Stop, SOON).await.unwrap();
    assert_eq!(small.acted_since(Verb::Stop, &restarted.mark).await.unwrap(), Acted::Yes);
    let amiss = small.acted_since(Verb::Restart, &restarted.mark).await.unwrap();
    assert!(matches!(amiss, Acted::Amiss(_)), "stopped, and not started again: {amiss:?}");
}

async fn refuses_what_cannot_be(services: &Services) {
    let failed = async |name: &str, verb| services.granted(name).unwrap().act(verb, SOON).await.unwrap_err();
    let error = failed("failing", Verb::Start).await;
    let text = error.to_string();
    assert!(matches!(error, ServiceError::Failed { .. }), "{text}");
    for part in
        ["could not start failing.service", "failed (exit-code)", "hint: journalctl -u failing.service"]
    {
        assert!(text.contains(part), "{text}");
    }
    assert!(matches!(failed("absent", Verb::Start).await, ServiceError::NoUnit { .. }));
    let absent = services.granted("absent").unwrap().status().await.unwrap_err();
    assert!(matches!(absent, ServiceError::NoUnit { .. }), "{absent}");
    services.granted("slow").unwrap().status().await.unwrap();
    fs::write("/run/go", "").unwrap();
    services.granted("slow").unwrap().act(Verb::Start, SOON).await.unwrap();
    let text = failed("slow", Verb::Reload).await.to_string();
    assert!(text.contains("ExecReload"), "{text}");
    services.granted("slow").unwrap().act(Verb::Stop, SOON).await.unwrap();
    fs::remove_file("/run/go").unwrap();
}

async fn a_late_job_is_unknown_and_then_done(slow: &dyn Service) {
    let before = slow.status().await.unwrap();
    let error = slow.act(Verb::Start, Duration::from_millis(300)).await.unwrap_err();
    assert!(error.is_unknown() && error.to_string().contains("slow.service"), "{error}");
    assert_eq!(slow.acted_since(Verb::Start, &before.mark).await.unwrap(), Acted::GoingOn);
    fs::write("/run/go", "").unwrap();
    let began = Instant::now();
    while slow.acted_since(Verb::Start, &before.mark).await.unwrap() != Acted::Yes {
        assert!(began.elapsed() < SOON, "{:?}", slow.status().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn words_arrive_as_they_are() {
    let words = ["$HOME", "${HOME}", "a $$ b", "%n %%", "two words", "\"quoted\"", "back\\slash", "", "é"];
    let argv: Vec<String> = ["printf", "<%s>"].iter().chain(&words).map(|word| (*word).to_owned()).collect();
    orders().run(&id("words"), &argv).await.unwrap();
    let expected: String = words.iter().map(|word| format!("<{word}>")).collect();
    let ended = Outcome::Ended { code: 0, output: expected };
    assert_eq!(orders().wait(&id("words"), SOON).await.unwrap(), ended);
    assert_eq!(orders().run(&id("words"), &argv).await.unwrap(), ended);
    orders().forget(&id("words")).await.unwrap();
    assert_eq!(orders().result(&id("words")).await.unwrap(), Outcome::NeverAsked);

    orders().run(&id("code"), &shell("echo no >&2; exit 4")).await.unwrap();
    let ended = Outcome::Ended { code: 4, output: "no\n".into() };
    assert_eq!(orders().wait(&id("code"), SOON).await.unwrap(), ended);
}

const SURVIVOR: &str =
    "echo begun >> /run/survivor; while [ ! -e /run/finish ]; do sleep 0.05; done; echo done";

async fn ask() {
    services().granted("small").unwrap().act(Verb::Restart, SOON).await.unwrap();
    orders().run(&id("survivor"), &shell(SURVIVOR)).await.unwrap();
    fs::write("/run/asked", "").unwrap();
    std::future::pending().await
}

async fn an_order_survives_its_agent(asking: &dyn Service) {
    asking.act(Verb::Start, SOON).await.unwrap();
    for restart in [Verb::Restart, Verb::Stop] {
        let began = Instant::now();
        while !Path::new("/run/asked").exists() {
            assert!(began.elapsed() < SOON);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        fs::remove_file("/run/asked").unwrap();
        asking.act(restart, SOON).await.unwrap();
        assert_eq!(orders().result(&id("survivor")).await.unwrap(), Outcome::Running);
    }
    fs::write("/run/finish", "").unwrap();
    let ended = Outcome::Ended { code: 0, output: "done\n".into() };
    assert_eq!(orders().wait(&id("survivor"), SOON).await.unwrap(), ended);
    assert_eq!(fs::read_to_string("/run/survivor").unwrap(), "begun\n", "it ran once");
}

async fn a_killed_order_is_unknown() {
    orders().run(&id("killed"), &shell("sleep 600")).await.unwrap();
    let killed = std::process::Command::new("systemctl")
        .args(["kill", "-s", "KILL", "bunraku-order-killed.service"])
        .status();
    assert!(killed.unwrap().success());
    let lost = orders().wait(&id("killed"), SOON).await.unwrap();
    assert!(matches!(&lost, Outcome::Unknown { why } if why.contains("before it left a result")), "{lost:?}");
    assert_eq!(orders().run(&id("killed"), &shell("sleep 600")).await.unwrap(), lost);
}

async fn second_boot() {
    let lost = orders().run(&id("long"), &shell("sleep 600")).await.unwrap();
    assert!(matches!(&lost, Outcome::Unknown { .. }), "{lost:?}");
    let ended = Outcome::Ended { code: 4, output: "no\n".into() };
    assert_eq!(orders().result(&id("code")).await.unwrap(), ended);
}
