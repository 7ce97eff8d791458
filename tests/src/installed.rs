//! Bunraku on the real stack: the two programs as processes, configured as an operator would, called by the command line.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    process::{Service, output_of, wait_for},
    stack::{BACKEND, BUILD_USER, CA_NAME, DOMAIN, MAIN_ADDRESS, PuppetServer, Stack},
};

const PORT: u16 = 8170;
const STARTS_WITHIN: Duration = Duration::from_secs(30);
const STOPS_WITHIN: Duration = Duration::from_secs(20);
const CRASHES_WITHIN: Duration = Duration::from_secs(60);
/// A deploy with a build, on a loaded machine, or with a Puppet Server that starts.
const ENDS_WITHIN: Duration = Duration::from_secs(180);
/// See `bunraku_common::crash`; only debug builds have such places.
const CRASH_AT: &str = "BUNRAKU_CRASH_AT";

/// The controller on the main server and a node agent on each compiler and on the balancer.
#[derive(Debug)]
pub struct Bunraku {
    directory: PathBuf,
    pub pin: String,
    controller: Option<Service>,
    agents: Vec<(String, Service)>,
}

/// What a command printed, and how it ended.
#[derive(Debug)]
pub struct Said {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Bunraku {
    /// `bunraku init`, and a configuration for this stack: r10k over the stack's repositories, Puppet's files of the
    /// main server, and an allow-list for the compilers.
    pub fn install(stack: &Stack, builder: &str) -> Result<Self> {
        let directory = stack.directory().join("bunraku");
        fs::create_dir_all(&directory)?;
        let mut bunraku = Self { directory, pin: String::new(), controller: None, agents: Vec::new() };
        let init = output_of(
            program("bunraku")?
                .args([
                    "init",
                    "--address",
                    &format!("{MAIN_ADDRESS}:{PORT}"),
                    "-o",
                    "json",
                    "--fleet",
                    "stack",
                ])
                .args(["--remote", &stack.repository.control.url()])
                .arg("--config")
                .arg(bunraku.config())
                .arg("--data-dir")
                .arg(bunraku.directory.join("controller")),
        )?;
        let init: Value = serde_json::from_str(&init)?;
        bunraku.pin = init["pin"].as_str().context("init printed no pin")?.to_owned();
        bunraku.edit_config(stack, builder)?;
        Ok(bunraku)
    }

    fn edit_config(&self, stack: &Stack, builder: &str) -> Result<()> {
        let mut config: toml::Table = fs::read_to_string(self.config())?.parse()?;
        config.insert("listen".into(), format!("{MAIN_ADDRESS}:{PORT}").into());
        config.insert("socket".into(), text(&self.socket()));
        let build =
            config.get_mut("build").and_then(toml::Value::as_table_mut).context("no [build] table")?;
        build.insert("kind".into(), builder.into());
        build.insert("user".into(), BUILD_USER.into());
        build.insert("transports".into(), vec!["file".to_owned()].into());
        let main = &stack.main;
        let mut puppet = toml::Table::new();
        puppet.insert("ca".into(), text(&main.ssldir().join("certs/ca.pem")));
        puppet.insert("crl".into(), text(&main.crl_file()));
        puppet.insert("certificate".into(), text(&main.ssldir().join(format!("certs/{CA_NAME}.pem"))));
        puppet.insert("key".into(), text(&main.ssldir().join(format!("private_keys/{CA_NAME}.pem"))));
        puppet.insert("conf_d".into(), text(&main.conf_d()));
        let mut allow = toml::Table::new();
        allow.insert("certname".into(), format!("c*.{DOMAIN}").into());
        allow.insert("roles".into(), vec!["compiler".to_owned()].into());
        puppet.insert("allow".into(), toml::Value::Array(vec![allow.into()]));
        config.insert("puppet".into(), puppet.into());
        fs::write(self.config(), config.to_string()).context("could not write the controller's configuration")
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// HOST:PORT of the controller, for agents.
    pub fn address(&self) -> String {
        format!("{MAIN_ADDRESS}:{PORT}")
    }

    fn config(&self) -> PathBuf {
        self.directory.join("bunraku.toml")
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.join("control.sock")
    }

    /// Changes a key of the controller's configuration; it is read at the next start.
    pub fn configure_controller(&self, table: &str, key: &str, value: impl Into<toml::Value>) -> Result<()> {
        let mut config: toml::Table = fs::read_to_string(self.config())?.parse()?;
        let table = config.entry(table).or_insert_with(|| toml::Table::new().into());
        table.as_table_mut().context("not a table")?.insert(key.into(), value.into());
        fs::write(self.config(), config.to_string()).context("could not write the controller's configuration")
    }

    /// Starts the controller and waits until it answers.
    pub fn start_controller(&mut self) -> Result<()> {
        self.start_controller_with(None)
    }

    /// As [`Bunraku::start_controller`]; it kills itself at a place that `bunraku_common::crash` knows.
    pub fn start_controller_with(&mut self, crash_at: Option<&str>) -> Result<()> {
        let mut command = program("bunraku")?;
        command.arg("serve").arg("--config").arg(self.config());
        command.envs(crash_at.map(|place| (CRASH_AT, place)));
        let mut service = Service::spawn("bunraku serve", &mut command, &self.controller_log())?;
        wait_for("the controller to answer", STARTS_WITHIN, || {
            // Its place may come before it answers anybody.
            if crash_at.is_some() && service.ended()?.is_some() {
                return Ok(Some(()));
            }
            service.ensure_running()?;
            Ok(self.ask(&["status", "-o", "json"])?.succeeded().then_some(()))
        })?;
        self.controller = Some(service);
        Ok(())
    }

    pub fn controller(&mut self) -> Result<&mut Service> {
        self.controller.as_mut().context("the controller does not run")
    }

    pub fn kill_controller(&mut self) -> Result<()> {
        self.controller.take().context("the controller does not run")?.kill()
    }

    /// `systemctl stop bunraku`.
    pub fn stop_controller(&mut self) -> Result<()> {
        let controller = self.controller.take().context("the controller does not run")?;
        controller.stop(STOPS_WITHIN).map(drop)
    }

    /// Waits until the controller has killed itself at its crash point.
    pub fn wait_for_crash_of_controller(&mut self) -> Result<()> {
        let mut controller = self.controller.take().context("the controller does not run")?;
        wait_for("the controller's crash", CRASHES_WITHIN, || controller.ended()).map(drop)
    }

    /// Starts the controller and the agents of these compilers where they do not run.
    pub fn start_what_does_not_run(&mut self, compilers: &[&str]) -> Result<()> {
        if self.controller.is_none() {
            self.start_controller()?;
        }
        for compiler in compilers {
            if !self.agents.iter().any(|(name, _)| name == compiler) {
                self.start_agent(compiler)?;
            }
        }
        Ok(())
    }

    /// What the controller says about itself.
    pub fn controller_log(&self) -> PathBuf {
        self.directory.join("controller.log")
    }

    /// The configuration of the agent beside a compiler: it joins by its Puppet certificate.
    pub fn configure_compiler(&self, compiler: &PuppetServer) -> Result<()> {
        let data = self.data_dir(compiler.name());
        fs::create_dir_all(&data)?;
        let config = format!(
            "controller = '{MAIN_ADDRESS}:{PORT}'\ndata_dir = '{data}'\n\n\
             [code]\nversions_dir = '{versions}'\nreserve_mib = 64\n\n\
             [puppet]\narguments = ['--config', '{puppet_conf}']\nserver = '{address}:8140'\nconf_d = '{conf_d}'\n\n\
             [enroll]\nmain_certname = '{CA_NAME}'\nroles = ['compiler']\n",
            data = data.display(),
            versions = Self::versions_dir(compiler).display(),
            puppet_conf = compiler.puppet_conf().display(),
            address = compiler.address(),
            conf_d = compiler.conf_d().display(),
        );
        fs::write(self.agent_config(compiler.name()), config)?;
        Ok(())
    }

    /// Lets rollouts restart and reload the running Puppet Server of a compiler, and run its Puppet agent. For the
    /// agent's next start.
    pub fn grant_rollouts(&self, compiler: &mut PuppetServer) -> Result<()> {
        let path = self.agent_config(compiler.name());
        let mut config: toml::Table = fs::read_to_string(&path)?.parse()?;
        let pid_file = self.data_dir(compiler.name()).join("puppetserver.pid");
        let mut services = toml::Table::new();
        services.insert("puppetserver".into(), compiler.hand_over(&pid_file)?.into());
        config.insert("services".into(), services.into());
        fs::write(&path, config.to_string()).with_context(|| format!("could not write {}", path.display()))
    }

    /// As [`Bunraku::configure_compiler`], for the agent's package in a machine that is about to boot: with leave to
    /// restart Puppet Server's unit, to update these packages, to run Puppet against the main server, and to leave a mark.
    pub fn configure_machine(&self, compiler: &PuppetServer, root: &Path, packages: &[&str]) -> Result<()> {
        self.configure_compiler(compiler)?;
        let path = self.agent_config(compiler.name());
        let mut config: toml::Table = fs::read_to_string(&path)?.parse()?;
        config.remove("data_dir");
        let granted = format!(
            "[services.puppetserver]\ndriver = 'systemd'\nunit = 'puppetserver.service'\n\n\
             [rollout]\npuppet_run = true\npuppet_server = '{CA_NAME}'\n\n\
             [rollout.exec]\nmark = ['/bin/sh', '-c', 'cat /proc/self/cgroup > /var/tmp/mark.$$']\n"
        );
        config.extend(granted.parse::<toml::Table>()?);
        let allow = toml::Table::from_iter([("allow".to_owned(), packages.to_vec().into())]);
        config.insert("packages".into(), allow.into());
        fs::create_dir_all(root.join("etc/bunraku"))?;
        fs::write(root.join("etc/bunraku/agent.toml"), config.to_string())?;
        fs::remove_file(&path).context("could not remove a configuration that is elsewhere by now")
    }

    /// The configuration of the agent beside the balancer: it has no Puppet certificate and joins by token.
    pub fn configure_balancer(&self, stack: &Stack) -> Result<()> {
        let data = self.data_dir("lb");
        fs::create_dir_all(&data)?;
        let mapped: String = stack
            .compilers
            .iter()
            .chain(&stack.bare)
            .map(|compiler| format!("'{}' = ['{BACKEND}/{}']\n", compiler.certname(), compiler.name()))
            .collect();
        let config = format!(
            "controller = '{MAIN_ADDRESS}:{PORT}'\nname = 'lb.{DOMAIN}'\ndata_dir = '{}'\n\n\
             [balancer]\ndriver = 'haproxy'\n\n[balancer.compilers]\n{mapped}\n\
             [balancer.haproxy]\nsocket = '{}'\nmaster_socket = '{}'\nstate_file = '{}'\n",
            data.display(),
            stack.balancer.socket().display(),
            stack.balancer.master_socket().display(),
            stack.balancer.state_file().display(),
        );
        fs::write(self.agent_config("lb"), config)?;
        Ok(())
    }

    /// The agent beside the balancer joins with a one-time token, and is started.
    pub fn join_balancer(&mut self, stack: &Stack) -> Result<String> {
        let lb = balancer_node();
        self.configure_balancer(stack)?;
        let token = self.json(&["token", "create", &lb, "--role", "load-balancer"])?;
        let secret = token["token"].as_str().context("no token")?;
        let controller = token["controller"].as_str().context("no address")?;
        let arguments = ["enroll", "--controller", controller, "--pin", &self.pin, "--token-file", "-"];
        let said = self.agent_command("lb", &arguments, Some(secret))?;
        ensure!(said.succeeded(), "enroll ended with {}:\n{}{}", said.code, said.out, said.err);
        self.start_agent("lb")?;
        Ok(lb)
    }

    /// Where the agent of a node keeps its identity, its memory and its helpers.
    pub fn data_dir(&self, node: &str) -> PathBuf {
        self.directory.join(node)
    }

    /// Where the agent of a compiler keeps versions.
    pub fn versions_dir(compiler: &PuppetServer) -> PathBuf {
        compiler.codedir().with_file_name("bunraku-code")
    }

    /// What an agent says about itself.
    pub fn agent_log(&self, node: &str) -> PathBuf {
        self.directory.join(format!("{node}.log"))
    }

    fn agent_config(&self, node: &str) -> PathBuf {
        self.directory.join(format!("{node}.toml"))
    }

    /// `bunraku-agent …` on a node.
    pub fn agent_command(&self, node: &str, arguments: &[&str], input: Option<&str>) -> Result<Said> {
        let mut command = program("bunraku-agent")?;
        command.args(arguments).arg("--config").arg(self.agent_config(node));
        said(&mut command, input)
    }

    pub fn start_agent(&mut self, node: &str) -> Result<()> {
        self.start_agent_with(node, None)
    }

    /// As [`Bunraku::start_agent`]; it kills itself at a place that `bunraku_common::crash` knows.
    pub fn start_agent_with(&mut self, node: &str, crash_at: Option<&str>) -> Result<()> {
        let mut command = program("bunraku-agent")?;
        command.arg("run").arg("--config").arg(self.agent_config(node));
        command.envs(crash_at.map(|place| (CRASH_AT, place)));
        let log = self.agent_log(node);
        let service = Service::spawn(&format!("bunraku-agent on {node}"), &mut command, &log)?;
        self.agents.push((node.to_owned(), service));
        Ok(())
    }

    pub fn agent(&mut self, node: &str) -> Result<&mut Service> {
        let found = self.agents.iter_mut().find(|(name, _)| name == node);
        found.map(|(_, service)| service).with_context(|| format!("no agent runs on {node}"))
    }

    pub fn kill_agent(&mut self, node: &str) -> Result<()> {
        self.take_agent(node)?.kill()
    }

    /// `systemctl stop bunraku-agent`.
    pub fn stop_agent(&mut self, node: &str) -> Result<()> {
        self.take_agent(node)?.stop(STOPS_WITHIN).map(drop)
    }

    /// Waits until an agent has killed itself at its crash point.
    pub fn wait_for_crash_of_agent(&mut self, node: &str) -> Result<()> {
        let mut agent = self.take_agent(node)?;
        wait_for(&format!("the crash of the agent on {node}"), CRASHES_WITHIN, || agent.ended()).map(drop)
    }

    fn take_agent(&mut self, node: &str) -> Result<Service> {
        let at = self.agents.iter().position(|(name, _)| name == node);
        Ok(self.agents.remove(at.with_context(|| format!("no agent runs on {node}"))?).1)
    }

    /// `bunraku …` as root on the controller's host.
    pub fn ask(&self, arguments: &[&str]) -> Result<Said> {
        let mut command = program("bunraku")?;
        command.args(arguments).arg("--socket").arg(self.socket());
        said(&mut command, None)
    }

    /// `bunraku …` on another host: there is no socket there, and an operator's own home.
    pub fn ask_as(&self, home: &Path, arguments: &[&str], input: Option<&str>) -> Result<Said> {
        let mut command = program("bunraku")?;
        command.args(arguments).env("HOME", home).arg("--socket").arg(home.join("no-socket"));
        said(&mut command, input)
    }

    /// `bunraku` as root on the controller's host, for a command that is not waited for.
    pub fn command(&self) -> Result<Command> {
        let mut command = program("bunraku")?;
        command.env("BUNRAKU_SOCKET", self.socket());
        Ok(command)
    }

    /// Waits until every balancer shows these compilers in service.
    pub fn wait_until_in_service(&self, compilers: &[&str]) -> Result<()> {
        wait_for("the compilers to be in service", Duration::from_secs(60), || {
            let said = self.ask(&["lb", "status", "-o", "json"])?;
            let shown: Value = serde_json::from_str(&said.out).unwrap_or_default();
            let listed = shown["compilers"].as_array().cloned().unwrap_or_default();
            let serves = |name: &&&str| {
                listed.iter().any(|it| it["compiler"] == ***name && it["state"] == "in service")
            };
            Ok((compilers.iter().filter(serves).count() == compilers.len()).then_some(()))
        })
    }

    /// As `ask`, and it must succeed.
    pub fn tell(&self, arguments: &[&str]) -> Result<Said> {
        let said = self.ask(arguments)?;
        ensure!(
            said.succeeded(),
            "bunraku {} ended with {}:\n{}{}",
            arguments.join(" "),
            said.code,
            said.out,
            said.err
        );
        Ok(said)
    }

    /// As `tell`, with JSON.
    pub fn json(&self, arguments: &[&str]) -> Result<Value> {
        let said = self.tell(&[arguments, &["-o", "json"]].concat())?;
        serde_json::from_str(&said.out).with_context(|| format!("not JSON: {}", said.out))
    }

    /// A deploy as `deploys show` tells it.
    pub fn deploy_shown(&self, id: u64) -> Result<Value> {
        self.json(&["deploys", "show", &id.to_string()])
    }

    /// Asks for a deploy and does not wait for it; its number.
    pub fn begin_deploy(&self, environment: &str) -> Result<u64> {
        let accepted = self.json(&["deploy", environment, "--no-wait"])?;
        accepted["deploys"][0]["id"].as_u64().context("no deploy was accepted")
    }

    /// Waits until a deploy has ended, and tells how.
    pub fn wait_for_end(&self, id: u64) -> Result<Value> {
        wait_for(&format!("the end of deploy {id}"), ENDS_WITHIN, || {
            let shown = self.deploy_shown(id)?;
            Ok((shown["ended_ms"] != 0).then_some(shown))
        })
    }

    /// Waits until all compilers serve one digest of `environment`, proven.
    pub fn wait_until_proven(&self, environment: &str) -> Result<String> {
        wait_for(&format!("{environment} to be proven everywhere"), ENDS_WITHIN, || {
            Ok(self.proven_everywhere(environment).ok())
        })
    }

    /// Whether the controller has a connection to this node.
    pub fn is_connected(&self, node: &str) -> Result<bool> {
        let reply = self.json(&["nodes", "list"])?;
        let listed = reply["nodes"].as_array().context("no list of nodes")?;
        Ok(listed.iter().any(|n| n["name"] == node && n["connected"] == true))
    }

    /// Waits until every named node is connected.
    pub fn wait_for_nodes(&self, nodes: &[String]) -> Result<()> {
        wait_for("the nodes to connect", Duration::from_secs(60), || {
            let reply = self.json(&["nodes", "list"])?;
            let listed = reply["nodes"].as_array().context("no list of nodes")?;
            let connected =
                |name: &String| listed.iter().any(|n| n["name"] == **name && n["connected"] == true);
            Ok(nodes.iter().all(connected).then_some(()))
        })
    }

    /// What each compiler serves of an environment: node, digest, whether it is proven.
    pub fn served(&self, environment: &str) -> Result<Vec<(String, String, bool)>> {
        let reply = self.json(&["environments", "list"])?;
        let all = reply["environments"].as_array().context("no list of environments")?;
        let found =
            all.iter().find(|e| e["name"] == environment).with_context(|| format!("no {environment}"))?;
        let nodes = found["nodes"].as_array().context("no nodes")?;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        Ok(nodes.iter().map(|n| (text(&n["node"]), text(&n["live"]), n["proven"] == true)).collect())
    }

    /// The one digest that all compilers serve, proven.
    pub fn proven_everywhere(&self, environment: &str) -> Result<String> {
        let served = self.served(environment)?;
        let Some((_, digest, _)) = served.first() else { bail!("nobody serves {environment}") };
        ensure!(
            served.iter().all(|(_, live, proven)| live == digest && *proven),
            "{environment} is served as {served:?}"
        );
        Ok(digest.clone())
    }

    pub fn stop(mut self) -> Result<()> {
        for (_, agent) in self.agents.drain(..) {
            agent.stop(STOPS_WITHIN)?;
        }
        if let Some(controller) = self.controller.take() {
            controller.stop(STOPS_WITHIN)?;
        }
        Ok(())
    }

    pub fn leave_running(mut self) {
        for (_, agent) in self.agents.drain(..) {
            agent.leave_running();
        }
        if let Some(controller) = self.controller.take() {
            controller.leave_running();
        }
    }
}

impl Said {
    pub fn succeeded(&self) -> bool {
        self.code == 0
    }
}

fn text(path: &Path) -> toml::Value {
    path.display().to_string().into()
}

/// A program of this workspace, as it was built with the one that runs.
pub fn program(name: &str) -> Result<Command> {
    let own = env::current_exe()?;
    let found = own.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.exists());
    let path =
        found.with_context(|| format!("{name} is not built (hint: cargo build --workspace --bins)"))?;
    Ok(Command::new(path))
}

fn said(command: &mut Command, input: Option<&str>) -> Result<Said> {
    use std::io::Write;
    command.stdin(if input.is_some() { Stdio::piped() } else { Stdio::null() });
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        stdin.write_all(text.as_bytes())?;
    }
    let done = child.wait_with_output()?;
    Ok(Said {
        code: done.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&done.stdout).into_owned(),
        err: String::from_utf8_lossy(&done.stderr).into_owned(),
    })
}

/// The balancer's node.
pub fn balancer_node() -> String {
    format!("lb.{DOMAIN}")
}
