//! Values that were left out when their headers came: what to ask others for,
//! and keeping what they answer.
//!
//! Only values of live changes are asked for. Nobody may have them any more:
//! then they are asked for less and less often, and the others are looked at in turn.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use causeway_shared_space::{ChangeId, ItemKey, Value};
use causeway_storage::shared_space::{
    entries, items,
    queues::{self, Queue, QueueRow},
};
use ruma::{OwnedRoomId, RoomId};
use serde_json::value::RawValue;

use super::{SharedSpace, error::SpaceError, quota::Quota, stored};
use crate::notify::Topic;

/// Values asked for at once, the bound of such a request.
pub const ASKED_MAX: usize = 500;
/// Rows looked at for those that are due; the next look begins where this one ended.
const SCAN_MAX: usize = 2_000;
/// Rooms of which that is remembered; the others begin anew.
const ROOMS_MAX: usize = 10_000;
/// Pauses between two questions for one value: they double.
const PAUSE_FIRST_MS: u64 = 60_000;
const PAUSE_LAST_MS: u64 = 24 * 3_600_000;

/// Subjects and what is queued for them.
type Rows = Vec<(String, QueueRow)>;

/// Where the next look at a room's rows begins, of rooms with more of them than
/// one look takes in.
#[derive(Debug, Default)]
pub(super) struct Looks(Mutex<HashMap<OwnedRoomId, String>>);

impl Looks {
    fn begin(&self, room: &RoomId) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(room).cloned()
    }

    fn go_on_at(&self, room: &RoomId, subject: Option<String>) {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match subject {
            Some(subject) if looks.len() < ROOMS_MAX || looks.contains_key(room) => {
                looks.insert(room.to_owned(), subject);
            }
            _ => drop(looks.remove(room)),
        }
    }
}

impl SharedSpace {
    /// The rows of a room that are looked at now, and where the next look begins.
    fn values_to_look_at(
        &self,
        room: &RoomId,
        scan_max: usize,
    ) -> Result<(Rows, Option<String>), SpaceError> {
        let mut rows = match self.value_looks.begin(room) {
            None => queues::of_room(&self.db, Queue::Value, room, scan_max + 1)?,
            Some(begin) => {
                let at = Some((room.as_str(), begin.as_str()));
                let rows = queues::from(&self.db, Queue::Value, at, scan_max + 1)?;
                let here = rows.into_iter().take_while(|(of, ..)| of == room.as_str());
                here.map(|(_, subject, row)| (subject, row)).collect()
            }
        };
        let next = if rows.len() > scan_max { rows.pop().map(|(subject, _)| subject) } else { None };
        Ok((rows, next))
    }

    /// The changes of a room whose values are to be asked for now. What is
    /// returned is not returned again for a while.
    ///
    /// # Errors
    /// Storage failed.
    pub fn missing_values(&self, room: &RoomId) -> Result<Vec<ChangeId>, SpaceError> {
        self.missing_values_among(room, SCAN_MAX)
    }

    fn missing_values_among(&self, room: &RoomId, scan_max: usize) -> Result<Vec<ChangeId>, SpaceError> {
        let now_ms = self.clock.now_ms();
        let mut batch = self.db.batch();
        let mut missing = Vec::new();
        let (rows, mut next) = self.values_to_look_at(room, scan_max)?;
        for (subject, row) in rows {
            if row.due > now_ms {
                continue;
            }
            if missing.len() == ASKED_MAX {
                next = Some(subject);
                break;
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
        self.value_looks.go_on_at(room, next);
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
        self.rooms.write_judging(room, |writer| {
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

    use causeway_shared_space::{Body, Change, Value};
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
    fn values_that_nobody_has_hide_no_others() {
        let pair = Pair::new();
        let space = &pair.a.shared_space;
        let bare: Vec<Change> = (0..5)
            .map(|number| pair.change(&format!("plan {number}"), put(number), |_| {}))
            .map(|whole| Change::parse(whole.to_json_without_value().as_bytes()).expect("an entry"))
            .collect();
        assert_eq!(pair.join(&bare), 5);
        let look = || space.missing_values_among(&pair.room, 2).expect("readable");
        let (first, second, third) = (look(), look(), look());
        assert_eq!([first.len(), second.len(), third.len()], [2, 2, 1]);
        let mut asked = [first, second, third].concat();
        asked.sort();
        asked.dedup();
        assert_eq!(asked.len(), 5, "all are asked for in turn");
        assert!(look().is_empty(), "from the beginning, and none is due");
    }

    #[test]
    fn an_answer_holds_only_so_many_bytes_of_values() {
        let pair = Pair::new();
        let mut ids = Vec::new();
        for number in 0..90 {
            let value = serde_json::json!({ "text": "x".repeat(48_000) }).to_string();
            let value = Value::parse(value.as_bytes()).expect("a value");
            let change = pair.change(&format!("plan {number}"), Body::Put(value), |_| {});
            ids.push(change.id());
            assert_eq!(pair.join(&[change]), 1);
        }
        let held = pair.a.shared_space.values(&pair.room, &ids).expect("readable");
        let bytes: usize = held.iter().map(|(_, value)| value.get().len()).sum();
        assert!(bytes <= super::super::read::MAX_DELTA_BYTES && held.len() > 80, "{bytes} in {}", held.len());
        let rest = pair.a.shared_space.values(&pair.room, &ids[held.len()..]).expect("readable");
        assert_eq!(held.len() + rest.len(), ids.len());
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
