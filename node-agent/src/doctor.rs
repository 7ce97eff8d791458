//! The doctor as this agent asks it: what it knows about its own host goes in, findings come out.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use bunraku_common::{Chain, EnvironmentName, NodeName, hint};
use bunraku_proto::v1;
use bunraku_puppetserver::{
    Puppet,
    doctor::{Facts, FactsError, Finding, Severity, Surroundings, check, gather},
};
use bunraku_services::Services;
use bunraku_versions::Layout;

use crate::{
    accounts::group_id,
    balancer,
    config::{CodeConfig, Config},
    helpers,
    node::{locks, resolve},
};

/// Looks at everything a compiler and a load balancer need; changes nothing, so it may run beside a running agent. The error says what
/// could not even be looked at.
pub(crate) async fn examine(
    config: &Config,
    puppet: &Puppet,
    clock_ahead_ms: Option<i64>,
) -> Result<Vec<Finding>, String> {
    let mut findings = match &config.balancer {
        Some(balancer) => balancer::examine(balancer).await,
        None => Vec::new(),
    };
    if let Some(code) = &config.code {
        findings.extend(compiler(config, code, puppet, clock_ahead_ms).await?);
    }
    findings.extend(services(config).await);
    Ok(findings)
}

/// Whether what `[services]` grants is there to be restarted.
async fn services(config: &Config) -> Vec<Finding> {
    let services = Services::new(config.services.clone());
    let mut findings = Vec::new();
    for name in services.names() {
        let asked = match services.granted(name) {
            Ok(service) => service.status().await,
            Err(error) => Err(error),
        };
        let (severity, found, mend) = match asked {
            Ok(status) => (Severity::Ok, format!("{name} is {}", status.detail), String::new()),
            Err(error) => {
                let (found, mend) = hint::split(&Chain(&error).to_string());
                (Severity::Error, format!("[services.{name}] of agent.toml: {found}"), mend)
            }
        };
        findings.push(Finding { check: "services", severity, found, mend, fix: None });
    }
    findings
}

async fn compiler(
    config: &Config,
    code: &CodeConfig,
    puppet: &Puppet,
    clock_ahead_ms: Option<i64>,
) -> Result<Vec<Finding>, String> {
    let facts = match look(config, code, puppet, clock_ahead_ms).await {
        Ok(facts) => facts,
        Err(error) => {
            return error.finding().map(|finding| vec![finding]).ok_or_else(|| Chain(&error).to_string());
        }
    };
    let environments = managed(&code.versions_dir.join("versions"));
    let mut findings = check(&facts);
    let name = config.name.as_ref().map_or(facts.settings.certname.as_str(), NodeName::as_str);
    findings.extend(code_group(code, facts.settings.environmentpath, &environments, name));
    Ok(findings)
}

/// What the doctor sees of this compiler.
pub(crate) async fn look(
    config: &Config,
    code: &CodeConfig,
    puppet: &Puppet,
    clock_ahead_ms: Option<i64>,
) -> Result<Facts, FactsError> {
    let environments = managed(&code.versions_dir.join("versions"));
    let (code_id, code_content) = helpers::links(&config.data_dir);
    let about = Surroundings {
        conf_d: config.puppet.conf_d.as_deref(),
        address: config.puppet.server.as_deref().and_then(resolve),
        environments: &environments,
        versions: &code.versions_dir,
        locks: &locks(config),
        code_id: &code_id,
        code_content: &code_content,
        clock_ahead_ms,
        now: SystemTime::now(),
    };
    gather(puppet, &about).await
}

/// Whether what is live was made for the group that is configured now.
fn code_group(
    code: &CodeConfig,
    environments_dir: PathBuf,
    environments: &[EnvironmentName],
    node: &str,
) -> Option<Finding> {
    let group = match code.group.as_str() {
        "" => None,
        name => Some(group_id(name)?),
    };
    let layout = Layout::new(
        code.versions_dir.clone(),
        code.environments_dir.clone().unwrap_or(environments_dir),
        group,
    );
    let others: Vec<&str> =
        environments.iter().filter(|env| !layout.live_suits(env)).map(EnvironmentName::as_str).collect();
    let (severity, found, mend) = if others.is_empty() {
        (Severity::Ok, "versions were made for the configured group".to_owned(), String::new())
    } else {
        let found = format!(
            "made for another group than `{}` of the [code] table: {}",
            code.group,
            others.join(", ")
        );
        (Severity::Warning, found, format!("on the controller:\nbunraku heal {node}"))
    };
    Some(Finding { check: "code-group", severity, found, mend, fix: None })
}

/// The environments of which this node holds versions.
fn managed(versions: &Path) -> Vec<EnvironmentName> {
    let names = std::fs::read_dir(versions).into_iter().flatten().flatten();
    names.filter_map(|entry| EnvironmentName::parse(entry.file_name().to_str()?).ok()).collect()
}

pub(crate) fn wire(finding: &Finding) -> v1::Finding {
    let severity = match finding.severity {
        Severity::Ok => v1::finding::Severity::Ok,
        Severity::Warning => v1::finding::Severity::Warning,
        Severity::Error => v1::finding::Severity::Error,
    };
    v1::Finding {
        check: finding.check.to_owned(),
        severity: severity.into(),
        found: finding.found.clone(),
        mend: finding.mend.clone(),
        fixable: finding.fix.is_some(),
    }
}
