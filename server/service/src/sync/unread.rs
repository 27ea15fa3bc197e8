//! Counting a user's unread events by the user's push rules.
//!
//! Counted when a room is shown to the user, not when an event is written: a
//! write must not cost in proportion to a room's members. What was counted is
//! kept in memory, so each event is looked at once per user who syncs.
//!
//! Not here: sending pushes.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use futures_util::FutureExt;
use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::AnySyncTimelineEvent,
    push::{Action, PushConditionRoomCtx, Ruleset},
    serde::Raw,
};
use serde_json::value::RawValue;

use super::response::Unread;

/// Unread events that are looked at in one room at once; those further back
/// are not counted.
pub const UNREAD_SCAN_MAX: usize = 1_000;

/// Of those, read at once: mostly there are few new ones.
pub const UNREAD_PAGE: usize = 16;

/// Counts kept in memory; beyond it they are forgotten and counted again.
const COUNTS_MAX: usize = 50_000;

/// What was counted for whom.
#[derive(Debug, Default)]
pub struct UnreadCounts {
    counts: Mutex<HashMap<(OwnedUserId, OwnedRoomId), Counted>>,
}

/// A count over the events in `(read, until]`.
#[derive(Clone, Copy, Debug)]
pub struct Counted {
    /// The user's read receipt, as a place in the room's timeline.
    pub read: i64,
    /// The last event counted.
    pub until: i64,
    /// The count.
    pub unread: Unread,
}

impl UnreadCounts {
    /// What was counted, if it was from this receipt on; else nothing yet.
    pub fn counted(&self, user_id: &UserId, room_id: &RoomId, read: i64) -> Counted {
        let found = self.lock().get(&(user_id.to_owned(), room_id.to_owned())).copied();
        found.filter(|counted| counted.read == read).unwrap_or(Counted {
            read,
            until: read,
            unread: Unread::default(),
        })
    }

    /// Remembers a count.
    pub fn remember(&self, user_id: &UserId, room_id: &RoomId, counted: Counted) {
        let mut counts = self.lock();
        if counts.len() >= COUNTS_MAX {
            counts.clear();
        }
        counts.insert((user_id.to_owned(), room_id.to_owned()), counted);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<(OwnedUserId, OwnedRoomId), Counted>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Adds one event to a count.
pub fn add(unread: &mut Unread, rules: &Ruleset, context: &PushConditionRoomCtx, event: &RawValue) {
    let event: Raw<AnySyncTimelineEvent> = Raw::from_json(event.to_owned());
    // The future waits for nothing: its only await is on thread subscriptions, which are not in use.
    let actions = rules.get_actions(&event, context).now_or_never().unwrap_or_default();
    unread.notification_count += u64::from(actions.iter().any(Action::should_notify));
    unread.highlight_count += u64::from(actions.iter().any(Action::is_highlight));
}

#[cfg(test)]
mod tests {
    use ruma::{owned_room_id, owned_user_id, room_id, uint, user_id};
    use serde_json::{Value, json, value::to_raw_value};

    use super::*;

    fn message(sender: &str, content: &Value) -> Box<RawValue> {
        to_raw_value(&json!({
            "type": "m.room.message", "event_id": "$e", "sender": sender, "origin_server_ts": 1, "content": content,
        }))
        .expect("JSON")
    }

    #[test]
    fn messages_notify_and_mentions_highlight() {
        let bob = user_id!("@bob:b.c");
        let rules = Ruleset::server_default(bob);
        let context =
            PushConditionRoomCtx::new(owned_room_id!("!r:b.c"), uint!(3), bob.to_owned(), "Bob".to_owned());
        let mut unread = Unread::default();
        add(
            &mut unread,
            &rules,
            &context,
            &message("@alice:b.c", &json!({ "msgtype": "m.text", "body": "hi" })),
        );
        assert_eq!(unread, Unread { notification_count: 1, highlight_count: 0 });
        let mention = json!({ "msgtype": "m.text", "body": "x", "m.mentions": { "user_ids": ["@bob:b.c"] } });
        add(&mut unread, &rules, &context, &message("@alice:b.c", &mention));
        assert_eq!(unread, Unread { notification_count: 2, highlight_count: 1 });
        add(&mut unread, &rules, &context, &message("@bob:b.c", &mention));
        add(
            &mut unread,
            &rules,
            &context,
            &message("@alice:b.c", &json!({ "msgtype": "m.notice", "body": "x" })),
        );
        assert_eq!(unread, Unread { notification_count: 2, highlight_count: 1 });
    }

    #[test]
    fn a_moved_receipt_starts_a_new_count() {
        let counts = UnreadCounts::default();
        let (room, bob) = (room_id!("!r:b.c"), owned_user_id!("@bob:b.c"));
        let unread = Unread { notification_count: 2, highlight_count: 0 };
        counts.remember(&bob, room, Counted { read: 5, until: 9, unread });
        assert_eq!(counts.counted(&bob, room, 5).until, 9);
        assert_eq!(counts.counted(&bob, room, 7).until, 7);
        assert_eq!(counts.counted(&bob, room, 7).unread, Unread::default());
    }
}
