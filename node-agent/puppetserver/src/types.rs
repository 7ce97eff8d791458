//! `puppet generate types` for one version: the node's own addition to a snapshot, in `.resource_types`.
//!
//! Module code runs here, so it runs as an unprivileged user who can write to a private directory only: an environment made
//! of links into the version. What it made is copied into the version afterwards, and put in place by rename. It is
//! always generated from nothing: Puppet compares times of files, which mean nothing among hard links.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown, symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use bunraku_common::{EnvironmentName, limits::DEPTH};
use cap_std::{ambient_authority, fs::Dir};
use rustix::{
    fs::{CWD, RenameFlags, renameat_with, syncfs},
    io::Errno,
};

use crate::{Account, Puppet, SettingsError, command::CommandError};

/// The directory in a version's root that Puppet Server reads generated types from.
pub const RESOURCE_TYPES: &str = ".resource_types";
/// One generated type: a few kilobytes in real modules.
const FILE_BYTES: u64 = 4 << 20;
/// Types of one environment: the largest that were seen have some hundreds.
const FILES: usize = 20_000;

/// One run of `puppet generate types`.
#[derive(Debug)]
pub struct GenerateTypes<'a> {
    pub puppet: &'a Puppet,
    pub environment: &'a EnvironmentName,
    /// The root of the version: staged, or retained.
    pub version: &'a Path,
    /// An existing directory that `run_as` can reach, for the private environment.
    pub scratch: &'a Path,
    /// `None`: as the agent's own user (only where the agent is not root).
    pub run_as: Option<&'a Account>,
    /// The group that may read the result; `None`: everybody may.
    pub group: Option<u32>,
    pub deadline: Duration,
}

/// What was generated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generated {
    pub types: usize,
    /// Puppet's own words.
    pub output: String,
}

#[derive(Debug, thiserror::Error)]
pub enum TypesError {
    #[error("could not ask puppet where its files are")]
    Settings(#[source] SettingsError),
    #[error("could not prepare {path} for generating types")]
    Prepare {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// The code of some module does not load: a fault of the content.
    #[error("could not generate the types of environment {environment}")]
    Generate {
        environment: EnvironmentName,
        #[source]
        source: CommandError,
    },
    #[error("could not put the generated types into {version}")]
    Place {
        version: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl TypesError {
    /// Whether the code is at fault (every node would fail alike) and not this node.
    pub fn is_content(&self) -> bool {
        match self {
            Self::Generate { source: CommandError::Failed { .. }, .. } => true,
            Self::Generate { source: CommandError::Spawn { .. } | CommandError::Deadline { .. }, .. }
            | Self::Settings(_)
            | Self::Prepare { .. }
            | Self::Place { .. } => false,
        }
    }
}

impl GenerateTypes<'_> {
    pub async fn run(&self) -> Result<Generated, TypesError> {
        let settings = self.puppet.settings().await.map_err(TypesError::Settings)?;
        let stand =
            Stand::new(self).map_err(|source| TypesError::Prepare { path: self.scratch.into(), source })?;
        let home = stand.home();
        let mut args = vec!["generate".into(), "types".into(), "--color=false".into()];
        for (option, value) in [
            ("--environment", Path::new(self.environment.as_str())),
            ("--environmentpath", &stand.environmentpath()),
            ("--config", &settings.config),
            ("--confdir", &settings.confdir),
            ("--codedir", &settings.codedir),
            ("--vardir", &home.join("var")),
            ("--rundir", &home.join("run")),
            ("--logdir", &home.join("log")),
        ] {
            args.extend([option.into(), value.into()]);
        }
        let mut run = self.puppet.invocation(args, &home, self.deadline);
        run.run_as = self.run_as;
        let output = run.run().await.map_err(|source| {
            let source = plain(source, &stand.environment(self.environment));
            TypesError::Generate { environment: self.environment.clone(), source }
        })?;
        let place = Place { version: self.version, group: self.group };
        let types = place
            .put(&stand.environment(self.environment))
            .map_err(|source| TypesError::Place { version: self.version.into(), source })?;
        Ok(Generated { types, output: format!("{}{}", output.stdout, output.stderr) })
    }
}

/// For people, who meet it with the deploy: files as they are called in the environment, and without the options that
/// only give the run a place of its own.
fn plain(error: CommandError, environment: &Path) -> CommandError {
    let place = format!("{}/", environment.display());
    let short = |command: String| match command.split_once(" --") {
        Some((program, _)) => program.to_owned(),
        None => command,
    };
    match error {
        CommandError::Spawn { command, source } => CommandError::Spawn { command: short(command), source },
        CommandError::Deadline { command, deadline, output } => {
            CommandError::Deadline { command: short(command), deadline, output: output.replace(&place, "") }
        }
        CommandError::Failed { command, status, output } => {
            CommandError::Failed { command: short(command), status, output: output.replace(&place, "") }
        }
    }
}

/// The private directory: a home and an environmentpath with one environment of links. Removed when dropped.
struct Stand(PathBuf);

impl Stand {
    fn new(of: &GenerateTypes<'_>) -> io::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let root = of.scratch.join(format!("types-{}-{}-{number}", of.environment, std::process::id()));
        match fs::remove_dir_all(&root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let stand = Self(root);
        let environment = stand.environment(of.environment);
        for dir in [&stand.0, &stand.home(), &stand.environmentpath(), &environment] {
            fs::DirBuilder::new().mode(0o700).create(dir)?;
            if let Some(account) = of.run_as {
                chown(dir, Some(account.uid), Some(account.gid))?;
            }
        }
        for entry in fs::read_dir(of.version)? {
            let name = entry?.file_name();
            if !name.to_string_lossy().starts_with(RESOURCE_TYPES) {
                symlink(of.version.join(&name), environment.join(&name))?;
            }
        }
        Ok(stand)
    }

    fn home(&self) -> PathBuf {
        self.0.join("home")
    }

    fn environmentpath(&self) -> PathBuf {
        self.0.join("environments")
    }

    fn environment(&self, name: &EnvironmentName) -> PathBuf {
        self.environmentpath().join(name.as_str())
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        // What could not be removed is removed by the next run with this name.
        fs::remove_dir_all(&self.0).ok();
    }
}

/// Copies what an untrusted user made into the version; no link of his leads out of what he made (cap-std).
struct Place<'a> {
    version: &'a Path,
    group: Option<u32>,
}

impl Place<'_> {
    fn put(&self, made: &Path) -> io::Result<usize> {
        let made = Dir::open_ambient_dir(made, ambient_authority())?;
        if !made.symlink_metadata(RESOURCE_TYPES)?.is_dir() {
            return Err(io::Error::other("what puppet made is not a directory"));
        }
        let made = made.open_dir(RESOURCE_TYPES)?;
        let new = self.version.join(format!("{RESOURCE_TYPES}.new"));
        if new.exists() {
            fs::remove_dir_all(&new)?;
        }
        let mut count = 0;
        self.copy(&made, &new, &mut count, 0)?;
        let root = fs::File::open(self.version)?;
        syncfs(&root)?;
        let at = self.version.join(RESOURCE_TYPES);
        match renameat_with(CWD, &new, CWD, &at, RenameFlags::EXCHANGE) {
            Ok(()) => fs::remove_dir_all(&new)?,
            Err(Errno::NOENT) => fs::rename(&new, &at)?,
            Err(errno) => return Err(errno.into()),
        }
        root.sync_all()?;
        Ok(count)
    }

    fn copy(&self, from: &Dir, to: &Path, count: &mut usize, depth: usize) -> io::Result<()> {
        let refuse = |what: &str| Err(io::Error::other(format!("{what} below {}", to.display())));
        let (dir_mode, file_mode) = if self.group.is_some() { (0o750, 0o640) } else { (0o755, 0o644) };
        fs::DirBuilder::new().mode(dir_mode).create(to)?;
        self.own(to, dir_mode)?;
        for entry in from.entries()? {
            let entry = entry?;
            let (name, kind) = (entry.file_name(), entry.file_type()?);
            *count += usize::from(kind.is_file());
            if *count > FILES || depth > DEPTH {
                return refuse("more files or directories than can be right");
            }
            let target = to.join(&name);
            if kind.is_dir() {
                self.copy(&from.open_dir(&name)?, &target, count, depth + 1)?;
            } else if kind.is_file() {
                let source = entry.open()?;
                if source.metadata()?.len() > FILE_BYTES {
                    return refuse("a larger file than can be right");
                }
                let mut file =
                    fs::OpenOptions::new().write(true).create_new(true).mode(file_mode).open(&target)?;
                io::copy(&mut io::Read::take(source, FILE_BYTES), &mut file)?;
                self.own(&target, file_mode)?;
            } else {
                return refuse("neither a file nor a directory");
            }
        }
        Ok(())
    }

    /// The umask may have taken bits away, and a set-group-id parent may have given another group.
    fn own(&self, path: &Path, mode: u32) -> io::Result<()> {
        if self.group.is_some_and(|group| fs::metadata(path).is_ok_and(|meta| meta.gid() != group)) {
            chown(path, None, self.group)?;
        }
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn place_of(version: &Path) -> Place<'_> {
        Place { version, group: None }
    }

    fn made(root: &Path) -> PathBuf {
        let made = root.join("made");
        fs::create_dir_all(made.join(RESOURCE_TYPES).join("deep")).unwrap();
        fs::write(made.join(RESOURCE_TYPES).join("thing.pp"), "new").unwrap();
        fs::write(made.join(RESOURCE_TYPES).join("deep/other.pp"), "new").unwrap();
        made
    }

    /// It began with 600 characters of options and private paths, before the line that matters.
    #[test]
    fn a_type_that_does_not_load_is_told_by_its_file_in_the_environment() {
        use std::os::unix::process::ExitStatusExt;
        let error = CommandError::Failed {
            command: "puppet generate types --color=false --environmentpath /s/types-1/environments".into(),
            status: std::process::ExitStatus::from_raw(256),
            output: "Failed to load '/s/types-1/environments/production/site/b.rb'".into(),
        };
        assert_eq!(
            plain(error, Path::new("/s/types-1/environments/production")).to_string(),
            "`puppet generate types` failed (exit status: 1): Failed to load 'site/b.rb'"
        );
    }

    #[test]
    fn generated_types_replace_the_old_ones_whole_with_the_right_modes() {
        let root = tempfile::tempdir().unwrap();
        let version = root.path().join("version");
        let old = version.join(RESOURCE_TYPES);
        fs::create_dir_all(&old).unwrap();
        fs::write(old.join("gone.pp"), "old").unwrap();
        assert_eq!(place_of(&version).put(&made(root.path())).unwrap(), 2);
        assert!(!old.join("gone.pp").exists() && old.join("deep/other.pp").exists());
        let mode = fs::metadata(old.join("thing.pp")).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o644);
        assert_eq!(fs::read_dir(version).unwrap().count(), 1, "nothing else is left in the version");
    }

    #[test]
    fn a_link_made_by_module_code_is_never_followed_into_the_version() {
        let root = tempfile::tempdir().unwrap();
        let version = root.path().join("version");
        fs::create_dir(&version).unwrap();
        let made = made(root.path());
        symlink("/etc/shadow", made.join(RESOURCE_TYPES).join("leak.pp")).unwrap();
        assert!(place_of(&version).put(&made).is_err());
        assert!(!version.join(RESOURCE_TYPES).exists());
        fs::remove_dir_all(made.join(RESOURCE_TYPES)).unwrap();
        symlink("/etc", made.join(RESOURCE_TYPES)).unwrap();
        assert!(place_of(&version).put(&made).is_err());
        assert!(!version.join(RESOURCE_TYPES).exists());
    }
}
