//! F19: bytes that are no TLS, no HTTP/2, no gRPC, no protobuf. No panic, no growth; the connection ends, the port
//! serves on.

use std::sync::{
    Once,
    atomic::{AtomicUsize, Ordering},
};

use bunraku_proto::{Door, v1};
use bunraku_tests::fleet::{Fleet, noise};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::Code;

use super::raw::{Client, Holder, operator, soon, stolen_node};

/// Panics of the programs, not of the tests.
static PANICS: AtomicUsize = AtomicUsize::new(0);

fn count_panics() -> usize {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let thread = std::thread::current();
            if matches!(thread.name(), Some("controller" | "driver" | "c1")) {
                PANICS.fetch_add(1, Ordering::Relaxed);
            }
            before(info);
        }));
    });
    PANICS.load(Ordering::Relaxed)
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes()[..], payload].concat()
}

/// A header that HPACK writes literally and does not remember.
fn header(name: &str, value: &str) -> Vec<u8> {
    let part = |text: &str| {
        assert!(text.len() < 127);
        [&[text.len() as u8], text.as_bytes()].concat()
    };
    [vec![0], part(name), part(value)].concat()
}

fn call(path: &str) -> Vec<u8> {
    [
        header(":method", "POST"),
        header(":scheme", "http"),
        header(":authority", "x"),
        header(":path", path),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
    ]
    .concat()
}

const STATUS: &str = "/bunraku.v1.Control/Status";
const HEADERS: u8 = 1;
const END_HEADERS: u8 = 4;

/// HTTP/2 that hurts implementations which believe it.
fn hostile_http2() -> Vec<(&'static str, Vec<u8>)> {
    let begun = [PREFACE, SETTINGS].concat();
    let mut resets = begun.clone();
    for stream in (1..8000).step_by(2) {
        resets.extend(frame(HEADERS, END_HEADERS, stream, &call(STATUS)));
        resets.extend(frame(3, 0, stream, &8_u32.to_be_bytes()));
    }
    // CONTINUATION without end: a header list that grows and is never complete.
    let mut endless = [begun.clone(), frame(HEADERS, 0, 1, &call(STATUS))].concat();
    for _ in 0..2000 {
        endless.extend(frame(9, 0, 1, &header("x-grow", &"g".repeat(120)).repeat(60)));
    }
    let huge = [call(STATUS), header("x-huge", &"h".repeat(120)).repeat(500)].concat();
    let mut table = begun.clone();
    for stream in (1..2000).step_by(2) {
        // Remembered headers: the table must stay bounded.
        let remembered = [&[0x40, 4][..], b"x-me", &[100], &[b'm'; 100]].concat().repeat(20);
        table.extend(frame(HEADERS, END_HEADERS | 1, stream, &[call(STATUS), remembered].concat()));
    }
    let small_window = [&0x4_u16.to_be_bytes()[..], &0_u32.to_be_bytes()].concat();
    let mut window_zero = [PREFACE, &frame(4, 0, 0, &small_window)].concat();
    let mut message = vec![0, 0, 0, 0, 0];
    for stream in (1..200).step_by(2) {
        window_zero.extend(frame(HEADERS, END_HEADERS, stream, &call(STATUS)));
        window_zero.extend(frame(0, 1, stream, &message));
    }
    message = [&[0][..], &u32::MAX.to_be_bytes(), &[0xff; 1000]].concat();
    let with_body = |body: &[u8]| {
        [begun.clone(), frame(HEADERS, END_HEADERS, 1, &call(STATUS)), frame(0, 1, 1, body)].concat()
    };
    vec![
        ("rapid reset", resets),
        ("continuation flood", endless),
        ("huge headers", [begun.clone(), frame(HEADERS, END_HEADERS, 1, &huge)].concat()),
        ("a table that grows", table),
        ("window 0", window_zero),
        ("a window of nothing more", [begun.clone(), frame(8, 0, 0, &[0; 4])].concat()),
        (
            "a window that overflows",
            [begun.clone(), frame(8, 0, 0, &0x7fff_ffff_u32.to_be_bytes()).repeat(2)].concat(),
        ),
        ("pings without end", [begun.clone(), frame(6, 0, 0, &[0; 8]).repeat(20_000)].concat()),
        ("settings without end", [begun.clone(), frame(4, 0, 0, &[]).repeat(20_000)].concat()),
        (
            "empty data without end",
            [
                begun.clone(),
                frame(HEADERS, END_HEADERS, 1, &call(STATUS)),
                frame(0, 0, 1, &[]).repeat(20_000),
            ]
            .concat(),
        ),
        ("a frame of 16 MiB", [begun.clone(), vec![0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat()),
        ("headers that are none", [begun.clone(), frame(HEADERS, END_HEADERS, 1, &[0xff; 300])].concat()),
        ("unknown frames", [begun.clone(), frame(0xfa, 0xff, 7, &[0xff; 100]).repeat(1000)].concat()),
        ("a stream that depends on itself", [begun.clone(), frame(2, 0, 3, &[0, 0, 0, 3, 9])].concat()),
        ("a message of 4 GiB", with_body(&message)),
        ("a compressed message", with_body(&[1, 0, 0, 0, 4, 1, 2, 3, 4])),
        ("half a message", with_body(&[0, 0, 0])),
        ("HTTP/1", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n".to_vec()),
        ("noise", noise(64 << 10).into_bytes()),
        ("noise after the preface", [begun, noise(64 << 10).into_bytes()].concat()),
    ]
}

async fn send(client: &Client, bytes: &[u8]) {
    let Ok(mut io) = client.dial().await else { return };
    let (mut reads, mut writes) = tokio::io::split(&mut io);
    let talking = async {
        let _the_other_side_may_close_first = writes.write_all(bytes).await;
        let _likewise = writes.shutdown().await;
    };
    let listening = async {
        let mut buffer = [0; 4096];
        while matches!(reads.read(&mut buffer).await, Ok(1..)) {}
    };
    soon("the connection ends", async { tokio::join!(talking, listening) }).await;
}

/// Whether the port still does for an honest caller what it is there for.
async fn serves_on(fleet: &Fleet, honest: &Holder) {
    let client = Client::new(fleet.main(), Door::H2, Some(honest)).from(201);
    soon("an honest call", client.control().status(v1::StatusRequest {})).await.unwrap();
    assert!(fleet.main().node("c1").await.connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn f19_hostile_http2_behind_every_door_ends_its_connection_and_nothing_else() {
    let panics = count_panics();
    let fleet = Fleet::new().nodes(1).up().await;
    let main = fleet.main();
    let honest = operator(main, "ann", "viewer").await;
    let thief = stolen_node(main, "c9").await;
    let mut peers = tokio::task::JoinSet::new();
    let mut hosts = (100..190).cycle();
    for (what, bytes) in hostile_http2() {
        for (door, holder) in [(Door::Enroll, None), (Door::H2, Some(&thief)), (Door::Node, Some(&thief))] {
            let client = Client::new(main, door, holder).from(hosts.next().unwrap());
            let bytes = bytes.clone();
            peers.spawn(async move { soon(what, send(&client, &bytes)).await });
        }
        serves_on(&fleet, &honest).await;
    }
    peers.join_all().await;
    serves_on(&fleet, &honest).await;
    fleet.deploy_change("production", "after all of it").await;
    assert_eq!(count_panics(), panics);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f19_bytes_that_are_no_tls_cost_their_address_and_nobody_else() {
    let panics = count_panics();
    let fleet = Fleet::new().nodes(1).up().await;
    let main = fleet.main();
    let honest = operator(main, "ann", "viewer").await;
    let record =
        |kind: u8, length: u16, body: &[u8]| [&[kind, 3, 1][..], &length.to_be_bytes(), body].concat();
    let mut peers = tokio::task::JoinSet::new();
    for number in 0..200_u8 {
        let body = noise(usize::from(number) * 8).into_bytes();
        let bytes = match number % 5 {
            0 => body,
            1 => record(0x16, body.len() as u16, &body),
            2 => record(0x16, 0xffff, &body),
            3 => record(0x16, 9, &[1, 0xff, 0xff, 0xff, 3, 3, 0, 0, 0]),
            _ => record(0x15, 2, &[2, 0]).repeat(100),
        };
        let client = Client::new(main, Door::H2, None).from(100 + number % 10);
        peers.spawn(async move {
            let Ok(mut peer) = client.tcp().await else { return };
            let _it_may_be_closed = peer.write_all(&bytes).await;
            let _likewise = peer.shutdown().await;
            soon("it is closed", async { while matches!(peer.read(&mut [0; 256]).await, Ok(1..)) {} }).await;
        });
    }
    peers.join_all().await;
    serves_on(&fleet, &honest).await;
    assert_eq!(count_panics(), panics);
    fleet.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f19_messages_that_are_no_protobuf_are_refused_one_by_one() {
    let panics = count_panics();
    let fleet = Fleet::new().nodes(1).up().await;
    let main = fleet.main();
    let honest = operator(main, "ann", "admin").await;
    let channel = Client::new(main, Door::H2, Some(&honest)).channel();
    let before = super::raw::audit_head(main).await;
    // A group in a group in a group; a text that is longer than the message; a number of 20 bytes; no UTF-8.
    let deep = [vec![0x0b; 10_000], vec![0x0c; 10_000]].concat();
    for bytes in [
        deep,
        vec![0x0a, 0xff, 0xff, 0xff, 0xff, 0x7f],
        [vec![0x20], vec![0xff; 20]].concat(),
        vec![0x0a, 2, 0xff, 0xfe],
        vec![0x07],
        vec![0; 64],
        noise(5000).into_bytes(),
    ] {
        for path in ["Deploy", "HoldNode", "CreateToken", "Watch"] {
            let outcome =
                super::rights::call(&channel, &format!("/bunraku.v1.Control/{path}"), &bytes.clone().into())
                    .await;
            let status = outcome.unwrap_err();
            assert!([Code::Internal, Code::InvalidArgument].contains(&status.code()), "{path}: {status}");
        }
    }
    let large = vec![0; 5 << 20];
    let outcome = super::rights::call(&channel, "/bunraku.v1.Control/Deploy", &large.into()).await;
    assert_eq!(outcome.unwrap_err().code(), Code::OutOfRange);
    assert_eq!(super::raw::audit_head(main).await, before);
    serves_on(&fleet, &honest).await;
    assert_eq!(count_panics(), panics);
    fleet.end().await;
}
