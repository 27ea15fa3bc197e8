//! Values that were left out when their headers came: what to ask others for,
//! and keeping what they answer.
//!
//! Only values of live changes are asked for. Nobody may have them any more:
//! then they are asked for less and less often.

use causeway_shared_space::{ChangeId, ItemKey, Value};
use causeway_storage::shared_space::{
    entries, items,
    queues::{self, Queue, QueueRow},
};
use ruma::RoomId;
use serde_json::value::RawValue;

use super::{SharedSpace, error::SpaceError, quota::Quota, stored};
use crate::notify::Topic;

/// Values asked for at once, the bound of such a request.
pub const ASKED_MAX: usize = 500;
/// Rows looked at for those that are due.
const SCAN_MAX: usize = 2_000;
/// Pauses between two questions for one value: they double.
const PAUSE_FIRST_MS: u64 = 60_000;
const PAUSE_LAST_MS: u64 = 24 * 3_600_000;

impl SharedSpace {
    /// The changes of a room whose values are to be asked for now. What is
    /// returned is not returned again for a while.
    ///
    /// # Errors
    /// Storage failed.
    pub fn missing_values(&self, room: &RoomId) -> Result<Vec<ChangeId>, SpaceError> {
        let now_ms = self.clock.now_ms();
        let mut batch = self.db.batch();
        let mut missing = Vec::new();
        for (subject, row) in queues::of_room(&self.db, Queue::Value, room, SCAN_MAX)? {
            if row.due > now_ms || missing.len() == ASKED_MAX {
                continue;
            }
            match subject.parse().ok().filter(|id| self.lacks_value(room, id).unwrap_or(true)) {
                Some(id) => {
                    let pause = PAUSE_FIRST_MS.saturating_mul(1 << row.attempts.min(20)).min(PAUSE_LAST_MS);
                    let row =
                        QueueRow { due: now_ms + pause, attempts: row.attempts.saturating_add(1), ..row };
                    queues::put(&mut batch, Queue::Value, room, &subject, &row);
                    missing.push(id);
                }
                None => queues::delete(&mut batch, Queue::Value, room, &subject),
            }
        }
        let _unsynced = self.db.commit(batch)?;
        Ok(missing)
    }

    /// Whether a change is live and its value is neither here nor erased.
    fn lacks_value(&self, room: &RoomId, id: &ChangeId) -> Result<bool, SpaceError> {
        if entries::value(&self.db, room, id)?.is_some() {
            return Ok(false);
        }
        let Some(row) = entries::entry(&self.db, room, id)? else { return Ok(false) };
        let Some((header, _)) = stored::parts(&row) else { return Ok(false) };
        // What an adoption brings may have been erased under the name that it shares with others.
        if entries::value(&self.db, room, &header.item_id())?.is_some_and(|value| value.is_empty()) {
            return Ok(false);
        }
        let item = items::item(&self.db, room, header.key().as_str())?.unwrap_or_default().item;
        Ok(item.siblings().iter().any(|sibling| sibling.entry == *id))
    }

    /// Keeps values that another server gave. One that is not what its header
    /// says is refused. Returns how many are new. Durable when it returns.
    ///
    /// # Errors
    /// Storage failed.
    pub fn keep_values(
        &self,
        room: &RoomId,
        values: &[(ChangeId, Box<RawValue>)],
    ) -> Result<usize, SpaceError> {
        self.rooms.write(room, |writer| {
            let mut touched: Vec<ItemKey> = Vec::new();
            let mut quota = Quota::new(self.quota_bytes);
            for (id, text) in values.iter().take(ASKED_MAX) {
                if !self.lacks_value(room, id)? {
                    continue;
                }
                let Some(row) = entries::entry(&self.db, room, id)? else { continue };
                let Some((header, _)) = stored::parts(&row) else { continue };
                let value = Value::parse(text.get().as_bytes()).ok();
                let Some(value) = value.filter(|value| Some(value.hash()) == header.value_hash()) else {
                    self.metrics.refused("value");
                    tracing::warn!(change = %id, "a value is not the one that its header names");
                    continue;
                };
                let bytes = u64::try_from(value.as_str().len()).unwrap_or(u64::MAX);
                if header.server() != self.server_name() {
                    if !quota.has_room(&self.db, room, header.server(), bytes)? {
                        self.metrics.refused("quota");
                        tracing::warn!(change = %id, "a value is left out: its server is over quota");
                        continue;
                    }
                    quota.add(header.server(), bytes);
                }
                entries::put_value(writer.batch(), room, id, value.as_str());
                queues::delete(writer.batch(), Queue::Value, room, &id.to_string());
                touched.push(header.key().clone());
            }
            quota.finish(writer.batch(), room);
            for key in &touched {
                self.queue_projection(writer, key)?;
            }
            if !touched.is_empty() {
                writer.notify(Topic::Space(room.to_owned()));
            }
            Ok(touched.len())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use causeway_shared_space::Change;
    use serde_json::{Value as Json, value::to_raw_value};

    use super::super::pair::{Pair, put};

    fn shown(pair: &Pair) -> Json {
        let item = super::super::tests::item("plan");
        let space = &pair.a.shared_space;
        space.get(*super::super::tests::ALICE, &pair.room, &item).expect("an item")["siblings"][0].clone()
    }

    #[test]
    fn a_value_that_was_left_out_is_asked_for_and_kept_if_it_is_the_one() {
        let pair = Pair::new();
        let space = &pair.a.shared_space;
        let whole = pair.change("plan", put(7), |_| {});
        let bare = Change::parse(whole.to_json_without_value().as_bytes()).expect("an entry");
        assert_eq!(pair.join(&[bare]), 1);
        assert_eq!((&shown(&pair)["missing"], shown(&pair).get("redacted")), (&true.into(), None));
        assert_eq!(space.missing_values(&pair.room).expect("readable"), [whole.id()]);
        assert!(space.missing_values(&pair.room).expect("readable").is_empty(), "not at once again");
        pair.a.clock.advance(Duration::from_mins(2));
        assert_eq!(space.missing_values(&pair.room).expect("readable").len(), 1);
        let other = to_raw_value(&serde_json::json!({"n": 8})).expect("JSON");
        assert_eq!(space.keep_values(&pair.room, &[(whole.id(), other)]).expect("looked at"), 0);
        let right = to_raw_value(&serde_json::json!({"n": 7})).expect("JSON");
        assert_eq!(space.keep_values(&pair.room, &[(whole.id(), right)]).expect("kept"), 1);
        assert_eq!(shown(&pair)["value"]["n"], 7);
        pair.a.clock.advance(Duration::from_hours(48));
        assert!(space.missing_values(&pair.room).expect("readable").is_empty());
    }

    #[test]
    fn what_a_banned_author_wrote_is_flagged() {
        let pair = Pair::new();
        pair.join(&[pair.change("plan", put(7), |_| {})]);
        assert_eq!(shown(&pair).get("banned"), None);
        let ban = serde_json::json!({ "membership": "ban" });
        pair.send(
            *super::super::tests::ALICE,
            "m.room.member",
            Some(super::super::pair::MALLORY.as_str()),
            ban,
        );
        assert_eq!((&shown(&pair)["banned"], &shown(&pair)["value"]["n"]), (&true.into(), &7.into()));
    }
}
