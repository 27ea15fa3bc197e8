//! Joins that are under way: of a room one after the other, and what other servers send of
//! such a room meanwhile waits for its end, for a while. They see this server in the room
//! from the moment at which they took its join, and may send nothing a second time.
//!
//! Not here: joining ([`crate::remote_driver`]).

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use causeway_service::turns::Turns;
use ruma::{OwnedRoomId, RoomId};
use tokio::sync::{Notify, OwnedSemaphorePermit};

/// How long a transaction waits: for less than its sender does.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// The joins.
#[derive(Debug)]
pub(crate) struct Joins {
    turns: Turns<OwnedRoomId>,
    /// Whose answers are awaited or taken in, and how many of each.
    under_way: Mutex<HashMap<OwnedRoomId, usize>>,
    ended: Notify,
}

impl Default for Joins {
    fn default() -> Self {
        Self { turns: Turns::new(1), under_way: Mutex::default(), ended: Notify::new() }
    }
}

/// A join that is under way until this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay<'a> {
    joins: &'a Joins,
    room_id: OwnedRoomId,
}

impl Joins {
    /// Waits until nobody else joins the room.
    pub(crate) async fn turn(&self, room_id: &RoomId) -> OwnedSemaphorePermit {
        self.turns.take(room_id).await
    }

    /// From now on what others send of the room waits.
    pub(crate) fn begin(&self, room_id: &RoomId) -> UnderWay<'_> {
        *self.lock().entry(room_id.to_owned()).or_default() += 1;
        UnderWay { joins: self, room_id: room_id.to_owned() }
    }

    /// Waits until none of these rooms is being joined, or [`WAIT_MAX`] has passed.
    pub(crate) async fn wait(&self, rooms: impl Fn() -> Vec<OwnedRoomId>) {
        if self.lock().is_empty() {
            return;
        }
        let rooms = rooms();
        let waiting = async {
            loop {
                let ended = self.ended.notified();
                tokio::pin!(ended);
                // Before looking, so that no end is missed in between.
                ended.as_mut().enable();
                if rooms.iter().all(|room_id| !self.lock().contains_key(room_id)) {
                    return;
                }
                ended.await;
            }
        };
        let _late = tokio::time::timeout(WAIT_MAX, waiting).await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<OwnedRoomId, usize>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let mut under_way = self.joins.lock();
        if let Some(count) = under_way.get_mut(&self.room_id) {
            *count -= 1;
            if *count == 0 {
                under_way.remove(&self.room_id);
            }
        }
        drop(under_way);
        self.joins.ended.notify_waiters();
    }
}
