//! Balancers: a real HAProxy or nginx before stand-ins for the compilers' ports, and the node agent beside it.

use std::{
    fs,
    io::Write as _,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bunraku_agent::BalancerConfig;
use rustix::process::Signal;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UnixStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{Node, authority::Authority, nginx::Nginx, until};
use crate::process::Service;

pub(super) const PORT: u16 = 8140;
pub(super) const BACKEND: &str = "puppet";

/// A load balancer: its program and its node agent.
#[derive(Debug)]
pub struct Balancer {
    pub(super) node: Node,
    pub(super) program: Program,
}

#[derive(Debug)]
pub(super) enum Program {
    Haproxy(Haproxy),
    Nginx(Nginx),
}

impl Balancer {
    pub fn node(&self) -> &Node {
        &self.node
    }

    pub fn haproxy(&self) -> &Haproxy {
        match &self.program {
            Program::Haproxy(haproxy) => haproxy,
            Program::Nginx(_) => panic!("{} is nginx", self.node.name()),
        }
    }

    pub fn haproxy_mut(&mut self) -> &mut Haproxy {
        match &mut self.program {
            Program::Haproxy(haproxy) => haproxy,
            Program::Nginx(_) => panic!("{} is nginx", self.node.name()),
        }
    }

    pub fn nginx(&self) -> &Nginx {
        match &self.program {
            Program::Nginx(nginx) => nginx,
            Program::Haproxy(_) => panic!("{} is HAProxy", self.node.name()),
        }
    }
}

/// Where a compiler is reached: a TCP server that holds every connection until the client ends it. To one that begins
/// with TLS it says that it is well, whatever the question was.
#[derive(Debug)]
pub(super) struct Port {
    compiler: String,
    address: SocketAddr,
    held: Arc<AtomicU32>,
    _tasks: JoinSet<()>,
}

impl Port {
    pub(super) fn open(compiler: &str, ip: Ipv4Addr, authority: &Authority) -> Self {
        let address = SocketAddr::from((ip, PORT));
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let listener = TcpListener::from_std(listener).unwrap();
        let tls = TlsAcceptor::from(Arc::new(authority.open_config(&authority.issue(compiler))));
        let held = Arc::new(AtomicU32::new(0));
        let mut tasks = JoinSet::new();
        let count = held.clone();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                let (tls, count) = (tls.clone(), count.clone());
                connections.spawn(async move {
                    let _until_the_client_ends_it = serve(stream, tls, &count).await;
                });
                while connections.try_join_next().is_some() {}
            }
        });
        Self { compiler: compiler.to_owned(), address, held, _tasks: tasks }
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections that are held now; health checks are none.
    pub(super) fn held(&self) -> Arc<AtomicU32> {
        self.held.clone()
    }

    pub(super) fn compiler(&self) -> &str {
        &self.compiler
    }
}

async fn serve(mut stream: TcpStream, tls: TlsAcceptor, held: &AtomicU32) -> std::io::Result<()> {
    const TLS_HANDSHAKE: u8 = 22;
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Ok(());
    }
    if first == [TLS_HANDSHAKE] {
        let mut stream = tls.accept(stream).await?;
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await?);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nrunning").await?;
        return stream.shutdown().await;
    }
    held.fetch_add(1, Ordering::Relaxed);
    let (mut reads, mut writes) = stream.split();
    let ended = tokio::io::copy(&mut reads, &mut writes).await;
    held.fetch_sub(1, Ordering::Relaxed);
    ended.map(drop)
}

/// A Puppet agent's connection through a balancer: open until it is dropped.
pub(super) async fn session(balancer: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(balancer).await.unwrap();
    // Echoed by the server: now the balancer has chosen one.
    stream.write_all(b"x").await.unwrap();
    stream.read_exact(&mut [0]).await.unwrap();
    stream
}

/// HAProxy with one frontend, and one backend with a server for each compiler.
#[derive(Debug)]
pub struct Haproxy {
    dir: PathBuf,
    address: SocketAddr,
    compilers: Vec<String>,
    service: Option<Service>,
}

impl Haproxy {
    pub(super) async fn start(dir: &Path, ip: Ipv4Addr, ports: &[&Port]) -> Self {
        fs::create_dir_all(dir).unwrap();
        let address = SocketAddr::from((ip, PORT));
        let d = dir.display();
        let mut config = format!(
            "global\n  stats socket {d}/admin.sock mode 600 level admin expose-fd listeners\n  server-state-file {d}/state\n\
             defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 5m\n  timeout server 5m\n  \
             load-server-state-from-file global\n\
             frontend agents\n  bind {address}\n  default_backend {BACKEND}\n\
             backend {BACKEND}\n  balance roundrobin\n  default-server check inter 100ms fall 2 rise 1\n"
        );
        for port in ports {
            config.push_str(&format!("  server {} {}\n", port.compiler, port.address));
        }
        fs::File::create(dir.join("haproxy.cfg")).unwrap().write_all(config.as_bytes()).unwrap();
        fs::write(dir.join("state"), "").unwrap();
        let compilers = ports.iter().map(|port| port.compiler.clone()).collect();
        let mut haproxy = Self { dir: dir.into(), address, compilers, service: None };
        haproxy.run().await;
        haproxy
    }

    async fn run(&mut self) {
        let dir = &self.dir;
        let mut command = Command::new("haproxy");
        command
            .arg("-W")
            .arg("-db")
            .arg("-S")
            .arg(dir.join("master.sock"))
            .arg("-f")
            .arg(dir.join("haproxy.cfg"));
        self.service = Some(Service::spawn("haproxy", &mut command, &dir.join("log.txt")).unwrap());
        until("HAProxy answers", || async { self.ask("show info").await.is_some() }).await;
    }

    /// It ends and is started again without the file in which it finds what was wanted before.
    pub async fn restart_without_memory(&mut self) {
        self.stop();
        fs::write(self.dir.join("state"), "").unwrap();
        self.run().await;
    }

    fn stop(&mut self) {
        // Its worker ends with the master only when that is asked.
        if let Some(service) = self.service.take()
            && service.signal(Signal::TERM).is_ok()
        {
            let _killed_if_it_hangs = service.stop(Duration::from_secs(5));
        }
    }

    /// As an operator writes it for the node agent.
    pub(super) fn mapping(&self) -> BalancerConfig {
        let d = self.dir.display();
        let mapped = self.compilers.iter().map(|name| format!("'{name}' = ['{BACKEND}/{name}']\n"));
        toml::from_str(&format!(
            "driver = 'haproxy'\n[compilers]\n{}[haproxy]\nsocket = '{d}/admin.sock'\n\
             master_socket = '{d}/master.sock'\nstate_file = '{d}/state'\n",
            mapped.collect::<String>()
        ))
        .unwrap()
    }

    /// A Puppet agent's connection: open until it is dropped.
    pub async fn session(&self) -> TcpStream {
        session(self.address).await
    }

    /// What HAProxy itself shows of the compiler: `UP`, `DRAIN`, `MAINT`, ….
    pub async fn shows(&self, compiler: &str) -> String {
        self.field(compiler, "status").await
    }

    /// Its open sessions; None while HAProxy does not say.
    pub async fn sessions(&self, compiler: &str) -> Option<u64> {
        self.field(compiler, "scur").await.parse().ok()
    }

    async fn field(&self, compiler: &str, head: &str) -> String {
        let statistics = self.ask("show stat").await.unwrap_or_default();
        let mut lines = statistics.lines();
        let heads = lines.next().unwrap_or_default();
        let at = heads.split(',').position(|known| known == head).unwrap_or_default();
        let own = format!("{BACKEND},{compiler},");
        let line = lines.find(|line| line.starts_with(&own));
        line.and_then(|line| line.split(',').nth(at)).unwrap_or_default().to_owned()
    }

    /// How many compilers HAProxy itself shows in service.
    pub async fn up(&self) -> usize {
        let statistics = self.ask("show stat").await.unwrap_or_default();
        let mut lines = statistics.lines();
        let heads = lines.next().unwrap_or_default();
        let status = heads.split(',').position(|head| head == "status").unwrap_or_default();
        let own = format!("{BACKEND},");
        let servers = lines.filter(|line| line.starts_with(&own) && !line.contains(",BACKEND,"));
        servers.filter(|line| line.split(',').nth(status) == Some("UP")).count()
    }

    /// `set server …`, as somebody does who does not know of Bunraku.
    pub async fn set(&self, compiler: &str, state: &str) {
        let answer = self.ask(&format!("set server {BACKEND}/{compiler} state {state}")).await.unwrap();
        assert_eq!(answer.trim(), "");
    }

    async fn ask(&self, command: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.dir.join("admin.sock")).await.ok()?;
        stream.write_all(format!("{command}\n").as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    }
}

impl Drop for Haproxy {
    fn drop(&mut self) {
        self.stop();
    }
}
