//! The configurations in docs/examples, as they stand, with other addresses and paths: they load, and they drain.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{fs, net::SocketAddr, path::Path, process::Command, sync::Arc};

use bunraku_balancer::{BalancerConfig, Keeper, ServerStatus, Wanted, driver};
use support::{PORT, Program, compilers::Compilers, network, until, wish};

const HAPROXY: &str = include_str!("../../../docs/examples/haproxy.cfg");
const AGENT_HAPROXY: &str = include_str!("../../../docs/examples/agent-haproxy.toml");
const NGINX: &str = include_str!("../../../docs/examples/nginx.conf");
const AGENT_NGINX: &str = include_str!("../../../docs/examples/agent-nginx.toml");
const AGENT_HOOK: &str = include_str!("../../../docs/examples/agent-hook.toml");
const HOOK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/examples/balancer-hook.sh");

/// Addresses and paths of a test in place of a site's.
struct Place<'a> {
    directory: &'a Path,
    network: String,
}

impl Place<'_> {
    fn here(&self, example: &str) -> String {
        let d = self.directory.display().to_string();
        let mut text =
            example.replace("192.0.2.", &format!("{}.", self.network)).replace(":8140", &format!(":{PORT}"));
        text = text.replace("127.0.0.1:8141", &format!("{}.1:8141", self.network));
        for directory in [
            "/run/haproxy-",
            "/run/haproxy/",
            "/var/lib/haproxy/",
            "/etc/nginx/",
            "/run/",
            "/var/log/nginx/",
            "/etc/puppetlabs/puppet/ssl/certs/",
        ] {
            text = text.replace(directory, &format!("{d}/"));
        }
        // The balancer's own user cannot enter the test's directory.
        text.lines()
            .filter(|line| !["  user haproxy", "  group haproxy"].contains(line))
            .collect::<Vec<_>>()
            .join("\n")
            + "\n"
    }

    fn keeper(&self, agent: &str) -> Arc<Keeper> {
        let file: toml::Table = self.here(agent).parse().unwrap();
        let config: BalancerConfig = file["balancer"].clone().try_into().unwrap();
        let driver = driver(&config).unwrap();
        Arc::new(Keeper::open(config, driver, &self.directory.join("balancer.json")).unwrap())
    }

    async fn compilers(&self) -> Compilers {
        let address = |last| format!("{}.{last}:{PORT}", self.network);
        let names = [("compiler1.example.com", address(11)), ("compiler2.example.com", address(12))];
        Compilers::start(&self.directory.join("ca.pem"), &names).await
    }

    fn front(&self) -> SocketAddr {
        format!("{}.1:{PORT}", self.network).parse().unwrap()
    }
}

async fn drains_and_readies(place: &Place<'_>, keeper: &Keeper, compilers: &Compilers) {
    let all = ["compiler1.example.com", "compiler2.example.com"];
    until("both to be in service", || async {
        keeper.status().await.servers.iter().all(ServerStatus::in_service)
    })
    .await;
    assert_eq!(compilers.serving(place.front()).await, all);
    keeper.balance(wish(all[0], Wanted::Drained, 1), || true).await.unwrap();
    assert_eq!(compilers.serving(place.front()).await, &all[1..]);
    keeper.balance(wish(all[0], Wanted::Ready, 2), || true).await.unwrap();
    until("both to serve", || async { compilers.serving(place.front()).await == all }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_for_haproxy_loads_checks_over_tls_and_drains() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place { directory: directory.path(), network: network() };
    let compilers = place.compilers().await;
    let (config, d) = (directory.path().join("haproxy.cfg"), directory.path());
    fs::write(&config, place.here(HAPROXY)).unwrap();
    // What HAProxy itself would say before the first change: else it warns.
    fs::write(d.join("state"), "1\n# be_id be_name srv_id srv_name\n").unwrap();
    let mut command = Command::new("haproxy");
    command.arg("-W").arg("-db").arg("-S").arg(d.join("master.sock")).arg("-f").arg(&config);
    let _haproxy = Program::start(&mut command, &d.join("log"));
    let keeper = place.keeper(AGENT_HAPROXY);
    drains_and_readies(&place, &keeper, &compilers).await;
    assert!(fs::read_to_string(d.join("state")).unwrap().contains("compiler1"));
    let log = fs::read_to_string(d.join("log")).unwrap();
    assert!(!log.contains("config :"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_for_nginx_loads_checks_over_tls_and_drains() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place { directory: directory.path(), network: network() };
    let compilers = place.compilers().await;
    let d = directory.path().display().to_string();
    fs::write(directory.path().join("nginx.conf"), place.here(NGINX)).unwrap();
    let own = format!(
        "[balancer.nginx]\narguments = [\"-p\", \"{d}\", \"-e\", \"{d}/error.log\", \"-c\", \"{d}/nginx.conf\"]"
    );
    let keeper = place.keeper(&AGENT_NGINX.replace("[balancer.nginx]", &own));
    let watch = tokio::spawn(keeper.clone().watch());
    until("the agent's file", || async { directory.path().join("bunraku-stream.conf").exists() }).await;
    let mut command = Command::new("nginx");
    command.args([
        "-p",
        &d,
        "-e",
        &format!("{d}/error.log"),
        "-g",
        "daemon off;",
        "-c",
        &format!("{d}/nginx.conf"),
    ]);
    let _nginx = Program::start(&mut command, &directory.path().join("log"));
    drains_and_readies(&place, &keeper, &compilers).await;
    watch.abort();
}

#[tokio::test]
async fn the_example_of_a_hook_keeps_the_contract() {
    let directory = tempfile::tempdir().unwrap();
    let place = Place { directory: directory.path(), network: network() };
    let agent = AGENT_HOOK.replace("/usr/local/sbin/balancer-hook", HOOK);
    let keeper = place.keeper(&agent.replace("/var/lib/balancer", &directory.path().display().to_string()));
    for (wanted, shown) in [(Wanted::Drained, "drain"), (Wanted::Ready, "ready")] {
        let servers = keeper.balance(wish("compiler2.example.com", wanted, 1), || true).await.unwrap();
        assert_eq!(servers[0].admin(), shown);
    }
}
