//! This host becomes a compiler: what stands between a bare Puppet Server and its first start, done in one order.
//!
//! Touches Puppet's configuration, each file with a copy beside it, and makes the directories that certificates need.
//! Starts nothing. A host that is a CA is left alone.

use std::{
    fs::DirBuilder,
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt, chown},
    path::Path,
};

use bunraku_certificates::Authorities;
use bunraku_common::{Chain, NodeName, hint};
use bunraku_proto::v1::SetUpCompilerReply;
use bunraku_puppetserver::{
    Settings,
    doctor::{Applied, Finding, Fix, Severity, apply, check, joining},
    server::Status as ServerStatus,
};
use time::{OffsetDateTime, macros::format_description};

use crate::{
    accounts::{group_id, user_id},
    config::Config,
    doctor,
    node::{Compiler, Node},
};

/// Of every such order.
pub(crate) const SUBJECT: &str = "setup";

/// What the order says.
#[derive(Debug)]
pub(crate) struct SetUp {
    ca_server: NodeName,
    ca: String,
}

/// Why nothing was done; with a hint after it.
type Untouched = String;

impl SetUp {
    pub(crate) fn parse(ca_server: &str, ca: Vec<u8>) -> Result<Self, tonic::Status> {
        let wrong = |why: String| tonic::Status::invalid_argument(why);
        let ca_server = NodeName::parse(ca_server).map_err(|error| wrong(error.to_string()))?;
        Authorities::parse(&ca).map_err(|error| wrong(Chain(&error).to_string()))?;
        let ca = String::from_utf8(ca).map_err(|_| wrong("the CA bundle is no text".to_owned()))?;
        Ok(Self { ca_server, ca })
    }

    pub(crate) async fn run(&self, node: &Node, compiler: &Compiler) -> SetUpCompilerReply {
        match self.set_up(node, compiler).await {
            Ok(reply) => reply,
            Err(why) => {
                let (refused, hint) = hint::split(&why);
                tracing::warn!(reason = refused, "this host is not set up as a compiler");
                SetUpCompilerReply { refused, hint, ..SetUpCompilerReply::default() }
            }
        }
    }

    async fn set_up(&self, node: &Node, compiler: &Compiler) -> Result<SetUpCompilerReply, Untouched> {
        grants_a_restart(&node.config)?;
        let ahead = *node.clock_ahead_ms.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        let facts = doctor::look(&node.config, &compiler.config, &node.puppet, ahead);
        let facts = facts.await.map_err(|error| Chain(&error).to_string())?;
        let mut fixes =
            joining::fixes(&facts, self.ca_server.as_str(), &self.ca).map_err(|error| error.to_string())?;
        fixes.extend(check(&facts).into_iter().filter_map(|finding| finding.fix));
        let settings = facts.settings.clone();
        let running = !matches!(facts.live.status, ServerStatus::Down(_));
        let changes = tokio::task::spawn_blocking(move || write(&settings, &fixes));
        let changes = changes.await.map_err(|_| "it ended early".to_owned())??;
        for change in &changes {
            tracing::info!(change, "set up as a compiler");
        }
        let findings = doctor::examine(&node.config, &node.puppet, ahead).await?;
        let errors = findings.iter().filter(|finding: &&Finding| finding.severity == Severity::Error);
        let findings = errors.map(doctor::wire).collect();
        Ok(SetUpCompilerReply { changes, findings, running, ..SetUpCompilerReply::default() })
    }
}

/// Without it the certificate could not be put in place, and Puppet Server would never be started.
fn grants_a_restart(config: &Config) -> Result<(), Untouched> {
    let name = &config.rollout.service;
    if config.services.contains_key(name) {
        return Ok(());
    }
    let why = format!(
        "this node's configuration grants no restart of Puppet Server: there is no [services.{name}]"
    );
    let mend = format!(
        "in agent.toml there: [services.{name}] driver = \"systemd\", unit = \"puppetserver.service\"; then: systemctl \
         restart bunraku-agent"
    );
    Err(hint::join(&why, &mend))
}

fn write(settings: &Settings, fixes: &[Fix]) -> Result<Vec<String>, Untouched> {
    let made = directories(settings)
        .map_err(|(path, error)| format!("could not make {}: {error}", path.display()))?;
    let format = format_description!("[year][month][day]T[hour][minute][second]");
    let time = OffsetDateTime::now_utc().format(&format).map_err(|error| error.to_string())?;
    // What is refused is found by the doctor afterwards, who says how to mend it.
    let (applied, _refused) = apply(fixes, &time).map_err(|error| Chain(&error).to_string())?;
    let made = made.iter().map(|path| format!("{} (new directory)", path.display()));
    let applied = applied.iter().flat_map(|applied| shown(applied, settings));
    Ok(made.chain(applied).collect())
}

/// Where certificates go, as Puppet itself would make it.
fn directories(settings: &Settings) -> Result<Vec<&Path>, (&Path, io::Error)> {
    let (owner, group) = (user_id(&settings.user), group_id(&settings.group));
    let below = [
        (settings.hostcert.parent(), 0o755),
        (settings.localcacert.parent(), 0o755),
        (settings.hostcrl.parent(), 0o755),
        (settings.hostprivkey.parent(), 0o750),
    ];
    let below = below.into_iter().filter_map(|(path, mode)| Some((path?, mode)));
    let mut made = Vec::new();
    for (path, mode) in std::iter::once((settings.ssldir.as_path(), 0o771)).chain(below) {
        match DirBuilder::new().mode(mode).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(error) => return Err((path, error)),
        }
        let mode = std::fs::Permissions::from_mode(mode);
        let owned = chown(path, owner, group).and_then(|()| std::fs::set_permissions(path, mode));
        owned.map_err(|error| (path, error))?;
        made.push(path);
    }
    Ok(made)
}

/// The file with its copy, and its changed lines.
fn shown(applied: &Applied, settings: &Settings) -> Vec<String> {
    let copy = applied.backup.as_ref().map(|copy| format!("copy: {}", copy.display()));
    let head = format!("{} ({})", applied.file.display(), copy.unwrap_or_else(|| "new".to_owned()));
    if applied.file == settings.localcacert {
        return vec![head];
    }
    let changed = applied.diff.lines().skip(2).filter(|line| line.starts_with(['+', '-']) && line.len() > 1);
    std::iter::once(head).chain(changed.map(|line| format!("  {line}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_grant_of_a_restart_nothing_is_begun() {
        let config =
            |text: &str| toml::from_str::<Config>(&format!("controller = 'm:8170'\n[code]\n{text}")).unwrap();
        let refused = grants_a_restart(&config("")).unwrap_err();
        assert!(refused.contains("hint: in agent.toml there: [services.puppetserver]"), "{refused}");
        let granted = "[services.puppetserver]\ndriver = 'systemd'\nunit = 'puppetserver.service'\n";
        grants_a_restart(&config(granted)).unwrap();
        grants_a_restart(&config("[rollout]\nservice = 'own'\n")).unwrap_err();
    }

    #[test]
    fn an_order_without_a_ca_or_with_a_name_that_is_none_is_no_order() {
        SetUp::parse("main.example", b"nothing".to_vec()).unwrap_err();
        SetUp::parse("", Vec::new()).unwrap_err();
    }
}
