//! The controller with its data directory, and root's questions to it over the unix socket.

use std::{
    collections::HashMap,
    fs::{self, DirBuilder},
    net::{IpAddr, SocketAddr},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::Command,
};

use bunraku::{
    Controller, ServeError,
    config::{Allow, Config, PuppetConfig},
};
use bunraku_common::{Digest, Role};
use bunraku_proto::{
    Door, FleetName, Peer, channel, identity, tls,
    v1::{self, DeployInfo, control_client::ControlClient},
};
use tonic::{Status, transport::Channel};
use zeroize::Zeroizing;

use super::{ControlRepository, authority::Authority, host::Host, host_in, until};

/// The controller's own address ends with this.
const HOST: u8 = 1;
/// Another controller's in the same fleet.
const OTHER_HOST: u8 = 2;

/// In the main server's Puppet certificate.
pub const MAIN_CERTNAME: &str = "main.test";

/// Of a rotation of the mesh CA.
pub const CA_PHASES: [&str; 4] = ["announce", "overlap", "switch", "retire"];

/// A main server: stopped, or with a controller that runs.
#[derive(Debug)]
pub struct MainServer {
    config: Config,
    network: [u8; 3],
    pin: Digest,
    running: Option<(Host, Controller)>,
}

impl MainServer {
    pub(super) fn found(
        dir: &Path,
        network: [u8; 3],
        repository: &ControlRepository,
        change: fn(&mut Config),
    ) -> Self {
        let data_dir = dir.join("data");
        for dir in [dir, &data_dir] {
            DirBuilder::new().mode(0o711).create(dir).unwrap();
        }
        let pin = Controller::found(&data_dir, &FleetName::parse("test").unwrap()).unwrap();
        let address = SocketAddr::from((host_in(network, HOST), 8170));
        let mut config = Config {
            listen: address,
            address: address.to_string(),
            build: repository.build_config(data_dir.join("build")),
            data_dir,
            socket: dir.join("control.sock"),
            deploy: Default::default(),
            balancers: Default::default(),
            crl: Default::default(),
            identity: Default::default(),
            puppet: None,
            audit: Default::default(),
        };
        change(&mut config);
        Self { config, network, pin, running: None }
    }

    /// From the next start on.
    pub(super) fn open_puppet_door(&mut self, authority: &Authority) {
        let dir = self.puppet_files();
        fs::create_dir(&dir).unwrap();
        self.write_puppet_files(authority);
        // There is no CA that would sign a canary.
        self.config.crl.proof = false;
        self.config.puppet = Some(PuppetConfig {
            ca: dir.join("ca.pem"),
            crl: dir.join("crl.pem"),
            certificate: dir.join("cert.pem"),
            key: dir.join("key.pem"),
            server: None,
            conf_d: None,
            allow: vec![Allow { certname: "*".into(), roles: vec![Role::Compiler] }],
        });
    }

    pub(super) fn write_puppet_files(&self, authority: &Authority) {
        authority.write(&authority.issue(MAIN_CERTNAME), &self.puppet_files());
    }

    fn puppet_files(&self) -> PathBuf {
        self.config.socket.with_file_name("puppet")
    }

    /// As a month after its start: a fresh certificate of the controller itself.
    pub fn renew_certificate(&self) {
        self.running.as_ref().unwrap().1.renew_certificate().unwrap();
    }

    /// `bunraku ca status`.
    pub async fn ca(&self) -> v1::CaStatus {
        self.client().ca_status(v1::CaStatusRequest {}).await.unwrap().into_inner()
    }

    /// `bunraku ca rotate --yes [--leave NODE]`, to this phase.
    pub async fn rotate_ca(&self, phase: &str, leave: &[&str]) -> Result<v1::CaStatus, Status> {
        let leave = leave.iter().map(|node| (*node).to_owned()).collect();
        let request = v1::RotateCaRequest { phase: phase.into(), leave };
        self.client().rotate_ca(request).await.map(tonic::Response::into_inner)
    }

    /// Waits until the next phase waits for nobody but these.
    pub async fn until_ready_but_for(&self, others: &[&str]) {
        until("every node is ready for the next phase", || async {
            self.ca().await.waits.iter().all(|holder| others.contains(&holder.node.as_str()))
        })
        .await;
    }

    /// The whole rotation, without these nodes.
    pub async fn rotate_whole_ca(&self, leave: &[&str]) {
        for phase in CA_PHASES {
            self.until_ready_but_for(leave).await;
            self.rotate_ca(phase, leave).await.unwrap();
        }
    }

    pub async fn start(&mut self) -> Result<(), ServeError> {
        let host = Host::new("controller", 2);
        match host.run(Controller::start(self.config.clone())).await {
            Ok(controller) => {
                self.running = Some((host, controller));
                Ok(())
            }
            Err(error) => {
                host.end().await;
                Err(error)
            }
        }
    }

    /// Ends the controller with everything in it. Nothing happens when it is stopped already.
    pub async fn stop(&mut self) {
        if let Some((host, controller)) = self.running.take() {
            host.run(controller.stop()).await;
            host.end().await;
        }
    }

    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }

    pub async fn restart(&mut self) {
        self.stop().await;
        self.start().await.unwrap();
    }

    pub fn config(&self) -> &Config {
        &self.config
    }

    /// For the next start.
    pub fn config_mut(&mut self) -> &mut Config {
        &mut self.config
    }

    pub fn address(&self) -> SocketAddr {
        self.config.listen
    }

    pub fn pin(&self) -> Digest {
        self.pin
    }

    pub(super) fn network(&self) -> [u8; 3] {
        self.network
    }

    /// Copies the data directory of a stopped controller, as a backup does.
    pub fn back_up(&self, to: &Path) {
        assert!(!self.is_running());
        let copied = Command::new("cp").arg("-a").arg(&self.config.data_dir).arg(to).status().unwrap();
        assert!(copied.success());
    }

    /// A second controller over a copy of the data directory, on another address; not started.
    pub fn twin(&self, backup: &Path) -> Self {
        let mut config = self.config.clone();
        config.data_dir = backup.into();
        config.build.root = backup.join("build");
        config.socket = backup.with_extension("sock");
        config.listen.set_ip(IpAddr::V4(host_in(self.network, OTHER_HOST)));
        config.address = config.listen.to_string();
        Self { config, network: self.network, pin: self.pin, running: None }
    }

    /// Where the controller keeps an object.
    pub fn object(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.config.data_dir.join("objects").join(&name[..2]).join(name)
    }

    /// A client as root on this host.
    pub fn client(&self) -> ControlClient<Channel> {
        ControlClient::new(channel::unix_channel(self.config.socket.clone()))
    }

    /// `bunraku operator add NAME --right RIGHT`, the login, and a connection as that operator.
    pub async fn operator(&self, name: &str, right: &str) -> ControlClient<Channel> {
        let request = v1::AddOperatorRequest { name: name.into(), right: right.into() };
        let token = self.client().add_operator(request).await.unwrap().into_inner().token;
        let peer = Peer::Operator(name.parse().unwrap());
        let address = self.config.address.as_str();
        let identity = identity::with_token(address, self.pin, &Zeroizing::new(token), &peer).await.unwrap();
        let tls = tls::mesh_client(identity.mesh(), Door::H2).unwrap();
        ControlClient::new(channel::connect(address, tls).await.unwrap())
    }

    /// `bunraku lb status`, of one compiler.
    pub async fn at_balancers(&self, compiler: &str) -> v1::CompilerBalance {
        let reply = self.client().balancer_status(v1::BalanceStatusRequest {}).await.unwrap().into_inner();
        reply.compilers.into_iter().find(|found| found.compiler == compiler).unwrap_or_default()
    }

    /// `bunraku lb drain --no-wait`.
    pub async fn drain(&self, compiler: &str, reason: &str) -> Result<v1::CompilerBalance, Status> {
        let (compiler, reason) = (compiler.to_owned(), reason.to_owned());
        let request = v1::DrainCompilerRequest { compiler, reason, min_available: 0 };
        self.client().drain_compiler(request).await.map(tonic::Response::into_inner)
    }

    /// `bunraku lb enable --no-wait`.
    pub async fn enable(&self, compiler: &str) -> Result<v1::CompilerBalance, Status> {
        let request = v1::EnableCompilerRequest { compiler: compiler.to_owned() };
        self.client().enable_compiler(request).await.map(tonic::Response::into_inner)
    }

    /// Waits until the balancers show the compiler as `in service`, `drained`, ….
    pub async fn until_balanced(&self, compiler: &str, state: &str) {
        until(&format!("{compiler} is {state}"), || async {
            self.at_balancers(compiler).await.state == state
        })
        .await;
    }

    pub async fn status(&self) -> v1::StatusReply {
        self.client().status(v1::StatusRequest {}).await.unwrap().into_inner()
    }

    /// Asks for a deploy and does not wait; answers its id.
    pub async fn ask_deploy(&self, environment: &str) -> Result<u64, Status> {
        self.ask_deploys(v1::DeployRequest {
            environments: vec![environment.to_owned()],
            ..Default::default()
        })
        .await
        .map(|deploys| deploys[0].id)
    }

    /// As [`MainServer::ask_deploy`] with `--policy skip`.
    pub async fn ask_skipping_deploy(&self, environment: &str) -> Result<u64, Status> {
        let (environments, policy) = (vec![environment.to_owned()], "skip".to_owned());
        let request = v1::DeployRequest { environments, policy, ..Default::default() };
        self.ask_deploys(request).await.map(|deploys| deploys[0].id)
    }

    pub async fn ask_deploys(&self, request: v1::DeployRequest) -> Result<Vec<DeployInfo>, Status> {
        let reply = self.client().deploy(request).await?.into_inner();
        match reply.refused.first() {
            Some(refused) => Err(Status::failed_precondition(refused.reason.clone())),
            None => Ok(reply.deploys),
        }
    }

    /// `bunraku rollback ENV [--to DIGEST]`, to its end.
    pub async fn roll_back(&self, environment: &str, to: &str) -> DeployInfo {
        let request = v1::RollbackRequest { environment: environment.into(), to: to.into() };
        let reply = self.client().rollback(request).await.unwrap().into_inner();
        self.until_ended(reply.deploys[0].id).await
    }

    pub async fn show_deploy(&self, id: u64) -> DeployInfo {
        self.client().show_deploy(v1::ShowDeployRequest { id }).await.unwrap().into_inner()
    }

    /// Waits until the deploy has ended, and answers how.
    pub async fn until_ended(&self, id: u64) -> DeployInfo {
        let open = ["queued", "building", "staging", "committing"];
        until(&format!("deploy {id} ends"), || async {
            !open.contains(&self.show_deploy(id).await.phase.as_str())
        })
        .await;
        self.show_deploy(id).await
    }

    /// Waits until the deploy is in this phase.
    pub async fn until_phase(&self, id: u64, phase: &str) {
        until(&format!("deploy {id} is {phase}"), || async { self.show_deploy(id).await.phase == phase })
            .await;
    }

    /// `bunraku takeover`; answers the new term.
    pub async fn take_over(&self) -> u64 {
        let request = v1::TakeoverRequest { reason: "restored from backup".into() };
        self.client().takeover(request).await.unwrap().into_inner().term
    }

    pub async fn node(&self, name: &str) -> v1::NodeInfo {
        self.client().show_node(v1::NodeRequest { node: name.into() }).await.unwrap().into_inner()
    }

    pub async fn until_connected(&self, name: &str) {
        until(&format!("{name} is connected"), || async { self.node(name).await.connected }).await;
    }

    pub async fn until_gone(&self, name: &str) {
        until(&format!("{name} is gone"), || async { !self.node(name).await.connected }).await;
    }

    pub async fn environment(&self, name: &str) -> v1::EnvironmentInfo {
        let request = v1::ListEnvironmentsRequest {};
        let all = self.client().list_environments(request).await.unwrap().into_inner().environments;
        all.into_iter().find(|environment| environment.name == name).unwrap_or_default()
    }

    /// Waits until every compiler that is not held is on record as proven to serve this snapshot.
    pub async fn until_all_proven(&self, environment: &str, snapshot: Digest) {
        until(&format!("all are proven to serve {environment} {}", snapshot.short()), || async {
            let info = self.environment(environment).await;
            let proven = |node: &v1::EnvironmentNode| node.proven && node.live == snapshot.to_string();
            info.committed == snapshot.to_string()
                && info.nodes.iter().filter(|node| node.state != "held").all(proven)
        })
        .await;
    }

    /// The whole audit, oldest first.
    pub async fn audit(&self) -> Vec<v1::AuditRecord> {
        let request = v1::ListAuditRequest { after: 0, limit: 10_000 };
        self.client().list_audit(request).await.unwrap().into_inner().records
    }

    /// `bunraku events --after N`: what is there, without waiting for more.
    pub async fn events_after(&self, after: u64) -> Vec<v1::Event> {
        let request = v1::WatchRequest { after, ..Default::default() };
        let mut stream = self.client().watch(request).await.unwrap().into_inner();
        let mut events = Vec::new();
        while let Some(event) = stream.message().await.unwrap() {
            events.push(event);
        }
        events
    }

    pub async fn verify_audit(&self) -> v1::VerifyAuditReply {
        self.client().verify_audit(v1::VerifyAuditRequest {}).await.unwrap().into_inner()
    }

    /// Waits until a record of this kind about this node stands in the audit so many times; answers the newest.
    pub async fn until_recorded(&self, kind: &str, node: &str, times: usize) -> v1::AuditRecord {
        let found = || async {
            let named = format!("\"{node}\"");
            let all = self.audit().await;
            let about = |record: &v1::AuditRecord| record.kind == kind && record.json.contains(&named);
            all.into_iter().filter(about).collect::<Vec<_>>()
        };
        until(&format!("{kind} of {node} is recorded {times} times"), || async {
            found().await.len() >= times
        })
        .await;
        found().await.pop().unwrap()
    }

    /// How often each kind of record stands in the audit.
    pub async fn audit_counts(&self) -> HashMap<String, usize> {
        let mut counts = HashMap::new();
        for record in self.audit().await {
            *counts.entry(record.kind).or_default() += 1;
        }
        counts
    }

    /// What every compiler should have served since the beginning, in the order of the decisions.
    pub(super) async fn decided(&self, environment: &str) -> Vec<Digest> {
        let kinds = ["commit-decided", "environment-adopted"];
        let named = format!("\"{environment}\"");
        let records = self.audit().await.into_iter();
        let records =
            records.filter(|record| kinds.contains(&record.kind.as_str()) && record.json.contains(&named));
        records.filter_map(|record| snapshot_in(&serde_json::from_str(&record.json).unwrap())).collect()
    }
}

/// The snapshot that a deploy is about.
pub fn digest_of(deploy: &DeployInfo) -> Digest {
    deploy.snapshot.parse().unwrap()
}

/// Wherever the record has it.
fn snapshot_in(json: &serde_json::Value) -> Option<Digest> {
    match json {
        serde_json::Value::Object(fields) => match fields.get("snapshot").and_then(|text| text.as_str()) {
            Some(text) => text.parse().ok(),
            None => fields.values().find_map(snapshot_in),
        },
        serde_json::Value::Array(all) => all.iter().find_map(snapshot_in),
        serde_json::Value::Null
        | serde_json::Value::Bool(_)
        | serde_json::Value::Number(_)
        | serde_json::Value::String(_) => None,
    }
}
