//! T16, F18: peers that connect and say nothing, or speak a byte at a time.

use std::time::{Duration, Instant};

use bunraku_proto::{Door, v1};
use bunraku_tests::fleet::{Fleet, MainServer, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::raw::{Client, operator, soon, stolen_node};

const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// So long an attack is measured: before the limits of handshakes end it.
const ATTACK: Duration = Duration::from_secs(8);

/// The slowest but one of sixty good calls: on a connection that stands, and with a fresh handshake for each.
async fn slowest(client: &Client) -> [Duration; 2] {
    let mut standing = client.control();
    standing.status(v1::StatusRequest {}).await.unwrap();
    let mut all = [Vec::new(), Vec::new()];
    for _ in 0..60 {
        for (fresh, measured) in all.iter_mut().enumerate() {
            let asked = Instant::now();
            let mut control = if fresh == 1 { client.control() } else { standing.clone() };
            soon("a good call", control.status(v1::StatusRequest {})).await.unwrap();
            measured.push(asked.elapsed());
        }
    }
    all.map(|mut measured| {
        measured.sort();
        measured[58]
    })
}

/// Good calls take less than 100 ms while the attack goes on, and what they took before it. Other work on the machine
/// passes and comes; what an attack takes away is taken all the time: the calmest round counts.
async fn are_unharmed(good: &Client, calm: [Duration; 2]) {
    let end = Instant::now() + ATTACK;
    loop {
        let now = slowest(good).await;
        if now.iter().zip(calm).all(|(now, calm)| *now < Duration::from_millis(100) + 2 * calm) {
            return;
        }
        assert!(Instant::now() < end, "[standing, fresh]: {now:?}, were {calm:?}");
    }
}

async fn honest(main: &MainServer) -> Client {
    let ann = operator(main, "ann", "viewer").await;
    Client::new(main, Door::H2, Some(&ann)).from(201)
}

#[tokio::test(flavor = "multi_thread")]
async fn t16_f18_five_thousand_silent_peers_keep_no_good_call_waiting() {
    let fleet = Fleet::new().nodes(1).up().await;
    let main = fleet.main();
    let good = honest(main).await;
    let calm = slowest(&good).await;
    let mut peers = Vec::new();
    for number in 0..5000_u32 {
        let client = Client::new(main, Door::H2, None).from(100 + (number % 40) as u8);
        let mut peer = client.tcp().await.unwrap();
        match number % 4 {
            // Nothing; the beginning of a record; the beginning of a hello.
            0 | 1 => {}
            2 => peer.write_all(&[0x16]).await.unwrap(),
            _ => peer.write_all(&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc]).await.unwrap(),
        }
        peers.push(peer);
    }
    are_unharmed(&good, calm).await;
    fleet.deploy_change("production", "in the midst of them").await;
    let mut first = peers.remove(0);
    soon("the silent are closed", async { while !matches!(first.read(&mut [0]).await, Ok(0) | Err(_)) {} })
        .await;
    drop(peers);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn t16_f18_slowloris_behind_the_tls_handshake_keeps_no_good_call_waiting() {
    let fleet = Fleet::new().nodes(1).up().await;
    let main = fleet.main();
    let good = honest(main).await;
    let calm = slowest(&good).await;
    let thief = stolen_node(main, "c9").await;
    let mut peers = tokio::task::JoinSet::new();
    for number in 0..120_u8 {
        let (door, holder) = match number % 3 {
            0 => (Door::Enroll, None),
            1 => (Door::H2, Some(&thief)),
            _ => (Door::Node, Some(&thief)),
        };
        let client = Client::new(main, door, holder).from(100 + number % 12);
        peers.spawn(async move {
            let Ok(mut io) = client.dial().await else { return };
            // HTTP/2 at a byte every tenth of a second, and then a header that never ends.
            let endless = [HTTP2, &[0, 0x40, 0, 1, 0, 0, 0, 0, 1]].concat();
            for byte in endless.into_iter().chain(std::iter::repeat(0)) {
                if io.write_all(&[byte]).await.is_err() || io.flush().await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        });
    }
    are_unharmed(&good, calm).await;
    fleet.deploy_change("production", "in the midst of them").await;
    peers.abort_all();
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn i10_one_identity_has_no_more_connections_than_it_can_use() {
    let fleet = Fleet::new().nodes(1).up().await;
    let main = fleet.main();
    let thief = stolen_node(main, "c9").await;
    let mut open = Vec::new();
    for number in 0..200_u8 {
        let client = Client::new(main, Door::H2, Some(&thief)).from(100 + number % 20);
        let mut io = client.dial().await.unwrap();
        let _it_may_be_refused_already = io.write_all(HTTP2).await;
        open.push(tokio::spawn(
            async move { while !matches!(io.read(&mut [0; 256]).await, Ok(0) | Err(_)) {} },
        ));
    }
    let left = || open.iter().filter(|peer| !peer.is_finished()).count();
    // Before the keepalive ends them for their silence.
    let soon = Duration::from_secs(10);
    let few = tokio::time::timeout(soon, until("most of them are closed", || async { left() <= 64 })).await;
    assert!(few.is_ok(), "{} are open", left());
    assert!(left() > 0, "some are served");
    for peer in open {
        peer.abort();
    }
    assert!(main.node("c1").await.connected);
    fleet.end().await;
}
