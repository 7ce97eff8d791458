//! `doctor --fix`: the edits that are safe, each with a copy of the file kept beside it and a difference to show.
//!
//! A file is replaced by rename and keeps its owner and mode. What cannot be edited beyond doubt is refused, with the text
//! to paste. Nothing is reloaded: `Applied` names what is due.

use std::{
    fs, io,
    io::Write,
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown},
    path::{Path, PathBuf},
};

use super::{auth, difference::unified, ini, joining};

/// One edit that `--fix` can do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fix {
    /// A setting of puppet.conf, section [server].
    Setting { file: PathBuf, name: &'static str, value: &'static str },
    /// A new file that names both helpers for static catalogs.
    VersionedCode { file: PathBuf, code_id: PathBuf, code_content: PathBuf },
    /// A rule for the flush, in auth.conf.
    AuthRule { file: PathBuf, certname: String },
    /// The main server's name, in puppet.conf, for every program.
    CaServer { file: PathBuf, certname: String },
    /// In a file of services.d: the CA service off, and these services on.
    NoCaService { file: PathBuf, on: Vec<&'static str> },
    /// Puppet's CA bundle, where there is none.
    CaBundle { file: PathBuf, pem: String },
}

/// What was done to one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub file: PathBuf,
    /// The copy of the file as it was; `None` for a new file.
    pub backup: Option<PathBuf>,
    /// A unified difference.
    pub diff: String,
    /// What a person must do for it to take effect.
    pub due: &'static str,
}

/// An edit that was not done, and how to do it by hand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub file: PathBuf,
    pub why: String,
    pub paste: String,
}

#[derive(Debug, thiserror::Error)]
pub enum FixError {
    #[error("could not read {path}")]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not keep a copy of the file as {path}")]
    Backup {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("could not write {path}")]
    Write {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// puppet.conf and conf.d alike are read at a reload (restarting.markdown).
const RELOAD: &str = "reload Puppet Server: `systemctl reload puppetserver`";
/// Services and certificates are read at its start.
const RESTART: &str = "restart Puppet Server: `systemctl restart puppetserver`";

/// Applies all fixes, one edit a file. `time` names the copies (`puppet.conf.bunraku-<time>`).
///
/// Stops at the first error; files already written stay so, and doing it again does the rest.
pub fn apply(fixes: &[Fix], time: &str) -> Result<(Vec<Applied>, Vec<Refused>), FixError> {
    let (mut applied, mut refused) = (Vec::new(), Vec::new());
    let mut files: Vec<&Path> = Vec::new();
    for fix in fixes {
        if !files.contains(&fix.file()) {
            files.push(fix.file());
        }
    }
    for file in files {
        let old = read(file)?;
        let before = old.as_deref().unwrap_or_default();
        let mut after = before.to_owned();
        for fix in fixes.iter().filter(|fix| fix.file() == file) {
            match fix.edit(&after, old.is_some()) {
                Ok(edited) => after = edited,
                Err(why) => refused.push(Refused { file: file.into(), why, paste: fix.paste() }),
            }
        }
        if after != before {
            let backup = old.is_some().then(|| keep_copy(file, time)).transpose()?;
            replace(file, &after).map_err(|source| FixError::Write { path: file.into(), source })?;
            applied.push(Applied {
                file: file.into(),
                backup,
                diff: unified(file, before, &after),
                due: due(fixes, file),
            });
        }
    }
    Ok((applied, refused))
}

impl Fix {
    pub fn file(&self) -> &Path {
        match self {
            Self::Setting { file, .. }
            | Self::VersionedCode { file, .. }
            | Self::AuthRule { file, .. }
            | Self::CaServer { file, .. }
            | Self::NoCaService { file, .. }
            | Self::CaBundle { file, .. } => file,
        }
    }

    fn edit(&self, text: &str, exists: bool) -> Result<String, String> {
        match self {
            Self::Setting { name, value, .. } => Ok(ini::set(text, name, value)),
            Self::AuthRule { certname, .. } if exists => auth::with_rule(text, certname),
            Self::AuthRule { .. } => Err("there is no such file".into()),
            Self::VersionedCode { code_id, code_content, .. } => {
                let wanted = versioned_code(code_id, code_content);
                if exists && text != wanted { Err("the file is there already".into()) } else { Ok(wanted) }
            }
            Self::CaServer { certname, .. } => Ok(ini::set_for_all(text, joining::CA_SERVER, certname)),
            Self::NoCaService { on, .. } => Ok(joining::without_ca(text, on)),
            Self::CaBundle { pem, .. } => Ok(if exists { text.to_owned() } else { pem.clone() }),
        }
    }

    fn paste(&self) -> String {
        match self {
            Self::Setting { name, value, .. } => format!("{name} = {value}\n"),
            Self::AuthRule { certname, .. } => auth::rule(certname),
            Self::VersionedCode { code_id, code_content, .. } => versioned_code(code_id, code_content),
            Self::CaServer { certname, .. } => format!("{} = {certname}\n", joining::CA_SERVER),
            Self::NoCaService { on, .. } => on.iter().map(|service| format!("{service}\n")).collect(),
            Self::CaBundle { pem, .. } => pem.clone(),
        }
    }
}

fn due(fixes: &[Fix], file: &Path) -> &'static str {
    let restarts = |fix: &&Fix| matches!(fix, Fix::NoCaService { .. } | Fix::CaBundle { .. });
    if fixes.iter().filter(|fix| fix.file() == file).any(|fix| restarts(&fix)) { RESTART } else { RELOAD }
}

/// The whole of versioned-code.conf.
pub(crate) fn versioned_code(code_id: &Path, code_content: &Path) -> String {
    format!(
        "versioned-code: {{\n    code-id-command: {:?}\n    code-content-command: {:?}\n}}\n",
        code_id.display().to_string(),
        code_content.display().to_string()
    )
}

fn read(file: &Path) -> Result<Option<String>, FixError> {
    match fs::read_to_string(file) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(FixError::Read { path: file.into(), source }),
    }
}

/// A copy that Puppet Server does not read: its name ends neither in `.conf` nor in any other ending it knows.
fn keep_copy(file: &Path, time: &str) -> Result<PathBuf, FixError> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(format!(".bunraku-{time}"));
    let backup = file.with_file_name(name);
    let copied = fs::copy(file, &backup).and_then(|_| fs::File::open(&backup)?.sync_all());
    copied.map_err(|source| FixError::Backup { path: backup.clone(), source })?;
    Ok(backup)
}

fn replace(file: &Path, text: &str) -> io::Result<()> {
    // The link's target is edited, not the link replaced: configuration management likes links.
    let file = fs::canonicalize(file).unwrap_or_else(|_| file.into());
    let like = fs::metadata(&file).ok();
    let dir = file.parent().unwrap_or(Path::new("/"));
    let temporary = dir.join(format!(".bunraku-{}.new", std::process::id()));
    let mode = like.as_ref().map_or(0o644, |meta| meta.mode() & 0o7777);
    let written = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary).and_then(
        |mut out| {
            out.write_all(text.as_bytes())?;
            if let Some(meta) = &like {
                fchown(&out, Some(meta.uid()), Some(meta.gid()))?;
            }
            // After the owner, and whatever the umask says.
            out.set_permissions(fs::Permissions::from_mode(mode))?;
            out.sync_all()?;
            fs::rename(&temporary, &file)?;
            fs::File::open(dir)?.sync_all()
        },
    );
    if written.is_err() {
        fs::remove_file(&temporary).ok();
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    const AUTH: &str = include_str!("../../tests/samples/auth.conf");

    struct Files(tempfile::TempDir);

    impl Files {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn write(&self, name: &str, text: &str) -> PathBuf {
            fs::write(self.path(name), text).unwrap();
            self.path(name)
        }

        fn setting(&self, name: &'static str, value: &'static str) -> Fix {
            Fix::Setting { file: self.path("puppet.conf"), name, value }
        }

        fn names(&self) -> Vec<String> {
            let mut names: Vec<String> = fs::read_dir(self.0.path())
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            names.sort();
            names
        }
    }

    #[test]
    fn two_settings_are_one_edit_with_one_copy_and_keep_owner_and_mode() {
        let files = Files::new();
        let conf = files.write("puppet.conf", "[main]\na = 1\n");
        fs::set_permissions(&conf, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::chown(&conf, Some(1), Some(2)).unwrap();
        let fixes = [
            files.setting("versioned_environment_dirs", "true"),
            files.setting("environment_timeout", "unlimited"),
        ];
        let (applied, refused) = apply(&fixes, "20261123T1200").unwrap();
        assert_eq!(refused, []);
        let backup = files.path("puppet.conf.bunraku-20261123T1200");
        assert_eq!(applied[0].backup, Some(backup.clone()));
        assert_eq!(fs::read_to_string(backup).unwrap(), "[main]\na = 1\n");
        let added = "\n[server]\nenvironment_timeout = unlimited\nversioned_environment_dirs = true\n";
        assert_eq!(fs::read_to_string(&conf).unwrap(), format!("[main]\na = 1\n{added}"));
        assert!(applied[0].diff.contains("+versioned_environment_dirs = true\n"), "{}", applied[0].diff);
        let meta = fs::metadata(&conf).unwrap();
        assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o7777), (1, 2, 0o640));
        assert_eq!(files.names().len(), 2, "no temporary file is left");
        assert_eq!(apply(&fixes, "later").unwrap(), (vec![], vec![]), "doing it again does nothing");
    }

    #[test]
    fn the_rule_goes_into_auth_conf_and_the_helpers_into_a_new_file() {
        let files = Files::new();
        let auth = files.write("auth.conf", AUTH);
        let code = files.path("versioned-code.conf");
        let fixes = [
            Fix::AuthRule { file: auth, certname: "c1.example".into() },
            Fix::VersionedCode {
                file: code.clone(),
                code_id: "/b/id".into(),
                code_content: "/b/content".into(),
            },
        ];
        let (applied, refused) = apply(&fixes, "t").unwrap();
        assert_eq!((applied.len(), refused.len()), (2, 0));
        assert_eq!(applied[1].backup, None);
        let expected = "versioned-code: {\n    code-id-command: \"/b/id\"\n    code-content-command: \"/b/content\"\n}\n";
        assert_eq!(fs::read_to_string(code).unwrap(), expected);
        assert!(
            files.names().iter().filter(|name| name.ends_with(".conf")).count() == 2,
            "copies do not end so"
        );
    }

    #[test]
    fn what_cannot_be_edited_beyond_doubt_is_left_alone_with_the_text_to_paste() {
        let files = Files::new();
        let auth = files.write("auth.conf", "include \"others.conf\"\n");
        let code = files.write("versioned-code.conf", "# mine\n");
        let fixes = [
            Fix::AuthRule { file: auth.clone(), certname: "c1.example".into() },
            Fix::VersionedCode {
                file: code.clone(),
                code_id: "/b/id".into(),
                code_content: "/b/content".into(),
            },
        ];
        let (applied, refused) = apply(&fixes, "t").unwrap();
        assert_eq!(applied, []);
        assert!(refused[0].paste.contains("allow: \"c1.example\""), "{}", refused[0].paste);
        assert_eq!(refused[1].why, "the file is there already");
        assert_eq!(files.names(), ["auth.conf", "versioned-code.conf"]);
    }
}
