//! Every limit that protects a process from what comes in, in one place, with the reason for the number.

use std::time::Duration;

/// Longest name of one directory entry, as in every Linux file system.
pub const NAME_BYTES: usize = 255;
/// Longest path inside a snapshot: leaves room for the version directory below Linux's PATH_MAX of 4096.
pub const PATH_BYTES: usize = 3000;
/// Deepest directory inside a snapshot. Real module trees stay below 20.
pub const DEPTH: usize = 64;
/// Files, directories and links of one snapshot. Thirty times the largest environment that was measured.
pub const ENTRIES: usize = 1_000_000;
/// One file of a snapshot.
pub const BLOB_BYTES: u64 = 1 << 30;
/// One directory's encoded listing: 100,000 names of 150 bytes fit.
pub const TREE_BYTES: u64 = 32 << 20;
/// All files of one snapshot together.
pub const SNAPSHOT_BYTES: u64 = 16 << 30;

/// One gRPC message, decoding. Bulk travels in chunks far below it.
pub const MESSAGE_BYTES: usize = 4 << 20;
/// One order to a node. The largest carries Puppet's CRLs whole, a third of a million revoked certificates in 16 MiB
/// (`bunraku_certificates::BUNDLE_BYTES`), and some names beside them: a node must have all of them or none, so they are
/// not sent in parts.
pub const ORDER_BYTES: usize = (16 << 20) + (64 << 10);
/// One chunk of a pack on the wire.
pub const CHUNK_BYTES: usize = 64 << 10;
/// Packs of all nodes under way at once; more wait, in the order in which they asked. Each holds up to 3 MiB (half a MiB of
/// chunks, zstd's window and tables, the list of what is sent), so all of them three quarters of a GiB; so many slow
/// readers do not yet keep a fast one waiting, and more would not be faster than the network.
pub const PACKS: usize = 256;
/// Snapshots named in `have`: the live one and a few others that may share content with what is wanted.
pub const HAVES: usize = 8;
/// Retained snapshots named in one order; a node keeps five unless its operator wants more.
pub const RETAINED: usize = 64;

/// TLS handshake of a peer, from accept to the end. A node over a bad link needs three round trips.
pub const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a node waits for `Hello` on a fresh connection before it dials again.
pub const HELLO: Duration = Duration::from_secs(20);
/// HTTP/2 keepalive: tighter numbers cut healthy nodes on a loaded machine (measured: 5 s + 5 s lost 7,500 of 10,000).
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Handshakes under way at once from one source address; a NAT in front of a data centre still gets all nodes in.
pub const HANDSHAKES_PER_ADDRESS: usize = 16;
/// Handshakes under way at once in all.
pub const HANDSHAKES: usize = 256;
/// Connections in all of those who have not shown a mesh certificate, from addresses where nobody has: all nodes of the
/// largest fleet may come back at once to a controller that has just started, and each costs a few KiB. An address with a
/// mesh peer is outside of it, and has handshake places of its own.
pub const STRANGERS: usize = 16_384;
/// Connections at the two enrolment doors together; enrolling is one call of some milliseconds.
pub const ENROLLING: usize = 256;
/// How long an address where a mesh certificate was shown is remembered after its last such connection.
pub const KNOWN: Duration = Duration::from_secs(3600);
/// From the end of the handshake to the first HTTP/2 frame: keepalive begins only then. A client sends it at once.
pub const PREFACE: Duration = Duration::from_secs(10);
/// Failed handshakes and refused calls of one source address within a minute before it is made to wait.
pub const FAILURES_PER_MINUTE: u32 = 60;
/// Connections of one source address, open at once.
pub const CONNECTIONS_PER_ADDRESS: usize = 4096;
/// Concurrent streams that one HTTP/2 peer may open.
pub const STREAMS: u32 = 128;
/// The same at the enrolment doors: who enrols makes one call.
pub const ENROLL_STREAMS: u32 = 4;
/// Requests that wait for one environment's turn (one queued deploy each; the rest join it).
pub const QUEUE: usize = 4096;
/// The builder's own words kept for a deploy.
pub const OUTPUT_BYTES: usize = 64 << 10;
/// How long a node asks its Puppet Server whether it refuses what a new CRL revokes. Puppet Server has loaded one 0.3 to 0.7 s
/// after it came, and gives up on a broken one after 2.6 s (measured); whoever ordered the proof waits for the answer.
pub const CRL_PROOF: Duration = Duration::from_secs(8);
/// Alternative names in one request for a certificate, beside the host's own. A compiler has a handful; as many of the
/// longest still fit into what is read of one certificate.
pub const ALT_NAMES: usize = 64;
/// Files and servers each whose certificates one node shows.
pub const SHOWN_CERTIFICATES: usize = 32;
/// A TLS handshake that looks at a server's certificate. A Puppet Server on a loaded machine takes a second.
pub const SHOW: Duration = Duration::from_secs(5);
