//! The event of a room that is closest to a time, for one who may see it.
//!
//! Not here: asking other servers for history that this one lacks; the doors do.

use causeway_storage::{
    Direction,
    rooms::{self as rows, TimePlace},
};
use ruma::{OwnedEventId, RoomId, ServerName, UserId};

use crate::{
    error::MatrixError,
    room_view::RoomView,
    rooms::{Held, RoomError, Rooms, Sight},
    visible::Viewer,
};

/// Events that are looked at until one may be seen.
const SCANNED_MAX: usize = 10_000;
/// States that are walked whole to learn whether another server may see an event:
/// in a large room each costs much.
const STATES_MAX: usize = 32;
/// Read at once.
const STEP: usize = 32;

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Closest {
    /// The event.
    pub event_id: OwnedEventId,
    /// Its time.
    pub origin_server_ts: u64,
    /// Whether there may be a closer one that this server does not hold.
    pub may_be_closer: bool,
}

impl Rooms {
    /// The first event at or after `ts`, or the last at or before it, that a
    /// user may see.
    ///
    /// # Errors
    /// 403 for those who may see nothing of the room.
    pub fn closest_for_user(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        ts: u64,
        direction: Direction,
    ) -> Result<Option<Closest>, MatrixError> {
        let mut viewer = Viewer::new(RoomView::new(self), room_id, user_id)?;
        viewer.require_some_access(room_id)?;
        self.closest(room_id, ts, direction, |held| Ok(viewer.may_see(held)?))
    }

    /// The same for another server, which is in the room.
    ///
    /// # Errors
    /// Storage.
    pub fn closest_for_server(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        ts: u64,
        direction: Direction,
    ) -> Result<Option<Closest>, MatrixError> {
        let mut sight = Sight::new(self, server, STATES_MAX);
        self.closest(room_id, ts, direction, |held| Ok(sight.sees_event(held)?))
    }

    fn closest(
        &self,
        room_id: &RoomId,
        ts: u64,
        direction: Direction,
        mut may_see: impl FnMut(&Held) -> Result<bool, MatrixError>,
    ) -> Result<Option<Closest>, MatrixError> {
        let view = RoomView::new(self);
        let forward = direction == Direction::Forward;
        let mut at = TimePlace { ts, position: if forward { i64::MIN } else { i64::MAX } };
        for _ in 0..SCANNED_MAX / STEP {
            let step = rows::by_time(view.database(), room_id, at, direction, STEP)?;
            let is_last = step.len() < STEP;
            for (place, event_id) in step {
                if let Some(held) = view.event_in(room_id, &event_id)?
                    && may_see(&held)?
                {
                    let may_be_closer = self.is_beside_a_hole(&held, direction)?;
                    return Ok(Some(Closest { event_id, origin_server_ts: place.ts, may_be_closer }));
                }
                at = next(place, forward);
            }
            if is_last {
                break;
            }
        }
        Ok(None)
    }

    /// Whether history is missing between an event and the time it was found by.
    fn is_beside_a_hole(&self, held: &Held, direction: Direction) -> Result<bool, RoomError> {
        if direction == Direction::Forward {
            return Ok(held.meta.gap_before);
        }
        let Some(position) = held.meta.position else { return Ok(false) };
        let after = RoomView::new(self).timeline(
            &held.meta.room_id,
            position.checked_add(1),
            Direction::Forward,
            1,
        )?;
        let Some(after) = after.first() else { return Ok(false) };
        Ok(self.held(&after.event_id)?.is_some_and(|after| after.meta.gap_before))
    }
}

/// The place beside a place.
fn next(place: TimePlace, forward: bool) -> TimePlace {
    let TimePlace { ts, position } = place;
    if forward {
        match position.checked_add(1) {
            Some(position) => TimePlace { ts, position },
            None => TimePlace { ts: ts.saturating_add(1), position: i64::MIN },
        }
    } else {
        match position.checked_sub(1) {
            Some(position) => TimePlace { ts, position },
            None => TimePlace { ts: ts.saturating_sub(1), position: i64::MAX },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::*;
    use crate::rooms::{
        Preset,
        tests::{Server, federation::join_over, message, state},
    };

    #[test]
    fn another_server_is_told_of_what_comes_after_many_hidden_states() {
        let (a, b) = (Server::new("a.example"), Server::new("b.example"));
        let (alice, bob) = (a.user("alice"), b.user("bob"));
        let room_id = a.create(&alice, Preset::PublicChat);
        let joined = json!({ "history_visibility": "joined" });
        a.send(&room_id, state(&alice, "m.room.history_visibility", "", joined));
        a.clock.advance(Duration::from_secs(1));
        let hidden_ms = a.clock.now_ms();
        // Each is a state of its own.
        for n in 0..=STATES_MAX {
            a.send(&room_id, state(&alice, "m.room.topic", "", json!({ "topic": n.to_string() })));
        }
        a.clock.advance(Duration::from_secs(1));
        join_over(&a, &b, &room_id, &bob).expect("joins");
        let seen = a.send(&room_id, message(&alice, "with bob"));
        let closest = |ts, direction| {
            let found = a.rooms.closest_for_server(b.rooms.server_name(), &room_id, ts, direction);
            found.expect("reads").map(|found| found.event_id)
        };
        assert_eq!(closest(u64::MAX, Direction::Backward).as_deref(), Some(seen.event_id()));
        let first = closest(hidden_ms, Direction::Forward).expect("something is seen");
        let first = a.rooms.event(&first).expect("reads").expect("is there");
        assert!(first.origin_server_ts() > hidden_ms, "nothing from before the join");
    }
}
