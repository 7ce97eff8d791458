//! What the suites share: addresses, servers behind a balancer, processes that end with their test.
#![allow(dead_code, reason = "each suite uses a part")]

pub(crate) mod compilers;

use std::{
    future::Future,
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use bunraku_balancer::{ServerName, Wanted, Wish};
use bunraku_common::{Fence, Generation, NodeName, Term};
use rustix::process::{Pid, Signal, kill_process};

/// 127.A.B.x of this test alone.
pub(crate) fn network() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let number = std::process::id().wrapping_mul(16).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
    format!("127.{}.{}", 20 + number / 256 % 200, number % 256)
}

pub(crate) fn name(text: &str) -> ServerName {
    ServerName::parse(text).unwrap()
}

pub(crate) fn node(text: &str) -> NodeName {
    NodeName::parse(text).unwrap()
}

pub(crate) fn wish(compiler: &str, wanted: Wanted, generation: u64) -> Wish {
    Wish {
        compiler: node(compiler),
        wanted,
        owner: "operator root".into(),
        reason: "a test".into(),
        fence: Fence { term: Term { number: 1, id: 1 }, generation: Generation(generation) },
        min_available: 0,
        slow_start: Duration::ZERO,
    }
}

pub(crate) const PORT: u16 = 18140;

/// A stand-in for a compiler: answers each line with its own name, and holds the connection.
#[derive(Debug)]
pub(crate) struct Backend {
    pub(crate) address: SocketAddr,
}

impl Backend {
    pub(crate) fn start(ip: &str, name: &'static str) -> Self {
        let listener = TcpListener::bind((ip, PORT)).unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || answer(stream, name));
            }
        });
        Self { address }
    }
}

fn answer(mut stream: TcpStream, name: &str) {
    let mut byte = [0];
    while matches!(stream.read(&mut byte), Ok(1)) {
        if byte == *b"\n" && stream.write_all(format!("{name}\n").as_bytes()).is_err() {
            return;
        }
    }
}

/// A session through a balancer.
#[derive(Debug)]
pub(crate) struct Session(TcpStream);

impl Session {
    pub(crate) fn open(to: SocketAddr) -> Option<Self> {
        let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        Some(Self(stream))
    }

    /// The server's name; `None`: the session is over.
    pub(crate) fn ask(&mut self) -> Option<String> {
        self.0.write_all(b"\n").ok()?;
        let mut text = String::new();
        let mut byte = [0];
        while !text.ends_with('\n') {
            if self.0.read(&mut byte).ok()? == 0 {
                return None;
            }
            text.push(byte[0].into());
        }
        Some(text.trim().to_owned())
    }
}

/// A program that ends with its test.
#[derive(Debug)]
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn start(command: &mut Command, log: &Path) -> Self {
        let log = std::fs::File::options().create(true).append(true).open(log).unwrap();
        let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn();
        Self(child.expect("the program starts (hint: cargo xtask test installs what the tests need)"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).unwrap();
    }

    /// Asks it to end, as an init system would, and waits.
    pub(crate) fn stop(mut self) {
        self.signal(Signal::TERM);
        self.0.wait().unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // Its own children (workers) end with it only when it is asked.
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ended_already = kill_process(Pid::from_child(&self.0), Signal::TERM);
            let _status = self.0.wait();
        }
    }
}

/// Waits for a condition.
pub(crate) async fn until<F: Future<Output = bool>>(what: &str, mut is: impl FnMut() -> F) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
