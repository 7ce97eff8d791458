//! The controller's accept loop: one port, the ClientHello's ALPN picks the door, and no peer can keep another one
//! out. Called once by the controller; it knows nothing of what is served behind the doors.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bunraku_common::Chain;
use rustls::{ServerConfig, pki_types::CertificateDer, server::Acceptor};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{sleep, timeout},
};
use tokio_rustls::{LazyConfigAcceptor, StartHandshake, server::TlsStream};

use crate::{
    addresses::{Addresses, Place},
    alpn::Door,
    peer::PeerIdentity,
    stream::Held,
};

pub use crate::addresses::{Limits, Source};

/// The configuration behind each door; a door without one is closed. Swapped as a whole while the loop runs.
#[derive(Clone, Debug, Default)]
pub struct Doors {
    pub node: Option<Arc<ServerConfig>>,
    pub h2: Option<Arc<ServerConfig>>,
    pub enroll: Option<Arc<ServerConfig>>,
    pub enroll_puppet: Option<Arc<ServerConfig>>,
}

impl Doors {
    fn behind(&self, door: Door) -> Option<Arc<ServerConfig>> {
        match door {
            Door::Node => self.node.clone(),
            Door::H2 => self.h2.clone(),
            Door::Enroll => self.enroll.clone(),
            Door::EnrollPuppet => self.enroll_puppet.clone(),
        }
    }
}

/// Who is at the other end of an accepted connection.
#[derive(Clone, Debug)]
pub struct Caller {
    pub door: Door,
    /// At the mesh doors.
    pub peer: Option<PeerIdentity>,
    /// The certificate that the caller proved to hold; Puppet's at the door [`Door::EnrollPuppet`].
    pub certificate: Option<CertificateDer<'static>>,
    pub address: SocketAddr,
    pub source: Source,
}

impl Caller {
    /// The caller of a request that [`serve_h2`](crate::serve::serve_h2) took in.
    pub fn of<T>(request: &tonic::Request<T>) -> Option<&Self> {
        request.extensions().get::<Arc<Self>>().map(AsRef::as_ref)
    }
}

/// A connection past its handshake. The stream counts as one of its source address until it is dropped.
#[derive(Debug)]
pub struct Accepted {
    pub caller: Caller,
    pub stream: Held<TlsStream<TcpStream>>,
}

/// Accepts for ever; drop the future to stop. Each connection has a task of its own, in which `handler` runs.
pub async fn accept<H, F>(listener: TcpListener, doors: Arc<ArcSwap<Doors>>, limits: Limits, handler: H)
where
    H: Fn(Accepted) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    let addresses = Addresses::new(limits);
    let handshakes = Arc::new(Semaphore::new(limits.handshakes));
    let known = Arc::new(Semaphore::new(limits.handshakes));
    let enrolling = Arc::new(Semaphore::new(limits.enrolling));
    loop {
        let (tcp, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                pause_after(&error).await;
                continue;
            }
        };
        // Per address first: otherwise one address fills the places of all.
        let Some(place) = addresses.enter(address.ip()) else {
            continue;
        };
        // Strangers have the ones, addresses with a mesh peer the others: whoever floods, nodes come back.
        let handshakes = Arc::clone(if place.is_stranger() { &handshakes } else { &known });
        let (doors, enrolling) = (Arc::clone(&doors), Arc::clone(&enrolling));
        let entrance = Entrance { doors, handshakes, enrolling, limits, address };
        let handler = handler.clone();
        tokio::spawn(async move {
            if let Some(accepted) = entrance.pass(tcp, place).await {
                handler(accepted).await;
            }
        });
    }
}

/// Out of descriptors (EMFILE, ENFILE) accept fails at once and again: going on without a pause would burn a core.
/// An error that belongs to one connection (it was reset before we took it) needs none, and a short one does no harm.
async fn pause_after(error: &io::Error) {
    tracing::warn!(error = %Chain(error), "could not accept a connection");
    sleep(ACCEPT_PAUSE).await;
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// The limit of a handshake while more than half of all places are taken: peers that are slow on purpose lose theirs
/// soon, and a peer over a bad link still gets its three round trips.
const CROWDED: Duration = Duration::from_secs(2);

/// One connection on its way in.
struct Entrance {
    doors: Arc<ArcSwap<Doors>>,
    handshakes: Arc<Semaphore>,
    enrolling: Arc<Semaphore>,
    limits: Limits,
    address: SocketAddr,
}

impl Entrance {
    async fn pass(&self, tcp: TcpStream, place: Place) -> Option<Accepted> {
        match self.shake_hands(tcp, &place).await {
            Ok((door, stream, enrolling)) => self.welcome(door, stream, place, enrolling),
            Err(refused) => {
                tracing::debug!(address = %self.address, reason = %refused, "refused a connection");
                if refused.counts() {
                    place.source().failed();
                }
                None
            }
        }
    }

    async fn shake_hands(
        &self,
        tcp: TcpStream,
        place: &Place,
    ) -> Result<(Door, TlsStream<TcpStream>, Option<OwnedSemaphorePermit>), Refused> {
        let patience = self.limits.handshake;
        let (_turn, _permit, limit) = timeout(patience, async {
            let turn = place.turn().await;
            let crowded = self.handshakes.available_permits() < self.limits.handshakes / 2;
            let permit = self.handshakes.acquire().await.expect("the semaphore is never closed");
            (turn, permit, if crowded { CROWDED.min(patience) } else { patience })
        })
        .await
        .map_err(|_| Refused::Waited)?;
        timeout(limit, async {
            tcp.set_nodelay(true)?;
            let start = LazyConfigAcceptor::new(Acceptor::default(), tcp).await?;
            let (door, config) = self.choose(&start)?;
            // Before the signature, which is what costs.
            let enrolling = self.may_enrol(door)?;
            Ok((door, start.into_stream(config).await?, enrolling))
        })
        .await
        .unwrap_or(Err(Refused::Slow))
    }

    fn choose(&self, start: &StartHandshake<TcpStream>) -> Result<(Door, Arc<ServerConfig>), Refused> {
        let hello = start.client_hello();
        let door = hello.alpn().into_iter().flatten().find_map(Door::from_alpn).ok_or(Refused::NoDoor)?;
        let config = self.doors.load().behind(door).ok_or(Refused::Closed(door))?;
        Ok((door, config))
    }

    /// Those doors are open to everybody.
    fn may_enrol(&self, door: Door) -> Result<Option<OwnedSemaphorePermit>, Refused> {
        match door {
            Door::Node | Door::H2 => Ok(None),
            Door::Enroll | Door::EnrollPuppet => {
                Arc::clone(&self.enrolling).try_acquire_owned().map(Some).map_err(|_| Refused::Crowded(door))
            }
        }
    }

    fn welcome(
        &self,
        door: Door,
        stream: TlsStream<TcpStream>,
        mut place: Place,
        enrolling: Option<OwnedSemaphorePermit>,
    ) -> Option<Accepted> {
        place.settled();
        let certificate = stream.get_ref().1.peer_certificates().and_then(|c| c.first()).cloned();
        let peer = match door {
            Door::Node | Door::H2 => {
                // The verifier has read it before, so this cannot fail for a peer that came this far.
                let peer = PeerIdentity::from_certificate(certificate.as_ref()?).ok()?;
                place.is_peer();
                Some(peer)
            }
            Door::Enroll | Door::EnrollPuppet => None,
        };
        let caller = Caller { door, peer, certificate, address: self.address, source: place.source() };
        Some(Accepted { caller, stream: Held::new(stream, place, enrolling) })
    }
}

/// Why a connection was refused before anybody was asked.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("it asked for no protocol that is served here")]
    NoDoor,
    #[error("the door {0} is closed")]
    Closed(Door),
    #[error("too many enrol at the door {0}")]
    Crowded(Door),
    #[error("too many others were before it")]
    Waited,
    #[error("its handshake took too long")]
    Slow,
    #[error("handshake: {0}")]
    Handshake(#[from] io::Error),
}

impl Refused {
    /// Whether it speaks against the source address. A peer that just goes away (a health check of a TCP proxy, a
    /// node that was killed), one that never got its turn, and a door that we closed ourselves do not.
    fn counts(&self) -> bool {
        match self {
            Self::NoDoor | Self::Slow => true,
            Self::Closed(_) | Self::Crowded(_) | Self::Waited => false,
            Self::Handshake(error) => error.kind() == io::ErrorKind::InvalidData,
        }
    }
}
