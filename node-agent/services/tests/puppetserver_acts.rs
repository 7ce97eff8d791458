//! A restart or reload of Puppet Server from the check to the way back, with a stand-in that dies of a bad configuration
//! as the real one does; Ruby, its HOCON library and `puppet` are real.

#![expect(
    clippy::unwrap_used,
    reason = "what helps tests, outside of the functions that clippy knows as tests"
)]
#![expect(dead_code, reason = "the stand-in can do more than is asked of it here")]

#[path = "../../puppetserver/tests/stand_in/puppet_server.rs"]
mod puppet_server;

use std::{collections::BTreeMap, fs, path::PathBuf, time::Duration};

use bunraku_puppetserver::{Puppet, PuppetServer};
use bunraku_services::{
    Service, ServiceError, Services, State, Status, Verb,
    puppetserver::{ActError, ConfigCheck, Done, GoodCopies, PuppetserverService},
    service::{Grant, PlainConfig},
};
use futures_util::future::BoxFuture;
use puppet_server::{Answer, Node, StandIn};

const SOON: Duration = Duration::from_secs(60);

/// Loads its configuration at the start and at SIGHUP, counts that in its restart file, or ends. It stumbles once over a
/// file that says so, whatever its configuration is.
const SERVER: &str = r#"
if rm "$1/../stumble" 2>/dev/null; then echo stumbled; exit 1; fi
load() { if grep -q unbearable "$1"/*.conf; then echo "cannot bear it"; exit 1; fi; echo loaded; printf 1 > "$2"; }
trap 'load "$@"' HUP; trap 'exit 0' TERM
load "$@"
while :; do sleep 600 & wait $!; kill $! 2>/dev/null; done"#;

struct Host {
    node: Node,
    status: StandIn,
    services: Services,
    puppet: Puppet,
}

impl Host {
    async fn new() -> Self {
        let node = Node::new();
        let path = |name: &str| node.dir().join(name);
        fs::create_dir(path("conf.d")).unwrap();
        fs::write(path("conf.d/webserver.conf"), "webserver: { ssl-port: 8140 }").unwrap();
        fs::write(path("puppet.conf"), "[main]\n").unwrap();
        let words = ["/bin/sh", "-c", SERVER, "java"].map(str::to_owned).into_iter();
        let config = PlainConfig {
            pid_file: path("pid"),
            command: words
                .chain(["conf.d", "restart"].map(|name| path(name).display().to_string()))
                .collect(),
            log: Some(path("log")),
            restart_file: Some(path("restart")),
            stop_seconds: 20,
        };
        let services = Services::new(BTreeMap::from([("puppetserver".to_owned(), Grant::Process(config))]));
        let running = "HTTP/1.1 200 OK\r\nContent-Length: 7\r\nConnection: close\r\n\r\nrunning";
        let status = StandIn::start(&node.ca, Answer::Bytes(running.into())).await;
        let puppet = Puppet::new("puppet", ["--config".into(), path("puppet.conf").into()]);
        Self { node, status, services, puppet }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.node.dir().join(name)
    }

    fn service(&self) -> &dyn Service {
        self.services.granted("puppetserver").unwrap()
    }

    fn server(&self) -> PuppetServer {
        self.node.asks(&self.status)
    }

    async fn act(&self, verb: Verb, name: &str) -> Result<Done, ActError> {
        let (server, conf_d) = (self.server(), self.path("conf.d"));
        let puppetserver = PuppetserverService {
            service: self.service(),
            server: &server,
            check: ConfigCheck { puppet: &self.puppet, conf_d: &conf_d, ruby: None },
            copies: GoodCopies::new(self.path("good"), &conf_d, &self.path("puppet.conf")),
            restart_file: Some(self.path("restart")),
        };
        puppetserver.act(verb, name, SOON).await
    }

    async fn pid(&self) -> Option<u32> {
        self.service().status().await.unwrap().main_pid
    }

    async fn end(self) {
        self.service().act(Verb::Stop, SOON).await.unwrap();
    }
}

#[tokio::test]
async fn a_reload_that_kills_the_server_brings_back_the_last_good_configuration() {
    let host = Host::new().await;
    let good = Done { no_copies: None };
    assert_eq!(host.act(Verb::Start, "turn-0").await.unwrap(), good);
    let pid = host.pid().await;
    assert!(pid.is_some());
    assert_eq!(host.act(Verb::Reload, "turn-1").await.unwrap(), good);
    assert_eq!(host.pid().await, pid);
    assert_eq!(fs::read_to_string(host.path("log")).unwrap(), "loaded\nloaded\n");

    fs::write(host.path("conf.d/webserver.conf"), "webserver: { ssl-port: unbearable }").unwrap();
    let error = host.act(Verb::Reload, "turn-2").await.unwrap_err();
    let ActError::Restored { restored, refused, why, .. } = &error else { panic!("{error}") };
    assert_eq!(restored, &[host.path("conf.d/webserver.conf")]);
    assert!(why.contains("cannot bear it"), "{why}");
    assert!(fs::read_to_string(refused.join("webserver.conf")).unwrap().contains("unbearable"));
    assert!(error.to_string().contains("hint: "), "{error}");
    assert_eq!(host.service().status().await.unwrap().state, State::Running);
    assert_ne!(host.pid().await, pid);

    assert_eq!(host.act(Verb::Restart, "turn-3").await.unwrap(), good, "and it goes on from there");
    host.end().await;
}

#[tokio::test]
async fn a_syntax_error_is_found_before_the_server_is_told_anything() {
    let host = Host::new().await;
    host.act(Verb::Start, "turn-0").await.unwrap();
    let pid = host.pid().await;
    fs::write(host.path("conf.d/webserver.conf"), "webserver: {").unwrap();
    for verb in [Verb::Reload, Verb::Restart] {
        let error = host.act(verb, "turn-1").await.unwrap_err();
        assert!(matches!(error, ActError::Check(_)), "{error}");
    }
    assert_eq!((host.pid().await, fs::read_to_string(host.path("log")).unwrap()), (pid, "loaded\n".into()));
    host.end().await;
}

/// Regression: a unit did not start once under load, and a good certificate was brought back for it.
#[tokio::test]
async fn a_server_that_does_not_start_though_its_configuration_is_good_is_started_once_more() {
    let host = Host::new().await;
    host.act(Verb::Start, "turn-0").await.unwrap();
    let before = host.pid().await;
    fs::write(host.path("stumble"), "").unwrap();
    host.act(Verb::Restart, "turn-1").await.unwrap();
    assert!(!host.path("stumble").exists() && host.pid().await != before);
    host.end().await;
}

#[tokio::test]
async fn without_a_good_copy_the_server_is_named_as_down() {
    let host = Host::new().await;
    fs::write(host.path("conf.d/webserver.conf"), "webserver: { ssl-port: unbearable }").unwrap();
    let error = host.act(Verb::Restart, "turn-1").await.unwrap_err();
    assert!(matches!(error, ActError::Down { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("no configuration was kept yet") && text.contains("cannot bear it"), "{text}");
    host.end().await;
}

#[tokio::test]
async fn a_server_whose_status_never_runs_is_not_ready_at_the_deadline() {
    let mut host = Host::new().await;
    host.status = StandIn::start(&host.node.ca, Answer::Bytes(String::new())).await;
    let server = host.server();
    host.service().act(Verb::Start, SOON).await.unwrap();
    let waiting = bunraku_services::puppetserver::ready::wait(
        host.service(),
        &server,
        None,
        Duration::from_millis(300),
    );
    let text = waiting.await.unwrap_err().to_string();
    assert!(text.starts_with("not ready within 300ms: "), "{text}");
    host.end().await;
}

/// A service manager that takes the order and loses it: a job that was cancelled.
#[derive(Debug)]
struct Forgetful<'a>(&'a dyn Service);

impl Service for Forgetful<'_> {
    fn act(&self, verb: Verb, _deadline: Duration) -> BoxFuture<'_, Result<(), ServiceError>> {
        let (service, why) = ("puppetserver".to_owned(), "its job was cancelled".to_owned());
        Box::pin(async move { Err(ServiceError::Unknown { verb, service, why }) })
    }

    fn status(&self) -> BoxFuture<'_, Result<Status, ServiceError>> {
        self.0.status()
    }
}

#[tokio::test]
async fn a_restart_that_never_happened_is_not_taken_for_done_because_the_old_server_is_ready() {
    let host = Host::new().await;
    host.act(Verb::Start, "turn-0").await.unwrap();
    let (server, conf_d) = (host.server(), host.path("conf.d"));
    let forgetful = Forgetful(host.service());
    let puppetserver = PuppetserverService {
        service: &forgetful,
        server: &server,
        check: ConfigCheck { puppet: &host.puppet, conf_d: &conf_d, ruby: None },
        copies: GoodCopies::new(host.path("good"), &conf_d, &host.path("puppet.conf")),
        restart_file: None,
    };
    let error = puppetserver.act(Verb::Restart, "turn-1", SOON).await.unwrap_err();
    assert!(matches!(&error, ActError::Service { source, .. } if source.is_unknown()), "{error}");
    host.end().await;
}
