//! The keeper over a real HAProxy, with simple TCP servers behind it.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    path::PathBuf,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use bunraku_balancer::{
    Admin, BalanceError, BalancerConfig, Driver, Haproxy, Health, Keeper, Trouble, Wanted,
};
use rustix::process::Signal;
use support::{Backend, PORT, Program, Session, name, network, node, until, wish};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
};

/// HAProxy with two compilers, `c1` and `c2`, in the backend `puppet`.
struct Site {
    directory: tempfile::TempDir,
    network: String,
    haproxy: Option<Program>,
    backends: Vec<Backend>,
}

/// What the agent is told of HAProxy.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    Everything,
    NoMaster,
    NoStateFile,
}

impl Site {
    async fn start() -> Self {
        let mut site = Self::prepared();
        ["c1", "c2", "c3"].into_iter().for_each(|name| site.start_backend(name));
        site.start_haproxy().await;
        site
    }

    /// Nothing runs yet.
    fn prepared() -> Self {
        let (directory, network) = (tempfile::tempdir().unwrap(), network());
        let site = Self { directory, network, haproxy: None, backends: Vec::new() };
        let d = site.directory.path().display().to_string();
        let n = &site.network;
        let config = format!(
            "global\n  stats socket {d}/admin.sock mode 600 level admin expose-fd listeners\n  server-state-file {d}/state\n\
             defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 1m\n  timeout server 1m\n  load-server-state-from-file global\n\
             frontend f\n  bind {n}.1:{PORT}\n  default_backend puppet\n\
             backend puppet\n  balance roundrobin\n  default-server check inter 100ms fall 2 rise 1 weight 100\n\
             \x20 server c1 {n}.11:{PORT}\n  server c2 {n}.12:{PORT}\n"
        );
        std::fs::write(site.path("haproxy.cfg"), config).unwrap();
        std::fs::write(site.path("state"), "").unwrap();
        site
    }

    fn start_backend(&mut self, name: &'static str) {
        let ip = format!("{}.1{}", self.network, name.trim_start_matches('c'));
        self.backends.push(Backend::start(&ip, name));
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    async fn start_haproxy(&mut self) {
        self.run_haproxy().await;
        self.until_up().await;
    }

    async fn run_haproxy(&mut self) {
        let mut command = Command::new("haproxy");
        command.arg("-W").arg("-db").arg("-S").arg(self.path("master.sock"));
        command.arg("-f").arg(self.path("haproxy.cfg"));
        self.haproxy = Some(Program::start(&mut command, &self.path("log")));
        let driver = self.driver(Told::Everything);
        until("HAProxy to answer", || async { driver.observe().await.is_ok() }).await;
    }

    async fn until_up(&self) {
        let driver = self.driver(Told::Everything);
        until("the servers to be up", || async {
            let seen = driver.observe().await;
            let up = |s: &bunraku_balancer::Server| s.admin != Admin::Ready || s.in_service();
            seen.is_ok_and(|seen| seen.servers.len() >= 2 && seen.servers.iter().all(up))
        })
        .await;
    }

    /// As `systemctl reload haproxy` does it; answers when the new worker serves.
    async fn reload(&self) {
        let driver = self.driver(Told::Everything);
        let before = driver.observe().await.unwrap().incarnation;
        self.haproxy.as_ref().unwrap().signal(Signal::USR2);
        until("the new worker", || async {
            driver.observe().await.is_ok_and(|seen| seen.incarnation != before)
        })
        .await;
    }

    fn config(&self, told: Told, more: &str) -> BalancerConfig {
        let d = self.directory.path().display();
        let master =
            if told == Told::NoMaster { String::new() } else { format!("master_socket = '{d}/master.sock'") };
        let state =
            if told == Told::NoStateFile { String::new() } else { format!("state_file = '{d}/state'") };
        toml::from_str(&format!(
            "driver = 'haproxy'\n[compilers]\n'c1.example' = ['puppet/c1']\n'c2.example' = ['puppet/c2']\n{more}\n\
             [haproxy]\nsocket = '{d}/admin.sock'\n{master}\n{state}\n"
        ))
        .unwrap()
    }

    fn driver(&self, told: Told) -> Haproxy {
        Haproxy::new(&self.config(told, "").haproxy)
    }

    fn keeper(&self, told: Told) -> Keeper {
        self.keeper_with(self.config(told, ""))
    }

    fn keeper_with(&self, config: BalancerConfig) -> Keeper {
        let driver = Arc::new(Haproxy::new(&config.haproxy));
        Keeper::open(config, driver, &self.path("balancer.json")).unwrap()
    }

    fn front(&self) -> SocketAddr {
        format!("{}.1:{PORT}", self.network).parse().unwrap()
    }

    fn session_on(&self, server: &str) -> Session {
        for _ in 0..20 {
            let mut session = Session::open(self.front()).unwrap();
            if session.ask().as_deref() == Some(server) {
                return session;
            }
        }
        panic!("no session on {server}");
    }

    async fn admin(&self, server: &str) -> Admin {
        let seen = self.driver(Told::Everything).observe().await.unwrap();
        seen.server(&name(&format!("puppet/{server}"))).unwrap().admin
    }

    /// As HAProxy's own statistics have it: `UP`, `DOWN 1/2`, `DRAIN`, ….
    async fn status(&self, server: &str) -> String {
        let statistics = self.by_hand("show stat").await;
        let heads = statistics.lines().next().unwrap_or_default();
        let at = heads.split(',').position(|head| head == "status").unwrap();
        let line = statistics.lines().find(|line| line.starts_with(&format!("puppet,{server},")));
        line.and_then(|line| line.split(',').nth(at)).unwrap_or_default().to_owned()
    }

    /// By somebody else than this agent.
    async fn by_hand(&self, command: &str) -> String {
        let mut stream = UnixStream::connect(self.path("admin.sock")).await.unwrap();
        stream.write_all(format!("{command}\n").as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

#[tokio::test]
async fn a_drained_server_keeps_its_session_and_gets_no_new_one() {
    let site = Site::start().await;
    let keeper = site.keeper(Told::Everything);
    let mut open = site.session_on("c1");
    let servers = keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap();
    let seen = servers[0].seen.as_ref().unwrap();
    assert_eq!((seen.admin, seen.sessions, seen.sessions_known), (Admin::Drain, 1, true));
    assert_eq!(open.ask().as_deref(), Some("c1"));
    for _ in 0..10 {
        assert_eq!(Session::open(site.front()).unwrap().ask().as_deref(), Some("c2"));
    }
    // Repeated: already so.
    keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap();
    drop(open);
    until("the session to end", || async {
        keeper.status().await.servers[0].seen.as_ref().unwrap().sessions == 0
    })
    .await;
    keeper.balance(wish("c1.example", Wanted::Ready, 2), || true).await.unwrap();
    site.session_on("c1");
}

/// Trap of HAProxy: after a reload the new worker says 0 sessions, while one still passes data through the old worker.
#[tokio::test]
async fn a_session_in_an_old_worker_counts_until_it_ends() {
    let site = Site::start().await;
    let (all, without) = (site.keeper(Told::Everything), site.driver(Told::NoMaster));
    let mut open = site.session_on("c1");
    all.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap();
    site.reload().await;
    assert_eq!(open.ask().as_deref(), Some("c1"), "the old worker still passes data");
    let c1 = all.status().await.servers[0].seen.clone().unwrap();
    assert_eq!((c1.admin, c1.sessions, c1.sessions_known), (Admin::Drain, 1, true));
    let unaware = without.observe().await.unwrap();
    let c1 = unaware.server(&name("puppet/c1")).unwrap();
    assert_eq!(
        (c1.sessions, c1.sessions_known),
        (0, false),
        "without the master's socket nobody may build on 0"
    );
    drop(open);
    until("the old worker to end", || async {
        all.status().await.servers[0].seen.as_ref().unwrap().sessions == 0
    })
    .await;
}

#[tokio::test]
async fn closed_sessions_end_in_old_workers_too_and_no_new_one_is_made_there() {
    let site = Site::start().await;
    let keeper = site.keeper(Told::Everything);
    let (mut old, mut elsewhere) = (site.session_on("c1"), site.session_on("c2"));
    site.reload().await;
    site.until_up().await;
    let mut new = site.session_on("c1");
    keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap();
    assert_eq!([old.ask(), new.ask()], [Some("c1".to_owned()), Some("c1".to_owned())]);
    assert_eq!(keeper.close(&node("c1.example"), || true).await.unwrap(), "");
    assert_eq!([old.ask(), new.ask(), elsewhere.ask()], [None, None, Some("c2".to_owned())]);
    until("no session to be counted", || async {
        keeper.status().await.servers[0].seen.as_ref().unwrap().sessions == 0
    })
    .await;
    for _ in 0..10 {
        assert_eq!(Session::open(site.front()).unwrap().ask().as_deref(), Some("c2"));
    }
    // Repeated, with nothing left.
    assert_eq!(keeper.close(&node("c1.example"), || true).await.unwrap(), "");
}

/// In the worker of before a reload, too; without the master's socket that one is out of reach.
#[tokio::test]
async fn sessions_that_are_open_for_longer_than_allowed_are_ended_and_younger_ones_are_not() {
    let site = Site::start().await;
    let mut config = site.config(Told::Everything, "");
    let (mut old, mut other) = (site.session_on("c1"), site.session_on("c2"));
    site.reload().await;
    site.until_up().await;
    config.haproxy.longest_session_s = 3600;
    let patient = site.keeper_with(config.clone());
    patient.look().await;
    assert_eq!([old.ask(), other.ask()].map(|answer| answer.is_some()), [true; 2]);
    config.haproxy.longest_session_s = 1;
    let strict = site.keeper_with(config);
    until("the old sessions to be ended", || async {
        strict.look().await;
        strict.status().await.servers.iter().all(|server| server.seen.as_ref().unwrap().sessions == 0)
    })
    .await;
    assert_eq!([old.ask(), other.ask()], [None, None]);
    let mut young = site.session_on("c1");
    patient.look().await;
    assert_eq!(young.ask().as_deref(), Some("c1"));
}

#[tokio::test]
async fn i3_sessions_of_a_compiler_that_nobody_wants_drained_are_never_closed() {
    let site = Site::start().await;
    let keeper = site.keeper(Told::Everything);
    let mut open = site.session_on("c1");
    let refused = async |keeper: &Keeper, newest: bool| {
        let closed = keeper.close(&node("c1.example"), || newest).await;
        assert!(matches!(closed, Err(BalanceError::Overtaken)), "{closed:?}");
    };
    refused(&keeper, true).await;
    keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap();
    refused(&keeper, false).await;
    keeper.balance(wish("c1.example", Wanted::Ready, 2), || true).await.unwrap();
    refused(&keeper, true).await;
    assert_eq!(open.ask().as_deref(), Some("c1"));
}

/// Trap of HAProxy: the file from the drain would take the server out again, long after it was enabled.
#[tokio::test]
async fn a_state_file_that_was_saved_during_a_drain_does_not_bring_the_drain_back() {
    let site = Site::start().await;
    let keeper = site.keeper(Told::Everything);
    keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap();
    site.reload().await;
    assert_eq!(site.admin("c1").await, Admin::Drain, "the file kept the drain over a reload");
    keeper.balance(wish("c1.example", Wanted::Ready, 2), || true).await.unwrap();
    site.reload().await;
    assert_eq!(site.admin("c1").await, Admin::Ready, "nobody looked in between: the file alone did it");
}

/// Trap of HAProxy: the file of an enable holds that the checks have not risen yet, and a reload believes it, long after.
#[tokio::test]
async fn a_server_that_was_down_when_it_was_enabled_is_up_at_once_after_a_later_reload() {
    let mut site = Site::prepared();
    site.start_backend("c2");
    site.run_haproxy().await;
    let keeper = site.keeper(Told::Everything);
    let health = async |keeper: &Keeper| keeper.status().await.servers[0].health();
    until("c1 to be down", || async { health(&keeper).await == Health::Down }).await;
    keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap();
    site.by_hand("set server puppet/c2 state drain").await;
    let enabled = keeper.balance(wish("c1.example", Wanted::Ready, 2), || true).await.unwrap();
    assert_eq!(enabled[0].health(), Health::Down, "it restarts still");
    site.start_backend("c1");
    until("c1 to be up", || async { health(&keeper).await == Health::Up }).await;
    keeper.look().await;
    let slow = std::fs::read_to_string(site.path("haproxy.cfg")).unwrap();
    let slow = slow.replace("inter 100ms fall 2 rise 1", "inter 1s fall 2 rise 3");
    std::fs::write(site.path("haproxy.cfg"), slow).unwrap();
    site.reload().await;
    // For longer than the checks need to rise.
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(3) {
        let status = site.status("c1").await;
        assert!(status.starts_with("UP"), "{status}");
        assert!(site.status("c2").await.starts_with("DRAIN"));
        assert_eq!(Session::open(site.front()).unwrap().ask().as_deref(), Some("c1"));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// What starts up and is dead gets new sessions until its first failing check, as without a file.
#[tokio::test]
async fn a_dead_server_that_the_file_starts_up_is_down_at_its_first_failing_check() {
    let mut site = Site::prepared();
    site.start_backend("c2");
    let patient = std::fs::read_to_string(site.path("haproxy.cfg")).unwrap();
    let patient = patient.replace("inter 100ms fall 2 rise 1", "inter 500ms fall 20 rise 2");
    std::fs::write(site.path("haproxy.cfg"), patient).unwrap();
    site.run_haproxy().await;
    until("c1 to be down", || async { site.status("c1").await.starts_with("DOWN") }).await;
    site.keeper(Told::Everything).look().await;
    site.reload().await;
    let began = Instant::now();
    until("c1 to be down again", || async { site.status("c1").await.starts_with("DOWN") }).await;
    assert!(began.elapsed() < Duration::from_secs(3), "20 checks take 10 s");
}

/// Somebody else's reload script may have saved the file at the wrong time.
#[tokio::test]
async fn f14_a_drain_that_an_old_state_file_brings_back_is_ended_at_the_next_look() {
    let site = Site::start().await;
    let keeper = site.keeper(Told::NoStateFile);
    keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap();
    let stale = site.by_hand("show servers state").await;
    keeper.balance(wish("c1.example", Wanted::Ready, 2), || true).await.unwrap();
    std::fs::write(site.path("state"), stale).unwrap();
    site.reload().await;
    assert_eq!(site.admin("c1").await, Admin::Drain);
    keeper.look().await;
    assert_eq!(site.admin("c1").await, Admin::Ready);
}

#[tokio::test]
async fn f14_a_drain_that_a_reload_or_a_restart_forgot_is_asserted_again() {
    let mut site = Site::start().await;
    let keeper = site.keeper(Told::NoStateFile);
    keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap();
    site.reload().await;
    assert_eq!(site.admin("c1").await, Admin::Ready, "forgotten");
    site.until_up().await;
    keeper.look().await;
    assert_eq!(site.admin("c1").await, Admin::Drain);
    site.haproxy.take().unwrap().stop();
    keeper.look().await;
    assert!(keeper.status().await.trouble.unwrap().contains("admin.sock"));
    site.start_haproxy().await;
    keeper.look().await;
    assert_eq!(site.admin("c1").await, Admin::Drain);
}

#[tokio::test]
async fn f3_a_restarted_agent_knows_what_is_wanted_and_by_whom() {
    let site = Site::start().await;
    site.keeper(Told::Everything).balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap();
    site.by_hand("set server puppet/c1 state ready").await;
    let again = site.keeper(Told::Everything);
    again.look().await;
    assert_eq!(site.admin("c1").await, Admin::Drain);
    let c1 = again.status().await.servers.remove(0);
    let asked = c1.asked.unwrap();
    assert_eq!(
        (asked.wanted, asked.owner.as_str(), asked.reason.as_str()),
        (Wanted::Drained, "operator root", "a test")
    );
    again.balance(wish("c1.example", Wanted::Ready, 2), || true).await.unwrap();
    assert_eq!(site.admin("c1").await, Admin::Ready);
}

#[tokio::test]
async fn i3_the_floor_refuses_and_what_was_refused_had_no_effect() {
    let site = Site::start().await;
    let keeper = site.keeper(Told::Everything);
    keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap();
    let refused = keeper.balance(wish("c2.example", Wanted::Drained, 1), || true).await.unwrap_err();
    assert!(matches!(refused, BalanceError::BelowFloor(_)), "{refused}");
    assert_eq!(site.admin("c2").await, Admin::Ready);
    assert_eq!(site.keeper(Told::Everything).status().await.servers[1].asked, None);
    keeper.balance(wish("c1.example", Wanted::Ready, 2), || true).await.unwrap();
    let mut asks_more = wish("c2.example", Wanted::Drained, 2);
    asks_more.min_available = 2;
    assert!(matches!(keeper.balance(asks_more, || true).await, Err(BalanceError::BelowFloor(_))));
}

#[tokio::test]
async fn a_server_that_was_out_before_we_came_is_foreign_and_never_enabled() {
    let site = Site::start().await;
    let keeper = site.keeper(Told::Everything);
    for state in ["drain", "maint"] {
        site.by_hand(&format!("set server puppet/c1 state {state}")).await;
        keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap();
        let servers = keeper.balance(wish("c1.example", Wanted::Ready, 2), || true).await.unwrap();
        assert!(servers[0].foreign);
        keeper.look().await;
        assert_ne!(site.admin("c1").await, Admin::Ready, "{state}");
    }
    let refused = keeper.balance(wish("c2.example", Wanted::Drained, 3), || true).await.unwrap_err();
    assert!(refused.to_string().contains("would leave 0 in service"), "{refused}");
}

#[tokio::test]
async fn i5_an_order_that_was_overtaken_while_it_waited_does_nothing() {
    let site = Site::start().await;
    let keeper = site.keeper(Told::Everything);
    let overtaken = keeper.balance(wish("c1.example", Wanted::Drained, 1), || false).await;
    assert!(matches!(overtaken, Err(BalanceError::Overtaken)));
    assert_eq!(site.admin("c1").await, Admin::Ready);
    let unmapped = keeper.balance(wish("c9.example", Wanted::Drained, 1), || true).await.unwrap_err();
    assert!(unmapped.to_string().contains("c9.example is mapped to no server"));
}

#[tokio::test]
async fn a_slow_start_gives_a_tenth_of_the_weight_first_and_all_of_it_in_the_end() {
    let site = Site::start().await;
    let keeper = site.keeper(Told::Everything);
    keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap();
    let mut slowly = wish("c1.example", Wanted::Ready, 2);
    slowly.slow_start = Duration::from_secs(2);
    let servers = keeper.balance(slowly.clone(), || true).await.unwrap();
    assert_eq!(servers[0].seen.as_ref().unwrap().weight, 10);
    let weight = || async {
        keeper.look().await;
        keeper.status().await.servers[0].seen.as_ref().unwrap().weight
    };
    until("some weight", || async { (11..100).contains(&weight().await) }).await;
    until("all the weight", || async { weight().await == 100 }).await;
    // The agent ends in the middle: the next one gives all.
    keeper.balance(wish("c1.example", Wanted::Drained, 3), || true).await.unwrap();
    slowly.fence.generation.0 = 4;
    keeper.balance(slowly, || true).await.unwrap();
    let again = site.keeper(Told::Everything);
    again.look().await;
    assert_eq!(again.status().await.servers[0].seen.as_ref().unwrap().weight, 100);
}

#[tokio::test]
async fn a_server_is_added_while_haproxy_runs_and_again_after_a_reload_and_taken_away_when_it_is_idle() {
    let site = Site::start().await;
    let mut config = site.config(Told::Everything, "'c3.example' = ['puppet/c3']");
    let line = format!("{}.13:{PORT} check inter 100ms rise 1 weight 100", site.network);
    config.haproxy.add.insert(name("puppet/c3"), line);
    let keeper = site.keeper_with(config);
    keeper.look().await;
    let c3_serves = || async {
        keeper.status().await.servers.iter().any(|s| s.compiler == node("c3.example") && s.in_service())
    };
    until("c3 to serve", c3_serves).await;
    let mut open = site.session_on("c3");
    site.reload().await;
    assert!(!c3_serves().await, "HAProxy forgot it");
    keeper.look().await;
    until("c3 to serve again", c3_serves).await;
    // Its owner removes it from the configuration: it stays until its last session, in any worker, has ended.
    let without = site.keeper(Told::Everything);
    without.look().await;
    without.look().await;
    assert_eq!(site.admin("c3").await, Admin::Drain);
    assert_eq!(open.ask().as_deref(), Some("c3"));
    drop(open);
    until("c3 to be gone", || async {
        without.look().await;
        site.driver(Told::Everything).observe().await.unwrap().server(&name("puppet/c3")).is_none()
    })
    .await;
}

#[tokio::test]
async fn a_backend_that_cannot_be_given_servers_refuses_clearly() {
    let site = Site::start().await;
    let new = bunraku_balancer::NewServer {
        name: name("nowhere/c3"),
        address: format!("{}.13:{PORT}", site.network),
        parameters: vec!["check".into()],
    };
    let refused = site.driver(Told::Everything).add(&new).await.unwrap_err().to_string();
    assert!(refused.contains("`add server nowhere/c3") && refused.contains("No such backend"), "{refused}");
}

#[tokio::test]
async fn f14_a_hung_an_absent_and_a_half_answering_socket_are_clear_errors_within_a_deadline() {
    let site = Site::start().await;
    let mut config = site.config(Told::Everything, "").haproxy;
    config.socket = site.path("absent.sock");
    let absent = Haproxy::new(&config).observe().await.unwrap_err();
    assert!(matches!(absent, Trouble::Io { .. }) && absent.to_string().contains("absent.sock"), "{absent}");

    config.socket = site.path("hung.sock");
    let hung = UnixListener::bind(&config.socket).unwrap();
    let began = Instant::now();
    let silent = Haproxy::new(&config).observe().await.unwrap_err();
    assert!(matches!(silent, Trouble::Silent { .. }) && began.elapsed() < Duration::from_secs(6), "{silent}");
    drop(hung);

    let whole = site.by_hand("show info;show stat;show servers state").await;
    config.socket = site.path("half.sock");
    let listener = UnixListener::bind(&config.socket).unwrap();
    for end in [0, 1, whole.len() / 3, whole.len() / 2, whole.len() - 2] {
        let answering = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let _whole_or_not = stream.write_all(&whole.as_bytes()[..end]).await;
        };
        let driver = Haproxy::new(&config);
        let (half, ()) = tokio::join!(driver.observe(), answering);
        assert!(matches!(half, Err(Trouble::Half { .. } | Trouble::Io { .. })), "{end}: {half:?}");
    }
}

#[tokio::test]
async fn f14_a_paused_haproxy_is_unknown_and_no_wish_is_lost() {
    let site = Site::start().await;
    let keeper = site.keeper(Told::Everything);
    // The worker is the one that answers on the socket.
    let info = site.by_hand("show info").await;
    let worker = info.lines().find_map(|line| line.strip_prefix("Pid: ")).unwrap().parse().unwrap();
    let worker = rustix::process::Pid::from_raw(worker).unwrap();
    rustix::process::kill_process(worker, Signal::STOP).unwrap();
    let unknown = keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap_err();
    rustix::process::kill_process(worker, Signal::CONT).unwrap();
    assert!(matches!(unknown, BalanceError::Trouble(Trouble::Silent { .. })), "{unknown}");
    keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap();
    assert_eq!(site.admin("c1").await, Admin::Drain);
}

/// Carries out one order in a process of its own, which the parent's environment may kill at a step of it.
#[tokio::test]
async fn child_of_the_next_test() {
    let Ok(config) = std::env::var("BUNRAKU_TEST_CONFIG") else { return };
    let config: BalancerConfig = toml::from_str(&config).unwrap();
    let file = PathBuf::from(std::env::var("BUNRAKU_TEST_FILE").unwrap());
    let wanted = if std::env::var("BUNRAKU_TEST_DRAIN").is_ok() { Wanted::Drained } else { Wanted::Ready };
    let driver = Arc::new(Haproxy::new(&config.haproxy));
    let keeper = Keeper::open(config, driver, &file).unwrap();
    keeper.balance(wish("c1.example", wanted, 1), || true).await.unwrap();
}

#[tokio::test]
async fn f3_i7_an_agent_killed_at_any_step_of_a_drain_or_an_enable_leaves_nothing_half_done() {
    let site = Site::start().await;
    let config = toml::to_string(&site.config(Told::Everything, "")).unwrap();
    // A program that starts saves once before any order, so the second time is the order's own.
    let steps = [
        "balancer-written",
        "balance-remembered",
        "haproxy-told",
        "haproxy-saved",
        "haproxy-saved:2",
        "balance-done",
    ];
    for step in steps {
        for wanted in [Wanted::Drained, Wanted::Ready] {
            let mut child = Command::new(std::env::current_exe().unwrap());
            child.args(["--exact", "child_of_the_next_test"]).env("BUNRAKU_CRASH_AT", step);
            child.env("BUNRAKU_TEST_CONFIG", &config).env("BUNRAKU_TEST_FILE", site.path("balancer.json"));
            if wanted == Wanted::Drained {
                child.env("BUNRAKU_TEST_DRAIN", "1");
            }
            let ended = child.output().unwrap();
            assert_eq!(ended.status.signal(), Some(9), "not killed at {step}: {ended:?}");

            let again = site.keeper(Told::Everything);
            again.look().await;
            let c1 = again.status().await.servers.remove(0);
            let so = if c1.asked.as_ref().map_or(Wanted::Ready, |asked| asked.wanted) == Wanted::Ready {
                "ready"
            } else {
                "drain"
            };
            assert_eq!((c1.admin(), c1.foreign), (so, false), "{step} {wanted:?}");
            // Only what was not on disk yet may be forgotten.
            let remembered = c1.asked.is_some_and(|asked| asked.wanted == wanted);
            assert!(remembered || ["balancer-written", "haproxy-saved"].contains(&step), "{step} {wanted:?}");
            // The controller asks again.
            let servers = again.balance(wish("c1.example", wanted, 1), || true).await.unwrap();
            let shown = if wanted == Wanted::Ready { "ready" } else { "drain" };
            assert_eq!((servers[0].admin(), servers[0].foreign), (shown, false), "{step} {wanted:?}");
            site.reload().await;
            assert_eq!(site.admin("c1").await.as_str(), shown, "{step} {wanted:?}");
            site.until_up().await;
        }
    }
}

/// A socket that records every line, and takes everything.
async fn recorded(commands: impl AsyncFnOnce(Haproxy)) -> Vec<String> {
    let directory = tempfile::tempdir().unwrap();
    let socket = directory.path().join("admin.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let recording = tokio::spawn(async move {
        let mut lines = String::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let before = lines.len();
            stream.read_to_string(&mut lines).await.unwrap();
            if lines[before..].starts_with("end") {
                return lines[..before].to_owned();
            }
            stream.write_all(b"\n").await.unwrap();
        }
        lines
    });
    let config = bunraku_balancer::HaproxyConfig { socket: socket.clone(), ..Default::default() };
    commands(Haproxy::new(&config)).await;
    let mut end = UnixStream::connect(&socket).await.unwrap();
    end.write_all(b"end").await.unwrap();
    drop(end);
    recording.await.unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn t21_no_name_whatever_it_is_reaches_the_socket_as_anything_but_a_name() {
    use proptest::strategy::{Strategy, ValueTree};
    let mut random = proptest::test_runner::TestRunner::deterministic();
    let names = proptest::prop_oneof!["[a-c.:_-]{1,4}/[a-c.:_-]{1,4}", "[a-c/;\n\r\t .:$\"'\\\\\0_-]{0,12}"];
    let names = proptest::collection::vec(names, 400).new_tree(&mut random).unwrap().current();
    let sent: Vec<_> =
        names.iter().filter_map(|text| bunraku_balancer::ServerName::parse(text).ok()).collect();
    assert!(sent.len() > 20, "only {} names were possible", sent.len());
    let all = sent.clone();
    let lines = recorded(async move |haproxy| {
        for name in &all {
            haproxy.set(std::slice::from_ref(name), Wanted::Drained).await.unwrap();
            haproxy.weigh(name, 50).await.unwrap();
            haproxy.close(std::slice::from_ref(name)).await.unwrap();
        }
    })
    .await;
    let expected = sent.iter().flat_map(|name| {
        [
            format!("set server {name} state drain"),
            format!("set server {name} weight 50%"),
            format!("shutdown sessions server {name}"),
        ]
    });
    assert_eq!(lines, expected.collect::<Vec<_>>());
    assert!(lines.iter().all(|line| !line.contains(';') && line.split('/').count() == 2));
}

#[test]
fn t21_a_configuration_with_a_name_that_could_be_a_command_is_refused() {
    for wrong in ["puppet/c1;shutdown", "puppet/c1\\nquit", "puppet"] {
        let text = format!("driver = 'haproxy'\n[compilers]\n'c1.example' = [\"{wrong}\"]\n");
        let error = toml::from_str::<BalancerConfig>(&text).unwrap_err().to_string();
        assert!(error.contains("is not the name of a balancer's server"), "{error}");
    }
    let text = "driver = 'haproxy'\n[compilers]\n'c3.example' = ['p/c3']\n[haproxy.add]\n'p/c3' = '10.0.0.1:8140 check;quit'\n";
    let config: BalancerConfig = toml::from_str(text).unwrap();
    assert!(config.check().unwrap_err().to_string().contains("check;quit"));
}
