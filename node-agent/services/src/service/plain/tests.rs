use std::{future::Future, sync::Arc, time::Instant};

use super::*;
use crate::service::Acted;

/// Comes up, says so, counts SIGHUPs, and ends by SIGTERM.
const DAEMON: &str = r#"
    trap 'echo reloaded' HUP; trap 'echo bye; exit 0' TERM; echo up
    while :; do sleep 600 & wait $!; kill $! 2>/dev/null; done"#;
const SOON: Duration = Duration::from_secs(30);

struct Fixture {
    dir: tempfile::TempDir,
    service: Arc<PlainService>,
}

impl Fixture {
    fn new(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let config = PlainConfig {
            pid_file: dir.path().join("pid"),
            command: ["/bin/sh", "-c", script].map(Into::into).into(),
            log: Some(dir.path().join("log")),
            restart_file: Some(dir.path().join("restart")),
            stop_seconds: 20,
        };
        Self { dir, service: Arc::new(PlainService::new("daemon", config)) }
    }

    fn any(&self) -> &dyn Service {
        &*self.service
    }

    fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    async fn logged(&self, word: &str) {
        eventually(|| async { self.log().contains(word) }).await;
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        if let Ok(Some(process)) = self.service.running() {
            rustix::process::kill_process_group(
                rustix::process::Pid::from_raw(process.pid().cast_signed()).unwrap(),
                Signal::KILL,
            )
            .ok();
        }
    }
}

async fn eventually<F: Future<Output = bool>>(mut holds: impl FnMut() -> F) {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < SOON, "waited in vain");
        tokio::time::sleep(LOOK).await;
    }
}

#[tokio::test]
async fn a_process_is_started_reloaded_restarted_and_stopped() {
    let fixture = Fixture::new(DAEMON);
    let service = fixture.any();
    let before = service.status().await.unwrap();
    assert_eq!((before.state, before.detail.contains("not running")), (State::Stopped, true));
    fs::write(fixture.dir.path().join("restart"), "1").unwrap();

    service.act(Verb::Start, SOON).await.unwrap();
    fixture.logged("up").await;
    let first = service.status().await.unwrap();
    assert_eq!(first.state, State::Running);
    assert_eq!(service.acted_since(Verb::Start, &before.mark).await.unwrap(), Acted::Yes);
    assert_eq!(fs::read_to_string(fixture.dir.path().join("restart")).unwrap(), "0");

    service.act(Verb::Start, SOON).await.unwrap();
    assert_eq!(service.status().await.unwrap().mark, first.mark, "what runs is not started again");

    service.act(Verb::Reload, SOON).await.unwrap();
    fixture.logged("reloaded").await;
    assert_eq!(service.acted_since(Verb::Reload, &first.mark).await.unwrap(), Acted::CannotTell);
    assert_eq!(service.acted_since(Verb::Restart, &first.mark).await.unwrap(), Acted::No);

    service.act(Verb::Restart, SOON).await.unwrap();
    assert!(fixture.log().contains("bye"));
    assert_eq!(service.acted_since(Verb::Restart, &first.mark).await.unwrap(), Acted::Yes);

    eventually(|| async { fixture.log().matches("up").count() == 2 }).await;
    service.act(Verb::Stop, SOON).await.unwrap();
    assert_eq!(service.status().await.unwrap().state, State::Stopped);
    service.act(Verb::Stop, SOON).await.unwrap();
    let error = service.act(Verb::Reload, SOON).await.unwrap_err();
    assert!(matches!(error, ServiceError::Failed { .. }), "{error}");
}

/// It passed on that SIGHUP is ignored, and no reload was ever heard.
#[test]
fn an_agent_that_ignores_sighup_starts_a_service_that_hears_it() {
    let mut again = std::process::Command::new("nohup");
    again.arg(std::env::current_exe().unwrap());
    again.args(["--exact", "service::plain::tests::a_process_is_started_reloaded_restarted_and_stopped"]);
    let output = again.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

#[tokio::test]
async fn a_process_that_ignores_sigterm_is_killed() {
    let mut fixture = Fixture::new("trap '' TERM; echo up; while :; do sleep 1; done");
    let config = PlainConfig { stop_seconds: 0, ..fixture.service.config.clone() };
    fixture.service = Arc::new(PlainService::new("daemon", config));
    fixture.any().act(Verb::Start, SOON).await.unwrap();
    fixture.logged("up").await;
    fixture.any().act(Verb::Stop, SOON).await.unwrap();
    assert_eq!(fixture.any().status().await.unwrap().state, State::Stopped);
}

#[tokio::test]
async fn many_starts_at_once_start_one_process() {
    let fixture = Fixture::new(DAEMON);
    let starts = (0..8).map(|_| {
        let service = fixture.service.clone();
        tokio::spawn(async move { service.act(Verb::Start, SOON).await })
    });
    for start in starts.collect::<Vec<_>>() {
        start.await.unwrap().unwrap();
    }
    fixture.logged("up").await;
    // The scripts name the pid file among their words; what they become does not.
    let pid_file = fixture.service.config.pid_file.display().to_string();
    let pids =
        || fs::read_dir("/proc").unwrap().filter_map(|it| it.unwrap().file_name().to_str()?.parse().ok());
    let is_script = |pid| Process::with_pid(pid).is_some_and(|it| it.command_line().contains(&pid_file));
    eventually(|| async { !pids().any(is_script) }).await;
    assert_eq!(fixture.log().matches("up").count(), 1, "{}", fixture.log());
}

#[tokio::test]
async fn a_pid_file_that_may_name_a_stranger_signals_nobody() {
    let fixture = Fixture::new(DAEMON);
    let mut stranger = std::process::Command::new("sleep").arg("600").spawn().unwrap();
    let pid_file = &fixture.service.config.pid_file;
    fs::write(pid_file, format!("{}\n", stranger.id())).unwrap();
    let state = |service: Arc<PlainService>| async move { service.status().await.map(|it| it.state) };
    assert_eq!(state(fixture.service.clone()).await.unwrap(), State::Running, "a program's own pid file");

    let yesterday = SystemTime::now() - Duration::from_secs(86_400);
    File::options().write(true).open(pid_file).unwrap().set_modified(yesterday).unwrap();
    let error = fixture.any().act(Verb::Stop, SOON).await.unwrap_err();
    assert!(matches!(error, ServiceError::Stranger { .. }) && error.to_string().contains("hint:"), "{error}");
    assert_eq!(stranger.try_wait().unwrap(), None);

    let own = Process::with_pid(stranger.id()).unwrap();
    let stat = format!("{} (sh) S {}{}", own.pid(), "0 ".repeat(18), own.started() - 1);
    fs::write(fixture.service.beside("stat"), stat).unwrap();
    assert_eq!(state(fixture.service.clone()).await.unwrap(), State::Stopped, "started before this process");
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    fs::remove_file(pid_file).unwrap();
}

#[tokio::test]
async fn after_the_deadline_the_result_is_unknown() {
    let fixture = Fixture::new("trap '' TERM; echo up; while :; do sleep 1; done");
    fixture.any().act(Verb::Start, SOON).await.unwrap();
    fixture.logged("up").await;
    let error = fixture.any().act(Verb::Restart, Duration::from_millis(50)).await.unwrap_err();
    assert!(error.is_unknown() && error.to_string().contains("daemon"), "{error}");
}
