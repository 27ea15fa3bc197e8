//! The flow of commits: which stream positions are in flight, what is synced,
//! and so what may be seen.
//!
//! Not aware of RocksDB: it is told of sequence numbers, and asks a closure to sync.
//!
//! Invariants:
//! - `visible` is below every position that is not durable, and never goes back;
//! - a sync that fails is never followed by one that succeeds: after a failed
//!   fsync the kernel may have dropped the pages that it could not write.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    thread::{self, Thread},
    time::Duration,
};

use crate::StorageError;

/// How long a durable commit waits for lower positions of other batches. They
/// are held for the length of one write, so this is only reached by a batch
/// that is held across a wait: a bug, but not one to hang on.
const VISIBLE_WAIT_MAX: Duration = Duration::from_secs(5);

pub(crate) struct Flow {
    visible: AtomicU64,
    state: Mutex<State>,
    /// Signalled when `visible` has risen, or nothing will ever be visible again.
    risen: Condvar,
}

struct State {
    /// The last position handed out.
    last: u64,
    in_flight: BTreeSet<u64>,
    /// Everything up to this sequence number is durable.
    synced: u64,
    /// Whether a leader is syncing.
    syncing: bool,
    failed: Option<String>,
    /// Written and not known to be synced: sequence number and positions.
    pending: Vec<(u64, Vec<u64>)>,
    /// Threads that wait while another one syncs.
    waiters: Vec<Arc<Waiter>>,
}

/// A parked thread. Each is woken by itself and when it has something to do: to
/// wake all at every sync, for half of which it came too early, cost a fifth of a
/// busy server's time.
struct Waiter {
    /// It waits until this is synced.
    sequence: u64,
    thread: Thread,
    /// One of the `TOLD` values.
    told: AtomicU8,
}

/// Nothing yet: an unparked thread may wake without a reason.
const TOLD_NOTHING: u8 = 0;
/// Look again: it is synced, or nothing ever will be.
const TOLD_TO_LOOK: u8 = 1;
/// Sync: `syncing` stays set and is this thread's now.
const TOLD_TO_LEAD: u8 = 2;

/// The right and duty to sync; those who wait hear of its end however it ends.
struct Lead<'a> {
    flow: &'a Flow,
    /// Up to which sequence number everything is synced.
    result: Result<u64, String>,
}

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        self.flow.end_sync(std::mem::replace(&mut self.result, Ok(0)));
    }
}

impl Waiter {
    /// Parks until told; whether to lead.
    fn wait(&self) -> bool {
        loop {
            match self.told.load(Ordering::Acquire) {
                TOLD_NOTHING => thread::park(),
                told => return told == TOLD_TO_LEAD,
            }
        }
    }

    fn tell(&self, told: u8) {
        self.told.store(told, Ordering::Release);
        self.thread.unpark();
    }
}

impl Flow {
    /// `last`: no position above it was ever handed out. `synced`: the
    /// sequence number at opening.
    pub(crate) fn new(last: u64, synced: u64) -> Self {
        let state = State {
            last,
            in_flight: BTreeSet::new(),
            synced,
            syncing: false,
            failed: None,
            pending: Vec::new(),
            waiters: Vec::new(),
        };
        Self { visible: AtomicU64::new(last), state: Mutex::new(state), risen: Condvar::new() }
    }

    pub(crate) fn visible(&self) -> u64 {
        self.visible.load(Ordering::Acquire)
    }

    pub(crate) fn allocate(&self) -> u64 {
        let mut state = self.lock();
        state.last += 1;
        let position = state.last;
        state.in_flight.insert(position);
        position
    }

    /// The batch of these positions will never be written.
    pub(crate) fn give_up(&self, positions: &[u64]) {
        if !positions.is_empty() {
            let mut state = self.lock();
            self.release(&mut state, positions);
        }
    }

    /// Whether writes are still accepted.
    pub(crate) fn check(&self) -> Result<(), StorageError> {
        self.lock().failed.clone().map_or(Ok(()), |reason| Err(StorageError::Sync(reason)))
    }

    /// The batch of these positions is in the log at or before `sequence`.
    pub(crate) fn written(&self, sequence: u64, positions: Vec<u64>) {
        if !positions.is_empty() {
            let mut state = self.lock();
            if state.synced >= sequence {
                // A leader synced it between its write and this call.
                self.release(&mut state, &positions);
            } else {
                state.pending.push((sequence, positions));
            }
        }
    }

    /// Waits until everything up to `sequence` is synced. One caller syncs for
    /// all who wait; `latest` tells it what its sync will cover.
    pub(crate) fn sync(
        &self,
        sequence: u64,
        latest: impl Fn() -> u64,
        sync: impl Fn() -> Result<(), String>,
    ) -> Result<(), StorageError> {
        let mut leads = false;
        loop {
            let mut state = self.lock();
            if !leads {
                if let Some(reason) = &state.failed {
                    return Err(StorageError::Sync(reason.clone()));
                }
                if state.synced >= sequence {
                    return Ok(());
                }
                if state.syncing {
                    let (thread, told) = (thread::current(), AtomicU8::new(TOLD_NOTHING));
                    let waiter = Arc::new(Waiter { sequence, thread, told });
                    state.waiters.push(Arc::clone(&waiter));
                    drop(state);
                    leads = waiter.wait();
                    continue;
                }
                state.syncing = true;
            }
            drop(state);
            let mut lead = Lead { flow: self, result: Err("the thread that synced panicked".to_owned()) };
            let covers = latest();
            lead.result = sync().map(|()| covers);
            drop(lead);
            leads = false;
        }
    }

    /// A sync is over: who it was for goes on, and one of the others leads.
    fn end_sync(&self, result: Result<u64, String>) {
        let mut state = self.lock();
        match result {
            Ok(covers) => {
                state.synced = state.synced.max(covers);
                self.release_synced(&mut state);
            }
            Err(reason) => {
                state.failed = Some(reason);
                self.risen.notify_all();
            }
        }
        let (synced, failed) = (state.synced, state.failed.is_some());
        let (served, mut waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut state.waiters)
            .into_iter()
            .partition(|waiter| failed || waiter.sequence <= synced);
        let leader = waiting.pop();
        state.waiters = waiting;
        state.syncing = leader.is_some();
        drop(state);
        for waiter in served {
            waiter.tell(TOLD_TO_LOOK);
        }
        if let Some(leader) = leader {
            leader.tell(TOLD_TO_LEAD);
        }
    }

    /// Waits until `position` is visible, which it is as soon as the batches
    /// with lower positions are durable too.
    pub(crate) fn wait_visible(&self, position: u64) {
        if self.visible() >= position {
            return;
        }
        let state = self.lock();
        let (_state, timeout) = self
            .risen
            .wait_timeout_while(state, VISIBLE_WAIT_MAX, |state| {
                self.visible() < position && state.failed.is_none()
            })
            .unwrap_or_else(PoisonError::into_inner);
        if timeout.timed_out() {
            tracing::warn!(position, "a batch holds a lower stream position for too long");
        }
    }

    /// The highest sequence number whose positions (up to `position`) wait for a sync.
    pub(crate) fn unsynced_below(&self, position: u64) -> Option<u64> {
        let state = self.lock();
        let below =
            state.pending.iter().filter(|(_, positions)| positions.iter().any(|held| *held <= position));
        below.map(|(sequence, _)| *sequence).max()
    }

    fn release_synced(&self, state: &mut State) {
        let synced = state.synced;
        let (done, pending) =
            std::mem::take(&mut state.pending).into_iter().partition(|(at, _)| *at <= synced);
        state.pending = pending;
        let done: Vec<(u64, Vec<u64>)> = done;
        let positions: Vec<u64> = done.into_iter().flat_map(|(_, positions)| positions).collect();
        self.release(state, &positions);
    }

    fn release(&self, state: &mut State, positions: &[u64]) {
        for position in positions {
            state.in_flight.remove(position);
        }
        let visible = state.in_flight.first().map_or(state.last, |lowest| lowest - 1);
        if visible > self.visible.fetch_max(visible, Ordering::AcqRel) {
            self.risen.notify_all();
        }
    }

    /// State is consistent between statements; a panic elsewhere must not stop
    /// every writer of the server.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[test]
    fn after_a_failed_sync_nothing_is_accepted_and_nothing_becomes_visible() {
        let flow = Flow::new(0, 0);
        let position = flow.allocate();
        flow.written(1, vec![position]);
        assert!(flow.sync(1, || 1, || Err("disk full".to_owned())).is_err());
        assert!(flow.check().is_err());
        let again = flow.sync(1, || 1, || unreachable!("a sync after a failed one proves nothing"));
        assert!(matches!(again, Err(StorageError::Sync(reason)) if reason == "disk full"));
        assert_eq!(flow.visible(), 0);
    }

    #[test]
    fn one_sync_covers_all_that_was_written_before_it() {
        let flow = Flow::new(0, 0);
        for sequence in 1..=3 {
            let position = flow.allocate();
            flow.written(sequence, vec![position]);
        }
        let syncs = AtomicUsize::new(0);
        let sync = || {
            syncs.fetch_add(1, Ordering::SeqCst);
            Ok(())
        };
        for sequence in 1..=3 {
            flow.sync(sequence, || 3, sync).expect("synced");
        }
        assert_eq!((syncs.load(Ordering::SeqCst), flow.visible()), (1, 3));
        // Written and already covered by a sync that began later: visible at once.
        let position = flow.allocate();
        flow.written(2, vec![position]);
        assert_eq!(flow.visible(), 4);
    }

    #[test]
    fn a_higher_position_waits_for_a_lower_one() {
        let flow = Flow::new(0, 0);
        let (low, high) = (flow.allocate(), flow.allocate());
        flow.written(1, vec![high]);
        flow.sync(1, || 1, || Ok(())).expect("synced");
        assert_eq!(flow.visible(), 0);
        assert_eq!(flow.unsynced_below(high), None, "the lower one is not written yet");
        flow.written(2, vec![low]);
        assert_eq!(flow.unsynced_below(high), Some(2));
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| flow.wait_visible(high));
            flow.sync(2, || 2, || Ok(())).expect("synced");
            waiting.join().expect("woken");
        });
        assert_eq!(flow.visible(), high);
    }
}
