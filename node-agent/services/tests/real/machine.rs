//! A systemd machine whose files are this host's, with a layer in memory above them.
//!
//! Nothing is installed into it. Its mounts live in a mount namespace of their own; it boots to one unit, which runs this
//! test's program inside, and ends with that program's exit status.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

/// What there is to be told.
pub(crate) const UNITS: &[(&str, &str)] = &[
    (
        "small.service",
        "[Service]\nExecStart=/bin/sleep infinity\nExecReload=/bin/sh -c 'test ! -e /run/small-broken'\n",
    ),
    (
        "slow.service",
        "[Service]\nExecStartPre=/bin/sh -c 'while [ ! -e /run/go ]; do sleep 0.05; done'\n\
         ExecStart=/bin/sleep infinity\n",
    ),
    ("failing.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n"),
    ("asking.service", "[Service]\nExecStart=/bunraku-test ask\n"),
];

/// The program inside; when it ends, so does the machine, with its exit status.
const TEST: &str = "[Unit]\nRequires=dbus.socket\nAfter=dbus.socket\nSuccessAction=exit\nFailureAction=exit\n\
    [Service]\nType=oneshot\nTimeoutStartSec=240\nStandardOutput=append:/results/log\nStandardError=append:/results/log\n\
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
mv "$directory.units" "$directory/units"; cp "$directory/units"/* "$root/etc/systemd/system/"
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

pub(crate) struct Machine;

impl Machine {
    /// Boots it once for each word, with this program called by that word; panics when that fails.
    pub(crate) fn boots(words: &[&str]) {
        let directory = Directory::new();
        let units = directory.0.with_extension("units");
        fs::create_dir(&units).unwrap();
        for (name, text) in UNITS {
            fs::write(units.join(name), text).unwrap();
        }
        for word in words {
            fs::write(units.join(format!("bunraku-{word}.service")), format!("{TEST}{word}\n")).unwrap();
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
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir(&self.0).ok();
        fs::remove_dir_all(self.0.with_extension("units")).ok();
    }
}
