//! The first process of the PID namespace: makes the mounts, starts the program again, reaps what is orphaned, and
//! leaves nothing behind.
//!
//! It gets no signal from a terminal (the kernel gives the first process only signals that it handles). It ends when
//! the program does, or when the outer process is gone.

use std::{
    env, fs,
    io::Write,
    os::{fd::AsFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Context, Result};
use rustix::{
    mount::{MountFlags, mount, mount_bind},
    process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, wait},
};

use super::{DIRECTORY, KEEP, ROLE, World, state, workspace};
use crate::process::output_of;

/// Where the stack may be mounted, in order of preference. A fixed, short path serves: unix sockets allow 107 bytes,
/// and Puppet's user may not enter the caller's home.
const MOUNT_POINTS: [&str; 3] = ["/srv", "/media", "/mnt"];

/// In a range that neither Debian nor its administrators give away (Debian policy 9.2.2).
const USER_ID: u32 = 65_400;

pub(super) fn run(world: &World) -> Result<ExitCode> {
    let directory = make_mounts(world)?;
    output_of(Command::new("ip").args(["link", "set", "lo", "up"]))
        .context("could not start the loopback")?;

    let program = start_program(&directory)?;
    let stays = Arc::new(AtomicBool::new(false));
    let (files, told) = (directory.clone(), Arc::clone(&stays));
    thread::spawn(move || end_with_outer(&files, &told));

    let status = reap_until(Some(program))?;
    let success = status.is_some_and(|status| status.exit_status() == Some(0));
    if success && env::var_os(KEEP).is_some() {
        stays.store(true, Ordering::SeqCst);
        control()?.write_all(b"+").context("could not tell that everything stays")?;
        reap_until(None)?;
    }
    kill_all()?;
    let code = status.and_then(|status| status.exit_status());
    // After a failure the logs are worth reading; a signal (Ctrl-C) is no failure.
    if success || code.is_none() {
        remove_files(&directory);
    }
    Ok(ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(130)))
}

fn make_mounts(world: &World) -> Result<PathBuf> {
    let occupied = |point: &&str| workspace().starts_with(point);
    let usable = |point: &&str| Path::new(point).is_dir() && !occupied(point);
    let point =
        MOUNT_POINTS.into_iter().find(usable).context("no mount point is usable (/srv, /media, /mnt)")?;
    mount("tmpfs", point, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(c"mode=755,size=1m"))
        .with_context(|| format!("could not mount a tmpfs on {point}"))?;
    let directory = Path::new(point).join("stack");
    fs::create_dir(&directory).with_context(|| format!("could not make {}", directory.display()))?;
    mount_bind(state().join("stack"), &directory)
        .with_context(|| format!("could not mount the stack on {}", directory.display()))?;

    let (user, id) = (world.user, USER_ID);
    extend(Path::new(point), "hosts", &world.hosts)?;
    extend(Path::new(point), "passwd", &format!("{user}:x:{id}:{id}::/nonexistent:/usr/sbin/nologin\n"))?;
    extend(Path::new(point), "group", &format!("{user}:x:{id}:\n"))?;
    Ok(directory)
}

/// Mounts a copy of a file in /etc that holds more lines.
fn extend(copies: &Path, name: &str, lines: &str) -> Result<()> {
    let (file, copy) = (Path::new("/etc").join(name), copies.join(name));
    let own = fs::read_to_string(&file).with_context(|| format!("could not read {}", file.display()))?;
    fs::write(&copy, format!("{}\n{lines}", own.trim_end()))
        .with_context(|| format!("could not write {}", copy.display()))?;
    mount_bind(&copy, &file).with_context(|| format!("could not mount a private {}", file.display()))
}

fn start_program(directory: &Path) -> Result<Pid> {
    let own = env::current_exe().context("could not find this program's own path")?;
    let child = Command::new(own)
        .args(env::args_os().skip(1))
        .env(ROLE, "inside")
        .env(DIRECTORY, directory)
        .stdin(Stdio::null())
        .spawn()
        .context("could not start the program in its namespaces")?;
    Ok(Pid::from_child(&child))
}

/// Waits for every child, orphans too, until `program` has ended; with `None`, until there are no more.
fn reap_until(program: Option<Pid>) -> Result<Option<WaitStatus>> {
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((pid, status))) if Some(pid) == program => return Ok(Some(status)),
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(rustix::io::Errno::CHILD) => return Ok(None),
            Err(error) => return Err(error).context("could not wait for a process"),
        }
    }
}

/// Blocks while the outer process lives, then ends everything; unless everything was to stay.
fn end_with_outer(directory: &Path, stays: &AtomicBool) {
    let Ok(mut control) = control() else { return };
    let gone = std::io::Read::read(&mut control, &mut [0]);
    if matches!(gone, Ok(0)) && !stays.load(Ordering::SeqCst) {
        if let Err(error) = kill_all() {
            eprintln!("{error:#}");
        }
        remove_files(directory);
        std::process::exit(130);
    }
}

/// Kills every other process of the namespace (its own /proc shows no others) and waits for their ends.
fn kill_all() -> Result<()> {
    for entry in fs::read_dir("/proc").context("could not list processes")?.flatten() {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid.filter(|pid| !pid.is_init()) {
            // One that ended by itself meanwhile is as good.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
    reap_until(None).map(drop)
}

fn remove_files(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        let removed = if path.is_dir() && !path.is_symlink() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
        // Both threads of this process may be at it.
        if let Err(error) = removed
            && error.kind() != std::io::ErrorKind::NotFound
        {
            eprintln!("could not remove {}: {error}", path.display());
        }
    }
    // The directory itself is seen under its other name, too.
    let _ = fs::remove_dir(state().join("stack"));
}

/// The socket to the outer process is this process's standard input.
fn control() -> Result<UnixStream> {
    let owned = std::io::stdin().as_fd().try_clone_to_owned().context("could not use the control socket")?;
    Ok(UnixStream::from(owned))
}
