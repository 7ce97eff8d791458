//! What `[crl]` grants, looked up once at the start.

use std::collections::BTreeSet;

use super::config::CrlFile;
use crate::{
    config::Config,
    files::{ids, reader},
};

/// A file of [`CrlConfig`] whose names were looked up.
#[derive(Debug, Clone)]
pub(super) struct Granted {
    pub(super) file: CrlFile,
    pub(super) owner: Option<u32>,
    pub(super) group: Option<u32>,
    /// Who is told to read it again.
    pub(super) reader: Option<String>,
}

/// Looks everything up that may be wrong at the start. `Err`: what is, and what helps.
pub(super) fn granted(config: &Config) -> Result<Vec<Granted>, String> {
    let mut paths = BTreeSet::new();
    for file in &config.crl.files {
        if !paths.insert(&file.path) {
            let path = file.path.display();
            return Err(format!("{path} is named twice (hint: remove one of the [[crl.files]])"));
        }
    }
    config.crl.files.iter().map(|file| Granted::find(file, config)).collect()
}

impl Granted {
    fn find(file: &CrlFile, config: &Config) -> Result<Self, String> {
        let reader = reader(&file.path, file.reload.as_ref(), file.restart.as_ref(), &config.services)?;
        let (owner, group) = ids(&file.path, file.owner.as_ref(), file.group.as_ref())?;
        Ok(Self { file: file.clone(), owner, group, reader })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::Mode;

    fn read(text: &str) -> Result<Config, String> {
        let text = format!("controller = 'main:8170'\n{text}");
        toml::from_str(&text).map_err(|error| error.message().to_owned())
    }

    fn wrong(text: &str) -> String {
        granted(&read(text).unwrap()).unwrap_err()
    }

    #[test]
    fn a_file_is_granted_with_everything_that_its_table_names() {
        let config = read(
            "[[crl.files]]\npath = '/etc/haproxy/crl.pem'\nowner = 'root'\ngroup = 'root'\nmode = '0640'\nreload = 'haproxy'\n\
             [services.haproxy]\ndriver = 'systemd'\nunit = 'haproxy.service'\n",
        )
        .unwrap();
        let granted = granted(&config).unwrap();
        assert_eq!(
            (granted[0].owner, granted[0].group, granted[0].file.mode),
            (Some(0), Some(0), Some(Mode(0o640)))
        );
        let again = toml::to_string(&config.crl).unwrap();
        assert!(config.crl.enabled && again.contains("mode = \"0640\""), "{again}");
    }

    #[test]
    fn what_is_wrong_is_told_at_the_start_with_what_helps() {
        let service = "[services.haproxy]\ndriver = 'systemd'\nunit = 'haproxy.service'\n";
        let near = wrong(&format!("[[crl.files]]\npath = '/a'\nreload = 'haprox'\n{service}"));
        assert_eq!(near, "reload = \"haprox\" of /a is none of [services] (hint: did you mean `haproxy`?)");
        let both =
            wrong(&format!("[[crl.files]]\npath = '/a'\nreload = 'haproxy'\nrestart = 'haproxy'\n{service}"));
        assert!(both.ends_with("(hint: keep one of both)"), "{both}");
        let restart = wrong(&format!("[[crl.files]]\npath = '/a'\nrestart = 'haprox'\n{service}"));
        assert!(restart.starts_with("restart = \"haprox\" of /a is none"), "{restart}");
        let far = wrong("[[crl.files]]\npath = '/a'\nreload = 'nginx'\n");
        assert!(far.ends_with("(hint: add a [services.nginx] table)"), "{far}");
        let twice = wrong("[[crl.files]]\npath = '/a'\n[[crl.files]]\npath = '/a'\n");
        assert!(twice.contains("/a is named twice"), "{twice}");
        let owner = wrong("[[crl.files]]\npath = '/a'\nowner = 'no-such-user'\n");
        assert!(owner.contains("the owner no-such-user of /a does not exist"), "{owner}");
    }

    #[test]
    fn only_straight_absolute_paths_and_modes_of_files_are_read() {
        for bad in ["a.pem", "/etc/../a.pem", "/", "/etc/", ""] {
            let error = read(&format!("[[crl.files]]\npath = '{bad}'\n")).unwrap_err();
            assert!(error.contains("is not an absolute path"), "{bad}: {error}");
        }
        for bad in ["755", "0999", "+644", "", "rw", "4644"] {
            let error = read(&format!("[[crl.files]]\npath = '/a'\nmode = '{bad}'\n")).unwrap_err();
            assert!(error.contains("is no mode of a file"), "{bad}: {error}");
        }
        assert!(read("[crl]\nenable = true\n").unwrap_err().contains("unknown field"));
    }
}
