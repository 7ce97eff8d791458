//! The node agent's configuration file. It is the last word on what may happen on this host: what it does not grant,
//! no controller can order.

use std::{collections::BTreeMap, path::PathBuf};

use bunraku_balancer::BalancerConfig;
use bunraku_common::{
    EnvironmentName, NodeName,
    config::{host_port, host_port_if_any, positive},
};
use bunraku_services::service::Grant;
use serde::{Deserialize, Serialize};

use crate::{
    certificate::config::{BundleConfig, CertificatesConfig},
    crl::config::CrlConfig,
};

/// `/etc/bunraku/agent.toml`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// `HOST:PORT` of the controller.
    #[serde(deserialize_with = "host_port")]
    pub controller: String,
    /// This node's name: its certname. Without it, Puppet's `certname` is used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<NodeName>,
    /// Identity, state, and the lock files that `code-id` shares with the agent.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    /// What this host grants as a compiler. Without the section it gets no code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<CodeConfig>,
    /// What this host grants as a load balancer. Without the section it balances nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balancer: Option<BalancerConfig>,
    /// Services of this host that may be restarted or reloaded, by the names given here. Nothing else is.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, Grant>,
    /// What a rollout may do here.
    #[serde(default)]
    pub rollout: RolloutConfig,
    /// Which files of Puppet's CRLs are kept here.
    #[serde(default)]
    pub crl: CrlConfig,
    /// Which certificates of this host are shown beside its own.
    #[serde(default)]
    pub certificates: CertificatesConfig,
    /// Copies of this host's Puppet certificate for other programs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub bundles: Vec<BundleConfig>,
    /// Which packages a rollout may change here.
    #[serde(default)]
    pub packages: PackagesConfig,
    /// How to reach Puppet and its server on this host.
    #[serde(default)]
    pub puppet: PuppetConfig,
    /// Enrolment by the existing Puppet certificate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub enroll: Option<EnrollConfig>,
}

pub(crate) fn default_data_dir() -> PathBuf {
    "/var/lib/bunraku-agent".into()
}

/// Where code goes on a compiler, and how much of it is kept.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CodeConfig {
    /// Whole versions live here; one file system, readable by Puppet Server. Must not lie below `environmentpath`.
    pub versions_dir: PathBuf,
    /// Puppet's `environmentpath`; without it asked from `puppet config print`.
    pub environments_dir: Option<PathBuf>,
    /// Group that may read the code: Puppet Server's. Empty: everybody may.
    pub group: String,
    /// Versions kept for rollback at least.
    pub keep_versions: usize,
    /// Minutes that every version is kept, however many there are.
    pub keep_minutes: u64,
    /// MiB that stay free: a stage that would go below fails before it writes.
    pub reserve_mib: u64,
    /// Minutes that the longest compile may take: a version is recycled only this long after its successor was proven.
    #[serde(deserialize_with = "positive")]
    pub longest_compile_minutes: u64,
    /// Make `.resource_types` in a staged version when types changed.
    pub generate_types: bool,
    /// Environments in which that is left out.
    pub no_types: Vec<EnvironmentName>,
}

impl Default for CodeConfig {
    fn default() -> Self {
        Self {
            versions_dir: "/var/lib/bunraku-code".into(),
            environments_dir: None,
            group: "puppet".into(),
            keep_versions: 5,
            keep_minutes: 120,
            reserve_mib: 256,
            longest_compile_minutes: 30,
            generate_types: true,
            no_types: Vec::new(),
        }
    }
}

/// What a rollout may do on this host.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct RolloutConfig {
    /// Which of `[services]` is Puppet Server.
    pub service: String,
    /// Whether Puppet's own agent may be run.
    pub puppet_run: bool,
    /// Whom such a run asks: the main server. Empty: whom puppet.conf names, which may be the balancer, and so a sibling.
    pub puppet_server: String,
    /// Commands that may be run, by name: program and arguments, without a shell.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub exec: BTreeMap<String, Vec<String>>,
}

impl Default for RolloutConfig {
    fn default() -> Self {
        Self {
            service: "puppetserver".into(),
            puppet_run: false,
            puppet_server: String::new(),
            exec: BTreeMap::new(),
        }
    }
}

/// Which packages a rollout may change.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PackagesConfig {
    /// Their names. What would change or go along with one of them must stand here too; what newly comes need not.
    pub allow: Vec<String>,
    /// Whether one may become older, when that is asked for. The way back from a failed update needs no grant.
    pub downgrade: bool,
}

/// Puppet's own programs and its server on this host.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct PuppetConfig {
    /// The `puppet` program: a path, or a name looked up in PATH and in `/opt/puppetlabs/bin`.
    pub program: PathBuf,
    /// Arguments after every `puppet` subcommand, such as `["--config", "/srv/puppet.conf"]`.
    pub arguments: Vec<String>,
    /// `HOST:PORT` where Puppet Server listens; without it this node's certname and Puppet's `serverport`.
    #[serde(deserialize_with = "host_port_if_any", skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Puppet Server's `conf.d`; without it the known places of Debian's and Puppet's packages.
    pub conf_d: Option<PathBuf>,
    /// Puppet Server's access log; without it the one that webserver.conf's `access-log-config` names.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_log: Option<PathBuf>,
    /// User that Puppet Server runs as.
    pub user: String,
}

impl Default for PuppetConfig {
    fn default() -> Self {
        Self {
            program: "puppet".into(),
            arguments: Vec::new(),
            server: None,
            conf_d: None,
            access_log: None,
            user: "puppet".into(),
        }
    }
}

/// Joining without a token.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollConfig {
    /// certname of the main Puppet server: the controller must present exactly this certificate, not an alias.
    pub main_certname: String,
    /// Roles to ask for; granted only as far as the controller's allow-list says.
    pub roles: Vec<bunraku_common::Role>,
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTED: &str = include_str!("../../docs/configuration.md");
    const EXAMPLE: &str = include_str!("../../packaging/bunraku-agent/agent.toml.example");

    /// The keys of a section: what an unknown one is answered with.
    fn keys(section: &str) -> Vec<String> {
        let error = toml::from_str::<Config>(&format!("{section}\nzzz = 1")).unwrap_err();
        let quoted = error.message().split('`').skip(1).step_by(2);
        quoted.filter(|key| *key != "zzz").map(str::to_owned).collect()
    }

    #[test]
    fn every_key_is_documented_and_stands_in_the_example_and_no_other() {
        let part = DOCUMENTED.split("## The node agent").nth(1).unwrap();
        let documented = part.split("\n## ").next().unwrap();
        let mut known = Vec::new();
        for section in [
            "",
            "[code]",
            "[balancer]",
            "[balancer.haproxy]",
            "[balancer.nginx]",
            "[balancer.hook]",
            "[rollout]",
            "[crl]",
            "[[crl.files]]",
            "[certificates]",
            "[[bundles]]",
            "[packages]",
            "[puppet]",
            "[enroll]",
        ] {
            let keys = keys(section);
            assert!(!keys.is_empty(), "{section}");
            for key in &keys {
                assert!(
                    documented.contains(&format!("`{key}`"))
                        || documented.contains(&format!("[{key}]"))
                        || documented.contains(&format!(".{key}]")),
                    "docs/configuration.md lacks {section} {key}"
                );
                let shown = |line: &str| {
                    let line = line.trim_start_matches("# ");
                    line.starts_with(&format!("{key} = ")) || line.contains(&format!("{key}]"))
                };
                assert!(EXAMPLE.lines().any(shown), "the example lacks {section} {key}");
            }
            known.extend(keys);
        }
        let rows = documented.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
        for key in rows.flat_map(|cell| cell.split('`').skip(1).step_by(2)).filter(|key| !key.contains('[')) {
            assert!(known.iter().any(|known| known == key), "docs/configuration.md has {key}");
        }
    }

    #[test]
    fn the_example_is_a_configuration() {
        toml::from_str::<Config>(EXAMPLE).unwrap();
    }
}
