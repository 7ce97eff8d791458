//! What each source address has open with us: handshakes, connections, failures. Bounded by the number of addresses
//! that have something open or failed within the last minute.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bunraku_common::limits;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// The limits of the accept loop.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Under way at once, of all addresses.
    pub handshakes: usize,
    /// Under way at once, of one address; some more wait for their turn.
    pub handshakes_per_address: usize,
    /// For the handshake, and before it as long again for waiting for its turn.
    pub handshake: Duration,
    pub connections_per_address: usize,
    /// Of all addresses without a mesh peer: everything that has not shown a mesh certificate.
    pub strangers: usize,
    /// At the enrolment doors, of all addresses.
    pub enrolling: usize,
    /// Failed handshakes and refused calls; then the address is turned away until the minute is over.
    pub failures_per_minute: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            handshakes: limits::HANDSHAKES,
            handshakes_per_address: limits::HANDSHAKES_PER_ADDRESS,
            handshake: limits::HANDSHAKE,
            connections_per_address: limits::CONNECTIONS_PER_ADDRESS,
            strangers: limits::STRANGERS,
            enrolling: limits::ENROLLING,
            failures_per_minute: limits::FAILURES_PER_MINUTE,
        }
    }
}

/// Connections of one address that may be accepted and not through their handshake: each costs a descriptor and
/// nothing else. Enough for all nodes behind one NAT to come back at once, in turns.
const WAITING_PER_ADDRESS: usize = 256;
const MINUTE: Duration = Duration::from_secs(60);

#[derive(Clone, Debug)]
pub(crate) struct Addresses {
    limits: Limits,
    book: Arc<Mutex<Book>>,
}

#[derive(Debug)]
struct Book {
    entries: HashMap<IpAddr, Entry>,
    strangers: usize,
    /// Entries are swept when there are more than this; doubled with what stays, so that sweeps stay rare.
    sweep_above: usize,
}

#[derive(Debug)]
struct Entry {
    turns: Arc<Semaphore>,
    waiting: usize,
    connections: usize,
    /// Connections that came through a mesh door, and when the last one of them ended.
    peers: usize,
    left: Option<Instant>,
    failures: u32,
    /// Failures count from here on.
    since: Instant,
}

impl Addresses {
    pub(crate) fn new(limits: Limits) -> Self {
        let book = Book { entries: HashMap::new(), strangers: 0, sweep_above: SWEEP_ABOVE };
        Self { limits, book: Arc::new(Mutex::new(book)) }
    }

    /// A place for one more connection of this address, or none.
    pub(crate) fn enter(&self, address: IpAddr) -> Option<Place> {
        let address = one_subscriber(address);
        let now = Instant::now();
        let mut book = self.lock();
        let book = &mut *book;
        let entry = book.entries.entry(address).or_insert_with(|| Entry {
            turns: Arc::new(Semaphore::new(self.limits.handshakes_per_address)),
            waiting: 0,
            connections: 0,
            peers: 0,
            left: None,
            failures: 0,
            since: now,
        });
        entry.forgive(now);
        let stranger = !entry.is_known(now);
        if stranger && book.strangers >= self.limits.strangers {
            if entry.forgotten(now) {
                book.entries.remove(&address);
            }
            return None;
        }
        if entry.failures >= self.limits.failures_per_minute
            || entry.waiting >= WAITING_PER_ADDRESS
            || entry.connections >= self.limits.connections_per_address
        {
            return None;
        }
        entry.waiting += 1;
        entry.connections += 1;
        let turns = Arc::clone(&entry.turns);
        book.strangers += usize::from(stranger);
        book.sweep(now);
        let source = Source { address, addresses: self.clone() };
        Some(Place {
            source,
            turns,
            waiting: true,
            standing: if stranger { Standing::Stranger } else { Standing::Known },
        })
    }

    fn lock(&self) -> MutexGuard<'_, Book> {
        // Counters are whole after every statement, so a panic elsewhere does not spoil them.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const SWEEP_ABOVE: usize = 1024;

impl Book {
    fn sweep(&mut self, now: Instant) {
        if self.entries.len() > self.sweep_above {
            self.entries.retain(|_, entry| !entry.forgotten(now));
            self.sweep_above = (2 * self.entries.len()).max(SWEEP_ABOVE);
        }
    }
}

impl Entry {
    fn forgive(&mut self, now: Instant) {
        if now.duration_since(self.since) >= MINUTE {
            self.failures = 0;
            self.since = now;
        }
    }

    /// Whether a mesh certificate was shown from here, not long ago.
    fn is_known(&self, now: Instant) -> bool {
        self.peers > 0 || self.left.is_some_and(|left| now.duration_since(left) < limits::KNOWN)
    }

    fn forgotten(&self, now: Instant) -> bool {
        self.connections == 0
            && !self.is_known(now)
            && (self.failures == 0 || now.duration_since(self.since) >= MINUTE)
    }
}

/// One subscriber owns a whole /64 of IPv6 addresses, and could come from a new one each time.
fn one_subscriber(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => IpAddr::V4(v4),
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX))),
    }
}

/// One connection's place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    source: Source,
    turns: Arc<Semaphore>,
    waiting: bool,
    standing: Standing,
}

/// What is known of a connection: it counts among all strangers, came from an address with a mesh peer, or is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Stranger,
    Known,
    Peer,
}

impl Place {
    pub(crate) fn source(&self) -> Source {
        self.source.clone()
    }

    /// Waits until this address has fewer handshakes under way than its limit.
    pub(crate) async fn turn(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.turns).acquire_owned().await.expect("the semaphore is never closed")
    }

    pub(crate) fn is_stranger(&self) -> bool {
        self.standing == Standing::Stranger
    }

    /// A mesh certificate was shown on this connection.
    pub(crate) fn is_peer(&mut self) {
        let mut book = self.source.addresses.lock();
        if self.standing == Standing::Stranger {
            book.strangers -= 1;
        }
        if let Some(entry) = book.entries.get_mut(&self.source.address)
            && self.standing != Standing::Peer
        {
            entry.peers += 1;
        }
        drop(book);
        self.standing = Standing::Peer;
    }

    /// The handshake is done.
    pub(crate) fn settled(&mut self) {
        if std::mem::take(&mut self.waiting)
            && let Some(entry) = self.source.addresses.lock().entries.get_mut(&self.source.address)
        {
            entry.waiting -= 1;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.settled();
        let mut book = self.source.addresses.lock();
        if self.standing == Standing::Stranger {
            book.strangers -= 1;
        }
        if let Some(entry) = book.entries.get_mut(&self.source.address) {
            entry.connections -= 1;
            if self.standing == Standing::Peer {
                entry.peers -= 1;
                entry.left = Some(Instant::now());
            }
            if entry.forgotten(Instant::now()) {
                book.entries.remove(&self.source.address);
            }
        }
    }
}

/// The source address of a connection, for whoever serves it to report refused calls (a wrong token).
#[derive(Clone)]
pub struct Source {
    address: IpAddr,
    addresses: Addresses,
}

impl Source {
    /// One more failure of this address; too many within a minute and it is turned away until the minute is over.
    pub fn failed(&self) {
        let now = Instant::now();
        let mut book = self.addresses.lock();
        let Some(entry) = book.entries.get_mut(&self.address) else { return };
        entry.forgive(now);
        entry.failures = entry.failures.saturating_add(1);
        if entry.failures == self.addresses.limits.failures_per_minute {
            tracing::warn!(address = %self.address, "too many failures within a minute: turned away until it is over");
        }
    }
}

impl std::fmt::Debug for Source {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Source({})", self.address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits() -> Limits {
        Limits {
            handshakes_per_address: 2,
            connections_per_address: 4,
            failures_per_minute: 3,
            ..Limits::default()
        }
    }

    fn address(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[tokio::test]
    async fn an_address_has_as_many_connections_as_its_limit_and_gets_places_back() {
        let addresses = Addresses::new(limits());
        let mut places: Vec<_> = (0..4).map(|_| addresses.enter(address("127.0.0.1")).unwrap()).collect();
        assert!(addresses.enter(address("127.0.0.1")).is_none());
        assert!(addresses.enter(address("127.0.0.2")).is_some());
        places.pop();
        assert!(addresses.enter(address("127.0.0.1")).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_that_failed_too_often_is_turned_away_until_the_minute_is_over() {
        let addresses = Addresses::new(limits());
        let place = addresses.enter(address("127.0.0.1")).unwrap();
        for _ in 0..3 {
            place.source().failed();
        }
        assert!(addresses.enter(address("127.0.0.1")).is_none());
        assert!(addresses.enter(address("127.0.0.2")).is_some());
        tokio::time::advance(MINUTE).await;
        assert!(addresses.enter(address("127.0.0.1")).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_outlive_the_connections_they_came_over() {
        let addresses = Addresses::new(limits());
        for _ in 0..3 {
            let place = addresses.enter(address("127.0.0.1")).unwrap();
            place.source().failed();
        }
        assert!(addresses.enter(address("127.0.0.1")).is_none());
    }

    #[tokio::test]
    async fn nothing_is_kept_of_an_address_that_left_without_failures() {
        let addresses = Addresses::new(limits());
        drop(addresses.enter(address("127.0.0.1")));
        assert!(addresses.lock().entries.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn i10_strangers_are_bounded_in_all_and_keep_no_address_with_a_mesh_peer_out() {
        let addresses = Addresses::new(Limits { strangers: 2, ..limits() });
        let mut peer = addresses.enter(address("127.0.0.1")).unwrap();
        peer.is_peer();
        let mut strangers: Vec<_> =
            ["127.0.1.1", "127.0.1.2"].map(|from| addresses.enter(address(from)).unwrap()).into();
        assert!(addresses.enter(address("127.0.1.3")).is_none());
        assert!(addresses.lock().entries.len() == 3, "nothing is kept of who was refused");
        assert!(addresses.enter(address("127.0.0.1")).is_some_and(|place| !place.is_stranger()));
        drop(peer);
        tokio::time::advance(limits::KNOWN / 2).await;
        assert!(addresses.enter(address("127.0.0.1")).is_some(), "it may come back after a while");
        tokio::time::advance(limits::KNOWN / 2).await;
        assert!(addresses.enter(address("127.0.0.1")).is_none());
        strangers.pop();
        let mut enters = addresses.enter(address("127.0.0.1")).unwrap();
        assert!(enters.is_stranger());
        enters.is_peer();
        assert!(addresses.enter(address("127.0.1.3")).is_some(), "who is a peer is no stranger any more");
        drop((strangers, enters));
        assert_eq!(addresses.lock().strangers, 0);
    }

    #[test]
    fn a_subscriber_with_many_ipv6_addresses_is_one_source() {
        assert_eq!(one_subscriber(address("2001:db8::1")), one_subscriber(address("2001:db8::ffff:1")));
        assert_ne!(one_subscriber(address("2001:db8:0:1::1")), one_subscriber(address("2001:db8::1")));
        assert_eq!(one_subscriber(address("::ffff:127.0.0.1")), address("127.0.0.1"));
    }
}
