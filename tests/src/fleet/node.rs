//! One compiler: an agent with its directories, a `puppet` program, a stand-in Puppet Server, and its own network link.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr},
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use bunraku_agent::{Agent, AgentError, CodeConfig, Config, PuppetConfig, identity::enroll_with_token};
use bunraku_common::{Digest, NodeName};
use bunraku_proto::{identity::IdentityFiles, v1};
use serde_json::json;
use tokio::sync::Mutex;
use zeroize::Zeroizing;

use super::{
    Flow, Link, MainServer, PuppetServer,
    authority::Authority,
    host::{Host, Pause},
    until, write_executable,
};

#[derive(Debug)]
pub struct Node {
    name: NodeName,
    role: &'static str,
    dir: PathBuf,
    config: std::sync::Mutex<Config>,
    link: Link,
    puppet_server: PuppetServer,
    running: Mutex<Option<(Host, Agent)>>,
}

impl Node {
    pub(super) async fn make(
        dir: &Path,
        name: &str,
        main: &MainServer,
        authority: &Authority,
        from: Ipv4Addr,
        change: impl FnOnce(&mut Config),
    ) -> Self {
        let environments = dir.join("environments");
        fs::create_dir_all(&environments).unwrap();
        let link = Link::lay(IpAddr::V4(from), main.address()).await;
        let puppet_server = PuppetServer::start(&environments, IpAddr::V4(from), name, authority).await;
        let issued = authority.issue(name);
        authority.write(&issued, dir);
        write_puppet(dir, name);
        let mut config = Config {
            controller: link.address().to_string(),
            name: Some(NodeName::parse(name).unwrap()),
            data_dir: dir.join("data"),
            code: Some(CodeConfig {
                versions_dir: dir.join("code"),
                environments_dir: Some(environments),
                group: Default::default(),
                reserve_mib: 1,
                ..CodeConfig::default()
            }),
            puppet: PuppetConfig {
                program: dir.join("puppet"),
                server: Some(puppet_server.address().to_string()),
                ..PuppetConfig::default()
            },
            balancer: None,
            services: Default::default(),
            rollout: Default::default(),
            packages: Default::default(),
            crl: Default::default(),
            certificates: Default::default(),
            bundles: Vec::new(),
            enroll: None,
        };
        change(&mut config);
        Self {
            name: NodeName::parse(name).unwrap(),
            role: "compiler",
            dir: dir.into(),
            config: std::sync::Mutex::new(config),
            link,
            puppet_server,
            running: Mutex::new(None),
        }
    }

    /// Another role than that of a compiler, before it enrols.
    pub(super) fn with_role(self, role: &'static str) -> Self {
        Self { role, ..self }
    }

    /// `bunraku token create` on the main server, `bunraku-agent enroll` here.
    pub async fn enrol(&self, main: &MainServer) {
        let roles = vec![self.role.to_owned()];
        let request = v1::CreateTokenRequest { node: self.name.to_string(), roles, ttl_s: 0 };
        let line = main.client().create_token(request).await.unwrap().into_inner();
        let (config, pin) = (self.config(), line.pin.parse().unwrap());
        let token = Zeroizing::new(line.token);
        let identity = enroll_with_token(&config.controller, pin, &token, &self.name).await.unwrap();
        fs::create_dir_all(&config.data_dir).unwrap();
        IdentityFiles::new(config.data_dir.join("identity")).save(&identity).unwrap();
    }

    pub async fn start(&self) -> Result<(), AgentError> {
        let host = Host::new(self.name.as_str(), 1);
        match host.run(Agent::start(self.config())).await {
            Ok(agent) => {
                *self.running.lock().await = Some((host, agent));
                Ok(())
            }
            Err(error) => {
                host.end().await;
                Err(error)
            }
        }
    }

    /// Ends the agent with everything in it. Nothing happens when it is stopped already.
    pub async fn stop(&self) {
        if let Some((host, agent)) = self.running.lock().await.take() {
            host.run(agent.stop()).await;
            host.end().await;
        }
    }

    pub async fn restart(&self) {
        self.stop().await;
        self.start().await.unwrap();
    }

    /// As at half of the identity's life.
    pub async fn renew_identity(&self) {
        self.running.lock().await.as_ref().unwrap().1.renew_identity();
    }

    /// As SIGSTOP: the agent stands still until the pause is dropped.
    pub async fn pause(&self) -> Pause {
        self.running.lock().await.as_ref().unwrap().0.pause().await
    }

    pub fn name(&self) -> &str {
        self.name.as_str()
    }

    pub fn config(&self) -> Config {
        self.config.lock().unwrap().clone()
    }

    /// For the agent's next start.
    pub fn change_config(&self, change: impl FnOnce(&mut Config)) {
        change(&mut self.config.lock().unwrap());
    }

    pub fn link(&self) -> &Link {
        &self.link
    }

    pub fn puppet_server(&self) -> &PuppetServer {
        &self.puppet_server
    }

    /// Connections are closed and refused from now on, until [`Node::reconnect`].
    pub fn partition(&self) {
        self.link.cut();
    }

    pub fn reconnect(&self) {
        self.link.mend();
    }

    /// Packets are lost, both ways, and nobody is told.
    pub fn silence(&self) {
        let held = Flow { held: true, ..Flow::default() };
        self.link.set_flows(held, held);
    }

    /// The snapshot that Puppet Server has loaded.
    pub fn serves(&self, environment: &str) -> Option<Digest> {
        self.puppet_server.serves(environment)
    }

    pub async fn until_serves(&self, environment: &str, snapshot: Digest) {
        until(&format!("{} serves {environment} {}", self.name, snapshot.short()), || async {
            self.serves(environment) == Some(snapshot)
        })
        .await;
    }

    /// What the live link names.
    pub fn live(&self, environment: &str) -> Option<Digest> {
        let target = fs::read_link(self.environment(environment)).ok()?;
        target.file_name()?.to_str()?.rsplit_once('_')?.1.parse().ok()
    }

    /// The path that Puppet Server reads.
    pub fn environment(&self, environment: &str) -> PathBuf {
        self.dir.join("environments").join(environment)
    }

    /// One file as Puppet Server would read it.
    pub fn read(&self, environment: &str, path: &str) -> String {
        fs::read_to_string(self.environment(environment).join(path)).unwrap()
    }

    /// Below `versions_dir`.
    pub fn code(&self, below: &str) -> PathBuf {
        self.config().code.unwrap().versions_dir.join(below)
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Takes over the identity and the memory of another node, as a cloned disk does.
    pub(super) fn copy_data_of(&self, other: &Self) {
        let (from, to) = (other.config().data_dir, self.config().data_dir);
        assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
    }

    /// Its disk was lost, as far as the identity goes.
    pub fn lose_identity(&self) {
        fs::remove_dir_all(self.config().data_dir.join("identity")).unwrap();
    }

    /// Memories of other fleets that it has set aside.
    pub fn set_aside(&self) -> usize {
        let names = fs::read_dir(self.config().data_dir).unwrap();
        let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("memory-of-other-fleet-")).count()
    }

    /// Whether it holds an identity that is good now.
    pub fn has_identity(&self) -> bool {
        let files = IdentityFiles::new(self.config().data_dir.join("identity"));
        files
            .load(SystemTime::now())
            .unwrap()
            .is_some_and(|kept| !kept.certificate().expired(SystemTime::now()))
    }
}

/// The `puppet` program as far as the agent asks it: `puppet config print --render-as json …`, `puppet agent --disable`.
fn write_puppet(dir: &Path, certname: &str) {
    let path = |name: &str| dir.join(name).display().to_string();
    let settings = json!({
        "confdir": path("etc"),
        "config": path("etc/puppet.conf"),
        "codedir": dir.display().to_string(),
        "environmentpath": path("environments"),
        "ssldir": path("ssl"),
        "hostcert": path("cert.pem"),
        "hostprivkey": path("key.pem"),
        "localcacert": path("ca.pem"),
        "hostcrl": path("crl.pem"),
        "certname": certname,
        "serverport": 8140,
        "user": "root",
        "group": "root",
        "versioned_environment_dirs": true,
        "static_catalogs": true,
    });
    let locks = json!({
        "agent_catalog_run_lockfile": path("run.lock"),
        "agent_disabled_lockfile": path("disabled.lock"),
    });
    fs::create_dir_all(dir.join("etc")).unwrap();
    fs::write(dir.join("etc/puppet.conf"), "[server]\nversioned_environment_dirs = true\n").unwrap();
    let script = format!(
        r#"#!/bin/sh
cd '{}' || exit 1
case "$*" in
--version*) echo 7.23.0 ;;
'agent --disable'*) printf '{{"disabled_message":"%s"}}' "$3" > disabled.lock ;;
'agent --enable'*) rm -f disabled.lock ;;
'agent --test'*) echo run >> runs; exit "$(cat exit-code)" ;;
*agent_disabled_lockfile*) echo '{locks}' ;;
*) echo '{settings}' ;;
esac
"#,
        dir.display()
    );
    write_executable(&dir.join("puppet"), &script);
}
