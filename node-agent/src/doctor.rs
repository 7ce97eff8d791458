//! The doctor as this agent asks it: what it knows about its own host goes in, findings come out.

use std::{path::Path, time::SystemTime};

use bunraku_common::{Chain, EnvironmentName};
use bunraku_proto::v1;
use bunraku_puppetserver::{
    Puppet,
    doctor::{Finding, Severity, Surroundings, check, gather},
};

use crate::{
    config::Config,
    helpers,
    node::{locks, resolve},
};

/// Looks at everything a compiler needs; changes nothing, so it may run beside a running agent. The error says what
/// could not even be looked at.
pub(crate) async fn examine(
    config: &Config,
    puppet: &Puppet,
    clock_ahead_ms: Option<i64>,
) -> Result<Vec<Finding>, String> {
    let Some(code) = &config.code else { return Ok(Vec::new()) };
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
    gather(puppet, &about).await.map(|facts| check(&facts)).map_err(|error| Chain(&error).to_string())
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
