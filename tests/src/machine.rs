//! A machine with a systemd of its own: systemd-nspawn over this host's files, with a layer in memory above them. It
//! shares the network of the world that it is booted in; what runs there is reached at its own loopback address.
//!
//! Boots in less than a second. Its mounts, processes and files end with the world ([`crate::namespace`]); only its empty
//! control group stays behind when the world is killed, until the next machine of that name is booted.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::process::{Service, output_of, tail, wait_for};

const BOOTS_WITHIN: Duration = Duration::from_secs(30);
const STOPS_WITHIN: Duration = Duration::from_secs(90);

/// What a machine boots to: whatever else is installed on this host does not start.
const TARGET: &str =
    "[Unit]\nRequires=basic.target dbus.service\nAfter=basic.target dbus.service\nAllowIsolate=yes\n";

/// What would keep this host from being booted: its file systems, and a container's rule against services.
const NOT_THERE: [&str; 2] = ["etc/fstab", "usr/sbin/policy-rc.d"];

/// Its mounts: $1 directory.
const MOUNT: &str = r#"
set -eu
mount -t tmpfs -o mode=755 bunraku "$1"
mkdir "$1/up" "$1/work" "$1/root"
mount -t overlay -o lowerdir=/,upperdir="$1/up",workdir="$1/work" bunraku "$1/root""#;

/// $1 the control groups to live in, the rest: the program.
const IN_GROUPS: &str = r#"
set -eu
groups=$1; shift
for group in $groups; do echo $$ > "$group/cgroup.procs"; done
exec "$@""#;

/// The variables of what runs inside.
const ENVIRONMENT: [&str; 4] =
    ["PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"];

/// A running machine. Dropping it kills it.
#[derive(Debug)]
pub struct Machine {
    directory: PathBuf,
    groups: Vec<PathBuf>,
    nspawn: Service,
    /// Its first process, as seen from here.
    leader: u32,
}

impl Machine {
    /// Boots a machine that sees `shared` at the same place as its host. `prepare` gets the directory that becomes its
    /// root.
    pub fn boot(name: &str, shared: &Path, prepare: impl FnOnce(&Path) -> Result<()>) -> Result<Self> {
        // Beside what is shared: an overlay cannot lie in itself.
        let above = shared.parent().context("the stack lies in a directory")?;
        let directory = above.join(format!("machine-{name}"));
        fs::create_dir(&directory).with_context(|| format!("could not make {}", directory.display()))?;
        output_of(Command::new("sh").args(["-c", MOUNT, "sh"]).arg(&directory))?;
        let root = directory.join("root");
        furnish(&root, name)?;
        prepare(&root)?;

        let groups = own_groups(name)?;
        let mut boot = Command::new("sh");
        let joined: Vec<String> = groups.iter().map(|group| group.display().to_string()).collect();
        boot.args(["-c", IN_GROUPS, "sh", &joined.join(" "), "systemd-nspawn", "--quiet", "--register=no"]);
        boot.args(["--resolv-conf=off", "--timezone=off", "--link-journal=no"]);
        boot.args(if groups.is_empty() { &[][..] } else { &["--keep-unit"] });
        boot.arg("--directory").arg(&root).arg(format!("--machine=bunraku-{name}"));
        boot.arg(format!("--bind={}", shared.display()));
        boot.args(["--boot", "systemd.unit=machine.target", "systemd.show_status=false"]);
        let mut nspawn = Service::spawn(&format!("machine {name}"), &mut boot, &directory.join("console"))?;
        let leader = wait_for(&format!("the first process of machine {name}"), BOOTS_WITHIN, || {
            nspawn.ensure_running()?;
            Ok(leader_of(nspawn.pid()))
        })?;
        let machine = Self { directory, groups, nspawn, leader };
        let booted = wait_for(&format!("machine {name} to be running"), BOOTS_WITHIN, || {
            let state = machine.command(&["systemctl", "is-system-running"]).output()?;
            Ok((state.stdout == b"running\n").then_some(()))
        });
        booted.with_context(|| machine.why_not())?;
        Ok(machine)
    }

    /// What systemd says of a boot that does not end.
    fn why_not(&self) -> String {
        let asked = [
            &["systemctl", "is-system-running"][..],
            &["systemctl", "--failed"],
            &["systemctl", "list-jobs"],
        ];
        let said = asked.map(|words| match self.command(words).output() {
            Ok(output) => String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned(),
            Err(error) => error.to_string(),
        });
        format!("{}\n{}", said.join("\n"), tail(&self.directory.join("console"), 20))
    }

    /// Its files, as seen from here.
    pub fn root(&self) -> PathBuf {
        self.directory.join("root")
    }

    /// A command inside, as root.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("--target").arg(self.leader.to_string());
        command.args(["--mount", "--uts", "--ipc", "--pid", "--cgroup", "--wd=/", "--", "env", "-i"]);
        command.args(ENVIRONMENT).args(words);
        command
    }

    /// Runs a command inside and returns its standard output; failure is an error that shows both outputs.
    pub fn run(&self, words: &[&str]) -> Result<String> {
        output_of(&mut self.command(words))
    }

    /// A property of a unit, such as `InvocationID`; empty when it has none.
    pub fn property(&self, unit: &str, name: &str) -> Result<String> {
        let shown = self.run(&["systemctl", "show", unit, "--value", "--property", name])?;
        Ok(shown.trim().to_owned())
    }

    /// How often a unit has been started since the machine was booted, by its full name.
    pub fn starts(&self, unit: &str) -> Result<usize> {
        let started = format!("Started {unit}");
        Ok(self.journal(unit)?.lines().filter(|line| line.starts_with(&started)).count())
    }

    /// What a unit has logged.
    pub fn journal(&self, unit: &str) -> Result<String> {
        self.run(&["journalctl", "--no-pager", "--output=cat", "--unit", unit])
    }

    /// Shuts it down in order.
    pub fn stop(mut self) -> Result<()> {
        // What systemd calls halt; the first process of a container takes it as a signal.
        output_of(Command::new("kill").args(["-s", "RTMIN+4", &self.leader.to_string()]))?;
        let name = self.nspawn.name().to_owned();
        let status = wait_for(&format!("the end of {name}"), STOPS_WITHIN, || self.nspawn.ended())?;
        ensure!(status.success(), "{name} ended with {status}");
        self.groups.iter().try_for_each(|group| remove_group(group))?;
        output_of(Command::new("umount").args(["--recursive"]).arg(&self.directory))?;
        fs::remove_dir(&self.directory).context("could not remove a machine's directory")
    }
}

/// The child that has process ids of its own: systemd-nspawn's first child only prepares it.
fn leader_of(nspawn: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{nspawn}/task/{nspawn}/children")).ok()?;
    let namespace = |pid: u32| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let (ours, mut pids) =
        (namespace(nspawn)?, children.split_whitespace().filter_map(|pid| pid.parse().ok()));
    pids.find(|pid| namespace(*pid).is_some_and(|theirs| theirs != ours))
}

fn furnish(root: &Path, name: &str) -> Result<()> {
    let write = |path: &str, text: &str| {
        fs::write(root.join(path), text).with_context(|| format!("could not write {path} of machine {name}"))
    };
    for path in NOT_THERE {
        if root.join(path).exists() {
            fs::remove_file(root.join(path)).with_context(|| format!("could not remove {path}"))?;
        }
    }
    // An overlay shows the file below what is mounted on it.
    write("etc/hosts", &fs::read_to_string("/etc/hosts").context("could not read /etc/hosts")?)?;
    write("etc/hostname", name)?;
    write("etc/machine-id", "")?;
    write("etc/systemd/system/machine.target", TARGET)
}

/// In a container without a systemd the host's control groups are ours to make: else all machines would share one.
fn own_groups(name: &str) -> Result<Vec<PathBuf>> {
    if Path::new("/run/systemd/system").is_dir() {
        return Ok(Vec::new());
    }
    let hierarchies = ["systemd", "unified"].map(|hierarchy| Path::new("/sys/fs/cgroup").join(hierarchy));
    let mut groups = Vec::new();
    for hierarchy in hierarchies.iter().filter(|hierarchy| hierarchy.is_dir()) {
        let group = hierarchy.join(format!("bunraku-test-{name}"));
        remove_group(&group)?;
        fs::create_dir(&group).with_context(|| format!("could not make {}", group.display()))?;
        groups.push(group);
    }
    Ok(groups)
}

/// Removes a control group with those below it; nobody may be in them.
fn remove_group(group: &Path) -> Result<()> {
    if !group.exists() {
        return Ok(());
    }
    output_of(Command::new("find").arg(group).args(["-depth", "-type", "d", "-exec", "rmdir", "{}", "+"]))
        .map(drop)
}
