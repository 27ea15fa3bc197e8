//! What the sender and a destination's task share.

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;

/// The handle on a destination's task.
#[derive(Debug)]
pub(super) struct Slot {
    /// Something new waits, or the destination was heard from.
    woken: Notify,
    /// Set from outside: the destination is alive. Ends a pause, and an attempt
    /// that has gone without an answer for long.
    heard: AtomicBool,
    /// Whether the last attempt failed.
    pausing: AtomicBool,
    /// Set from outside: look once more before ending.
    again: AtomicBool,
}

impl Slot {
    pub(super) fn new(woken: Notify) -> Self {
        let no = || AtomicBool::new(false);
        Self { woken, heard: no(), pausing: no(), again: no() }
    }

    /// Something new waits.
    pub(super) fn wake(&self) {
        self.again.store(true, Ordering::SeqCst);
        self.woken.notify_one();
    }

    /// Whether somebody called [`Slot::wake`] since the last time.
    pub(super) fn take_again(&self) -> bool {
        self.again.swap(false, Ordering::SeqCst)
    }

    /// The destination is alive.
    pub(super) fn heard_from(&self) {
        self.heard.store(true, Ordering::SeqCst);
        self.woken.notify_one();
    }

    pub(super) fn take_heard(&self) -> bool {
        self.heard.swap(false, Ordering::SeqCst)
    }

    pub(super) fn is_pausing(&self) -> bool {
        self.pausing.load(Ordering::SeqCst)
    }

    pub(super) fn set_pausing(&self, pausing: bool) {
        self.pausing.store(pausing, Ordering::SeqCst);
    }

    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }
}
