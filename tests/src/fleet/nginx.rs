//! A real nginx with its stream module before stand-ins for the compilers' ports.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use bunraku_agent::BalancerConfig;
use rustix::process::Signal;
use tokio::net::TcpStream;

use super::balancer::{BACKEND, PORT, Port, session};
use crate::process::Service;

/// Where it says which file it has loaded.
const PROBE: u16 = 8141;

/// nginx with one server, and one upstream whose file the node agent writes.
#[derive(Debug)]
pub struct Nginx {
    dir: PathBuf,
    address: SocketAddr,
    servers: Vec<(String, SocketAddr)>,
    service: Option<Service>,
}

impl Nginx {
    /// Its configuration; `ca` is that of the compilers.
    pub(super) fn prepare(dir: &Path, ip: Ipv4Addr, ports: &[&Port], ca: &str) -> Self {
        fs::create_dir_all(dir).unwrap();
        let address = SocketAddr::from((ip, PORT));
        let d = dir.display();
        let config = format!(
            "load_module /usr/lib/nginx/modules/ngx_stream_module.so;\ndaemon off;\nworker_processes 2;\n\
             pid {d}/nginx.pid;\nerror_log {d}/error.log;\nevents {{}}\nstream {{\n  include {d}/upstreams.conf;\n\
             \x20 server {{ listen {address}; proxy_pass {BACKEND}; }}\n}}\n"
        );
        fs::write(dir.join("nginx.conf"), config).unwrap();
        fs::write(dir.join("ca.pem"), ca).unwrap();
        let servers = ports.iter().map(|port| (port.compiler().to_owned(), port.address())).collect();
        Self { dir: dir.into(), address, servers, service: None }
    }

    /// Without the agent's file it would not start.
    pub(super) async fn run(&mut self) {
        let file = self.dir.join("upstreams.conf");
        super::until("the agent has written nginx's file", || async { file.exists() }).await;
        let mut command = Command::new("nginx");
        command.arg("-p").arg(&self.dir).arg("-e").arg(self.dir.join("error.log"));
        command.arg("-c").arg(self.dir.join("nginx.conf"));
        self.service = Some(Service::spawn("nginx", &mut command, &self.dir.join("log.txt")).unwrap());
    }

    /// As an operator writes it for the node agent.
    pub(super) fn mapping(&self) -> BalancerConfig {
        let (d, ip) = (self.dir.display(), self.address.ip());
        let each = |line: fn(&str, SocketAddr) -> String| {
            self.servers.iter().map(|(name, at)| line(name, *at)).collect::<String>()
        };
        toml::from_str(&format!(
            "driver = 'nginx'\n[compilers]\n{}[nginx]\ninclude = '{d}/upstreams.conf'\nprobe = '{ip}:{PROBE}'\n\
             ca = '{d}/ca.pem'\narguments = ['-p', '{d}', '-e', '{d}/error.log', '-c', '{d}/nginx.conf']\n\
             check_every_s = 1\nfall = 1\nrise = 1\n[nginx.servers]\n{}",
            each(|name, _| format!("'{name}' = ['{BACKEND}/{name}']\n")),
            each(|name, at| format!("'{BACKEND}/{name}' = '{at}'\n")),
        ))
        .unwrap()
    }

    /// A Puppet agent's connection: open until it is dropped.
    pub async fn session(&self) -> TcpStream {
        session(self.address).await
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its workers end with the master only when that is asked.
        if let Some(service) = self.service.take()
            && service.signal(Signal::TERM).is_ok()
        {
            let _killed_if_it_hangs = service.stop(Duration::from_secs(5));
        }
    }
}
