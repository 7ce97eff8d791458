//! No peer keeps another one out, and whatever bytes come in, the port goes on serving.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bunraku_proto::{
    Door,
    accept::{Accepted, Limits},
    dial::dial,
};
use proptest::{
    prelude::any,
    strategy::{Strategy, ValueTree},
    test_runner::TestRunner,
};
use support::{Fleet, Port, SOON, everybody, node, soon};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::mpsc,
};

async fn from(address: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((Ipv4Addr::from(address), 0).into())?;
    socket.connect(to).await
}

/// Whether the port closes this connection without a word.
async fn is_closed(stream: &mut TcpStream) -> bool {
    soon(stream.read_u8()).await.is_err()
}

async fn open(limits: Limits) -> (Fleet, Port, mpsc::UnboundedReceiver<Accepted>) {
    let fleet = Fleet::new("f");
    let (sender, receiver) = mpsc::unbounded_channel();
    let port = Port::open_with(fleet.doors(everybody(), Duration::ZERO), limits, move |accepted| {
        let _ = sender.send(accepted);
        async {}
    })
    .await;
    (fleet, port, receiver)
}

#[tokio::test]
async fn silent_peers_from_one_address_do_not_keep_another_address_out() {
    let (fleet, port, mut accepted) = open(Limits::default()).await;
    let mut silent = Vec::new();
    for _ in 0..300 {
        silent.push(from([127, 0, 0, 9], port.address).await.unwrap());
    }
    let started = tokio::time::Instant::now();
    let good = dial(&port.at(), &fleet.client(&node("c1"), Door::Node), SOON).await.unwrap();
    assert!(soon(accepted.recv()).await.is_some());
    assert!(started.elapsed() < Limits::default().handshake, "it waited for the silent ones");
    drop((good, silent));
}

#[tokio::test]
async fn a_silent_peer_is_closed_at_the_handshake_limit() {
    let limits = Limits { handshake: Duration::from_millis(100), ..Limits::default() };
    let (_fleet, port, _accepted) = open(limits).await;
    let mut silent = TcpStream::connect(port.address).await.unwrap();
    assert!(is_closed(&mut silent).await);
}

#[tokio::test]
async fn an_address_that_fails_too_often_is_turned_away_and_others_are_not() {
    let limits = Limits { failures_per_minute: 3, ..Limits::default() };
    let (fleet, port, mut accepted) = open(limits).await;
    for _ in 0..3 {
        let mut bad = from([127, 0, 0, 9], port.address).await.unwrap();
        bad.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        // The alert and the close come after the failure was counted or together with it.
        let _ = soon(bad.read_to_end(&mut Vec::new())).await;
    }
    soon(async {
        loop {
            let mut next = from([127, 0, 0, 9], port.address).await.unwrap();
            // Turned away: not even the alert for a bad handshake comes.
            let _ = next.write_all(b"GET / HTTP/1.1\r\n\r\n").await;
            let mut answer = Vec::new();
            let _ = next.read_to_end(&mut answer).await;
            if answer.is_empty() {
                break;
            }
        }
    })
    .await;
    dial(&port.at(), &fleet.client(&node("c1"), Door::Node), SOON).await.unwrap();
    assert!(soon(accepted.recv()).await.is_some());
}

#[tokio::test]
async fn refused_calls_count_as_failures_of_the_callers_address() {
    let limits = Limits { failures_per_minute: 3, ..Limits::default() };
    let (fleet, port, mut accepted) = open(limits).await;
    let client = fleet.client(&node("c1"), Door::H2);
    dial(&port.at(), &client, SOON).await.unwrap();
    let came = soon(accepted.recv()).await.unwrap();
    for _ in 0..3 {
        came.caller.source.failed();
    }
    assert!(dial(&port.at(), &client, SOON).await.is_err());
}

#[tokio::test]
async fn connections_of_an_address_are_counted_until_they_are_dropped() {
    let limits = Limits { connections_per_address: 2, ..Limits::default() };
    let (fleet, port, mut accepted) = open(limits).await;
    let client = fleet.client(&node("c1"), Door::H2);
    let mut held = Vec::new();
    for _ in 0..2 {
        let stream = dial(&port.at(), &client, SOON).await.unwrap();
        held.push((stream, soon(accepted.recv()).await.unwrap()));
    }
    assert!(dial(&port.at(), &client, SOON).await.is_err());
    held.pop();
    dial(&port.at(), &client, SOON).await.unwrap();
}

#[tokio::test]
async fn more_peers_than_handshakes_at_once_all_get_in_by_turns() {
    let limits = Limits { handshakes_per_address: 2, handshakes: 2, ..Limits::default() };
    let (fleet, port, mut accepted) = open(limits).await;
    let client = fleet.client(&node("c1"), Door::H2);
    let dials: Vec<_> = (0..40)
        .map(|_| {
            let (address, client) = (port.at(), client.clone());
            tokio::spawn(async move { dial(&address, &client, SOON).await })
        })
        .collect();
    for dial in dials {
        dial.await.unwrap().unwrap();
    }
    for _ in 0..40 {
        soon(accepted.recv()).await.unwrap();
    }
}

#[tokio::test]
async fn whatever_bytes_come_in_the_port_goes_on_serving() {
    let limits =
        Limits { handshake: Duration::from_millis(500), failures_per_minute: u32::MAX, ..Limits::default() };
    let (fleet, port, mut accepted) = open(limits).await;
    let ended = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for bytes in hostile_bytes() {
        let (address, ended) = (port.address, Arc::clone(&ended));
        tasks.push(tokio::spawn(async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let _ = stream.write_all(&bytes).await;
            let _ = stream.shutdown().await;
            let _ = soon(stream.read_to_end(&mut Vec::new())).await;
            ended.fetch_add(1, Ordering::SeqCst);
        }));
    }
    let all = tasks.len();
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(ended.load(Ordering::SeqCst), all);
    dial(&port.at(), &fleet.client(&node("c1"), Door::Node), SOON).await.unwrap();
    assert!(soon(accepted.recv()).await.is_some());
}

/// Noise, noise in well-formed TLS records, and headers that promise more than comes.
fn hostile_bytes() -> Vec<Vec<u8>> {
    let mut runner = TestRunner::deterministic();
    let noise = proptest::collection::vec(any::<u8>(), 0..2000);
    let mut all = Vec::new();
    for _ in 0..60 {
        let body = noise.new_tree(&mut runner).expect("vectors of bytes are always made").current();
        let length = u16::try_from(body.len()).expect("below 2000").to_be_bytes();
        let handshake = [0x16, 3, 1, length[0], length[1]];
        let hello = [&handshake[..], &[1, 0], &length[..], &body[..]].concat();
        let promise = [&handshake[..3], &[0x40, 0][..], &body[..]].concat();
        all.extend([body, hello, promise]);
    }
    all
}

#[tokio::test]
async fn i10_a_crowd_at_the_enrolment_doors_is_bounded_and_keeps_no_node_out() {
    let limits = Limits { enrolling: 2, handshakes: 1, ..Limits::default() };
    let (fleet, port, mut accepted) = open(limits).await;
    let pin = bunraku_proto::peer::pin(&fleet.ca.der()).unwrap();
    let enroll = bunraku_proto::tls::pinned_client(pin).unwrap();
    let mut held = Vec::new();
    for _ in 0..2 {
        let stream = dial(&port.at(), &enroll, SOON).await.unwrap();
        held.push((stream, soon(accepted.recv()).await.unwrap()));
    }
    assert!(dial(&port.at(), &enroll, SOON).await.is_err());
    for door in [Door::Node, Door::H2] {
        dial(&port.at(), &fleet.client(&node("c1"), door), SOON).await.unwrap();
        assert_eq!(soon(accepted.recv()).await.unwrap().caller.door, door);
    }
    held.pop();
    dial(&port.at(), &enroll, SOON).await.unwrap();
    assert!(soon(accepted.recv()).await.is_some());
}

#[tokio::test]
async fn i10_an_address_with_a_mesh_peer_gets_in_while_strangers_take_all_other_places() {
    let limits = Limits { strangers: 20, handshakes: 2, ..Limits::default() };
    let (fleet, port, mut accepted) = open(limits).await;
    let client = fleet.client(&node("c1"), Door::Node);
    dial(&port.at(), &client, SOON).await.unwrap();
    drop(soon(accepted.recv()).await.unwrap());
    let mut silent = Vec::new();
    for address in 1..=20 {
        silent.push(from([127, 0, 9, address], port.address).await.unwrap());
    }
    let mut refused = from([127, 0, 9, 21], port.address).await.unwrap();
    assert!(is_closed(&mut refused).await, "no place for one more stranger");
    let started = tokio::time::Instant::now();
    dial(&port.at(), &client, SOON).await.unwrap();
    assert!(soon(accepted.recv()).await.is_some());
    assert!(started.elapsed() < Limits::default().handshake, "it waited for the silent ones");
    drop(silent);
}
