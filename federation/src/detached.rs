//! Work that goes on although whoever asked for it waits no longer: a request's own future ends
//! when the other side hangs up.
//!
//! Invariant: it ends with the server; how much there is, is bounded by the turns that it holds.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Pieces of work that wait for the driver, which only starts them.
const WAITING_MAX: usize = 64;

type Work = BoxFuture<'static, ()>;

/// Where such work is handed over.
#[derive(Debug)]
pub(crate) struct Detached {
    work: mpsc::Sender<Work>,
    /// Until the driver runs.
    handed_over: Mutex<Option<mpsc::Receiver<Work>>>,
}

impl Default for Detached {
    fn default() -> Self {
        let (work, handed_over) = mpsc::channel(WAITING_MAX);
        Self { work, handed_over: Mutex::new(Some(handed_over)) }
    }
}

impl Detached {
    /// Does some work to its end; `None` if the server ends before. Where no driver runs, as
    /// beside another homeserver, it is done as long as its caller waits.
    pub(crate) async fn run<T: Send + 'static>(&self, work: BoxFuture<'static, T>) -> Option<T> {
        if self.handed_over().is_some() {
            return Some(work.await);
        }
        let (tell, told) = oneshot::channel();
        let work = async move {
            // Perhaps to nobody.
            let _told = tell.send(work.await);
        };
        self.work.send(work.boxed()).await.ok()?;
        told.await.ok()
    }

    fn handed_over(&self) -> std::sync::MutexGuard<'_, Option<mpsc::Receiver<Work>>> {
        self.handed_over.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what is handed over, until `stop`.
pub(crate) async fn run(detached: Arc<Detached>, stop: CancellationToken) {
    let taken = detached.handed_over().take();
    let mut tasks = JoinSet::new();
    if let Some(mut handed_over) = taken {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(work) = handed_over.recv() => drop(tasks.spawn(work)),
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!(%error, "work of the federation failed");
                    }
                }
            }
        }
    }
    tasks.shutdown().await;
}
