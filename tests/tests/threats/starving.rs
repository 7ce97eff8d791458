//! T15, I10: peers that take what they ordered one byte a second. Others must not notice, and nothing may grow.

use std::{
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bunraku_proto::{
    Door,
    v1::{self, content_client::ContentClient, control_client::ControlClient},
};
use bunraku_tests::fleet::{Fleet, noise};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use super::raw::{Client, Holder, operator, soon, stolen_node};

/// A connection of which one byte is read a second, after the first few KiB.
struct Drip<IO> {
    io: IO,
    /// Read at full speed: the handshake of HTTP/2 and the headers of the answers.
    freely: usize,
    next: Pin<Box<Sleep>>,
}

impl<IO> Drip<IO> {
    fn new(io: IO) -> Self {
        Self { io, freely: 16 << 10, next: Box::pin(sleep(Duration::ZERO)) }
    }
}

impl<IO: AsyncRead + Unpin> AsyncRead for Drip<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.freely == 0 {
            std::task::ready!(self.next.as_mut().poll(cx));
            self.next = Box::pin(sleep(Duration::from_secs(1)));
        }
        let most = self.freely.clamp(1, to.remaining());
        let mut part = to.take(most);
        std::task::ready!(Pin::new(&mut self.io).poll_read(cx, &mut part))?;
        let read = part.filled().len();
        self.freely = self.freely.saturating_sub(read);
        to.initialize_unfilled_to(read);
        to.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Drip<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Threads that controllers of this process have, those for blocking work among them.
fn controller_threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    tasks
        .filter(|task| {
            std::fs::read_to_string(task.path().join("comm")).is_ok_and(|c| c.trim() == "controller")
        })
        .count()
}

/// Resident memory of this process in MiB.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap();
    pages.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4 / 1024
}

/// The slowest but one of fifty calls of an honest operator, one of which reads the journal.
async fn slowest(client: &Client) -> Duration {
    let mut control = client.control();
    let mut all = Vec::new();
    for _ in 0..50 {
        let asked = Instant::now();
        soon("status", control.status(v1::StatusRequest {})).await.unwrap();
        soon("audit", control.list_audit(v1::ListAuditRequest { after: 0, limit: 1 })).await.unwrap();
        all.push(asked.elapsed());
    }
    all.sort();
    all[48]
}

/// Takes one message after the other, as slowly as they come.
async fn take_all<T>(
    asked: impl Future<Output = Result<tonic::Response<tonic::Streaming<T>>, tonic::Status>>,
) {
    let Ok(answer) = asked.await else { return };
    let mut stream = answer.into_inner();
    while let Ok(Some(_)) = stream.message().await {}
}

fn fetch_slowly(client: &Client, snapshot: &str) {
    let content = ContentClient::new(client.channel_through(Drip::new));
    for _ in 0..60 {
        let mut content = content.clone();
        let request = v1::PackRequest { want: snapshot.into(), ..Default::default() };
        tokio::spawn(async move { take_all(content.pack(request)).await });
    }
}

fn watch_slowly(client: &Client) {
    let control = ControlClient::new(client.channel_through(Drip::new));
    for _ in 0..60 {
        let mut control = control.clone();
        let request = v1::WatchRequest { follow: true, ..Default::default() };
        tokio::spawn(async move { take_all(control.watch(request)).await });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn t15_two_dozen_peers_that_read_a_byte_a_second_take_nothing_from_the_others() {
    let fleet = Fleet::new().nodes(2).up().await;
    let main = fleet.main();
    let files: Vec<(String, String)> = (0..8).map(|n| (format!("data/{n}"), noise(512 << 10))).collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    fleet.push("production", &files);
    let snapshot = fleet.deploy("production").await.snapshot;
    let honest = operator(main, "ann", "operator").await;
    let honest = Client::new(main, Door::H2, Some(&honest)).from(150);
    let calm = slowest(&honest).await;
    let (threads, memory) = (controller_threads(), resident());

    // Twelve stolen keys of nodes that fetch, twelve of viewers that watch; each opens 60 streams.
    for number in 0..12_u8 {
        let node: Holder = stolen_node(main, &format!("slow{number}")).await;
        fetch_slowly(&Client::new(main, Door::H2, Some(&node)).from(100 + number), &snapshot);
        let viewer = operator(main, &format!("slow{number}"), "viewer").await;
        watch_slowly(&Client::new(main, Door::H2, Some(&viewer)).from(120 + number));
    }
    // Other work on the machine passes; what slow peers hold is held all the time: the calmest round counts.
    let end = Instant::now() + Duration::from_secs(8);
    loop {
        let now = slowest(&honest).await;
        if now < Duration::from_millis(100) + 2 * calm {
            break;
        }
        assert!(Instant::now() < end, "{now:?}, was {calm:?}");
    }
    // An honest node fetches, an honest deploy goes live: both need what the slow ones would like to hold.
    fleet.deploy_change("production", "under attack").await;
    assert!(fleet.node("c1").live("production").is_some());
    let (now, resident) = (controller_threads(), resident());
    assert!(now < threads + 64, "{now} threads, were {threads}");
    assert!(resident < memory + 256, "{resident} MiB, were {memory}");
    fleet.end().await;
}
