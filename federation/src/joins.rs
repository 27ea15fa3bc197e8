//! Joins that are under way: of a room one after the other, and what other servers send of
//! such a room meanwhile waits for its end, for a while. They see this server in the room
//! from the moment at which they took its join, and may send nothing a second time.
//! One user's joins of a room are one after the other however long each takes; another's may
//! be of use to him, but is not waited for as long as a server may stall.
//!
//! Not here: joining ([`crate::remote_driver`]).

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use causeway_service::turns::Turns;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId};
use tokio::sync::{Notify, OwnedSemaphorePermit};

/// How long a join waits for another user's.
const TURN_WAIT: Duration = Duration::from_secs(30);
/// How long a transaction waits: for less than its sender does.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// The joins.
#[derive(Debug)]
pub(crate) struct Joins {
    turns: Turns<OwnedRoomId>,
    of_user: Turns<(OwnedRoomId, OwnedUserId)>,
    turn_wait: Duration,
    /// Whose answers are awaited or taken in, and how many of each.
    under_way: Mutex<HashMap<OwnedRoomId, usize>>,
    ended: Notify,
}

impl Default for Joins {
    fn default() -> Self {
        Self {
            turns: Turns::new(1),
            of_user: Turns::new(1),
            turn_wait: TURN_WAIT,
            under_way: Mutex::default(),
            ended: Notify::new(),
        }
    }
}

/// Whose turn it is to join a room.
#[derive(Debug)]
pub(crate) struct JoinTurn {
    _of_user: OwnedSemaphorePermit,
    /// Unless another's took too long.
    _of_room: Option<OwnedSemaphorePermit>,
}

/// A join that is under way until this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay<'a> {
    joins: &'a Joins,
    room_id: OwnedRoomId,
}

impl Joins {
    /// Waits until the user does not join the room in another way, and, for a while, until
    /// nobody else joins it.
    pub(crate) async fn turn(&self, room_id: &RoomId, user_id: &UserId) -> JoinTurn {
        let of_user = self.of_user.take(&(room_id.to_owned(), user_id.to_owned())).await;
        let of_room = tokio::time::timeout(self.turn_wait, self.turns.take(room_id)).await.ok();
        JoinTurn { _of_user: of_user, _of_room: of_room }
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

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use ruma::{room_id, user_id};

    use super::*;

    #[tokio::test]
    async fn a_join_that_takes_long_holds_up_no_other_user_for_as_long() {
        let joins = Joins { turn_wait: Duration::from_millis(1), ..Joins::default() };
        let (room, alice, bob) = (room_id!("!r:a.test"), user_id!("@alice:a.test"), user_id!("@bob:a.test"));
        let stalled = joins.turn(room, alice).await;
        let mut again = Box::pin(joins.turn(room, alice));
        drop(joins.turn(room, bob).await);
        assert!(again.as_mut().now_or_never().is_none(), "the same user's would be another of the same");
        drop(stalled);
        drop(again.await);
    }
}
