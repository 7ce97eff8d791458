//! A systemd machine whose files are this host's, with a layer in memory above them.
//!
//! Nothing is installed into it. Its mounts live in a mount namespace of their own; it boots to one unit, which runs this
//! test's program inside, and ends with that program's exit status.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// The program inside; when it ends, so does the machine, with its exit status.
///
/// With a mount namespace of its own, as the agent has one: there /proc is fresh, and its boot id is the host's.
const TEST: &str = "[Unit]\nRequires=dbus.socket\nAfter=dbus.socket\nSuccessAction=exit\nFailureAction=exit\n\
    [Service]\nType=oneshot\nProtectControlGroups=yes\nProtectKernelTunables=yes\nTimeoutStartSec=900\nStandardOutput=append:/results/log\nStandardError=append:/results/log\n\
    ExecStart=/bunraku-test ";

/// $1 directory, $2 program, the rest: what it is called with, boot for boot.
///
/// Without a systemd of its own (a container) the host's groups are ours to make: else all machines would share one.
const BOOT: &str = r#"
set -eu
directory=$1 program=$2; shift 2
mount -t tmpfs -o mode=755 bunraku "$directory"
mkdir "$directory/up" "$directory/work" "$directory/root" "$directory/results"
mount -t overlay -o lowerdir=/,upperdir="$directory/up",workdir="$directory/work" bunraku "$directory/root"
root=$directory/root
rm -f "$root/etc/machine-id" "$root/etc/fstab"; : > "$root/etc/fstab"; : > "$root/bunraku-test"
tr -d - < /proc/sys/kernel/random/uuid > "$root/etc/machine-id"
cp -r "$directory.files/." "$root/"
options=; groups=
if [ ! -d /run/systemd/system ]; then
    options=--keep-unit
    for hierarchy in systemd unified; do
        group=/sys/fs/cgroup/$hierarchy/bunraku-test-$$
        [ -d /sys/fs/cgroup/$hierarchy ] && mkdir "$group" && groups="$groups $group"
    done
fi
status=0
for called in "$@"; do
    ( for group in $groups; do sh -c 'echo $PPID' > "$group/cgroup.procs"; done
      exec systemd-nspawn --quiet --directory="$root" --machine="bunraku-test-$$" --register=no $options \
          --private-network --resolv-conf=off --timezone=off --link-journal=no \
          --bind-ro="$program:/bunraku-test" --bind="$directory/results:/results" \
          --boot systemd.unit="bunraku-$called.service" systemd.show_status=false \
          < /dev/null > "$directory/results/console" 2>&1 ) || { status=$?; break; }
done
for group in $groups; do find "$group" -depth -type d -exec rmdir {} \; ; done
[ $status = 0 ] || cat "$directory/results/console"
[ ! -e "$directory/results/log" ] || cat "$directory/results/log"
exit $status
"#;

/// What it has besides this host's files.
pub(crate) struct Machine {
    pub(crate) units: Vec<(&'static str, String)>,
    pub(crate) files: &'static [(&'static str, &'static str)],
}

impl Machine {
    /// Boots it once for each word, with this program called by that word; panics when that fails.
    pub(crate) fn boots(&self, words: &[&str]) {
        let directory = Directory::new();
        let write = |name: &str, text: &str| {
            let path = directory.files().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        for (name, text) in self.files {
            write(name, text);
        }
        for (name, text) in &self.units {
            write(&format!("etc/systemd/system/{name}"), text);
        }
        for word in words {
            write(&format!("etc/systemd/system/bunraku-{word}.service"), &format!("{TEST}{word}\n"));
        }
        let status = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "/bin/sh", "-c", BOOT, "boot"])
            .arg(&directory.0)
            .arg(env::current_exe().unwrap())
            .args(words)
            .status()
            .expect("unshare comes with util-linux");
        assert!(status.success(), "the machine ended with {status}; its output stands above");
    }
}

/// A place for mounts, empty for everybody else.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        let name = format!("machine-{}", std::process::id());
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// What is copied into the machine.
    fn files(&self) -> PathBuf {
        self.0.with_extension("files")
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).ok();
        fs::remove_dir_all(self.files()).ok();
    }
}
