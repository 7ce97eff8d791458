//! What makes a bare Puppet Server a compiler before its first start: Puppet's CA is somewhere else.
//!
//! Decides the edits; [`super::fix`] does them. Never touches a host that is a CA.

use std::path::{Path, PathBuf};

use super::{
    Facts, Fix,
    facts::ConfigFile,
    judge::certificates::{CA, WATCHER},
};

pub(crate) const CA_SERVER: &str = "ca_server";

/// In the place of the CA service: it serves nothing.
const NO_CA: &str =
    "puppetlabs.services.ca.certificate-authority-disabled-service/certificate-authority-disabled-service";

/// Of every CA that `puppetserver ca setup` or a first start has made.
const CA_KEY: &str = "ca_key.pem";

/// The host is a CA, so it is left alone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IsCa {
    #[error(
        "{certname} is the main Puppet server: its CA signs for all others and stays on\nhint: bunraku compiler add is for \
         another host; the main server needs only: bunraku-agent doctor --fix"
    )]
    Main { certname: String },
    #[error(
        "{} is there: this host is a CA, and turning one off is nothing that is done by the way\nhint: if it was only made \
         by Puppet Server's first start as it was installed, and nobody trusts it, on that host: systemctl stop \
         puppetserver; mv {} {}.unused; mv {} {}.unused; then run this again", key.display(), cadir.display(),
        cadir.display(), ssldir.display(), ssldir.display()
    )]
    Key { key: PathBuf, cadir: PathBuf, ssldir: PathBuf },
}

/// The edits that make this host a compiler of the CA on `ca_server`; `ca`: its bundle (PEM).
pub fn fixes(facts: &Facts, ca_server: &str, ca: &str) -> Result<Vec<Fix>, IsCa> {
    let settings = &facts.settings;
    if settings.certname == ca_server {
        return Err(IsCa::Main { certname: ca_server.to_owned() });
    }
    let beside = facts.places.conf_d.with_file_name("ca");
    let cadirs = settings.cadir.iter().cloned().chain([beside, settings.ssldir.join("ca")]);
    for cadir in cadirs {
        let key = cadir.join(CA_KEY);
        if key.symlink_metadata().is_ok() {
            return Err(IsCa::Key { key, cadir, ssldir: settings.ssldir.clone() });
        }
    }
    let mut fixes = vec![Fix::CaServer { file: settings.config.clone(), certname: ca_server.to_owned() }];
    fixes.extend(services(&facts.services, &facts.places.services_d));
    fixes.push(Fix::CaBundle { file: settings.localcacert.clone(), pem: ca.to_owned() });
    Ok(fixes)
}

/// Puppet Server reads all files of services.d together: a service that two of them turn on keeps it from starting.
fn services(files: &[ConfigFile], services_d: &Path) -> Vec<Fix> {
    let usual = services_d.join("ca.cfg");
    let is_on = |service: &str| files.iter().any(|file| turns_on(&file.text, service));
    let lacking: Vec<&'static str> = [NO_CA, WATCHER].into_iter().filter(|service| !is_on(service)).collect();
    let mut fixes = Vec::new();
    for file in files.iter().filter(|file| file.path != usual && turns_on(&file.text, CA)) {
        fixes.push(Fix::NoCaService { file: file.path.clone(), on: Vec::new() });
    }
    fixes.push(Fix::NoCaService { file: usual, on: lacking });
    fixes
}

fn turns_on(text: &str, service: &str) -> bool {
    text.lines().any(|line| line.trim() == service)
}

/// The text with the CA service commented out, and these services on: in place where they are commented out, else as new
/// lines.
pub(crate) fn without_ca(text: &str, on: &[&str]) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    for line in lines.iter_mut().filter(|line| line.trim() == CA) {
        *line = format!("#{line}");
    }
    for service in on.iter().filter(|service| !turns_on(text, service)) {
        let off = |line: &&mut String| line.trim().trim_start_matches('#').trim() == *service;
        match lines.iter_mut().find(off) {
            Some(line) => *line = (*service).to_owned(),
            None => lines.push((*service).to_owned()),
        }
    }
    lines.iter().flat_map(|line| [line.as_str(), "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const DEBIAN: &str = include_str!("../../tests/samples/ca.cfg");
    /// As Puppet's own packages of version 8 have it: comments between, and the watcher in bootstrap.cfg.
    const UPSTREAM: &str = "# To enable the CA service, leave the following line uncommented\n\
        puppetlabs.services.ca.certificate-authority-service/certificate-authority-service\n\
        # To disable the CA service, comment out the above line and uncomment the line below\n\
        # puppetlabs.services.ca.certificate-authority-disabled-service/certificate-authority-disabled-service\n";

    fn on(text: &str) -> Vec<&str> {
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).collect()
    }

    #[test]
    fn the_ca_service_is_off_the_watcher_stays_and_no_comment_is_lost() {
        let off = without_ca(DEBIAN, &[NO_CA]);
        assert_eq!(on(&off), [NO_CA, WATCHER]);
        assert!(off.contains(&format!("#{CA}\n")), "{off}");
        assert_eq!(off.lines().count(), DEBIAN.lines().count());
        let off = without_ca(UPSTREAM, &[NO_CA, WATCHER]);
        assert_eq!(on(&off), [NO_CA, WATCHER]);
        assert_eq!(without_ca("", &[NO_CA, WATCHER]), format!("{NO_CA}\n{WATCHER}\n"));
    }

    #[test]
    fn a_service_that_another_file_turns_on_is_not_turned_on_twice() {
        let file =
            |name: &str, text: &str| ConfigFile { path: format!("/s/{name}").into(), text: text.into() };
        let files = [file("bootstrap.cfg", &format!("a/b\n{WATCHER}\n")), file("ca.cfg", UPSTREAM)];
        let usual = PathBuf::from("/s/ca.cfg");
        assert_eq!(
            services(&files, Path::new("/s")),
            [Fix::NoCaService { file: usual.clone(), on: vec![NO_CA] }]
        );
        let odd = [file("own.cfg", &format!("{CA}\n{NO_CA}\n")), file("ca.cfg", &format!("{WATCHER}\n"))];
        let both = services(&odd, Path::new("/s"));
        assert_eq!(both[0], Fix::NoCaService { file: "/s/own.cfg".into(), on: vec![] });
        assert_eq!(both[1], Fix::NoCaService { file: usual, on: vec![] });
    }

    proptest::proptest! {
        #[test]
        fn whatever_the_file_is_twice_is_as_once_and_unknown_lines_stay(
            picks in proptest::collection::vec((0_usize..4, "[# ]{0,3}"), 0..10),
        ) {
            let known = [CA, NO_CA, WATCHER, "my.own/service"];
            let before: String = picks.iter().map(|(which, lead)| format!("{lead}{}\n", known[*which])).collect();
            let off = without_ca(&before, &[NO_CA, WATCHER]);
            proptest::prop_assert_eq!(&without_ca(&off, &[NO_CA, WATCHER]), &off);
            proptest::prop_assert!(!turns_on(&off, CA));
            proptest::prop_assert!(turns_on(&off, NO_CA) && turns_on(&off, WATCHER));
            let own = |text: &str| text.lines().filter(|line| line.ends_with("my.own/service")).count();
            proptest::prop_assert_eq!(own(&off), own(&before));
        }
    }

    fn facts(dir: &Path, certname: &str) -> Facts {
        let mut facts = crate::doctor::judge::tests::healthy();
        facts.settings.certname = certname.to_owned();
        facts.settings.cadir = Some(dir.join("cadir"));
        facts.settings.ssldir = dir.join("ssl");
        facts.places.conf_d = dir.join("puppetserver/conf.d");
        facts
    }

    #[test]
    fn the_main_server_and_every_host_with_the_key_of_a_ca_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let facts = facts(dir.path(), "c3.example");
        assert!(fixes(&facts, "main.example", "pem").is_ok());
        let main = fixes(&facts, "c3.example", "pem").unwrap_err();
        assert_eq!(main, IsCa::Main { certname: "c3.example".into() });
        for cadir in ["cadir", "puppetserver/ca", "ssl/ca"] {
            let cadir = dir.path().join(cadir);
            fs::create_dir_all(&cadir).unwrap();
            let key = cadir.join(CA_KEY);
            fs::write(&key, "").unwrap();
            let ssldir = dir.path().join("ssl");
            let refused = fixes(&facts, "main.example", "pem").unwrap_err();
            assert!(
                refused.to_string().contains(&format!("mv {0} {0}.unused", cadir.display())),
                "{refused}"
            );
            assert_eq!(refused, IsCa::Key { key: key.clone(), cadir, ssldir });
            fs::remove_file(key).unwrap();
        }
    }
}
