//! Debian asks `/usr/sbin/policy-rc.d` whether a package may start its service. Ours says no, and is seen only by the
//! apt-get that we start: it is bind-mounted in that process's own mount namespace.
//!
//! A bind mount needs a file to cover. Where there is none, an empty one is made and removed afterwards; a marker
//! in target/bunraku lets the next run remove it when this one is killed. (An empty file that cannot be executed
//! has no effect on Debian.)

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{
    cargo,
    cargo::{as_root, succeed},
};

/// Where Debian looks for it.
const PATH: &str = "/usr/sbin/policy-rc.d";

/// Runs as root, in one piece so that Ctrl-C (which ends apt-get) does not keep it from tidying up.
const SCRIPT: &str = r#"
policy=$1 denial=$2 marker=$3
shift 3
trap : INT TERM
if [ ! -e "$policy" ]; then touch "$marker" "$policy"; fi
unshare --mount --propagation private \
    sh -c 'mount --bind "$1" "$2" && shift 2 && exec apt-get "$@"' sh "$denial" "$policy" "$@"
status=$?
if [ -e "$marker" ]; then rm -f "$policy" "$marker"; fi
exit $status
"#;

/// An `apt-get` whose packages cannot start their services; arguments may be added.
pub(crate) fn apt_get_without_starts() -> Result<Command> {
    let denial = cargo::state().join("policy-rc.d");
    fs::create_dir_all(cargo::state()).context("could not make target/bunraku")?;
    fs::write(&denial, "#!/bin/sh\nexit 101\n").context("could not write a policy-rc.d")?;
    fs::set_permissions(&denial, fs::Permissions::from_mode(0o755))
        .context("could not make policy-rc.d executable")?;
    let mut command = as_root("env");
    command.args(["DEBIAN_FRONTEND=noninteractive", "sh", "-c", SCRIPT, "sh"]);
    command.args([Path::new(PATH), &denial, &marker()]);
    Ok(command)
}

/// Removes the mount point of a run that was killed.
pub(crate) fn remove_leftover() -> Result<()> {
    remove_noted(Path::new(PATH), &marker())
}

/// Only what is empty: a policy of this host's own may have come since.
fn remove_noted(mount_point: &Path, marker: &Path) -> Result<()> {
    if !marker.exists() {
        return Ok(());
    }
    if fs::metadata(mount_point).is_ok_and(|file| file.len() == 0) {
        succeed(as_root("rm").arg("-f").arg(mount_point))?;
    }
    fs::remove_file(marker).context("could not remove the note about a mount point")
}

fn marker() -> PathBuf {
    cargo::state().join("policy-rc.d.mount-point-made")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mount_point_that_a_killed_run_left_is_removed_and_a_hosts_own_policy_stays() {
        let dir = cargo::state().join(format!("policy-test-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (mount_point, marker) = (dir.join("policy-rc.d"), dir.join("made"));
        for (text, noted, stays) in [("", true, false), ("", false, true), ("#!/bin/sh\n", true, true)] {
            fs::write(&mount_point, text).unwrap();
            if noted {
                fs::write(&marker, "").unwrap();
            }
            remove_noted(&mount_point, &marker).unwrap();
            assert_eq!((mount_point.exists(), marker.exists()), (stays, false), "{text:?} {noted}");
        }
        fs::remove_dir_all(dir).unwrap();
    }
}
