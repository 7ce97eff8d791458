use super::*;

const SOON: Duration = Duration::from_secs(30);

fn orders(directory: &Path) -> Orders {
    Orders::new(directory.join("orders"), Box::new(Detached))
}

fn id(text: &str) -> OrderId {
    OrderId::parse(text).unwrap()
}

fn shell(script: &str) -> Vec<String> {
    ["/bin/sh", "-c", script].map(Into::into).into()
}

#[tokio::test]
async fn a_command_runs_once_and_its_result_is_kept_for_another_agent() {
    let dir = tempfile::tempdir().unwrap();
    let (id, count) = (id("turn-1"), dir.path().join("count"));
    let argv = shell(&format!("echo once >> {}; echo '$HOME' \"$HOME\"; exit 3", count.display()));
    assert_eq!(orders(dir.path()).result(&id).await.unwrap(), Outcome::NeverAsked);
    orders(dir.path()).run(&id, &argv).await.unwrap();
    let ended = orders(dir.path()).wait(&id, SOON).await.unwrap();
    assert_eq!(ended, Outcome::Ended { code: 3, output: "$HOME /root\n".into() });

    assert_eq!(orders(dir.path()).run(&id, &argv).await.unwrap(), ended);
    assert_eq!(fs::read_to_string(&count).unwrap(), "once\n");
    let error = orders(dir.path()).run(&id, &shell("true")).await.unwrap_err();
    assert!(matches!(error, OrderError::Another { .. }), "{error}");

    orders(dir.path()).forget(&id).await.unwrap();
    assert_eq!(orders(dir.path()).result(&id).await.unwrap(), Outcome::NeverAsked);
}

#[tokio::test]
async fn scripts_that_are_started_again_run_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (orders, id, count) = (orders(dir.path()), id("turn-2"), dir.path().join("count"));
    let argv = shell(&format!("echo once >> {}", count.display()));
    orders.remember(&id, &argv).unwrap();
    for _ in 0..5 {
        Detached.launch(&id, &orders.of(&id), &argv).await.unwrap();
    }
    assert!(matches!(orders.run(&id, &argv).await.unwrap(), Outcome::Running | Outcome::Ended { .. }));
    let ended = orders.wait(&id, SOON).await.unwrap();
    assert_eq!(ended, Outcome::Ended { code: 0, output: String::new() });
    // The late ones are done when only the result is left.
    let late = || fs::read_dir(orders.of(&id)).unwrap().count() > 4;
    let until = std::time::Instant::now() + SOON;
    while late() && std::time::Instant::now() < until {
        tokio::time::sleep(LOOK).await;
    }
    assert_eq!(fs::read_to_string(&count).unwrap(), "once\n");
}

#[tokio::test]
async fn an_order_that_was_remembered_and_not_begun_begins_when_it_is_asked_for_again() {
    let dir = tempfile::tempdir().unwrap();
    let (orders, id) = (orders(dir.path()), id("turn-3"));
    orders.remember(&id, &shell("true")).unwrap();
    assert_eq!(orders.result(&id).await.unwrap(), Outcome::NotBegun);
    orders.run(&id, &shell("true")).await.unwrap();
    let ended = orders.wait(&id, SOON).await.unwrap();
    assert_eq!(ended, Outcome::Ended { code: 0, output: String::new() });
}

#[tokio::test]
async fn a_lost_result_is_unknown_and_nothing_runs_again() {
    let dir = tempfile::tempdir().unwrap();
    let (orders, id) = (orders(dir.path()), id("turn-4"));
    let argv = shell("sleep 600");
    assert_eq!(orders.run(&id, &argv).await.unwrap(), Outcome::Running);
    assert!(matches!(orders.forget(&id).await, Err(OrderError::StillRunning { .. })));
    let script = orders.process(&id).unwrap();
    let group = rustix::process::Pid::from_raw(script.pid().cast_signed()).unwrap();
    rustix::process::kill_process_group(group, rustix::process::Signal::KILL).unwrap();
    let lost = orders.wait(&id, SOON).await.unwrap();
    assert!(matches!(&lost, Outcome::Unknown { why } if why.contains("before it left")), "{lost:?}");
    assert_eq!(orders.run(&id, &argv).await.unwrap(), lost);
}

#[tokio::test]
async fn after_a_reboot_what_had_not_ended_is_unknown() {
    let dir = tempfile::tempdir().unwrap();
    let orders = orders(dir.path());
    let asked_before_the_boot = |id: &OrderId| {
        orders.remember(id, &shell("true")).unwrap();
        let before = Asked { argv: shell("true"), boot: "another".into() };
        fs::write(orders.of(id).join("asked.json"), serde_json::to_vec(&before).unwrap()).unwrap();
    };
    let (begun, not_begun) = (id("begun"), id("not-begun"));
    asked_before_the_boot(&begun);
    asked_before_the_boot(&not_begun);
    // Process ids begin again: this one may even have the same start.
    let own = fs::read_to_string("/proc/self/stat").unwrap();
    fs::write(orders.of(&begun).join("process"), own).unwrap();
    for id in [&begun, &not_begun] {
        let outcome = orders.run(id, &shell("true")).await.unwrap();
        assert!(matches!(&outcome, Outcome::Unknown { why } if why.contains("started again")), "{outcome:?}");
    }
    fs::write(orders.of(&begun).join("output"), "all went well").unwrap();
    fs::write(orders.of(&begun).join("code"), "0\n").unwrap();
    let ended = Outcome::Ended { code: 0, output: "all went well".into() };
    assert_eq!(orders.result(&begun).await.unwrap(), ended);
}

#[tokio::test]
async fn of_a_long_output_the_end_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let orders = orders(dir.path());
    let argv = shell("yes | head -c 1000000; echo the end");
    orders.run(&id("long"), &argv).await.unwrap();
    let Outcome::Ended { output, .. } = orders.wait(&id("long"), SOON).await.unwrap() else { panic!() };
    assert!(output.len() == OUTPUT_BYTES && output.ends_with("the end\n"));
}
