//! `bunraku-agent code-content ENV CODE_ID PATH`: one file of one retained version, as Puppet agents ask for it after they
//! got a static catalog (setting `versioned-code.code-content-command`).
//!
//! Puppet Server turns a nonzero exit into a 500 with our stderr in its log. Nothing outside the version directory can be
//! read, whatever the path or the links in the tree say (cap-std, openat2 where the kernel has it).

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use bunraku_common::{Digest, EnvironmentName, digest::NotADigest, limits::PATH_BYTES};
use cap_std::{
    ambient_authority,
    fs::{Dir, OpenOptions, OpenOptionsExt},
};

use crate::code_id::{CodeId, is_environment};

/// The kinds of files that Puppet Server serves by code id (`master_core.clj`, valid-static-file-path?).
const KINDS: [&str; 4] = ["files", "tasks", "scripts", "lib"];

/// Where code stands on this compiler.
#[derive(Debug, Clone, Copy)]
pub struct Code<'a> {
    /// Holds `<environment>/<environment>_<digest>` for each retained version.
    pub versions: &'a Path,
    /// Holds what is live, managed or not.
    pub environmentpath: &'a Path,
}

#[derive(Debug, thiserror::Error)]
pub enum CodeContentError {
    #[error("`{0}` is not the name of an environment")]
    Environment(String),
    #[error("could not tell which version of {environment} is meant")]
    CodeId {
        environment: String,
        #[source]
        source: NotADigest,
    },
    #[error("`{0}` is not served by code id: <directory>/<module>/(files|tasks|scripts|lib)/... is")]
    NotServed(String),
    #[error("version {version} of {environment} is not kept on this compiler")]
    NotKept {
        environment: String,
        version: CodeId,
        #[source]
        source: io::Error,
    },
    #[error("could not read {path} of {environment} version {version}")]
    Read {
        environment: String,
        version: CodeId,
        path: String,
        #[source]
        source: io::Error,
    },
}

impl Code<'_> {
    /// Writes the file to `out`. The three texts are what Puppet Server passes on from a Puppet agent: not to be trusted.
    pub fn content(
        &self,
        environment: &str,
        code_id: &str,
        path: &str,
        out: &mut impl Write,
    ) -> Result<(), CodeContentError> {
        if !is_environment(environment) {
            return Err(CodeContentError::Environment(shown(environment)));
        }
        let environment = environment.to_owned();
        let version: CodeId = code_id
            .parse()
            .map_err(|source| CodeContentError::CodeId { environment: environment.clone(), source })?;
        if !is_served(path) {
            return Err(CodeContentError::NotServed(shown(path)));
        }
        let root = match version {
            CodeId::Live => self.environmentpath.join(&environment),
            CodeId::Version(digest) => {
                self.versions.join(&environment).join(format!("{environment}_{digest}"))
            }
        };
        let dir = Dir::open_ambient_dir(root, ambient_authority()).map_err(|source| {
            CodeContentError::NotKept { environment: environment.clone(), version, source }
        })?;
        copy(&dir, path, out).map_err(|source| CodeContentError::Read {
            environment,
            version,
            path: path.into(),
            source,
        })
    }
}

/// Where a version of an environment stands.
pub fn version_dir(versions: &Path, environment: &EnvironmentName, digest: &Digest) -> PathBuf {
    versions.join(environment.as_str()).join(format!("{environment}_{digest}"))
}

fn shown(text: &str) -> String {
    text.chars().take(200).flat_map(char::escape_debug).collect()
}

fn is_served(path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let plain = |part: &&str| !part.is_empty() && !part.starts_with('.') && !part.contains('\0');
    path.len() <= PATH_BYTES
        && parts.len() >= 4
        && parts[..2].iter().all(plain)
        && KINDS.contains(&parts[2])
        // A hidden file is a file like another; only the two names that walk are not.
        && parts[3..].iter().all(|part| !matches!(*part, "" | "." | "..") && !part.contains('\0'))
}

fn copy(dir: &Dir, path: &str, out: &mut impl Write) -> io::Result<()> {
    let nonblock = i32::try_from(rustix::fs::OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    // Without it, a named pipe in the place of a file would keep the helper waiting for ever.
    let mut file = dir.open_with(path, OpenOptions::new().read(true).custom_flags(nonblock))?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    io::copy(&mut file, out)?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    struct Kept {
        root: tempfile::TempDir,
        digest: Digest,
    }

    fn kept() -> Kept {
        let (root, digest) = (tempfile::tempdir().unwrap(), Digest::of(b"a version"));
        let version = version_dir(&root.path().join("versions"), &"production".parse().unwrap(), &digest);
        fs::create_dir_all(version.join("modules/ntp/files/deep")).unwrap();
        fs::create_dir_all(version.join("modules/ntp/manifests")).unwrap();
        fs::create_dir_all(version.join("data/secret/keys")).unwrap();
        fs::write(version.join("modules/ntp/files/ntp.conf"), "server a\n").unwrap();
        fs::write(version.join("modules/ntp/files/deep/.hidden"), "h").unwrap();
        fs::write(version.join("modules/ntp/manifests/init.pp"), "class").unwrap();
        fs::write(version.join("data/secret/keys/key"), "k").unwrap();
        fs::write(root.path().join("outside"), "outside").unwrap();
        let files = version.join("modules/ntp/files");
        symlink("ntp.conf", files.join("inside")).unwrap();
        symlink(root.path().join("outside"), files.join("absolute")).unwrap();
        symlink("../../../../../..", files.join("up")).unwrap();
        symlink("up/outside", files.join("two-hop")).unwrap();
        Kept { root, digest }
    }

    impl Kept {
        fn get(&self, environment: &str, code_id: &str, path: &str) -> Result<String, CodeContentError> {
            let mut out = Vec::new();
            let root = self.root.path();
            let code = Code { versions: &root.join("versions"), environmentpath: root };
            code.content(environment, code_id, path, &mut out)?;
            Ok(String::from_utf8(out).unwrap())
        }

        fn path(&self, path: &str) -> Result<String, CodeContentError> {
            self.get("production", &self.digest.to_string(), path)
        }
    }

    #[test]
    fn files_of_a_kept_version_are_served_also_through_links_that_stay_inside() {
        let kept = kept();
        assert_eq!(kept.path("modules/ntp/files/ntp.conf").unwrap(), "server a\n");
        assert_eq!(kept.path("modules/ntp/files/inside").unwrap(), "server a\n");
        assert_eq!(kept.path("modules/ntp/files/deep/.hidden").unwrap(), "h");
    }

    #[test]
    fn no_path_and_no_link_leads_out_of_the_version() {
        let kept = kept();
        for path in [
            "modules/ntp/files/absolute",
            "modules/ntp/files/two-hop",
            "modules/ntp/files/up/outside",
            "modules/ntp/files/../../../../../../outside",
            "modules/../files/x/y",
            "/etc/ntp/files/passwd",
            "modules/ntp/files",
            "modules/ntp/files/",
            "modules/ntp/files/deep",
            "modules/ntp/manifests/init.pp",
            "data/secret/keys/key",
            ".git/ntp/files/x",
            "modules/ntp/files/a\0b",
        ] {
            assert!(kept.path(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn an_unknown_version_and_texts_that_are_no_names_are_refused_by_name() {
        let kept = kept();
        let other = Digest::of(b"another").to_string();
        let file = "modules/ntp/files/ntp.conf";
        let error = kept.get("production", &other, file).unwrap_err().to_string();
        assert_eq!(error, format!("version {other} of production is not kept on this compiler"));
        assert!(kept.get("../production", &kept.digest.to_string(), file).is_err());
        assert!(kept.get("production", "../../..", file).is_err());
    }

    #[test]
    fn what_is_live_is_served_for_an_environment_without_versions() {
        let kept = kept();
        let files = kept.root.path().join("Own_Test/modules/a/files");
        fs::create_dir_all(&files).unwrap();
        fs::write(files.join("x"), "live").unwrap();
        symlink("../../../../outside", files.join("up")).unwrap();
        assert_eq!(kept.get("Own_Test", "live", "modules/a/files/x").unwrap(), "live");
        assert!(kept.get("Own_Test", "live", "modules/a/files/up").is_err());
        assert!(kept.get("Own_Test", "", "modules/a/files/x").is_err());
    }

    #[test]
    fn a_named_pipe_is_refused_and_never_waited_for() {
        let kept = kept();
        let version =
            version_dir(&kept.root.path().join("versions"), &"production".parse().unwrap(), &kept.digest);
        let pipe = version.join("modules/ntp/files/pipe");
        assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
        assert!(kept.path("modules/ntp/files/pipe").is_err());
    }
}
