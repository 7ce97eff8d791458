//! `bunraku-agent enroll --compiler`: the configuration of a host that is to become a compiler, and the agent's first start.
//! A file that is there is never touched.

use std::{fs, fs::OpenOptions, io, io::Write, os::unix::fs::OpenOptionsExt, path::Path, process::Command};

use bunraku_common::{NodeName, hint};

use super::{DEFAULT_CONFIG, Failure, read};
use crate::config::Config;

pub(super) const START: &str = "systemctl enable bunraku-agent && systemctl restart bunraku-agent";
const UNIT: &str = "bunraku-agent";
/// There where systemd runs.
const SYSTEMD: &str = "/run/systemd/system";

/// Writes the file if there is none, and says what one that is there does not grant.
pub(super) fn write(path: &Path, controller: Option<&str>, name: Option<&NodeName>) -> Result<(), Failure> {
    if path.exists() {
        let lacking = lacking(&read(path)?);
        let shown = path.display();
        match lacking.is_empty() {
            true => println!("{shown} is there, and stays as it is"),
            false => println!("{shown} is there, and stays as it is; it lacks {}", lacking.join(" and ")),
        }
        return Ok(());
    }
    let Some(controller) = controller else {
        let why = format!("{} is not there, and no controller is named", path.display());
        return Err(Failure::WrongUse(hint::join(&why, "--controller HOST:PORT")));
    };
    let text = config(controller, name);
    toml::from_str::<Config>(&text).map_err(|error| Failure::WrongUse(error.message().to_owned()))?;
    let written = path.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| create(path, &text));
    written.map_err(|error| Failure::Failed(format!("could not write {}: {error}", path.display())))?;
    println!("{} is written: it grants code, CRLs, and restarts of Puppet Server", path.display());
    Ok(())
}

fn create(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

/// What a compiler needs, and its owner has not granted.
fn lacking(config: &Config) -> Vec<String> {
    let service = &config.rollout.service;
    let mut lacking = Vec::new();
    if config.code.is_none() {
        lacking.push("[code]".to_owned());
    }
    if !config.services.contains_key(service) {
        lacking.push(format!("[services.{service}]"));
    }
    lacking
}

/// What is not named here is as usual; every key stands in the example beside it.
fn config(controller: &str, name: Option<&NodeName>) -> String {
    let name = name.map(|name| format!("name = \"{name}\"\n")).unwrap_or_default();
    format!(
        "# Written by `bunraku-agent enroll --compiler`. This file is the last word on what may happen on this host; every\n\
         # key, with its default, is in {DEFAULT_CONFIG}.example.\n\
         controller = {controller:?}\n{name}\n\
         # This host takes Puppet code: whole versions below /var/lib/bunraku-code, a link for each environment.\n\
         [code]\n\n\
         # Puppet Server may be restarted and reloaded by rollouts, also to put its certificate in place.\n\
         [services.puppetserver]\ndriver = \"systemd\"\nunit = \"puppetserver.service\"\n\n\
         # Puppet's CRLs are kept here, and come within seconds after a revocation.\n\
         [crl]\n"
    )
}

/// One that runs takes up the new identity.
pub(super) fn start_agent(config: &Path) -> Result<(), Failure> {
    if !Path::new(SYSTEMD).is_dir() {
        println!("systemd does not run here\nnext: bunraku-agent run --config {}", config.display());
        return Ok(());
    }
    if config != Path::new(DEFAULT_CONFIG) {
        println!("the unit reads {DEFAULT_CONFIG} and not {}\nnext: {START}", config.display());
        return Ok(());
    }
    for verb in ["enable", "restart"] {
        let done = Command::new("systemctl").args([verb, UNIT]).status();
        if !done.as_ref().is_ok_and(std::process::ExitStatus::success) {
            let why = match done {
                Ok(status) => format!("`systemctl {verb} {UNIT}` failed: {status}"),
                Err(error) => format!("could not run systemctl: {error}"),
            };
            return Err(Failure::Failed(hint::join(
                &why,
                &format!("systemctl status {UNIT}; then: {START}"),
            )));
        }
    }
    println!("{UNIT} is enabled and runs");
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_is_written_grants_what_a_compiler_needs_and_is_never_written_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/agent.toml");
        let name = NodeName::parse("c3.example").unwrap();
        write(&path, Some("main.example:8170"), Some(&name)).unwrap();
        let config = read(&path).unwrap();
        assert_eq!((config.controller.as_str(), config.name.as_ref()), ("main.example:8170", Some(&name)));
        assert!(config.code.is_some() && config.crl.enabled);
        assert_eq!(lacking(&config), [""; 0]);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        fs::write(&path, "controller = 'other:8170'\n").unwrap();
        write(&path, Some("main.example:8170"), Some(&name)).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "controller = 'other:8170'\n");
        assert_eq!(lacking(&read(&path).unwrap()), ["[code]", "[services.puppetserver]"]);
    }

    #[test]
    fn nothing_is_written_without_a_controller_or_with_one_that_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("agent.toml");
        for controller in [None, Some("main"), Some("a\"b:1\n[code]")] {
            assert!(matches!(write(&path, controller, None), Err(Failure::WrongUse(_))), "{controller:?}");
            assert!(!path.exists());
        }
    }
}
