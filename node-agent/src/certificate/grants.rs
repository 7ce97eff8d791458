//! What `[certificates]` and `[[bundles]]` grant, looked up once at the start.

use std::{collections::BTreeSet, path::PathBuf};

use bunraku_common::{config::is_host_port, limits};
use bunraku_host_certificate::Bundle;

use super::config::{BundleConfig, CertificatesConfig};
use crate::{
    config::Config,
    files::{Mode, ids, reader},
};

/// Looks everything up that may be wrong at the start. `Err`: what is, and what helps.
pub(super) fn granted(config: &Config) -> Result<Vec<Bundle>, String> {
    let CertificatesConfig { files, servers } = &config.certificates;
    let most = limits::SHOWN_CERTIFICATES;
    if files.len() > most || servers.len() > most {
        return Err(format!(
            "[certificates] names too many (hint: name at most {most} files and {most} servers)"
        ));
    }
    if let Some(file) = files.iter().find(|file| !file.is_absolute()) {
        return Err(format!(
            "{} below [certificates] is no absolute path (hint: write all of it)",
            file.display()
        ));
    }
    if let Some(server) = servers.iter().find(|server| !is_host_port(server)) {
        let server = server.escape_debug();
        return Err(format!(
            "`{server}` below [certificates] is not HOST:PORT (hint: 127.0.0.1:8081 is one)"
        ));
    }
    let mut paths: BTreeSet<&PathBuf> = config.crl.files.iter().map(|file| &file.path).collect();
    for bundle in &config.bundles {
        if !paths.insert(&bundle.path) {
            let path = bundle.path.display();
            return Err(format!("{path} is named twice (hint: remove one of the tables that name it)"));
        }
    }
    config.bundles.iter().map(|bundle| one(bundle, config)).collect()
}

fn one(bundle: &BundleConfig, config: &Config) -> Result<Bundle, String> {
    let BundleConfig { what, path, owner, group, mode, reload, restart } = bundle;
    let mode = mode.unwrap_or(Mode(if what.is_secret() { 0o600 } else { 0o644 }));
    if what.is_secret() && mode.0 & 0o027 != 0 {
        return Err(format!(
            "mode = \"{mode}\" of {} lets others at a key (hint: 0600, or 0640 for a group that may read it)",
            path.display()
        ));
    }
    let reload = reader(path, reload.as_ref(), restart.as_ref(), &config.services)?;
    let (owner, group) = ids(path, owner.as_ref(), group.as_ref())?;
    Ok(Bundle { what: *what, path: path.clone(), owner, group, mode: mode.0, reload })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        let text = format!("controller = 'main:8170'\n{text}");
        toml::from_str(&text).map_err(|error| error.message().to_owned())
    }

    fn wrong(text: &str) -> String {
        granted(&read(text).unwrap()).unwrap_err()
    }

    #[test]
    fn a_copy_is_granted_with_everything_that_its_table_names() {
        let config = read(
            "[[bundles]]\nwhat = 'certificate-and-key'\npath = '/etc/haproxy/puppet.pem'\nowner = 'root'\n\
             group = 'root'\nmode = '0640'\nreload = 'haproxy'\n[[bundles]]\nwhat = 'ca'\npath = '/etc/haproxy/ca.pem'\n\
             [[bundles]]\nwhat = 'key'\npath = '/k'\n\
             [services.haproxy]\ndriver = 'systemd'\nunit = 'haproxy.service'\n",
        )
        .unwrap();
        let bundles = granted(&config).unwrap();
        assert_eq!((bundles[0].owner, bundles[0].group, bundles[0].mode), (Some(0), Some(0), 0o640));
        assert_eq!((bundles[1].mode, bundles[2].mode), (0o644, 0o600));
        let again = toml::to_string(&config).unwrap();
        assert!(again.contains("what = \"certificate-and-key\""), "{again}");
    }

    #[test]
    fn a_mode_that_lets_others_at_a_key_is_refused_at_the_start() {
        for what in ["key", "certificate-and-key"] {
            for mode in ["0644", "0604", "0602", "0620", "0660"] {
                let told = wrong(&format!("[[bundles]]\nwhat = '{what}'\npath = '/k'\nmode = '{mode}'\n"));
                assert!(told.contains(&format!("mode = \"{mode}\" of /k lets others at a key")), "{told}");
            }
        }
    }

    #[test]
    fn what_is_wrong_is_told_at_the_start_with_what_helps() {
        let twice = wrong("[[bundles]]\nwhat = 'ca'\npath = '/a'\n[[crl.files]]\npath = '/a'\n");
        assert!(twice.contains("/a is named twice"), "{twice}");
        let service = wrong("[[bundles]]\nwhat = 'ca'\npath = '/a'\nreload = 'nginx'\n");
        assert!(service.ends_with("(hint: add a [services.nginx] table)"), "{service}");
        let relative = wrong("[certificates]\nfiles = ['a.pem']\n");
        assert!(relative.contains("no absolute path"), "{relative}");
        let server = wrong("[certificates]\nservers = ['puppetdb']\n");
        assert!(server.contains("is not HOST:PORT"), "{server}");
        let many = format!("[certificates]\nservers = [{}]\n", "'a:1',".repeat(33));
        assert!(wrong(&many).contains("too many"));
        assert!(read("[[bundles]]\nwhat = 'all'\npath = '/a'\n").unwrap_err().contains("unknown variant"));
    }
}
