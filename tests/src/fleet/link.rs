//! The network between one node and the controller: a TCP proxy with bad weather at the flick of a switch.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpSocket, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

/// Chunks of at least this size carry content; smaller ones are handshakes and orders.
const BULK: usize = 1024;
const BUFFER: usize = 16 << 10;

/// One direction. The default is good weather.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Flow {
    /// Nothing arrives, nobody is told: packets are lost. What was sent arrives when this ends.
    pub held: bool,
    /// Every byte comes so much later.
    pub delay: Duration,
    /// At most so many bytes a second; 0: as fast as it goes.
    pub bytes_per_second: usize,
}

/// A node's way to the controller. Ends with its owner.
#[derive(Debug)]
pub struct Link {
    address: SocketAddr,
    shared: Arc<Shared>,
    _accepting: JoinSet<()>,
}

#[derive(Debug)]
struct Shared {
    /// The node's own address: the controller's limits are per address.
    from: IpAddr,
    to: Mutex<SocketAddr>,
    /// True: connections are closed, new ones refused. Told to both sides.
    cut: watch::Sender<bool>,
    up: watch::Sender<Flow>,
    down: watch::Sender<Flow>,
    flips: AtomicU32,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
    connections: AtomicU64,
}

impl Link {
    pub(super) async fn lay(from: IpAddr, to: SocketAddr) -> Self {
        let listener = TcpListener::bind((from, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            from,
            to: Mutex::new(to),
            cut: watch::Sender::new(false),
            up: watch::Sender::new(Flow::default()),
            down: watch::Sender::new(Flow::default()),
            flips: AtomicU32::new(0),
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(listener, shared.clone()));
        Self { address, shared, _accepting: accepting }
    }

    /// What the node dials.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all connections and refuses new ones.
    pub fn cut(&self) {
        self.shared.cut.send_replace(true);
    }

    /// Good weather again, both ways.
    pub fn mend(&self) {
        self.set_flows(Flow::default(), Flow::default());
        self.shared.cut.send_replace(false);
    }

    /// Sets how bytes flow to the controller and to the node.
    pub fn set_flows(&self, to_controller: Flow, to_node: Flow) {
        self.shared.up.send_replace(to_controller);
        self.shared.down.send_replace(to_node);
    }

    /// Of the next so many chunks of content to the node, one bit each arrives wrong.
    pub fn flip_bits(&self, chunks: u32) {
        self.shared.flips.store(chunks, Ordering::Relaxed);
    }

    /// Flips that have not happened yet.
    pub fn flips_left(&self) -> u32 {
        self.shared.flips.load(Ordering::Relaxed)
    }

    /// Another controller answers from now on; open connections are closed.
    pub fn lead_to(&self, controller: SocketAddr) {
        *self.shared.to.lock().unwrap() = controller;
        self.shared.cut.send_replace(true);
        self.shared.cut.send_replace(false);
    }

    /// Bytes that the node has received so far.
    pub fn bytes_to_node(&self) -> u64 {
        self.shared.bytes_down.load(Ordering::Relaxed)
    }

    /// Connections that the node has made so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((node, _)) = listener.accept().await else { continue };
        if *shared.cut.borrow() {
            continue;
        }
        shared.connections.fetch_add(1, Ordering::Relaxed);
        connections.spawn(carry(node, shared.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn carry(node: TcpStream, shared: Arc<Shared>) {
    // Subscribed first: a cut that comes now is seen.
    let mut cut = shared.cut.subscribe();
    cut.borrow_and_update();
    let to = *shared.to.lock().unwrap();
    let Ok(controller) = dial(shared.from, to).await else { return };
    let _same_on_both_sides = node.set_nodelay(true);
    let ((node_reads, node_writes), (reads, writes)) = (node.into_split(), controller.into_split());
    let both = async {
        // When one side is done, so is the connection: HTTP/2 and TLS know no half.
        tokio::select! {
            _ = flow(node_reads, writes, shared.up.subscribe(), &shared.bytes_up, None) => {}
            _ = flow(reads, node_writes, shared.down.subscribe(), &shared.bytes_down, Some(&shared.flips)) => {}
        }
    };
    tokio::select! {
        () = both => {}
        _ = cut.changed() => {}
    }
}

async fn dial(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

async fn flow(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut weather: watch::Receiver<Flow>,
    carried: &AtomicU64,
    flips: Option<&AtomicU32>,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        let now = *weather.borrow();
        // A slow line carries small pieces, so that no piece takes longer than a tenth of a second.
        let piece = match now.bytes_per_second {
            0 => BUFFER,
            slow => (slow / 10).clamp(1, BUFFER),
        };
        let length = from.read(&mut buffer[..piece]).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        let held = weather.wait_for(|flow| !flow.held).await.map(|flow| *flow);
        let now = held.map_err(io::Error::other)?;
        tokio::time::sleep(now.delay).await;
        if now.bytes_per_second > 0 {
            tokio::time::sleep(Duration::from_secs_f64(length as f64 / now.bytes_per_second as f64)).await;
        }
        if let Some(flips) = flips.filter(|_| length >= BULK)
            && flips.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
        {
            buffer[length / 2] ^= 1;
        }
        to.write_all(&buffer[..length]).await?;
        carried.fetch_add(length as u64, Ordering::Relaxed);
    }
}
