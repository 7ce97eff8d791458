//! The controller's configuration file: every key, its default, and what it is for.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use bunraku_builder::BuildConfig;
use bunraku_common::{
    Role,
    config::{host_port, host_port_if_any, positive},
};
use bunraku_engine::{OnStaleRuby, Policy};
use serde::{Deserialize, Serialize};

/// Where the packaged controller listens for root.
pub const DEFAULT_SOCKET: &str = "/run/bunraku/control.sock";

/// `/etc/bunraku/bunraku.toml`. `bunraku init` writes one with every default shown.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Address and port of the one port that nodes and operators reach.
    #[serde(default = "default_listen")]
    pub listen: SocketAddr,
    /// `HOST:PORT` as nodes and operators dial it; shown in the lines to paste.
    #[serde(deserialize_with = "host_port")]
    pub address: String,
    /// Journal, index, objects, build root, mesh CA.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    /// Unix socket for root on this host.
    #[serde(default = "default_socket")]
    pub socket: PathBuf,
    #[serde(default)]
    pub deploy: DeployConfig,
    #[serde(default)]
    pub balancers: BalancersConfig,
    #[serde(default)]
    pub crl: CrlConfig,
    #[serde(default)]
    pub identity: IdentityConfig,
    pub build: BuildConfig,
    /// Puppet's own certificates on this host; without it nodes can join by token only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub puppet: Option<PuppetConfig>,
    #[serde(default)]
    pub audit: AuditConfig,
}

fn default_listen() -> SocketAddr {
    SocketAddr::from(([0, 0, 0, 0], 8170))
}

fn default_data_dir() -> PathBuf {
    "/var/lib/bunraku".into()
}

fn default_socket() -> PathBuf {
    DEFAULT_SOCKET.into()
}

/// What a deploy waits for, and how long.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct DeployConfig {
    /// A compiler that cannot stage: `fail` abandons the deploy everywhere, `skip` leaves the compiler behind, `drain`
    /// leaves it behind, out of service until it follows; where it may not go, or nothing balances, as `fail`.
    pub policy: Policy,
    /// Seconds for all compilers to stage.
    #[serde(deserialize_with = "positive")]
    pub stage_deadline_s: u64,
    /// Seconds after the commit decision until a deploy ends with compilers on record as behind.
    #[serde(deserialize_with = "positive")]
    pub commit_deadline_s: u64,
    /// Seconds without a connection until a compiler counts as unreachable.
    pub unreachable_s: u64,
    /// Ruby that stays in the interpreters after a deploy (types, providers): `offer` names the rollout that makes the
    /// JRuby pools anew, `rollout` starts it when the deploy has ended.
    pub stale_ruby: OnStaleRuby,
    /// Snapshots kept for each environment on the controller.
    pub retained: usize,
}

impl Default for DeployConfig {
    fn default() -> Self {
        Self {
            policy: Policy::Drain,
            stage_deadline_s: 600,
            commit_deadline_s: 300,
            unreachable_s: 60,
            stale_ruby: OnStaleRuby::Offer,
            retained: 10,
        }
    }
}

/// What is asked of the load balancers.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct BalancersConfig {
    /// Seconds in which every balancer must have done a drain; else it is undone everywhere.
    #[serde(deserialize_with = "positive")]
    pub agree_s: u64,
    /// Seconds over which the share of a compiler that comes back grows, where the balancer can; 0: at once.
    pub slow_start_s: u32,
}

impl Default for BalancersConfig {
    fn default() -> Self {
        Self { agree_s: 60, slow_start_s: 0 }
    }
}

/// How Puppet's CRLs are brought to the nodes. Their file is `[puppet] crl`.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct CrlConfig {
    /// Prove with a canary that Puppet Servers enforce a change: a certificate of our own, signed and then revoked.
    pub proof: bool,
    /// Canaries kept ready.
    #[serde(deserialize_with = "positive")]
    pub canaries: usize,
    /// Take a compiler that lacks a revocation out of service until it has it, where the floor allows it.
    pub drain: bool,
    /// After so many seconds without it.
    #[serde(deserialize_with = "positive")]
    pub drain_after_s: u64,
}

impl Default for CrlConfig {
    fn default() -> Self {
        Self { proof: true, canaries: 2, drain: true, drain_after_s: 10 }
    }
}

/// How long identities live.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct IdentityConfig {
    /// How long the controller may be away without a node losing its identity: the life of nodes' certificates
    /// follows from it.
    #[serde(rename = "survive_outage_hours", with = "outage_hours")]
    pub survive_outage: Duration,
    /// Days that an operator's certificate lives.
    #[serde(deserialize_with = "positive")]
    pub operator_days: u64,
    /// Days after its end in which a node's certificate may still renew itself, and nothing else: how long a node may
    /// be off, which is another question than how long the controller may be away.
    pub expired_renewal_days: u64,
    /// Minutes that a token is good when the command does not say.
    #[serde(deserialize_with = "positive")]
    pub token_minutes: u64,
}

impl Default for IdentityConfig {
    fn default() -> Self {
        Self {
            survive_outage: Duration::from_secs(12 * 3600),
            operator_days: 30,
            expired_renewal_days: 30,
            token_minutes: 15,
        }
    }
}

/// What a node may lose of the half of its certificate's life that is left when it should renew: a renewal that failed
/// and is tried again, waits between dials, a clock that is minutes off.
const OUTAGE_SLACK: Duration = Duration::from_secs(15 * 60);

impl IdentityConfig {
    /// How long a node's certificate lives. A node renews at half of that at the latest, so at the worst moment, when
    /// the controller goes just before a renewal, the other half is left.
    pub(crate) fn node_life(&self) -> Duration {
        2 * (self.survive_outage + (self.survive_outage / 8).min(OUTAGE_SLACK))
    }
}

mod outage_hours {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// A stolen key is good for twice as long.
    const MOST: u64 = 30 * 24;

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        match u64::deserialize(deserializer)? {
            hours @ 1..=MOST => Ok(Duration::from_secs(hours * 3600)),
            hours => Err(D::Error::custom(format!("{hours} hours are not possible here: 1 to {MOST}"))),
        }
    }

    pub(super) fn serialize<S: Serializer>(outage: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(outage.as_secs() / 3600)
    }
}

/// Puppet's files on the main server: asked from `puppet config print` by `bunraku init`, never guessed.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PuppetConfig {
    /// Puppet's CA bundle (`localcacert`).
    pub ca: PathBuf,
    /// Puppet's full CRL chain (`cacrl`).
    pub crl: PathBuf,
    /// The main server's own certificate (`hostcert`) and key (`hostprivkey`).
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// `HOST:PORT` of the main Puppet Server, whose CA signs and revokes; without it its certname and 8140.
    #[serde(default, deserialize_with = "host_port_if_any", skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// Puppet Server's `conf.d`; without it the known places of Debian's and Puppet's packages.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub conf_d: Option<PathBuf>,
    /// Which Puppet certificates may become nodes, and as what. Empty: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Allow>,
}

/// One entry of the allow-list.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// A certname, `*` standing for any run of characters.
    pub certname: String,
    pub roles: Vec<Role>,
}

/// How much of the past is kept.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct AuditConfig {
    /// Days that closed journal segments are kept.
    pub keep_days: u64,
    /// MiB of closed journal segments that are kept at most.
    #[serde(deserialize_with = "positive")]
    pub keep_mib: u64,
}

impl Default for AuditConfig {
    fn default() -> Self {
        Self { keep_days: 365, keep_mib: 1024 }
    }
}

impl DeployConfig {
    pub(crate) fn stage_deadline(&self) -> Duration {
        Duration::from_secs(self.stage_deadline_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTED: &str = include_str!("../../docs/configuration.md");
    const EXAMPLE: &str = include_str!("../../packaging/bunraku/bunraku.toml.example");

    /// The keys of a section: what an unknown one is answered with.
    fn keys(section: &str) -> Vec<String> {
        let error = toml::from_str::<Config>(&format!("{section}\nzzz = 1")).unwrap_err();
        let quoted = error.message().split('`').skip(1).step_by(2);
        quoted.filter(|key| *key != "zzz").map(str::to_owned).collect()
    }

    #[test]
    fn every_key_is_documented_and_stands_in_the_example_and_no_other() {
        let documented = DOCUMENTED.split("## The node agent").next().unwrap();
        let mut known = Vec::new();
        let sections = [
            "",
            "[build]",
            "[deploy]",
            "[balancers]",
            "[crl]",
            "[identity]",
            "[audit]",
            "[puppet]",
            "[[puppet.allow]]",
        ];
        for section in sections {
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
    fn how_long_a_certificate_lives_is_told_by_the_outage_it_must_survive_and_by_nothing_else() {
        let read = |text: &str| toml::from_str::<IdentityConfig>(text);
        let old = read("node_hours = 24").unwrap_err().to_string();
        assert!(old.contains("unknown field `node_hours`") && old.contains("survive_outage_hours"), "{old}");
        for wrong in ["survive_outage_hours = 0", "survive_outage_hours = 721"] {
            let said = read(wrong).unwrap_err().to_string();
            assert!(said.contains("1 to 720"), "{said}");
        }
        let kept = toml::to_string(&read("survive_outage_hours = 48").unwrap()).unwrap();
        assert_eq!(read(&kept).unwrap().survive_outage, Duration::from_secs(48 * 3600));
    }

    #[test]
    fn the_example_is_a_configuration() {
        toml::from_str::<Config>(EXAMPLE).unwrap();
    }
}
