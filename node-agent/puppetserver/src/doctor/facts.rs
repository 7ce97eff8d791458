//! What the doctor sees on a compiler: gathered once, judged elsewhere.
//!
//! Only looks: files, Puppet's settings, and the running server (the one order it gives is a flush of an environment
//! that does not exist).

use std::{
    collections::BTreeMap,
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bunraku_certificates::{Authorities, Crls};
use bunraku_common::{Chain, EnvironmentName, hint};
use rustls::pki_types::{CertificateDer, pem::PemObject};

use super::{Finding, Severity, ini};
use crate::{
    Account, Places, Puppet, PuppetServer, ServerError, Settings, SettingsError,
    account::Access,
    code_id::version_of,
    places::{PlacesError, conf_files},
    server::{LiveEnvironment, Status},
};

/// A doctor does not wait as long as a deploy.
const DEADLINE: Duration = Duration::from_secs(20);

/// What the node agent knows and the doctor cannot ask from Puppet.
#[derive(Debug, Clone)]
pub struct Surroundings<'a> {
    /// Puppet Server's conf.d, where the agent's configuration names it.
    pub conf_d: Option<&'a Path>,
    /// Where Puppet Server listens, where the agent's configuration names it.
    pub address: Option<SocketAddr>,
    /// The environments that Bunraku manages or is about to.
    pub environments: &'a [EnvironmentName],
    /// The directory of versions, which Puppet Server must be able to read.
    pub versions: &'a Path,
    /// The directory of the locks that `code-id` takes.
    pub locks: &'a Path,
    /// The helpers for `versioned-code`, as installed.
    pub code_id: &'a Path,
    pub code_content: &'a Path,
    /// How far this host's clock is ahead of the controller's, in milliseconds, where that is known.
    pub clock_ahead_ms: Option<i64>,
    pub now: SystemTime,
}

/// Everything that `check` judges.
#[derive(Debug, Clone)]
pub struct Facts {
    pub settings: Settings,
    pub places: Places,
    pub puppet_conf: String,
    /// The files of conf.d.
    pub conf_d: Vec<ConfigFile>,
    /// The files of services.d.
    pub services: Vec<ConfigFile>,
    pub environments: Vec<EnvironmentFacts>,
    /// Environments on this compiler that Bunraku does not manage.
    pub others: Vec<String>,
    pub code_id: PathBuf,
    pub code_content: PathBuf,
    /// What Puppet Server's user cannot reach; the error says why that could not be told.
    pub blocked: Result<Vec<Blocked>, String>,
    pub live: Live,
    pub clock_ahead_ms: Option<i64>,
    /// Until the node's Puppet certificate expires, in seconds; negative when it has.
    pub certificate_left: Result<i64, String>,
    /// The revocations that Puppet Server enforces; the error says why it cannot.
    pub crl: Result<Revocations, String>,
}

/// A CRL file that is complete and of Puppet's CA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocations {
    pub revoked: usize,
    /// Until the first of its CRLs ends, in seconds.
    pub left: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigFile {
    pub path: PathBuf,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnvironmentFacts {
    pub name: EnvironmentName,
    pub path: PathBuf,
    pub stands: Stands,
    /// environment.conf, where there is one.
    pub conf: Option<String>,
    /// The text of the script that config_version names, where it is one.
    pub config_version_script: Option<String>,
}

/// What is at the place of an environment's link.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stands {
    Nothing,
    Managed,
    /// A link with a relative target, to this version of ours.
    RelativeLink {
        target: PathBuf,
        version: PathBuf,
    },
    /// A link that Bunraku did not make.
    ForeignLink(PathBuf),
    Directory,
    Other,
}

/// A path that Puppet Server's user must reach, and where it cannot pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    pub path: PathBuf,
    pub reason: String,
    /// The directory or file that lacks the right.
    pub at: Option<PathBuf>,
}

/// The running server.
#[derive(Debug, Clone)]
pub struct Live {
    pub status: Status,
    pub flush: Flush,
    pub environments: Option<BTreeMap<String, LiveEnvironment>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flush {
    Accepted,
    Forbidden,
    NotAnswered,
    Failed(String),
}

#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    #[error("could not ask puppet for its settings")]
    Settings(#[source] SettingsError),
    #[error(transparent)]
    Places(#[from] PlacesError),
    #[error("could not read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl FactsError {
    /// What to mend before anything else can be looked at, if that is known.
    pub fn finding(&self) -> Option<Finding> {
        let Self::Settings(ignored @ SettingsError::Ignored { .. }) = self else { return None };
        let (found, mend) = hint::split(&ignored.to_string());
        Some(Finding { check: "puppet-conf", severity: Severity::Error, found, mend, fix: None })
    }
}

/// Looks at everything. Blocks on the disk for some milliseconds.
pub async fn gather(puppet: &Puppet, about: &Surroundings<'_>) -> Result<Facts, FactsError> {
    let settings = puppet.ask().await.map_err(FactsError::Settings)?;
    let places = Places::find(&settings, about.conf_d)?;
    let listed = conf_files(&places.conf_d).map_err(reading(&places.conf_d))?;
    let address = match about.address {
        Some(address) => address,
        None => places.address().map_err(reading(&places.conf_d))?,
    };
    let (environments, others) = environments(&settings, about);
    Ok(Facts {
        puppet_conf: read_or_empty(&settings.config)?,
        conf_d: listed.into_iter().map(read).collect::<Result<_, _>>()?,
        services: services(&places.services_d)?,
        environments,
        others,
        code_id: about.code_id.into(),
        code_content: about.code_content.into(),
        blocked: blocked(&settings, about),
        live: live(&PuppetServer::new(&settings, address).with_deadline(DEADLINE)).await,
        clock_ahead_ms: about.clock_ahead_ms,
        certificate_left: certificate_left(&settings.hostcert, about.now),
        crl: revocations(&settings, about.now),
        settings,
        places,
    })
}

fn reading(path: &Path) -> impl FnOnce(io::Error) -> FactsError + use<'_> {
    move |source| FactsError::Read { path: path.into(), source }
}

fn read(path: PathBuf) -> Result<ConfigFile, FactsError> {
    let text = fs::read_to_string(&path).map_err(reading(&path))?;
    Ok(ConfigFile { path, text })
}

fn read_or_empty(path: &Path) -> Result<String, FactsError> {
    match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read.map_err(reading(path)),
    }
}

fn services(services_d: &Path) -> Result<Vec<ConfigFile>, FactsError> {
    let Ok(entries) = fs::read_dir(services_d) else { return Ok(Vec::new()) };
    let mut paths: Vec<PathBuf> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "cfg"));
    paths.sort();
    paths.into_iter().map(read).collect()
}

fn environments(settings: &Settings, about: &Surroundings<'_>) -> (Vec<EnvironmentFacts>, Vec<String>) {
    let managed = about.environments;
    let others = fs::read_dir(&settings.environmentpath).into_iter().flatten().filter_map(|entry| {
        let name = entry.ok()?.file_name().into_string().ok()?;
        let known = name.starts_with('.') || managed.iter().any(|environment| environment.as_str() == name);
        (!known).then_some(name)
    });
    let mut others: Vec<String> = others.collect();
    others.sort();
    (managed.iter().map(|name| environment(settings, about.versions, name)).collect(), others)
}

fn environment(settings: &Settings, versions: &Path, name: &EnvironmentName) -> EnvironmentFacts {
    let path = settings.environmentpath.join(name.as_str());
    let stands = match fs::symlink_metadata(&path) {
        Err(_) => Stands::Nothing,
        Ok(meta) if meta.is_dir() => Stands::Directory,
        Ok(meta) if meta.is_symlink() => match fs::read_link(&path) {
            Ok(target) if version_of(name, &target).is_some() => Stands::Managed,
            Ok(target) => match relative(&path, &target, versions, name) {
                Some(version) => Stands::RelativeLink { target, version },
                None => Stands::ForeignLink(target),
            },
            Err(_) => Stands::Other,
        },
        Ok(_) => Stands::Other,
    };
    let conf = fs::read_to_string(path.join("environment.conf")).ok();
    let command = conf.as_deref().and_then(|conf| ini::get_plain(conf, "config_version"));
    let config_version_script = command
        .and_then(|command| command.split_whitespace().next())
        .and_then(|script| fs::read_to_string(path.join(script)).ok());
    EnvironmentFacts { name: name.clone(), path, stands, conf, config_version_script }
}

/// The version of ours to which a relative link leads.
fn relative(link: &Path, target: &Path, versions: &Path, name: &EnvironmentName) -> Option<PathBuf> {
    let version = versions.join("versions").join(name.as_str()).join(target.file_name()?);
    version_of(name, &version)?;
    let leads_there = fs::canonicalize(link).ok()? == fs::canonicalize(&version).ok()?;
    (target.is_relative() && leads_there).then_some(version)
}

fn blocked(settings: &Settings, about: &Surroundings<'_>) -> Result<Vec<Blocked>, String> {
    let account = Account::find(&settings.user).map_err(|error| Chain(&error).to_string())?;
    let wanted =
        [(about.versions, Access::Enter), (about.code_id, Access::Run), (about.code_content, Access::Run)];
    let mut blocked = Vec::new();
    for (path, access) in wanted {
        let (reason, at) = match account.blocked_at(path, access) {
            Ok(None) => continue,
            Ok(Some(place)) => {
                (format!("user {} cannot pass {}", account.name, place.display()), Some(place))
            }
            Err(error) => (error.to_string(), None),
        };
        blocked.push(Blocked { path: path.into(), reason, at });
    }
    Ok(blocked)
}

async fn live(server: &PuppetServer) -> Live {
    let status = server.status().await;
    if matches!(status, Status::Down(_)) {
        return Live { status, flush: Flush::NotAnswered, environments: None };
    }
    let flush = match server.try_flush().await {
        Ok(()) => Flush::Accepted,
        Err(ServerError::Forbidden { .. }) => Flush::Forbidden,
        Err(error) if error.is_owed() => Flush::NotAnswered,
        Err(error) => Flush::Failed(Chain(&error).to_string()),
    };
    Live { status, flush, environments: server.environments().await.ok() }
}

fn revocations(settings: &Settings, now: SystemTime) -> Result<Revocations, String> {
    let read =
        |path: &Path| fs::read(path).map_err(|error| format!("could not read {}: {error}", path.display()));
    let at = |path: &Path, error: &(dyn std::error::Error + 'static)| {
        format!("{}: {}", path.display(), Chain(error))
    };
    let authorities = Authorities::parse(&read(&settings.localcacert)?);
    let authorities = authorities.map_err(|error| at(&settings.localcacert, &error))?;
    let crls = Crls::parse(&read(&settings.hostcrl)?).map_err(|error| at(&settings.hostcrl, &error))?;
    let now_s = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    crls.check(&authorities, now_s).map_err(|error| at(&settings.hostcrl, &error))?;
    Ok(Revocations { revoked: crls.revoked().len(), left: crls.ends_s().saturating_sub(now_s) })
}

fn certificate_left(path: &Path, now: SystemTime) -> Result<i64, String> {
    let text = fs::read(path).map_err(|error| format!("could not read {}: {error}", path.display()))?;
    let unreadable = |error: &dyn std::fmt::Display| format!("{} is not readable: {error}", path.display());
    let der = CertificateDer::from_pem_slice(&text).map_err(|error| unreadable(&error))?;
    let (_, certificate) = x509_parser::parse_x509_certificate(&der).map_err(|error| unreadable(&error))?;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Ok(certificate.validity().not_after.timestamp() - i64::try_from(now).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_relative_link_to_a_version_of_ours_is_told_from_a_foreign_one() {
        let dir = tempfile::tempdir().unwrap();
        let name = EnvironmentName::parse("production").unwrap();
        let version = format!("production_{}", "0f".repeat(32));
        let place = dir.path().join("code/versions/production").join(&version);
        fs::create_dir_all(&place).unwrap();
        fs::create_dir(dir.path().join("environments")).unwrap();
        let link = dir.path().join("environments/production");
        let target = PathBuf::from("../code/versions/production").join(&version);
        symlink(&target, &link).unwrap();
        let code = dir.path().join("code");
        assert_eq!(relative(&link, &target, &code, &name), Some(place));
        assert_eq!(relative(&link, &target, &dir.path().join("other"), &name), None);
        assert_eq!(relative(&link, Path::new("../code"), &code, &name), None);
    }
}
