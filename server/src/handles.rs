//! File handles: as many as the system gives, and divided so that clients can't take those
//! of the database.
//!
//! A database without a handle for its next file accepts no write any more, so
//! connections, of which anybody can open any number, get half of the handles at most, and
//! of few handles what the database and some files leave. What is left is for files and for
//! connections to other servers.
//!
//! Invariants: a connection holds its place from before its handshake to its end; one
//! for which there is no place is closed at once, and costs nobody else anything. Where
//! clients connect directly, no address of the network has more than a share of the places.

use std::{
    collections::HashMap,
    future::Future,
    io,
    net::{IpAddr, Ipv6Addr},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use axum_server::accept::Accept;
use causeway_storage::Cf;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
};

/// Used where the system names no limit, and never exceeded.
const HANDLES_MAX: u64 = 1 << 16;
/// Files that the database keeps open at once.
const DATABASE_FILES: std::ops::RangeInclusive<u64> = 48..=512;

/// What the database holds besides: its folder once for each column family, and its logs.
const DATABASE_FIXED: u64 = Cf::ALL.len() as u64 + 16;
/// For files, connections to other servers and what the process has anyway, at least.
const OTHERS_MIN: u64 = 24;
/// Connections that are served however few handles there are.
const CONNECTIONS_MIN: u64 = 16;
/// Of all places, those that one address may have: one in so many.
const SHARE: usize = 4;

/// How the process's file handles are divided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Handles {
    /// Connections that are served at once.
    pub connections: usize,
    /// Files that the database keeps open.
    pub database: i32,
}

impl Handles {
    /// Takes all that the process may have.
    pub fn take() -> Self {
        let now = getrlimit(Resource::Nofile);
        let wanted = now.maximum.unwrap_or(HANDLES_MAX).min(HANDLES_MAX);
        let had = now.current.unwrap_or(HANDLES_MAX);
        if had >= wanted {
            return Self::of(had.min(HANDLES_MAX));
        }
        let raised = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: now.maximum });
        Self::of(if raised.is_ok() { wanted } else { had })
    }

    fn of(all: u64) -> Self {
        let database = (all / 4).clamp(*DATABASE_FILES.start(), *DATABASE_FILES.end());
        let left = all.saturating_sub(database + DATABASE_FIXED + OTHERS_MIN);
        Self {
            connections: usize::try_from(left.clamp(CONNECTIONS_MIN, (all / 2).max(CONNECTIONS_MIN)))
                .unwrap_or(usize::MAX),
            database: i32::try_from(database).unwrap_or(i32::MAX),
        }
    }
}

/// Places for connections; clones share them.
#[derive(Clone, Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    told: Arc<AtomicBool>,
    /// Where clients connect directly.
    shares: Option<Shares>,
}

/// How many places each address has; clones share them.
#[derive(Clone, Debug)]
struct Shares {
    most: usize,
    taken: Arc<Mutex<HashMap<IpAddr, usize>>>,
}

/// A place of an address, until it is dropped.
#[derive(Debug)]
struct Share {
    shares: Shares,
    address: IpAddr,
}

/// A connection's place, until it is dropped.
#[derive(Debug)]
struct Place {
    _permit: OwnedSemaphorePermit,
    _share: Option<Share>,
}

impl Places {
    /// So many at once. `direct`: clients connect themselves, none of them for many as a
    /// reverse proxy does.
    pub fn new(connections: usize, direct: bool) -> Self {
        let free = Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS)));
        let most = connections.div_ceil(SHARE);
        let shares = direct.then(|| Shares { most, taken: Arc::default() });
        Self { free, told: Arc::default(), shares }
    }

    /// Gives connections that `inner` accepts a place.
    pub fn limit<A>(&self, inner: A) -> Limited<A> {
        Limited { inner, places: self.clone() }
    }

    fn take(&self, from: Option<IpAddr>) -> io::Result<Place> {
        let share = match (&self.shares, from.map(network)) {
            // Programs on this machine, reverse proxies among them, are the operator's.
            (Some(shares), Some(address)) if !address.is_loopback() => Some(shares.take(address)?),
            _ => None,
        };
        let permit = Arc::clone(&self.free).try_acquire_owned();
        let is_full = permit.is_err();
        if self.told.swap(is_full, Ordering::Relaxed) != is_full && is_full {
            tracing::warn!("too many connections: new ones are closed until others end");
        }
        let permit = permit.map_err(|_| io::Error::other("too many connections"))?;
        Ok(Place { _permit: permit, _share: share })
    }
}

impl Shares {
    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, address: IpAddr) -> io::Result<Share> {
        let mut taken = self.lock();
        // Bounded by the places: who has none is not in there.
        let count = taken.entry(address).or_default();
        if *count >= self.most {
            tracing::debug!(%address, "an address has as many connections as it may");
            return Err(io::Error::other("too many connections of one address"));
        }
        *count += 1;
        Ok(Share { shares: self.clone(), address })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.lock();
        if let Some(count) = taken.get_mut(&self.address) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                taken.remove(&self.address);
            }
        }
    }
}

/// What one client can choose its addresses from: of IPv6, 64 bits.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) if !address.is_loopback() => {
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() >> 64 << 64))
        }
        address => address,
    }
}

/// Accepts connections as long as there are places.
#[derive(Clone, Debug)]
pub struct Limited<A> {
    inner: A,
    places: Places,
}

impl<S, A> Accept<TcpStream, S> for Limited<A>
where
    A: Accept<TcpStream, S>,
    A::Future: Send + 'static,
{
    type Stream = Placed<A::Stream>;
    type Service = A::Service;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let place = self.places.take(stream.peer_addr().ok().map(|from| from.ip()));
        let accepting = place.map(|place| (place, self.inner.accept(stream, service)));
        Box::pin(async move {
            let (place, accepting) = accepting?;
            let (stream, service) = accepting.await?;
            Ok((Placed { stream, _place: place }, service))
        })
    }
}

/// A connection that holds its place until it ends.
#[derive(Debug)]
pub struct Placed<T> {
    stream: T,
    _place: Place,
}

impl<T: AsyncRead + Unpin> AsyncRead for Placed<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Placed<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_and_connections_together_leave_some() {
        for all in [64, 240, 256, 1_024, HANDLES_MAX] {
            let handles = Handles::of(all);
            let database = u64::try_from(handles.database).expect("positive");
            let taken = database + u64::try_from(handles.connections).expect("fits");
            assert!(handles.connections > 0 && database >= 48, "{handles:?}");
            let fixed = Cf::ALL.len() as u64;
            assert!(all < 240 || taken + fixed + 32 <= all, "{all}: {handles:?}");
        }
        assert_eq!(Handles::of(HANDLES_MAX), Handles { connections: 1 << 15, database: 512 });
    }

    #[test]
    fn a_place_is_free_again_when_its_connection_ends() {
        let places = Places::new(1, false);
        let first = places.take(None).expect("there is a place");
        places.take(None).expect_err("there is none");
        drop(first);
        places.take(None).expect("there is one again");
    }

    #[test]
    fn no_address_takes_all_places() {
        let from = |text: &str| Some(text.parse().expect("an address"));
        let places = Places::new(8, true);
        let held: Vec<Place> = (0..2).map(|_| places.take(from("192.0.2.1")).expect("a place")).collect();
        places.take(from("192.0.2.1")).expect_err("it has its share");
        places.take(from("::ffff:192.0.2.1")).expect_err("by whichever way it comes");
        let others =
            [from("192.0.2.2"), from("2001:db8::1"), from("2001:db8::2")].map(|from| places.take(from));
        places.take(from("2001:db8::3")).expect_err("a client has all of its network");
        drop(others);
        drop(held);
        let proxy: Vec<_> = (0..8).map(|_| places.take(from("127.0.0.1"))).collect();
        assert!(proxy.iter().all(Result::is_ok), "programs on this machine may");
        drop(proxy);
        assert!(places.shares.as_ref().is_some_and(|shares| shares.lock().is_empty()), "nothing is left");
        let behind = Places::new(8, false);
        let proxied: Vec<_> = (0..8).map(|_| behind.take(from("192.0.2.1"))).collect();
        assert!(proxied.iter().all(Result::is_ok), "a reverse proxy comes for all");
    }
}
