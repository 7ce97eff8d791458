//! The CA of the stack and what it has signed, made once per machine: keys of 4096 bits take 10 s, and each
//! certificate another 2 to 4 s, with a running CA.
//!
//! Kept in the cache as a tree that looks like the stack's own directories; each stack copies it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context, Result, ensure};
use bunraku_common::Digest;

use super::{
    Agent, BALANCER_ADDRESS, BALANCER_NAME, CA_NAME, PuppetServer, STARTS_WITHIN, Setup, aot, copy_file,
    make_directory,
};
use crate::{process::output_of, progress::Progress};

/// Agents whose certificates are ready.
const AGENTS: [&str; 2] = ["a1", "a2"];

/// A change of what is kept changes this number.
const FORMAT: u32 = 1;

/// A CA and its certificates in the cache.
#[derive(Debug)]
pub(super) struct Authority {
    kept: PathBuf,
}

/// The CA for these compilers; made when the cache has none.
///
/// `scratch` is used while making it, and removed: a directory that Puppet's user can enter.
pub(super) fn authority(
    cache: &Path,
    scratch: &Path,
    compilers: &[String],
    jar: &Path,
    progress: &Progress,
) -> Result<Authority> {
    let subject = format!("{FORMAT} {} {compilers:?}", aot::installed_versions()?);
    let kept = cache.join(format!("ca-{}", Digest::of(subject.as_bytes()).short()));
    if !kept.exists() {
        progress.say("making a CA and certificates first (20 to 40 s, only once)");
        let making = cache.join("ca-making");
        remove(&making)?;
        progress.timed("made a CA and certificates", || make(&making, scratch, compilers, jar, progress))?;
        fs::rename(&making, &kept).with_context(|| format!("could not place {}", kept.display()))?;
    }
    Ok(Authority { kept })
}

impl Authority {
    pub(super) fn give_main(&self, main: &PuppetServer) -> Result<()> {
        copy_tree(&self.kept.join("cadir"), &main.cadir())?;
        main.give_to_puppet(&main.cadir())?;
        self.give_server("ca", main)
    }

    pub(super) fn give_server(&self, name: &str, server: &PuppetServer) -> Result<()> {
        copy_tree(&self.kept.join(name), &server.ssldir())?;
        server.give_to_puppet(&server.ssldir())
    }

    pub(super) fn give_agents(&self, directory: &Path) -> Result<()> {
        for name in AGENTS {
            let agent = Agent::new(directory, name);
            make_directory(&agent.ssldir())?;
            copy_tree(&self.kept.join(name), &agent.ssldir())?;
        }
        Ok(())
    }
}

/// Has the running CA make a key and a certificate, below the main server's ssldir.
///
/// puppetserver-ca prints an error about a certificate that it could not find, and succeeds: its own check beforehand.
pub(super) fn generate(main: &PuppetServer, certname: &str, aliases: &[String]) -> Result<()> {
    let mut command = Command::new("puppetserver");
    command.args(["ca", "generate", "--certname", certname, "--config"]).arg(main.puppet_conf());
    if !aliases.is_empty() {
        command.args(["--subject-alt-names", &aliases.join(",")]);
    }
    output_of(&mut command).with_context(|| format!("could not make a certificate for {certname}"))?;
    let made = main.ssldir().join(format!("certs/{certname}.pem"));
    ensure!(made.exists(), "the CA made no certificate for {certname}");
    Ok(())
}

/// Copies a certificate, its key, the CA's certificates and CRLs into another ssldir.
pub(super) fn copy_identity(from: &Path, certname: &str, to: &Path) -> Result<()> {
    for below in ["certs", "private_keys", "public_keys"] {
        make_directory(&to.join(below))?;
    }
    for file in ["certs/ca.pem", "crl.pem"] {
        copy_file(&from.join(file), &to.join(file))?;
    }
    for kind in ["certs", "private_keys", "public_keys"] {
        let file = format!("{kind}/{certname}.pem");
        copy_file(&from.join(&file), &to.join(&file))?;
    }
    Ok(())
}

/// Sets up a CA, starts it, and collects what it signs in `making`.
fn make(making: &Path, scratch: &Path, compilers: &[String], jar: &Path, progress: &Progress) -> Result<()> {
    let mut main = PuppetServer::main(scratch, jar);
    main.configure(Setup::AsInstalled)?;
    output_of(
        Command::new("puppetserver")
            .args(["ca", "setup", "--ca-name", "Puppet CA: stack", "--certname", CA_NAME])
            .args(["--subject-alt-names", &format!("{CA_NAME},{BALANCER_NAME}"), "--config"])
            .arg(main.puppet_conf()),
    )
    .context("could not set up a CA")?;
    main.give_to_puppet(scratch)?;
    main.start()?;
    main.wait_until_ready(STARTS_WITHIN, progress)?;

    // Two cores: two keys at a time are worth it.
    let (one, other) = compilers.split_at(compilers.len() / 2);
    let (server, ssldir) = (&main, &main.ssldir());
    let servers = move |names: &[String]| -> Result<()> {
        for (name, compiler) in names.iter().map(|name| (name, format!("{name}.{}", super::DOMAIN))) {
            let aliases = [compiler.clone(), BALANCER_NAME.to_owned(), format!("IP:{BALANCER_ADDRESS}")];
            generate(server, &compiler, &aliases)?;
            copy_identity(ssldir, &compiler, &making.join(name))?;
        }
        Ok(())
    };
    let agents = move |names: &[&str]| -> Result<()> {
        for name in names {
            let certname = Agent::new(Path::new(""), name).certname();
            generate(server, &certname, &[])?;
            copy_identity(ssldir, &certname, &making.join(name))?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let beside = scope.spawn(move || servers(one).and_then(|()| agents(&AGENTS[..1])));
        servers(other).and_then(|()| agents(&AGENTS[1..]))?;
        beside.join().map_err(|_| anyhow::anyhow!("making certificates panicked"))?
    })?;
    main.stop()?;
    copy_identity(&main.ssldir(), CA_NAME, &making.join("ca"))?;
    copy_tree(&main.cadir(), &making.join("cadir"))?;
    remove(scratch)
}

fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    make_directory(to)?;
    output_of(Command::new("cp").arg("-a").arg(from.join(".")).arg(to)).map(drop)
}

fn remove(directory: &Path) -> Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory).with_context(|| format!("could not remove {}", directory.display()))?;
    }
    Ok(())
}
