//! Whether anybody still talks to Puppet Server: the established connections on its port, by who holds them.
//!
//! The other half, the JRuby pool, is [`bunraku_puppetserver::PuppetServer::pool`].

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::{Path, PathBuf},
};

/// Where the server listens; an unspecified address stands for all of this host's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening(pub SocketAddr);

/// How many connections each remote address holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Connections(pub BTreeMap<IpAddr, usize>);

#[derive(Debug, thiserror::Error)]
#[error("could not read the list of connections in {}", path.display())]
pub struct ConnectionsError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

impl Listening {
    /// The connections that are established at this moment; one that the server has not accepted yet counts, and this
    /// process's own do not.
    pub async fn connections(self) -> Result<Connections, ConnectionsError> {
        tokio::task::spawn_blocking(move || self.read(&own_sockets())).await.unwrap_or_else(|error| {
            Err(ConnectionsError { path: "/proc/net".into(), source: io::Error::other(error) })
        })
    }

    /// `own`: inodes of the sockets whose connections do not count.
    fn read(self, own: &BTreeSet<u64>) -> Result<Connections, ConnectionsError> {
        let mut connections = Connections::default();
        let mut ours = BTreeSet::new();
        let mut theirs = Vec::new();
        for path in ["/proc/net/tcp", "/proc/net/tcp6"].map(Path::new) {
            let text = match fs::read_to_string(path) {
                // A kernel without IPv6.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                read => read.map_err(|source| ConnectionsError { path: path.into(), source })?,
            };
            for Established { local, remote, inode } in text.lines().skip(1).filter_map(established) {
                if own.contains(&inode) {
                    ours.insert((local, remote));
                }
                if self.is_at(local) {
                    theirs.push((remote, local));
                }
            }
        }
        // Each has two ends on this host where it was made here.
        for (remote, _) in theirs.into_iter().filter(|ends| !ours.contains(ends)) {
            *connections.0.entry(remote.ip()).or_default() += 1;
        }
        Ok(connections)
    }

    fn is_at(self, local: SocketAddr) -> bool {
        let own = self.0.ip();
        local.port() == self.0.port() && (own.is_unspecified() || own.to_canonical() == local.ip())
    }
}

impl Connections {
    pub fn total(&self) -> usize {
        self.0.values().sum()
    }

    /// Those held by one of these addresses, such as the balancers'.
    pub fn held_by(&self, addresses: &[IpAddr]) -> usize {
        addresses.iter().filter_map(|address| self.0.get(&address.to_canonical())).sum()
    }
}

/// A line's connection.
struct Established {
    local: SocketAddr,
    remote: SocketAddr,
    inode: u64,
}

/// `None`: it is not established.
fn established(line: &str) -> Option<Established> {
    const ESTABLISHED: &str = "01";
    let mut fields = line.split_whitespace().skip(1);
    let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    if state != ESTABLISHED {
        return None;
    }
    let inode = fields.nth(5).and_then(|inode| inode.parse().ok()).unwrap_or(0);
    Some(Established { local: address(local)?, remote: address(remote)?, inode })
}

/// Inodes of the sockets that this process holds.
fn own_sockets() -> BTreeSet<u64> {
    let inode = |entry: fs::DirEntry| {
        let target = fs::read_link(entry.path()).ok()?;
        target.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
    };
    fs::read_dir("/proc/self/fd").map(|held| held.flatten().filter_map(inode).collect()).unwrap_or_default()
}

/// `0100007F:1FCC`: words of 32 bits in this machine's order, and the port.
fn address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let word = |at: usize| Some(u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok()?.to_ne_bytes());
    let ip = match ip.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?];
            Ipv6Addr::from(<[u8; 16]>::try_from(words.concat()).ok()?).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

#[cfg(test)]
mod tests {
    use tokio::net::{TcpListener, TcpSocket, TcpStream};

    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    /// Also what this process holds, which plays both parts.
    fn seen(listening: Listening) -> Connections {
        listening.read(&BTreeSet::new()).unwrap()
    }

    async fn from(source: &str, to: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::new(ip(source), 0)).unwrap();
        socket.connect(to).await.unwrap()
    }

    #[tokio::test]
    async fn connections_are_counted_by_who_holds_them_until_they_end() {
        let server = TcpListener::bind("127.0.9.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let other = TcpListener::bind(SocketAddr::new(ip("127.0.9.2"), address.port())).await.unwrap();
        let listening = Listening(address);
        assert_eq!(seen(listening).total(), 0, "listening is no connection");

        let one = from("127.0.9.11", address).await;
        let two = from("127.0.9.11", address).await;
        let not_accepted = from("127.0.9.12", address).await;
        let elsewhere = from("127.0.9.11", other.local_addr().unwrap()).await;
        let (first, _) = server.accept().await.unwrap();
        let held = seen(listening);
        assert_eq!(held.0, BTreeMap::from([(ip("127.0.9.11"), 2), (ip("127.0.9.12"), 1)]));
        assert_eq!((held.held_by(&[ip("127.0.9.11"), ip("127.0.9.99")]), held.total()), (2, 3));
        let anywhere = Listening(SocketAddr::new(ip("0.0.0.0"), address.port()));
        // Somebody else's connection may have the same port at another address.
        let held = seen(anywhere);
        assert_eq!((held.held_by(&[ip("127.0.9.11")]), held.held_by(&[ip("127.0.9.12")])), (3, 1));

        drop((one, two, not_accepted, first, elsewhere));
        drop(server);
        // The kernel ends them by itself.
        let ended = async {
            while seen(listening).total() > 0 {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(std::time::Duration::from_secs(30), ended).await.unwrap();
    }

    /// The agent asks Puppet Server, too, while it watches it run empty.
    #[tokio::test]
    async fn what_this_process_asks_for_itself_is_nobody_who_is_served() {
        let server = TcpListener::bind("127.0.9.4:0").await.unwrap();
        let listening = Listening(server.local_addr().unwrap());
        let own = from("127.0.9.14", server.local_addr().unwrap()).await;
        let (accepted, _) = server.accept().await.unwrap();
        assert_eq!(seen(listening).total(), 1);
        assert_eq!(listening.connections().await.unwrap().total(), 0);
        drop((own, accepted));
    }

    #[tokio::test]
    async fn a_java_server_listens_with_ipv6_and_its_ipv4_callers_are_seen() {
        let Ok(server) = TcpListener::bind("[::]:0").await else { return };
        let to = SocketAddr::new(ip("127.0.9.3"), server.local_addr().unwrap().port());
        let caller = from("127.0.9.13", to).await;
        let held = seen(Listening(to));
        assert_eq!(held.0, BTreeMap::from([(ip("127.0.9.13"), 1)]));
        drop(caller);
    }

    #[test]
    fn only_established_lines_count_and_strange_ones_are_left_out() {
        let line =
            |state: &str| format!(" 0: 0100007F:1FCC 0200007F:A000 {state} 00000000:00000000 00:0 0 0 0 7 1");
        let known = established(&line("01")).unwrap();
        assert_eq!((known.local.port(), known.remote.port(), known.inode), (8140, 0xA000, 7));
        assert!(established(&line("08")).is_none());
        assert!(established(" 0: 01007F:1FCC 0200007F:A000 01").is_none());
        assert!(established(" 0: é10007F:1FCC 0200007F:A000 01").is_none());
    }
}
