//! File handles: as many as the system gives, and divided so that clients can't take those
//! of the database.
//!
//! A database without a handle for its next file accepts no write any more, so
//! connections, of which anybody can open any number, get half of the handles at most, and
//! of few handles what the database and some files leave. What is left is for files and for
//! connections to other servers.
//!
//! Invariant: a connection holds its place from before its handshake to its end; one
//! for which there is no place is closed at once, and costs nobody else anything.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use axum_server::accept::Accept;
use causeway_storage::Cf;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
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
}

impl Places {
    /// So many at once.
    pub fn new(connections: usize) -> Self {
        let free = Arc::new(Semaphore::new(connections.min(Semaphore::MAX_PERMITS)));
        Self { free, told: Arc::default() }
    }

    /// Gives connections that `inner` accepts a place.
    pub fn limit<A>(&self, inner: A) -> Limited<A> {
        Limited { inner, places: self.clone() }
    }

    fn take(&self) -> io::Result<OwnedSemaphorePermit> {
        let place = Arc::clone(&self.free).try_acquire_owned();
        let is_full = place.is_err();
        if self.told.swap(is_full, Ordering::Relaxed) != is_full && is_full {
            tracing::warn!("too many connections: new ones are closed until others end");
        }
        place.map_err(|_| io::Error::other("too many connections"))
    }
}

/// Accepts connections as long as there are places.
#[derive(Clone, Debug)]
pub struct Limited<A> {
    inner: A,
    places: Places,
}

impl<I, S, A> Accept<I, S> for Limited<A>
where
    A: Accept<I, S>,
    A::Future: Send + 'static,
{
    type Stream = Placed<A::Stream>;
    type Service = A::Service;
    type Future = Pin<Box<dyn Future<Output = io::Result<(Self::Stream, Self::Service)>> + Send>>;

    fn accept(&self, stream: I, service: S) -> Self::Future {
        let place = self.places.take();
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
    _place: OwnedSemaphorePermit,
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

    #[tokio::test]
    async fn a_place_is_free_again_when_its_connection_ends() {
        let places = Places::new(1);
        let limited = places.limit(axum_server::accept::DefaultAcceptor);
        let accept = || Accept::accept(&limited, io::Cursor::new(Vec::<u8>::new()), ());
        let (first, ()) = accept().await.expect("there is a place");
        accept().await.expect_err("there is none");
        drop(first);
        accept().await.expect("there is one again");
    }
}
