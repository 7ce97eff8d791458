//! Active health checks, which the free nginx does not have: Puppet Server's status, asked by this agent over TLS. They
//! need no controller.

use std::{collections::BTreeMap, net::SocketAddr, path::Path, sync::Arc, time::Duration};

use bunraku_common::NodeName;
use rustls::{
    ClientConfig, RootCertStore,
    crypto::ring,
    pki_types::{CertificateDer, ServerName as TlsName, pem::PemObject},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::include::{Mark, Marks};
use crate::{
    driver::{Admin, Health, Trouble},
    name::ServerName,
};

/// A server that takes longer than this to say that it runs is not one to send agents to.
const DEADLINE: Duration = Duration::from_secs(3);

/// What the checks of one server have shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Checked {
    pub health: Health,
    /// Checks in a row that contradict `health`.
    against: u32,
}

impl Default for Checked {
    fn default() -> Self {
        Self { health: Health::Unknown, against: 0 }
    }
}

impl Checked {
    /// One more check. The first good one is enough for a server of which nothing is known yet.
    pub(super) fn after(self, good: bool, fall: u32, rise: u32) -> Self {
        let (shown, needed) = match (good, self.health) {
            (true, Health::Unknown) => (Health::Up, 1),
            (true, Health::Up | Health::Down) => (Health::Up, rise),
            (false, _) => (Health::Down, fall),
        };
        if shown == self.health {
            return Self { against: 0, ..self };
        }
        let against = self.against + 1;
        if against >= needed { Self { health: shown, against: 0 } } else { Self { against, ..self } }
    }
}

/// The marks that health asks for. Where every ready server of an upstream fails, none is marked: the last server is
/// never marked down, and nginx's own passive checks go on.
pub(super) fn marked(marks: &Marks, checked: &BTreeMap<ServerName, Checked>) -> Marks {
    let is_down = |name: &ServerName| checked.get(name).is_some_and(|checked| checked.health == Health::Down);
    let some_are_left = |backend: &str| {
        let of_backend = marks.iter().filter(|(name, _)| name.backend() == backend);
        of_backend.filter(|(_, mark)| mark.admin() == Admin::Ready).any(|(name, _)| !is_down(name))
    };
    let mark = |(name, mark): (&ServerName, &Mark)| {
        let mark = match mark.admin() {
            Admin::Ready if is_down(name) && some_are_left(name.backend()) => Mark::Unhealthy,
            Admin::Ready => Mark::Ready,
            Admin::Drain | Admin::Maint => *mark,
        };
        (name.clone(), mark)
    };
    marks.iter().map(mark).collect()
}

/// Puppet's CA, as Puppet Server must prove itself by it.
pub(super) fn client(ca: &Path) -> Result<TlsConnector, Trouble> {
    let doing = format!("read Puppet's CA in {}", ca.display());
    let mut roots = RootCertStore::empty();
    let read = |error: rustls::pki_types::pem::Error| Trouble::io(&*doing)(std::io::Error::other(error));
    for certificate in CertificateDer::pem_file_iter(ca).map_err(read)? {
        let certificate = certificate.map_err(read)?;
        roots.add(certificate).map_err(|error| Trouble::io(&*doing)(std::io::Error::other(error)))?;
    }
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Trouble::io("use TLS")(std::io::Error::other(error)))?;
    let config = config.with_root_certificates(roots).with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Whether Puppet Server says that it runs.
pub(super) async fn is_well(client: &TlsConnector, address: SocketAddr, compiler: &NodeName) -> bool {
    matches!(timeout(DEADLINE, status(client, address, compiler)).await, Ok(Ok(true)))
}

async fn status(client: &TlsConnector, address: SocketAddr, compiler: &NodeName) -> std::io::Result<bool> {
    let name = TlsName::try_from(compiler.to_string()).map_err(std::io::Error::other)?;
    let stream = TcpStream::connect(address).await?;
    let mut stream = client.connect(name, stream).await?;
    // Jetty compares the host with the name in the TLS greeting.
    let request = format!("GET /status/v1/simple HTTP/1.1\r\nHost: {compiler}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    // 200 only when all services run.
    let mut first = [0; 12];
    stream.read_exact(&mut first).await?;
    Ok(first.starts_with(b"HTTP/1.") && first.ends_with(b" 200"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> ServerName {
        ServerName::parse(text).unwrap()
    }

    fn health(health: Health) -> Checked {
        Checked { health, against: 0 }
    }

    #[test]
    fn three_failures_in_a_row_are_a_fall_and_one_good_check_begins_again() {
        let mut checked = health(Health::Up);
        for good in [false, false, true, false, false] {
            checked = checked.after(good, 3, 2);
        }
        assert_eq!(checked.health, Health::Up);
        assert_eq!(checked.after(false, 3, 2).health, Health::Down);
        assert_eq!(health(Health::Down).after(true, 3, 2).health, Health::Down);
        assert_eq!(health(Health::Down).after(true, 3, 2).after(true, 3, 2).health, Health::Up);
    }

    #[test]
    fn i3_the_last_ready_server_is_never_marked_down() {
        let marks: Marks =
            [(name("p/c1"), Mark::Ready), (name("p/c2"), Mark::Ready), (name("p/c3"), Mark::Drain)].into();
        let mut checked: BTreeMap<_, _> = [
            (name("p/c1"), health(Health::Down)),
            (name("p/c2"), health(Health::Up)),
            (name("p/c3"), health(Health::Up)),
        ]
        .into();
        assert_eq!(marked(&marks, &checked)[&name("p/c1")], Mark::Unhealthy);
        checked.insert(name("p/c2"), health(Health::Down));
        assert_eq!(marked(&marks, &checked), marks, "a drained server is none that is left");
    }
}
