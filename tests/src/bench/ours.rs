//! Bunraku itself: the release programs as processes, configured as an operator would, each node agent beside a
//! stand-in for Puppet Server.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;
use serde_json::Value;

use super::{
    disk::Disk,
    machine,
    stand_in::{self, Certificates},
};
use crate::{
    process::{Service, output_of, wait_for},
    stack::BUILD_USER,
};

const ADDRESS: &str = "127.0.0.1:8170";

/// The longest deploy: many large environments from nothing, on a loaded machine.
const PATIENCE: Duration = Duration::from_secs(600);

/// Programs rest when they used less than this of a processor in [`RESTING`], which is longer than the half second that
/// an agent waits after a commit until it tidies.
const IDLE: Duration = Duration::from_millis(20);
const RESTING: Duration = Duration::from_millis(900);

/// Records asked for at once; a deploy of twenty environments to ten nodes leaves a thousand.
const RECORDS: &str = "10000";

#[derive(Debug)]
pub(super) struct Bunraku {
    directory: PathBuf,
    logs: PathBuf,
    certificates: Certificates,
    pin: String,
    controller: Service,
    nodes: Vec<Node>,
    /// The newest journal record that was looked at.
    seen: u64,
}

#[derive(Debug)]
struct Node {
    name: String,
    directory: PathBuf,
    service: Service,
}

/// One deploy, or several at once, from the command to the last proof.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Deployed {
    /// From the start of `bunraku deploy` to its end.
    pub(super) whole: Duration,
    /// From the first snapshot that was ready to the last environment that all compilers were proven to serve, as
    /// journalled; nothing when no snapshot differed.
    pub(super) distribution: Duration,
    /// Between the first and the last compiler's swap; the largest of several deploys.
    pub(super) skew: Duration,
}

impl Bunraku {
    /// A controller for the control repository `remote`, running, without nodes.
    pub(super) fn start(disk: &Disk, logs: &Path, remote: &str) -> Result<Self> {
        let directory = disk.path("bunraku");
        fs::create_dir_all(&directory).with_context(|| format!("could not make {}", directory.display()))?;
        let init = output_of(
            program("bunraku")?
                .args(["init", "--address", ADDRESS, "-o", "json", "--remote", remote, "--config"])
                .arg(directory.join("bunraku.toml"))
                .arg("--data-dir")
                .arg(directory.join("controller")),
        )?;
        let init: Value = serde_json::from_str(&init).context("bunraku init printed no JSON")?;
        let pin = init["pin"].as_str().context("bunraku init printed no pin")?.to_owned();
        configure(&directory.join("bunraku.toml"), &directory.join("control.sock"))?;
        let mut serve = program("bunraku")?;
        serve.arg("serve").arg("--config").arg(directory.join("bunraku.toml"));
        let controller = Service::spawn("bunraku", &mut serve, &logs.join("controller.log"))?;
        let certificates = Certificates::make(&directory.join("certificates"))?;
        let mut bunraku = Self {
            directory,
            logs: logs.to_owned(),
            certificates,
            pin,
            controller,
            nodes: Vec::new(),
            seen: 0,
        };
        wait_for("the controller to answer", PATIENCE, || {
            bunraku.controller.ensure_running()?;
            Ok(bunraku.ask(&["status"]).is_ok().then_some(()))
        })?;
        Ok(bunraku)
    }

    /// Enrols compilers by tokens and starts them, until there are so many.
    pub(super) fn grow_to(&mut self, nodes: usize) -> Result<()> {
        for number in self.nodes.len() + 1..=nodes {
            let name = format!("c{number}.bench.test");
            let directory = self.directory.join(format!("c{number}"));
            let environments = directory.join("environments");
            fs::create_dir_all(&environments)
                .with_context(|| format!("could not make {}", directory.display()))?;
            let server = stand_in::start(&self.certificates, &environments)?;
            self.configure_node(&name, &directory, &server.to_string())?;
            self.enrol(&name, &directory)?;
            let service = self.start_agent(number, &directory)?;
            self.nodes.push(Node { name, directory, service });
        }
        Ok(())
    }

    /// Every compiler loses all its code and what it remembers, and begins again: as new ones, but for their names.
    /// Answers how long it took until all served every environment again, proven.
    pub(super) fn begin_anew(&mut self, environments: &[String]) -> Result<Duration> {
        let nodes = std::mem::take(&mut self.nodes);
        let mut stopped = Vec::new();
        for node in nodes {
            node.service.stop(Duration::from_secs(30))?;
            for gone in ["environments", "code", "data/memory.json"] {
                remove(&node.directory.join(gone))?;
            }
            fs::create_dir_all(node.directory.join("environments")).context("could not make environments")?;
            stopped.push((node.name, node.directory));
        }
        wait_for("the controller to miss its nodes", PATIENCE, || {
            let connected = self.nodes_listed()?.iter().filter(|node| node["connected"] == true).count();
            Ok((connected == 0).then_some(()))
        })?;
        machine::sync();
        let began = Instant::now();
        for (number, (name, directory)) in (1..).zip(stopped) {
            let service = self.start_agent(number, &directory)?;
            self.nodes.push(Node { name, directory, service });
        }
        self.wait_until_proven(environments)?;
        Ok(began.elapsed())
    }

    /// `bunraku deploy`, waited for.
    pub(super) fn deploy(&mut self, environments: &[String]) -> Result<Deployed> {
        let began = Instant::now();
        let names: Vec<&str> = environments.iter().map(String::as_str).collect();
        let ended = self.ask(&[&["deploy"], names.as_slice()].concat())?;
        let whole = began.elapsed();
        let deploys = ended["deploys"].as_array().context("bunraku deploy answered no deploys")?;
        ensure!(deploys.len() == environments.len(), "not every deploy was accepted: {ended}");
        for deploy in deploys {
            let phase = deploy["phase"].as_str().unwrap_or_default();
            ensure!(matches!(phase, "live" | "unchanged"), "a deploy ended {phase}: {deploy}");
        }
        let skew = deploys.iter().filter_map(|deploy| deploy["skew_ms"].as_u64()).max().unwrap_or(0);
        let distribution = self.distribution()?;
        Ok(Deployed { whole, distribution, skew: Duration::from_millis(skew) })
    }

    /// As [`Bunraku::deploy`], with the compilers held still (SIGSTOP) until every snapshot is ready: only then is the
    /// distribution of many environments not mixed with their builds. Answers its time.
    pub(super) fn deploy_when_all_are_built(&mut self, environments: &[String]) -> Result<Duration> {
        for node in &self.nodes {
            node.service.signal(Signal::STOP)?;
        }
        let names: Vec<&str> = environments.iter().map(String::as_str).collect();
        self.ask(&[&["deploy", "--no-wait"], names.as_slice()].concat())?;
        let seen = self.seen;
        let of_kind = |records: &[Value], kind: &str| records.iter().filter(|r| r["kind"] == kind).count();
        let built = wait_for("all snapshots", PATIENCE, || {
            let built = of_kind(&self.records_after(seen)?, "staging-started");
            Ok((built == environments.len()).then_some(()))
        });
        let began = Instant::now();
        for node in &self.nodes {
            node.service.signal(Signal::CONT)?;
        }
        built?;
        let after = machine::wall_ms();
        wait_for("all deploys", PATIENCE, || {
            let ended = of_kind(&self.records_after(seen)?, "deploy-ended");
            Ok((ended == environments.len()).then_some(()))
        })?;
        let records = self.records_after(seen)?;
        let last = records
            .iter()
            .filter(|r| r["kind"] == "deploy-ended")
            .filter_map(|r| r["wall_ms"].as_u64())
            .max();
        self.seen = newest(&records).unwrap_or(seen);
        let journalled = Duration::from_millis(last.unwrap_or(after).saturating_sub(after));
        Ok(journalled.min(began.elapsed()))
    }

    pub(super) fn wait_until_proven(&self, environments: &[String]) -> Result<()> {
        wait_for("all compilers to serve everything", PATIENCE, || {
            let listed = self.ask(&["environments", "list"])?;
            let listed = listed["environments"].as_array().context("no list of environments")?;
            let proven = |name: &String| {
                let found = listed.iter().find(|environment| environment["name"] == **name);
                found.and_then(|found| found["nodes"].as_array()).is_some_and(|on| {
                    on.len() == self.nodes.len()
                        && on.iter().all(|node| node["proven"] == true && node["state"] == "proven")
                })
            };
            Ok(environments.iter().all(proven).then_some(()))
        })
    }

    /// Waits until spares are made and nothing else is going on: the next measurement is not theirs.
    pub(super) fn wait_until_at_rest(&self) -> Result<()> {
        wait_for("the agents to rest", PATIENCE, || {
            let before = self.agents_cpu()?;
            std::thread::sleep(RESTING);
            Ok((self.agents_cpu()?.saturating_sub(before) < IDLE * self.nodes.len() as u32).then_some(()))
        })
    }

    /// Where each compiler serves an environment.
    pub(super) fn targets(&self, environment: &str) -> Vec<PathBuf> {
        self.nodes.iter().map(|node| node.directory.join("environments").join(environment)).collect()
    }

    pub(super) fn nodes(&self) -> usize {
        self.nodes.len()
    }

    pub(super) fn controller(&self) -> &Service {
        &self.controller
    }

    /// The agent of one compiler.
    pub(super) fn agent(&self) -> Result<&Service> {
        self.nodes.first().map(|node| &node.service).context("there is no node")
    }

    pub(super) fn agents_cpu(&self) -> Result<Duration> {
        self.nodes.iter().map(|node| node.service.cpu_time()).sum()
    }

    /// Bytes of TCP payload that went over the controller's port since the start, both ways, TLS included.
    pub(super) fn bytes_on_the_wire(&self) -> Result<u64> {
        let listed =
            output_of(Command::new("ss").args(["-tinOH", "state", "established", "( sport = :8170 )"]))?;
        let count = |name: &str| -> u64 {
            let counted =
                listed.split_whitespace().filter_map(|word| word.strip_prefix(name)?.parse::<u64>().ok());
            counted.sum()
        };
        Ok(count("bytes_sent:") + count("bytes_received:"))
    }

    /// `bunraku …`, with JSON; none where it prints none.
    pub(super) fn ask(&self, arguments: &[&str]) -> Result<Value> {
        let socket = self.directory.join("control.sock");
        let said =
            output_of(program("bunraku")?.args(arguments).args(["-o", "json", "--socket"]).arg(socket))?;
        serde_json::from_str(&said)
            .with_context(|| format!("bunraku {} printed no JSON", arguments.join(" ")))
    }

    fn nodes_listed(&self) -> Result<Vec<Value>> {
        Ok(self.ask(&["nodes", "list"])?["nodes"].as_array().cloned().unwrap_or_default())
    }

    fn distribution(&mut self) -> Result<Duration> {
        let records = self.records_after(self.seen)?;
        self.seen = newest(&records).unwrap_or(self.seen);
        let times = |kind: &str| -> Vec<u64> {
            records.iter().filter(|r| r["kind"] == kind).filter_map(|r| r["wall_ms"].as_u64()).collect()
        };
        let ready = times("staging-started").into_iter().min();
        let ended = times("deploy-ended").into_iter().max();
        Ok(Duration::from_millis(ready.zip(ended).map_or(0, |(ready, ended)| ended.saturating_sub(ready))))
    }

    fn records_after(&self, sequence: u64) -> Result<Vec<Value>> {
        let listed = self.ask(&["audit", "list", "--after", &sequence.to_string(), "--limit", RECORDS])?;
        Ok(listed["records"].as_array().cloned().unwrap_or_default())
    }

    fn start_agent(&self, number: usize, directory: &Path) -> Result<Service> {
        let mut run = program("bunraku-agent")?;
        run.arg("run").arg("--config").arg(directory.join("agent.toml"));
        // As the packaged unit does.
        run.envs([("MALLOC_ARENA_MAX", "1"), ("MALLOC_TRIM_THRESHOLD_", "131072")]);
        Service::spawn(&format!("agent {number}"), &mut run, &self.logs.join(format!("c{number}.log")))
    }

    fn configure_node(&self, name: &str, directory: &Path, server: &str) -> Result<()> {
        let shown = directory.display();
        let settings = self.certificates.settings(directory, &directory.join("environments"));
        let write = |file: &str, text: String| {
            fs::write(directory.join(file), text).with_context(|| format!("could not write {file}"))
        };
        write("settings.json", settings.to_string())?;
        write("puppet", format!("#!/bin/sh\nexec cat {shown}/settings.json\n"))?;
        output_of(Command::new("chmod").arg("+x").arg(directory.join("puppet")))?;
        write(
            "agent.toml",
            format!(
                "controller = '{ADDRESS}'\nname = '{name}'\ndata_dir = '{shown}/data'\n\n[code]\n\
                 versions_dir = '{shown}/code'\nenvironments_dir = '{shown}/environments'\ngroup = '{BUILD_USER}'\n\
                 generate_types = false\n\n[puppet]\nprogram = '{shown}/puppet'\nserver = '{server}'\n"
            ),
        )
    }

    fn enrol(&self, name: &str, directory: &Path) -> Result<()> {
        let token = self.ask(&["token", "create", name, "--role", "compiler"])?;
        let token = token["token"].as_str().context("no token was made")?.to_owned();
        let file = directory.join("token");
        fs::write(&file, token).with_context(|| format!("could not write {}", file.display()))?;
        output_of(
            program("bunraku-agent")?
                .args(["enroll", "--pin", &self.pin, "--token-file"])
                .arg(&file)
                .arg("--config")
                .arg(directory.join("agent.toml")),
        )
        .map(drop)
    }
}

fn newest(records: &[Value]) -> Option<u64> {
    records.iter().filter_map(|record| record["sequence"].as_u64()).max()
}

fn configure(path: &Path, socket: &Path) -> Result<()> {
    let text = fs::read_to_string(path).with_context(|| format!("could not read {}", path.display()))?;
    let mut config: toml::Table = text.parse().context("bunraku init wrote no TOML")?;
    config.insert("listen".into(), ADDRESS.into());
    config.insert("socket".into(), socket.display().to_string().into());
    config.remove("puppet");
    let build = config.get_mut("build").and_then(toml::Value::as_table_mut).context("there is no [build]")?;
    let settings: BTreeMap<&str, toml::Value> = BTreeMap::from([
        ("kind", "g10k".into()),
        ("user", BUILD_USER.into()),
        ("transports", vec!["file".to_owned()].into()),
    ]);
    for (key, value) in settings {
        build.insert(key.into(), value);
    }
    fs::write(path, config.to_string()).with_context(|| format!("could not write {}", path.display()))
}

/// A program that was built with this one.
pub(super) fn program(name: &str) -> Result<Command> {
    let own = std::env::current_exe().context("could not find this program's own path")?;
    let path = own.with_file_name(name);
    ensure!(path.exists(), "{name} is not built (hint: cargo build --release --workspace --bins)");
    Ok(Command::new(path))
}

fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("could not remove {}", path.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
