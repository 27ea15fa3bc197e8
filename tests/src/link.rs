//! The network between the servers of a test: every connection goes through a
//! gate in front of the server that it leads to, and can be cut.
//!
//! Cut is between two servers, not in front of one: the gate asks the kernel
//! which server's process opened the connection. Clients outside are never cut.
//! It needs no privileges. What it does not model: loss and delay of packets.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

use crate::{owner, result::Result};

/// What is read from a connection at once, in bytes.
const BUFFER: usize = 64 << 10;

/// How a cut looks to those who are cut off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// Connections are refused and open ones reset: the machine is there, the service is not.
    Refused,
    /// Nothing ever answers: packets vanish.
    Silent,
}

/// The switches of all links. Servers are numbered by their place in the cluster.
#[derive(Clone, Debug)]
pub struct Switchboard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    /// Wakes every connection when a switch is thrown.
    thrown: watch::Sender<u64>,
    carried: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    pids: HashMap<u32, usize>,
    cuts: HashMap<(usize, usize), Cut>,
}

impl Default for Switchboard {
    fn default() -> Self {
        Self(Arc::new(Inner {
            state: Mutex::default(),
            thrown: watch::Sender::new(0),
            carried: AtomicU64::new(0),
        }))
    }
}

impl Switchboard {
    /// Says which process is server `index`.
    pub fn is_running(&self, index: usize, pid: u32) {
        let mut state = self.lock();
        state.pids.retain(|_, other| *other != index);
        state.pids.insert(pid, index);
    }

    /// Says which process is part of server `index` besides.
    pub fn is_running_too(&self, index: usize, pid: u32) {
        self.lock().pids.insert(pid, index);
    }

    /// Cuts the link between two servers, both ways.
    pub fn cut(&self, a: usize, b: usize, how: Cut) {
        self.lock().cuts.insert(pair(a, b), how);
        self.0.thrown.send_modify(|times| *times += 1);
    }

    /// Restores it.
    pub fn heal(&self, a: usize, b: usize) {
        self.lock().cuts.remove(&pair(a, b));
        self.0.thrown.send_modify(|times| *times += 1);
    }

    /// Bytes that servers have sent each other so far, both ways, TLS included.
    pub fn carried(&self) -> u64 {
        self.0.carried.load(Ordering::SeqCst)
    }

    fn between(&self, from: Option<usize>, to: usize) -> Option<Cut> {
        from.and_then(|from| self.lock().cuts.get(&pair(from, to)).copied())
    }

    fn origin(&self, peer: SocketAddr, gate: SocketAddr) -> Option<usize> {
        let pids: HashSet<u32> = self.lock().pids.keys().copied().collect();
        let pid = owner::of_connection(peer, gate, pids.into_iter())?;
        self.lock().pids.get(&pid).copied()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pair(a: usize, b: usize) -> (usize, usize) {
    (a.min(b), a.max(b))
}

/// The way in to one server: an address that stays the same while the server
/// behind it comes and goes.
#[derive(Debug)]
pub struct Gate {
    /// What the others connect to.
    pub address: SocketAddr,
    target: watch::Sender<Option<SocketAddr>>,
    _tasks: JoinSet<()>,
}

impl Gate {
    /// Opens a gate to server `index` on a free port of the loopback address.
    pub async fn open(index: usize, switchboard: Switchboard) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let target = watch::Sender::new(None);
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, index, switchboard, target.subscribe()));
        Ok(Self { address, target, _tasks: tasks })
    }

    /// Where the server behind it listens; none while it is down.
    pub fn lead_to(&self, target: Option<SocketAddr>) {
        self.target.send_replace(target);
    }
}

async fn accept(
    listener: TcpListener,
    index: usize,
    switchboard: Switchboard,
    target: watch::Receiver<Option<SocketAddr>>,
) {
    let mut connections = JoinSet::new();
    let Ok(gate) = listener.local_addr() else { return };
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((client, peer)) = listener.accept().await else { continue };
        let from = switchboard.origin(peer, gate);
        let target = *target.borrow();
        connections.spawn(connection(client, from, index, target, switchboard.clone()));
    }
}

/// Carries one connection until either side ends it or the link is cut.
async fn connection(
    client: TcpStream,
    from: Option<usize>,
    to: usize,
    target: Option<SocketAddr>,
    switchboard: Switchboard,
) {
    let mut thrown = switchboard.0.thrown.subscribe();
    if let Some(cut) = switchboard.between(from, to) {
        return end(cut, vec![client], from, to, &switchboard, thrown).await;
    }
    let Some(target) = target else { return reset(&client) };
    let Ok(server) = TcpStream::connect(target).await else { return reset(&client) };
    // Both ends are on this machine: delay would only be measured as the server's.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut client_in, mut client_out) = client.into_split();
    let (mut server_in, mut server_out) = server.into_split();
    let carried = from.is_some().then_some(&switchboard.0.carried);
    let cut = {
        let there = pump(&mut client_in, &mut server_out, carried);
        let back = pump(&mut server_in, &mut client_out, carried);
        let both = async { tokio::join!(there, back) };
        tokio::pin!(both);
        loop {
            tokio::select! {
                _ = &mut both => return,
                changed = thrown.changed() => {
                    if changed.is_err() { return }
                    if let Some(cut) = switchboard.between(from, to) { break cut }
                }
            }
        }
    };
    let ends = [client_in.reunite(client_out), server_in.reunite(server_out)];
    end(cut, ends.into_iter().flatten().collect(), from, to, &switchboard, thrown).await;
}

/// Ends a connection as the cut demands: at once, or by silence until it is over.
async fn end(
    cut: Cut,
    streams: Vec<TcpStream>,
    from: Option<usize>,
    to: usize,
    switchboard: &Switchboard,
    mut thrown: watch::Receiver<u64>,
) {
    while cut == Cut::Silent && switchboard.between(from, to).is_some() {
        if thrown.changed().await.is_err() {
            break;
        }
    }
    streams.iter().for_each(reset);
}

/// Makes closing it a reset instead of a polite end.
fn reset(stream: &TcpStream) {
    // Only decides how the end looks to the other side.
    let _ = stream.set_zero_linger();
}

async fn pump(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, carried: Option<&AtomicU64>) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        if let Some(carried) = carried {
            carried.fetch_add(length as u64, Ordering::SeqCst);
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            break;
        }
    }
    // The other side may be gone already.
    let _ = to.shutdown().await;
}
