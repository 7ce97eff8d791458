//! The keeper over a real nginx with its stream module; the compilers are stand-ins that answer Puppet Server's status.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    net::SocketAddr,
    path::PathBuf,
    process::Command,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use bunraku_balancer::{
    Admin, BalanceError, BalancerConfig, Health, Keeper, ServerStatus, Trouble, Wanted, driver,
};
use rustix::process::Signal;
use support::{
    PORT, Program,
    compilers::{Compilers, ask},
    network, until, wish,
};
use tokio::task::JoinHandle;

/// nginx with two compilers, `c1` and `c2`, in the upstream `puppet`.
struct Site {
    directory: tempfile::TempDir,
    network: String,
    nginx: Option<Program>,
    compilers: Compilers,
}

impl Site {
    async fn start() -> Self {
        let (network, directory) = (network(), tempfile::tempdir().unwrap());
        let names =
            [("c1.example", format!("{network}.11:{PORT}")), ("c2.example", format!("{network}.12:{PORT}"))];
        let compilers = Compilers::start(&directory.path().join("ca.pem"), &names).await;
        let site = Self { directory, network, nginx: None, compilers };
        site.configure("");
        site
    }

    /// The operator's own part of nginx's configuration.
    fn configure(&self, more: &str) {
        let (d, n) = (self.directory.path().display(), &self.network);
        let text = format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\nworker_processes 2;\n\
             pid {d}/nginx.pid;\nerror_log {d}/error.log notice;\nevents {{}}\nstream {{\n  include {d}/bunraku-stream.conf;\n\
             \x20 server {{ listen {n}.1:{PORT}; proxy_pass puppet; }}\n  {more}\n}}\n"
        );
        std::fs::write(self.path("nginx.conf"), text).unwrap();
    }

    fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    fn included(&self) -> String {
        std::fs::read_to_string(self.path("bunraku-stream.conf")).unwrap()
    }

    fn keeper(&self) -> (Arc<Keeper>, Watch) {
        let (d, n) = (self.directory.path().display(), &self.network);
        let config: BalancerConfig = toml::from_str(&format!(
            "driver = 'nginx'\n[compilers]\n'c1.example' = ['puppet/c1']\n'c2.example' = ['puppet/c2']\n\
             [nginx]\ninclude = '{d}/bunraku-stream.conf'\nprobe = '{n}.1:8141'\nca = '{d}/ca.pem'\n\
             arguments = ['-p', '{d}', '-e', '{d}/error.log', '-c', '{d}/nginx.conf']\nbalance = ''\ncheck_every_s = 1\nfall = 1\nrise = 1\n\
             [nginx.servers]\n'puppet/c1' = '{n}.11:{PORT}'\n'puppet/c2' = '{n}.12:{PORT}'\n"
        ))
        .unwrap();
        let driver = driver(&config).unwrap();
        let keeper = Arc::new(Keeper::open(config, driver, &self.path("balancer.json")).unwrap());
        let watch = Watch(tokio::spawn(keeper.clone().watch()));
        (keeper, watch)
    }

    /// Agent and nginx, with both compilers known to be up.
    async fn up(&mut self) -> (Arc<Keeper>, Watch) {
        let (keeper, watch) = self.keeper();
        until("the agent to write its file", || async { self.path("bunraku-stream.conf").exists() }).await;
        self.start_nginx(&keeper).await;
        until("both to be up", || async { seen(&keeper).await.iter().all(ServerStatus::in_service) }).await;
        (keeper, watch)
    }

    async fn start_nginx(&mut self, keeper: &Keeper) {
        let mut command = Command::new("nginx");
        command.arg("-p").arg(self.directory.path()).arg("-e").arg(self.path("error.log"));
        command.arg("-c").arg(self.path("nginx.conf"));
        self.nginx = Some(Program::start(&mut command, &self.path("log")));
        until("nginx to answer", || async { keeper.status().await.trouble.is_none() }).await;
    }

    fn front(&self) -> SocketAddr {
        format!("{}.1:{PORT}", self.network).parse().unwrap()
    }

    /// How often its master was told to reload, by its own log.
    fn reloads(&self) -> usize {
        let log = std::fs::read_to_string(self.path("error.log")).unwrap();
        log.matches("(SIGHUP) received").count()
    }

    async fn serving(&self) -> Vec<String> {
        self.compilers.serving(self.front()).await
    }
}

struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn seen(keeper: &Keeper) -> Vec<ServerStatus> {
    keeper.status().await.servers
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_server_keeps_its_session_over_the_reload_and_gets_no_new_one() {
    let mut site = Site::start().await;
    let (keeper, _watch) = site.up().await;
    assert_eq!(site.serving().await, ["c1.example", "c2.example"]);
    let mut before = Vec::new();
    for _ in 0..6 {
        before.push(site.compilers.session(site.front()).await);
    }
    let servers = keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap();
    let c1 = servers[0].seen.clone().unwrap();
    assert_eq!((c1.admin, c1.sessions_known), (Admin::Drain, false), "nginx does not tell sessions");
    assert_eq!(site.serving().await, ["c2.example"]);
    // Round robin gave c1 a part of them.
    let mut open = Vec::new();
    for session in before {
        open.push(ask(session).await);
    }
    open.sort();
    open.dedup();
    assert_eq!(open, ["c1.example", "c2.example"]);
    let why = keeper.close(&support::node("c1.example"), || true).await.unwrap();
    assert_eq!(why, "nginx cannot close the sessions of puppet/c1");
    let refused = keeper.balance(wish("c2.example", Wanted::Drained, 1), || true).await.unwrap_err();
    assert!(matches!(refused, BalanceError::BelowFloor(_)), "{refused}");
    keeper.balance(wish("c1.example", Wanted::Ready, 2), || true).await.unwrap();
    assert_eq!(site.serving().await, ["c1.example", "c2.example"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_outlives_restarts_of_nginx_and_of_the_agent() {
    let mut site = Site::start().await;
    let (keeper, watch) = site.up().await;
    keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap();
    site.nginx.take().unwrap().stop();
    drop((keeper, watch));
    let (again, _watch) = site.keeper();
    site.start_nginx(&again).await;
    assert_eq!(site.serving().await, ["c2.example"]);
    again.balance(wish("c1.example", Wanted::Ready, 2), || true).await.unwrap();
    assert_eq!(site.serving().await, ["c1.example", "c2.example"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_configuration_that_nginx_refuses_is_put_back_and_done_when_it_is_mended() {
    let mut site = Site::start().await;
    let (keeper, _watch) = site.up().await;
    let before = site.included();
    site.configure("proxxy_timeout 1s;");
    let refused =
        keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap_err().to_string();
    assert!(refused.contains("nginx -t") && refused.contains("proxxy_timeout"), "{refused}");
    assert_eq!(site.included(), before);
    assert_eq!(site.serving().await, ["c1.example", "c2.example"]);
    // The wish is remembered: nobody knows what became of the order.
    site.configure("");
    until("the drain", || async { seen(&keeper).await[0].admin() == "drain" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f14_a_reload_that_takes_no_effect_is_no_drain() {
    let mut site = Site::start().await;
    let (keeper, _watch) = site.up().await;
    site.nginx.as_ref().unwrap().signal(Signal::STOP);
    let unknown = keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap_err();
    assert!(matches!(unknown, BalanceError::Trouble(Trouble::Unconfirmed { .. })), "{unknown}");
    site.nginx.as_ref().unwrap().signal(Signal::CONT);
    until("the drain", || async { seen(&keeper).await[0].admin() == "drain" }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ailing_server_gets_nothing_and_the_last_one_is_never_marked_down() {
    let mut site = Site::start().await;
    let (keeper, _watch) = site.up().await;
    site.compilers.well[0].store(false, Ordering::Relaxed);
    until("c1 to be out", || async { seen(&keeper).await[0].health() == Health::Down }).await;
    until("nobody to meet c1", || async { site.serving().await == ["c2.example"] }).await;
    let refused = keeper.balance(wish("c2.example", Wanted::Drained, 1), || true).await.unwrap_err();
    assert!(matches!(refused, BalanceError::BelowFloor(_)), "{refused}");
    site.compilers.well[1].store(false, Ordering::Relaxed);
    until("c2 to be down", || async { seen(&keeper).await[1].health() == Health::Down }).await;
    // Whatever health says, somebody is asked.
    until("all to be asked again", || async { site.serving().await == ["c1.example", "c2.example"] }).await;
    assert_eq!(site.included().matches(" down;").count(), 0);
    site.compilers.well.iter().for_each(|well| well.store(true, Ordering::Relaxed));
    until("both to be in service", || async { seen(&keeper).await.iter().all(ServerStatus::in_service) })
        .await;
}

/// Each reload leaves workers behind that live as long as their sessions.
#[tokio::test(flavor = "multi_thread")]
async fn health_that_flaps_reloads_nginx_every_five_seconds_at_most() {
    let mut site = Site::start().await;
    let (keeper, _watch) = site.up().await;
    let (began, before) = (Instant::now(), site.reloads());
    let (mut changes, mut reloads) = (0, Vec::new());
    while reloads.len() < 3 {
        assert!(began.elapsed() < Duration::from_secs(60), "{changes} changes, reloads {reloads:?}");
        // As soon as one change of its health was seen, the next one comes.
        let well = site.compilers.well[0].load(Ordering::Relaxed);
        if (seen(&keeper).await[0].health() == Health::Up) == well {
            site.compilers.well[0].store(!well, Ordering::Relaxed);
            changes += 1;
        }
        if site.reloads() > before + reloads.len() {
            reloads.push(began.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(changes > 6, "{changes} changes, reloads {reloads:?}");
    // nginx itself takes a moment, now more and now less.
    let apart = reloads.windows(2).map(|two| two[1] - two[0]);
    assert!(apart.min().unwrap() > Duration::from_secs(4), "{changes} changes, reloads {reloads:?}");
    site.compilers.well[0].store(true, Ordering::Relaxed);
    until("what flapped to be in service", || async { site.serving().await.len() == 2 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_somebody_marked_down_by_hand_is_never_enabled() {
    let mut site = Site::start().await;
    let (keeper, _watch) = site.up().await;
    let by_hand = site.included().replacen("; # puppet/c1", " down; # puppet/c1", 1);
    std::fs::write(site.path("bunraku-stream.conf"), by_hand).unwrap();
    until("the agent to see it", || async { seen(&keeper).await[0].admin() == "maint" }).await;
    keeper.balance(wish("c1.example", Wanted::Drained, 1), || true).await.unwrap();
    let servers = keeper.balance(wish("c1.example", Wanted::Ready, 2), || true).await.unwrap();
    assert!(servers[0].foreign);
    assert_eq!(site.serving().await, ["c2.example"]);
    // It is given back by hand, too.
    std::fs::write(site.path("bunraku-stream.conf"), site.included().replace(" down", "")).unwrap();
    until("c1 to be ready", || async { seen(&keeper).await[0].in_service() }).await;
    tokio::time::timeout(Duration::from_secs(5), site.compilers.session(site.front())).await.unwrap();
}
