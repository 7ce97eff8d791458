//! `bunraku init`: the mesh CA, the controller's state directory, and a config file with every default shown.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    process::Command,
    time::SystemTime,
};

use bunraku_builder::BuildConfig;
use bunraku_common::{Chain, config::is_host_port};
use bunraku_proto::FleetName;
use clap::Args;
use serde::Serialize;

use super::{DEFAULT_CONFIG, Exit, Failure, Output};
use crate::{
    config::{AuditConfig, BalancersConfig, Config, CrlConfig, DeployConfig, IdentityConfig, PuppetConfig},
    identity::MeshCa,
};

#[derive(Debug, Args)]
pub(super) struct Init {
    /// HOST:PORT as nodes and operators will dial it
    #[arg(long, value_name = "HOST:PORT")]
    address: String,
    /// Where the configuration is written
    #[arg(long, default_value = DEFAULT_CONFIG, value_name = "FILE")]
    config: PathBuf,
    /// Journal, objects, build root, mesh CA
    #[arg(long, default_value = "/var/lib/bunraku", value_name = "DIR")]
    data_dir: PathBuf,
    /// Name of this installation in every certificate: a-z 0-9 -
    #[arg(long, default_value = "bunraku")]
    fleet: String,
    /// The control repository
    #[arg(long, default_value = "https://git.example.com/puppet/control.git", value_name = "URL")]
    remote: String,
    /// The puppet program that is asked where Puppet's certificates are
    #[arg(long, default_value = "puppet", value_name = "PROGRAM")]
    puppet: PathBuf,
}

#[derive(Debug, Serialize)]
struct Made {
    pin: String,
    config: PathBuf,
    data_dir: PathBuf,
    fleet: String,
}

impl Init {
    pub(super) fn run(self, output: Output) -> Result<(), Failure> {
        let fleet = FleetName::parse(&self.fleet).map_err(|error| Failure::new(Exit::WrongUse, error))?;
        if !is_host_port(&self.address) {
            return Err(Failure::new(Exit::WrongUse, format!("`{}` is not HOST:PORT", self.address))
                .hint("--address puppet-main.example.com:8170"));
        }
        if self.config.exists() {
            return Err(Failure::new(Exit::Refused, format!("{} exists already", self.config.display()))
                .hint("move it away, or choose another with --config"));
        }
        let config = self.config_file();
        config.build.check_remote().map_err(|error| {
            let (reason, hint) = bunraku_common::hint::split(&error.to_string());
            Failure::new(Exit::WrongUse, reason).hint(hint)
        })?;
        private_dir(&self.data_dir)?;
        let ca = MeshCa::create(&self.data_dir.join("ca"), &fleet, SystemTime::now())
            .map_err(|error| Failure::new(Exit::Refused, Chain(&error)))?;
        write_config(&self.config, &config)?;
        let pin = ca.pin().map_err(|error| Failure::new(Exit::Failed, Chain(&error)))?.to_string();
        let made = Made { pin, config: self.config, data_dir: self.data_dir, fleet: self.fleet };
        output.print(&made, |made| {
            format!(
                "CA pin      {}\nconfig      {}\ndata        {}\nfleet       {}\n\nnext:\n  \
                 1. look at [build] in {}: remote, kind\n  2. systemctl enable --now bunraku\n  \
                 3. bunraku token create NODE --role compiler\n",
                made.pin,
                made.config.display(),
                made.data_dir.display(),
                made.fleet,
                made.config.display()
            )
        })
    }

    fn config_file(&self) -> Config {
        let listen =
            self.address.rsplit_once(':').and_then(|(_, port)| format!("0.0.0.0:{port}").parse().ok());
        Config {
            listen: listen.expect("the port was checked"),
            address: self.address.clone(),
            data_dir: self.data_dir.clone(),
            socket: crate::config::DEFAULT_SOCKET.into(),
            deploy: DeployConfig::default(),
            balancers: BalancersConfig::default(),
            crl: CrlConfig::default(),
            identity: IdentityConfig::default(),
            build: BuildConfig {
                remote: self.remote.clone(),
                root: self.data_dir.join("build"),
                ..BuildConfig::default()
            },
            puppet: ask_puppet(&self.puppet),
            audit: AuditConfig::default(),
        }
    }
}

/// Where Puppet's certificates are on this host. Without an answer nodes can join by token only.
fn ask_puppet(program: &Path) -> Option<PuppetConfig> {
    let names = ["localcacert", "cacrl", "hostcert", "hostprivkey"];
    let asked =
        Command::new(program).args(["config", "print", "--section", "server"]).args(names).output().ok()?;
    let text = String::from_utf8(asked.stdout).ok().filter(|_| asked.status.success())?;
    let value = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix('='));
        line.map(|path| PathBuf::from(path.trim()))
    };
    Some(PuppetConfig {
        ca: value("localcacert")?,
        crl: value("cacrl")?,
        certificate: value("hostcert")?,
        key: value("hostprivkey")?,
        server: None,
        conf_d: None,
        allow: Vec::new(),
    })
}

fn private_dir(dir: &Path) -> Result<(), Failure> {
    DirBuilder::new().recursive(true).mode(0o711).create(dir).map_err(|error| {
        Failure::new(Exit::Failed, format!("could not make {}: {error}", dir.display())).hint("run as root")
    })
}

fn write_config(path: &Path, config: &Config) -> Result<(), Failure> {
    let failed =
        |error: String| Failure::new(Exit::Failed, format!("could not write {}: {error}", path.display()));
    let toml = toml::to_string_pretty(config).map_err(|error| failed(error.to_string()))?;
    let text = format!(
        "# Bunraku controller. Every key is shown with its value; what a key means:
# /usr/share/doc/bunraku/docs/configuration.md\n\n{toml}"
    );
    if let Some(dir) = path.parent() {
        fs::create_dir_all(dir).map_err(|error| failed(error.to_string()))?;
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o640)
        .open(path)
        .map_err(|error| failed(error.to_string()))?;
    file.write_all(text.as_bytes()).map_err(|error| failed(error.to_string()))
}
