//! Git repositories as a Puppet site has them: a control repository with the environments production and testing, and
//! two modules. All are bare and local; changes are made in a clone and pushed.
//!
//! They belong to the build user, and so git runs as that user here, too: it refuses repositories of somebody else.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::{BUILD_USER, User, make_directory, read_file, write_file};
use crate::process::output_of;

/// A bare repository and a clone to change it with.
#[derive(Debug)]
pub struct Repository {
    bare: PathBuf,
    clone: PathBuf,
}

impl Repository {
    fn create(parent: &Path, name: &str, branch: &str) -> Result<Self> {
        let repository =
            Self { bare: parent.join(format!("{name}.git")), clone: parent.join("clones").join(name) };
        make_directory(&repository.clone)?;
        build_user()?.owns(parent)?;
        output_of(
            git()?.args(["init", "--quiet", "--bare", "--initial-branch", branch]).arg(&repository.bare),
        )?;
        repository.git(&["init", "--quiet", "--initial-branch", branch])?;
        repository.git(&["remote", "add", "origin", &repository.url()])?;
        Ok(repository)
    }

    /// What r10k clones from.
    pub fn url(&self) -> String {
        format!("file://{}", self.bare.display())
    }

    /// The bare repository.
    pub fn path(&self) -> &Path {
        &self.bare
    }

    /// Changes files of a branch, commits and pushes; returns the new commit.
    pub fn push(
        &self,
        branch: &str,
        message: &str,
        edit: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<String> {
        if self.git(&["rev-parse", "--quiet", "--verify", "HEAD"]).is_ok() {
            self.git(&["switch", "--quiet", branch])?;
        }
        edit(&self.clone)?;
        build_user()?.owns(&self.clone)?;
        self.git(&["add", "--all"])?;
        self.git(&["commit", "--quiet", "--message", message])?;
        self.git(&["push", "--quiet", "origin", branch])?;
        self.head(branch)
    }

    /// Takes back the newest commit of a branch with a new one.
    pub fn revert(&self, branch: &str) -> Result<String> {
        self.git(&["switch", "--quiet", branch])?;
        self.git(&["revert", "--no-edit", "HEAD"])?;
        self.git(&["push", "--quiet", "origin", branch])?;
        self.head(branch)
    }

    /// A new branch (an environment, in the control repository).
    pub fn create_branch(&self, new: &str, from: &str) -> Result<()> {
        self.git(&["branch", new, from])?;
        self.git(&["push", "--quiet", "origin", new]).map(drop)
    }

    pub fn delete_branch(&self, branch: &str, switch_to: &str) -> Result<()> {
        self.git(&["switch", "--quiet", switch_to])?;
        self.git(&["branch", "--quiet", "-D", branch])?;
        self.git(&["push", "--quiet", "origin", "--delete", branch]).map(drop)
    }

    /// The newest commit of a branch.
    pub fn head(&self, branch: &str) -> Result<String> {
        Ok(self.git(&["rev-parse", branch])?.trim().to_owned())
    }

    fn git(&self, arguments: &[&str]) -> Result<String> {
        output_of(git()?.arg("-C").arg(&self.clone).args(arguments))
    }
}

/// The control repository, with its modules.
#[derive(Debug)]
pub struct ControlRepository {
    pub control: Repository,
    /// A manifest with a text and a file with a source.
    pub motd: Repository,
    /// A manifest with a template.
    pub ntp: Repository,
}

impl ControlRepository {
    /// Makes everything; the modules write below `applied`.
    pub(super) fn create(parent: &Path, applied: &Path) -> Result<Self> {
        let motd = Repository::create(parent, "motd", "main")?;
        let ntp = Repository::create(parent, "ntp", "main")?;
        let control = Repository::create(parent, "control", "production")?;
        let repository = Self { control, motd, ntp };
        repository.set_motd_module("v1")?;
        repository.ntp.push("main", "first version", write_ntp_module)?;
        repository.control.push("production", "first version", |tree| {
            write_control(tree, &repository.motd.url(), &repository.ntp.url(), applied)
        })?;
        repository.control.create_branch("testing", "production")?;
        Ok(repository)
    }

    /// A push of one small change: the message that agents of this environment get.
    pub fn set_message(&self, environment: &str, message: &str) -> Result<String> {
        self.control.push(environment, &format!("message: {message}"), |tree| {
            let path = tree.join("data/common.yaml");
            let lines = read_file(&path)?;
            let kept = lines.lines().filter(|line| !line.starts_with("motd::message:"));
            let mut text = kept.collect::<Vec<_>>().join("\n");
            text.push_str(&format!("\nmotd::message: '{message}'\n"));
            write_file(&path, text)
        })
    }

    /// A push to a module that both environments use: its manifest and its file name the version.
    pub fn set_motd_module(&self, version: &str) -> Result<String> {
        self.motd.push("main", version, |tree| write_motd_module(tree, version))
    }

    /// A push that no builder can build: the Puppetfile names a module that does not exist.
    pub fn break_puppetfile(&self, environment: &str) -> Result<String> {
        self.control.push(environment, "a module that does not exist", |tree| {
            let path = tree.join("Puppetfile");
            let missing = self.motd.path().with_file_name("missing.git");
            let text = format!("{}\nmod 'missing', git: 'file://{}'\n", read_file(&path)?, missing.display());
            write_file(&path, text)
        })
    }

    /// A push of one file.
    pub fn add_file(&self, environment: &str, path: &str, content: &[u8]) -> Result<String> {
        self.control.push(environment, &format!("add {path}"), |tree| {
            make_parent(tree, path)?;
            write_file(&tree.join(path), content)
        })
    }

    /// A push of a symlink, hostile when `target` leaves the tree.
    pub fn add_symlink(&self, environment: &str, path: &str, target: &str) -> Result<String> {
        self.control.push(environment, &format!("add the link {path}"), |tree| {
            make_parent(tree, path)?;
            symlink(target, tree.join(path)).with_context(|| format!("could not make the link {path}"))
        })
    }

    /// r10k's result for one environment, built in `directory`.
    pub(super) fn build(&self, directory: &Path, environment: &str) -> Result<PathBuf> {
        make_directory(directory)?;
        let (configuration, shown) = (directory.join("r10k.yaml"), directory.display());
        write_file(
            &configuration,
            format!(
                "cachedir: {shown}/cache\nsources:\n  control:\n    remote: {}\n    basedir: {shown}/environments\n",
                self.control.url()
            ),
        )?;
        build_user()?.owns(directory)?;
        let mut r10k = as_build_user("r10k")?;
        r10k.env("HOME", directory).args(["deploy", "environment", environment, "--modules", "--config"]);
        output_of(r10k.arg(&configuration))?;
        Ok(directory.join("environments").join(environment))
    }
}

fn write_control(tree: &Path, motd: &str, ntp: &str, applied: &Path) -> Result<()> {
    for below in ["manifests", "data"] {
        make_directory(&tree.join(below))?;
    }
    write_file(
        &tree.join("Puppetfile"),
        format!("mod 'motd', git: '{motd}', branch: 'main'\nmod 'ntp', git: '{ntp}', branch: 'main'\n"),
    )?;
    write_file(&tree.join("environment.conf"), "modulepath = site:modules:$basemodulepath\n")?;
    write_file(
        &tree.join("hiera.yaml"),
        "version: 5\nhierarchy:\n  - name: common\n    path: common.yaml\n    datadir: data\n    data_hash: yaml_data\n",
    )?;
    write_file(
        &tree.join("data/common.yaml"),
        format!("motd::directory: '{0}'\nntp::directory: '{0}'\nmotd::message: 'hello'\n", applied.display()),
    )?;
    write_file(
        &tree.join("manifests/site.pp"),
        format!("file {{ '{}': ensure => directory }}\ninclude motd\ninclude ntp\n", applied.display()),
    )
}

fn write_motd_module(tree: &Path, version: &str) -> Result<()> {
    for below in ["manifests", "files"] {
        make_directory(&tree.join(below))?;
    }
    write_file(&tree.join("metadata.json"), metadata("motd"))?;
    write_file(&tree.join("files/banner.txt"), format!("banner {version}\n"))?;
    write_file(
        &tree.join("manifests/init.pp"),
        format!(
            "# What a host says to those who log in.
class motd (String $directory, String $message) {{
  $certname = $trusted['certname']
  file {{ \"${{directory}}/${{certname}}-motd.txt\":
    content => \"module={version} message=${{message}} compiler=${{settings::certname}} environment=${{environment}}\\n\",
  }}
  file {{ \"${{directory}}/${{certname}}-banner.txt\":
    source => 'puppet:///modules/motd/banner.txt',
  }}
}}\n"
        ),
    )
}

fn write_ntp_module(tree: &Path) -> Result<()> {
    for below in ["manifests", "templates"] {
        make_directory(&tree.join(below))?;
    }
    write_file(&tree.join("metadata.json"), metadata("ntp"))?;
    write_file(
        &tree.join("templates/ntp.conf.epp"),
        "<%- | String $server | -%>\nserver <%= $server %> iburst\n",
    )?;
    write_file(
        &tree.join("manifests/init.pp"),
        "# Where a host gets its time from.
class ntp (String $directory, String $server = 'time.stack.test') {
  file { \"${directory}/${trusted['certname']}-ntp.conf\":
    content => epp('ntp/ntp.conf.epp', { server => $server }),
  }
}\n",
    )
}

fn metadata(name: &str) -> String {
    format!(
        "{{\"name\": \"stack-{name}\", \"version\": \"0.1.0\", \"author\": \"stack\", \"license\": \"Apache-2.0\", \
         \"summary\": \"{name}\", \"source\": \"{name}\", \"dependencies\": []}}\n"
    )
}

fn make_parent(tree: &Path, path: &str) -> Result<()> {
    let full = tree.join(path);
    let parent = full.parent().with_context(|| format!("{path} has no directory"))?;
    fs::create_dir_all(parent).with_context(|| format!("could not make {}", parent.display()))
}

fn git() -> Result<Command> {
    as_build_user("git")
}

fn build_user() -> Result<User> {
    User::named(BUILD_USER)
}

/// The caller's own git settings (hooks, signing, rewritten addresses) must not matter.
fn as_build_user(program: &str) -> Result<Command> {
    let mut command = Command::new(program);
    command.current_dir("/").env("HOME", "/nonexistent").envs([
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_NOSYSTEM", "1"),
        ("GIT_AUTHOR_NAME", "stack"),
        ("GIT_AUTHOR_EMAIL", "stack@stack.test"),
        ("GIT_COMMITTER_NAME", "stack"),
        ("GIT_COMMITTER_EMAIL", "stack@stack.test"),
    ]);
    build_user()?.runs(&mut command);
    Ok(command)
}
