//! HAProxy before the compilers: TCP pass-through, health checks over TLS, and its runtime API on a unix socket.

use std::{
    io::{Read, Write},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{BALANCER_ADDRESS, BALANCER_NAME, PuppetServer, copy_file, make_directory, write_file};
use crate::process::{Service, output_of, wait_for};

/// The backend that holds the compilers.
pub const BACKEND: &str = "compilers";

/// What an operator (or a load-balancer node) sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetState {
    Ready,
    /// Open sessions go on, new ones go elsewhere.
    Drain,
    Maintenance,
}

/// A line of `show stat`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerState {
    pub name: String,
    /// `UP`, `DOWN`, `DRAIN`, …; it may hold a space (`UP 1/2`).
    pub status: String,
    /// Sessions now.
    pub current_sessions: u64,
    /// Sessions since the start.
    pub total_sessions: u64,
}

/// A running HAProxy.
#[derive(Debug)]
pub struct Balancer {
    directory: PathBuf,
    service: Option<Service>,
}

impl Balancer {
    pub(super) fn start(directory: &Path, compilers: &[&PuppetServer]) -> Result<Self> {
        make_directory(directory)?;
        let first = compilers.first().context("a balancer needs a compiler")?;
        copy_file(&first.ssldir().join("certs/ca.pem"), &directory.join("ca.pem"))?;
        write_file(&directory.join("state"), "")?;
        let configuration = directory.join("haproxy.cfg");
        write_file(&configuration, configuration_for(directory, compilers))?;
        output_of(Command::new("haproxy").arg("-c").arg("-q").arg("-f").arg(&configuration))
            .context("HAProxy refuses its configuration")?;

        let mut command = Command::new("haproxy");
        command
            .arg("-W")
            .arg("-S")
            .arg(directory.join("master.sock"))
            .arg("-db")
            .arg("-f")
            .arg(&configuration);
        let service = Service::spawn("haproxy", &mut command, &directory.join("log.txt"))?;
        let mut balancer = Self { directory: directory.to_owned(), service: Some(service) };
        balancer.wait_for_socket()?;
        Ok(balancer)
    }

    /// The socket of HAProxy's runtime API, level admin.
    pub fn socket(&self) -> PathBuf {
        self.directory.join("admin.sock")
    }

    /// The socket of the master process, for reloads.
    pub fn master_socket(&self) -> PathBuf {
        self.directory.join("master.sock")
    }

    /// Where it reads the servers' states at a start.
    pub fn state_file(&self) -> PathBuf {
        self.directory.join("state")
    }

    pub fn configuration(&self) -> PathBuf {
        self.directory.join("haproxy.cfg")
    }

    /// Sends one command to the runtime API, and returns the answer.
    pub fn command(&self, command: &str) -> Result<String> {
        let asking = || format!("could not ask HAProxy: {command}");
        let mut stream = UnixStream::connect(self.socket()).with_context(asking)?;
        stream.write_all(format!("{command}\n").as_bytes()).with_context(asking)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).with_context(asking)?;
        Ok(answer)
    }

    /// Sets the state of a compiler; HAProxy says something only when it refuses.
    pub fn set_state(&self, compiler: &str, state: SetState) -> Result<()> {
        let state = match state {
            SetState::Ready => "ready",
            SetState::Drain => "drain",
            SetState::Maintenance => "maint",
        };
        let answer = self.command(&format!("set server {BACKEND}/{compiler} state {state}"))?;
        ensure!(answer.trim().is_empty(), "HAProxy refused state {state} for {compiler}: {}", answer.trim());
        Ok(())
    }

    /// The compilers as HAProxy sees them.
    pub fn servers(&self) -> Result<Vec<ServerState>> {
        parse_statistics(&self.command("show stat")?)
    }

    /// One compiler as HAProxy sees it.
    pub fn server(&self, name: &str) -> Result<ServerState> {
        let found = self.servers()?.into_iter().find(|server| server.name == name);
        found.with_context(|| format!("HAProxy has no server {name}"))
    }

    /// Waits until the health checks accept every compiler (a change needs two checks, 1 s apart).
    pub fn wait_until_all_up(&self, within: Duration) -> Result<()> {
        wait_for("all compilers to be UP in HAProxy", within, || {
            let servers = self.servers()?;
            Ok(servers.iter().all(|server| server.status == "UP").then_some(()))
        })
    }

    /// The same for some of them.
    pub fn wait_until_up(&self, compilers: &[PuppetServer], within: Duration) -> Result<()> {
        wait_for("the compilers to be UP in HAProxy", within, || {
            let servers = self.servers()?;
            let is_up = |compiler: &PuppetServer| {
                servers.iter().any(|server| server.name == compiler.name() && server.status == "UP")
            };
            Ok(compilers.iter().all(is_up).then_some(()))
        })
    }

    pub fn stop(&mut self) -> Result<()> {
        let service = self.service.take().context("HAProxy is not started")?;
        service.stop(Duration::from_secs(10)).map(drop)
    }

    pub(super) fn leave_running(self) {
        if let Some(service) = self.service {
            service.leave_running();
        }
    }

    fn wait_for_socket(&mut self) -> Result<()> {
        let socket = self.socket();
        let service = self.service.as_mut().context("HAProxy is not started")?;
        wait_for("HAProxy's socket", Duration::from_secs(10), || {
            service.ensure_running()?;
            Ok(UnixStream::connect(&socket).is_ok().then_some(()))
        })
    }
}

/// `client-fin` and `server-fin`: without them a session whose server has closed counts as open until the client
/// closes, too.
/// `timeout check`: a server that is slow under load is not down; without it a check has as long as `inter`.
fn configuration_for(directory: &Path, compilers: &[&PuppetServer]) -> String {
    let directory = directory.display();
    let mut text = format!(
        "global
  maxconn 1000
  stats socket {directory}/admin.sock mode 600 level admin expose-fd listeners
  server-state-file {directory}/state
defaults
  mode tcp
  timeout connect 5s
  timeout client 5m
  timeout server 5m
  timeout client-fin 2s
  timeout server-fin 2s
  timeout check 10s
  load-server-state-from-file global
frontend puppet
  bind {BALANCER_ADDRESS}:8140
  default_backend {BACKEND}
backend {BACKEND}
  balance leastconn
  option httpchk
  http-check send meth GET uri /status/v1/simple ver HTTP/1.1 hdr Host {BALANCER_NAME}
  http-check expect string running
  default-server check check-ssl verify required ca-file {directory}/ca.pem inter 1s fall 3 rise 2 \
         on-marked-down shutdown-sessions
"
    );
    for compiler in compilers {
        let (name, address, certname) = (compiler.name(), compiler.address(), compiler.certname());
        text.push_str(&format!("  server {name} {address}:8140 verifyhost {certname}\n"));
    }
    text
}

/// Columns are found by their header: their number changes with HAProxy's version.
fn parse_statistics(csv: &str) -> Result<Vec<ServerState>> {
    let mut lines = csv.lines();
    let header =
        lines.next().and_then(|line| line.strip_prefix("# ")).context("statistics without a header")?;
    let column = |name: &str| {
        let found = header.split(',').position(|column| column == name);
        found.with_context(|| format!("statistics without a column {name}"))
    };
    let (proxy, name, status) = (column("pxname")?, column("svname")?, column("status")?);
    let (current, total) = (column("scur")?, column("stot")?);

    let mut servers = Vec::new();
    for line in lines {
        let fields: Vec<&str> = line.split(',').collect();
        let field = |column: usize| fields.get(column).copied().unwrap_or_default();
        if field(proxy) != BACKEND || field(name) == "BACKEND" {
            continue;
        }
        servers.push(ServerState {
            name: field(name).to_owned(),
            status: field(status).to_owned(),
            current_sessions: field(current).parse().context("sessions are not a number")?,
            total_sessions: field(total).parse().context("sessions are not a number")?,
        });
    }
    Ok(servers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_by_column_name_and_only_for_the_compilers() {
        let csv = "# pxname,svname,scur,stot,status,weight\n\
                   puppet,FRONTEND,9,9,OPEN,\n\
                   compilers,c1,2,7,DRAIN 2/3,1\n\
                   compilers,BACKEND,2,7,UP,1\n\n";
        let c1 = ServerState {
            name: "c1".to_owned(),
            status: "DRAIN 2/3".to_owned(),
            current_sessions: 2,
            total_sessions: 7,
        };
        assert_eq!(parse_statistics(csv).unwrap(), [c1]);
    }

    #[test]
    fn statistics_without_a_needed_column_are_an_error() {
        assert!(parse_statistics("# pxname,svname,scur,stot\n").is_err());
    }
}
