//! The items of a room that is replaced by another go along.
//!
//! Written in the name of whoever upgrades the room, with all live values: what
//! was in conflict stays so. The history stays behind. Not here: the rest of the
//! upgrade ([`crate::upgrade`]), which queues the copy ([`plan`]) before it closes
//! the old room; beside another homeserver it is queued when that has closed it.
//!
//! Invariant: what can't be copied is told in the new room. A copy that a crash or a
//! failure interrupts goes on where it was; a value that is there is not copied again.

use std::collections::BTreeSet;

use causeway_shared_space::{ItemKey, Sibling, Value, item::MAX_SIBLINGS};
use causeway_storage::{
    Batch,
    shared_space::{
        entries, items,
        queues::{self, Queue, QueueRow},
    },
};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId, state_res::Event as _};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    SharedSpace,
    agenda::Task,
    backend::Subject,
    error::SpaceError,
    lock,
    telling::{Said, Speaking},
    write::{OnConflict, Write, Writer},
};
use crate::{error::Chain, room_event::RoomEvent};

/// Items looked at, and values written, at once.
const AT_ONCE: usize = 100;
/// How long whoever upgrades a room has for copying before it is done in the background.
const HEAD_START_MS: u64 = 60_000;
/// Pages in one round: the worker has other things to do, and who upgrades a room waits.
const PAGES_AT_ONCE: usize = 10;
/// How long an upgrade may take before its copy is given up.
const UPGRADE_MAX_MS: u64 = 24 * 3_600_000;
/// How often it is tried to tell what stayed behind.
const TELLING_MAX: u32 = 10;
/// Pauses after a failure: they double.
const PAUSE_FIRST_MS: u64 = 1_000;
const PAUSE_LAST_MS: u64 = 3_600_000;

/// How far a copy is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Progress {
    /// Who upgraded the room.
    user: OwnedUserId,
    /// The last key that was looked at.
    after: Option<String>,
    /// Values that could not be copied.
    left: usize,
    /// When it was planned (ms since the epoch).
    planned: u64,
}

/// What a sibling says.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Live {
    Value(Vec<u8>),
    Deleted,
    /// It was redacted: there is nothing to copy.
    Erased,
    /// The value is not at hand.
    Absent,
}

/// Whether the copy was planned before this (ms since the epoch), or nobody knows when.
fn planned_before(row: &QueueRow, when_ms: u64) -> bool {
    row.detail.get("planned").and_then(serde_json::Value::as_u64).is_none_or(|planned| planned < when_ms)
}

/// Queues the copy, with the batch: all live items of `from` to `to`, on behalf of `user`.
pub fn plan(batch: &mut Batch, user: &UserId, from: &RoomId, to: &RoomId, now_ms: u64) {
    let detail = json!(Progress { user: user.to_owned(), after: None, left: 0, planned: now_ms });
    let row = QueueRow { detail, ..QueueRow::due(now_ms + HEAD_START_MS) };
    queues::put(batch, Queue::Copy, to, from.as_str(), &row);
}

impl SharedSpace {
    /// Says that a copy is about to be planned: it is looked for by and by, whatever
    /// becomes of who plans it.
    pub fn expect_copy(&self) {
        self.agenda.note(Queue::Copy, self.clock.now_ms() + HEAD_START_MS);
    }

    /// Begins a planned copy: of a space of ordinary size all is copied, and durable,
    /// when it returns; the rest, or what failed, follows in the background.
    ///
    /// # Errors
    /// Storage failed.
    pub fn begin_copy(&self, from: &RoomId, to: &RoomId) -> Result<(), SpaceError> {
        // What the new room declares counts.
        self.follow()?;
        if self.copy_pages(from, to)? {
            self.put_off(from, to, 0)?;
        }
        Ok(())
    }

    /// Queues the copy of a room that a user of another homeserver, beside this one, has upgraded
    /// there: once, when its tombstone is seen. What was closed longer ago than an upgrade takes is
    /// left: its items may have come and gone in the new room since.
    pub(super) fn plan_after(&self, room: &RoomId, tombstone: &RoomEvent) -> Result<(), SpaceError> {
        let (now_ms, said_ms) = (self.clock.now_ms(), u64::from(tombstone.origin_server_ts().get()));
        let is_its_own = tombstone.sender().server_name() == self.server_name();
        if self.rooms.has_all() || !is_its_own || said_ms.saturating_add(UPGRADE_MAX_MS) < now_ms {
            return Ok(());
        }
        let content = tombstone.content_object();
        let to = content.get("replacement_room").and_then(serde_json::Value::as_str);
        let Some(to) = to.and_then(|to| RoomId::parse(to).ok()).filter(|to| to != room) else {
            return Ok(());
        };
        let mark = ["copied", room.as_str()];
        if queues::meta::<bool>(&self.db, &mark)?.is_some() {
            return Ok(());
        }
        let mut batch = self.db.batch();
        queues::put_meta(&mut batch, &mark, &true);
        let user = tombstone.sender().to_owned();
        let detail = json!(Progress { user, after: None, left: 0, planned: now_ms });
        let row = QueueRow { detail, ..QueueRow::due(now_ms) };
        queues::put(&mut batch, Queue::Copy, &to, room.as_str(), &row);
        let _unsynced = self.db.commit(batch)?;
        self.agenda.note(Queue::Copy, now_ms);
        Ok(())
    }

    /// Goes on with the copies that are due, a part of each.
    pub(super) fn copy_rooms(&self) -> Result<(), SpaceError> {
        let now_ms = self.clock.now_ms();
        for Task { room, subject, row } in self.agenda.take(&self.db, Queue::Copy, now_ms)? {
            // Whatever becomes of this round, there is another.
            self.agenda.note(Queue::Copy, now_ms + PAUSE_FIRST_MS);
            let Ok(from) = RoomId::parse(&subject) else { continue };
            let more = if self.replaced_by(&from)?.as_deref() == Some(&*room) {
                self.copy_pages(&from, &room)
            } else if planned_before(&row, now_ms.saturating_sub(UPGRADE_MAX_MS)) {
                // The upgrade went no further.
                self.end_copy(&from, &room).map(|()| false)
            } else {
                self.put_off(&from, &room, PAUSE_LAST_MS).map(|()| false)
            };
            match more {
                Ok(true) => self.put_off(&from, &room, 0)?,
                Ok(false) => {}
                Err(error) => {
                    let error = Chain(&error);
                    tracing::warn!(%room, %error, "items can't be copied to a room's successor yet");
                    let pause = PAUSE_FIRST_MS.saturating_mul(1 << row.attempts.min(20)).min(PAUSE_LAST_MS);
                    self.put_off(&from, &room, pause)?;
                }
            }
        }
        Ok(())
    }

    /// Copies the next pages; whether there are more.
    fn copy_pages(&self, from: &RoomId, to: &RoomId) -> Result<bool, SpaceError> {
        for _ in 0..PAGES_AT_ONCE {
            if self.is_stopping() {
                return Ok(true);
            }
            if !self.copy_some(from, to)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Nothing more of a copy is done for so long.
    fn put_off(&self, from: &RoomId, to: &RoomId, pause_ms: u64) -> Result<(), SpaceError> {
        let _copying = lock(&self.copying);
        let Some(row) = queues::queued(&self.db, Queue::Copy, to, from.as_str())? else { return Ok(()) };
        let (due, attempts) = (self.clock.now_ms() + pause_ms, row.attempts);
        let attempts = if pause_ms == 0 { 0 } else { attempts.saturating_add(1) };
        self.keep_copy(from, to, &QueueRow { due, attempts, ..row })
    }

    /// Copies the next items; false when there are no more.
    fn copy_some(&self, from: &RoomId, to: &RoomId) -> Result<bool, SpaceError> {
        let _copying = lock(&self.copying);
        let Some(row) = queues::queued(&self.db, Queue::Copy, to, from.as_str())? else { return Ok(false) };
        let Ok(mut progress) = serde_json::from_value::<Progress>(row.detail.clone()) else {
            self.end_copy(from, to)?;
            return Ok(false);
        };
        let page = items::items(&self.db, from, "", progress.after.as_deref(), AT_ONCE)?;
        let Some((last, _)) = page.last() else {
            if self.tell_left(from, to, &progress)? || row.attempts >= TELLING_MAX {
                self.end_copy(from, to)?;
            } else {
                let (due, attempts) = (self.clock.now_ms() + PAUSE_LAST_MS, row.attempts + 1);
                self.keep_copy(from, to, &QueueRow { due, attempts, ..row })?;
            }
            return Ok(false);
        };
        progress.after = Some(last.clone());
        let mut writes = Vec::new();
        for (key, item) in page.iter().filter(|(_, row)| !row.item.is_deleted()) {
            let there = self.live_values(to, key)?;
            // No item is given more by one who has not seen the others.
            progress.left += item.item.siblings().len().saturating_sub(MAX_SIBLINGS);
            for sibling in item.item.siblings().iter().take(MAX_SIBLINGS) {
                let live = self.live_value(from, sibling)?;
                let value = match &live {
                    Live::Erased => continue,
                    Live::Absent => {
                        progress.left += 1;
                        continue;
                    }
                    there_already if there.contains(there_already) => continue,
                    Live::Deleted => None,
                    Live::Value(text) => Some(Value::parse(text)?),
                };
                let (key, token) = (ItemKey::new(key)?, None);
                writes.push(Write { key, value, token, on_conflict: OnConflict::Keep });
            }
        }
        progress.left += self.copy_values(&progress.user, to, writes)?;
        self.keep_copy(from, to, &QueueRow { detail: json!(progress), ..row })?;
        Ok(true)
    }

    /// Writes the values; returns how many are refused.
    fn copy_values(&self, user: &UserId, to: &RoomId, writes: Vec<Write>) -> Result<usize, SpaceError> {
        // Without a device no write is taken to have seen another.
        let writer = Writer { user, device: None, idempotency_key: None };
        let mut refused = 0;
        let writes: Vec<_> = writes.into_iter().map(Ok).collect();
        for writes in writes.chunks(AT_ONCE) {
            match self.put_batch(writer, to, writes) {
                Ok(answer) => {
                    let results = answer["results"].as_array().map(Vec::as_slice).unwrap_or_default();
                    refused += results.iter().filter(|result| result.get("errcode").is_some()).count();
                    continue;
                }
                Err(error) if error.is_storage() => return Err(error),
                Err(error) => tracing::debug!(error = %Chain(&error), "items are copied one by one"),
            }
            for write in writes.iter().flatten() {
                match self.put(writer, to, write) {
                    Ok(_) => {}
                    Err(error) if error.is_storage() => return Err(error),
                    Err(error) => {
                        tracing::warn!(room = %to, error = %Chain(&error), "an item of the room before can't be copied");
                        refused += 1;
                    }
                }
            }
        }
        Ok(refused)
    }

    fn live_value(&self, room: &RoomId, sibling: &Sibling) -> Result<Live, SpaceError> {
        if sibling.is_tombstone() {
            return Ok(Live::Deleted);
        }
        Ok(match entries::value(&self.db, room, &sibling.entry)? {
            Some(text) if text.is_empty() => Live::Erased,
            Some(text) if Value::parse(&text).is_ok() => Live::Value(text),
            _ => Live::Absent,
        })
    }

    fn live_values(&self, room: &RoomId, key: &str) -> Result<BTreeSet<Live>, SpaceError> {
        let item = items::item(&self.db, room, key)?.unwrap_or_default().item;
        item.siblings().iter().map(|sibling| self.live_value(room, sibling)).collect()
    }

    /// Tells in the new room what stayed in the old one; false if nobody can speak there.
    fn tell_left(&self, from: &RoomId, to: &RoomId, progress: &Progress) -> Result<bool, SpaceError> {
        if progress.left == 0 {
            return Ok(true);
        }
        let (left, user) = (progress.left, &progress.user);
        tracing::warn!(room = %to, left, "values of a replaced room were not all copied");
        let body = format!(
            "{left} {} of the shared space could not be brought here from the room before this one. \
             They are all kept there: https://matrix.to/#/{from}",
            if left == 1 { "value" } else { "values" }
        );
        let content = json!({
            "msgtype": "m.text", "body": body, "m.mentions": { "user_ids": [user] },
            "org.causeway.left_behind": { "room_id": from, "values": left },
        });
        let said = self.rooms.write_patiently(to, |writer| {
            let speaking = Speaking { author: Some(user.clone()), waits: true };
            self.say(writer, speaking, content.clone(), Subject::LeftBehind)
        })?;
        Ok(matches!(said, Said::Sent(..) | Said::Queued))
    }

    fn replaced_by(&self, room: &RoomId) -> Result<Option<OwnedRoomId>, SpaceError> {
        let tombstone = self.rooms.read(room, |facts| Ok(facts.state("m.room.tombstone", "")?))?;
        let content = tombstone.map(|event| event.content_object());
        Ok(content.and_then(|content| RoomId::parse(content.get("replacement_room")?.as_str()?).ok()))
    }

    fn keep_copy(&self, from: &RoomId, to: &RoomId, row: &QueueRow) -> Result<(), SpaceError> {
        let mut batch = self.db.batch();
        queues::put(&mut batch, Queue::Copy, to, from.as_str(), row);
        self.db.commit_durable(batch)?;
        self.agenda.note(Queue::Copy, row.due);
        Ok(())
    }

    fn end_copy(&self, from: &RoomId, to: &RoomId) -> Result<(), SpaceError> {
        let mut batch = self.db.batch();
        queues::delete(&mut batch, Queue::Copy, to, from.as_str());
        self.db.commit_durable(batch)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use causeway_room::NewEvent;
    use causeway_shared_space::ChangeId;
    use causeway_storage::Direction;
    use ruma::OwnedRoomId;
    use serde_json::{Value as Json, json};

    use super::{
        super::tests::{ALICE, Fixture, item},
        *,
    };
    use crate::rooms::CreateRoom;

    /// A room that `fixture`'s is to be replaced by, and the copy queued.
    fn planned(fixture: &Fixture) -> OwnedRoomId {
        let new = fixture.services.rooms.create(*ALICE, &CreateRoom::default()).expect("a room").room_id;
        fixture.services.shared_space.expect_copy();
        let mut batch = fixture.services.database.batch();
        plan(&mut batch, *ALICE, &fixture.room, &new, fixture.services.clock.now_ms());
        fixture.services.database.commit_durable(batch).expect("committed");
        new
    }

    fn replace(fixture: &Fixture, new: &RoomId) {
        let content = json!({ "replacement_room": new, "body": "replaced" });
        let event = NewEvent::new("m.room.tombstone", (*ALICE).to_owned(), Some(String::new()), content);
        fixture.services.rooms.send(&fixture.room, event.expect("an event"), None).expect("sent");
    }

    fn shown(fixture: &Fixture, room: &RoomId, key: &str) -> Json {
        fixture.services.shared_space.get(*ALICE, room, &item(key)).expect("an item")
    }

    fn is_queued(fixture: &Fixture, new: &RoomId) -> bool {
        let row = queues::queued(&fixture.services.database, Queue::Copy, new, fixture.room.as_str());
        row.expect("readable").is_some()
    }

    #[test]
    fn all_live_values_are_copied_and_a_conflict_stays_one() {
        let fixture = Fixture::new();
        for n in 0..AT_ONCE + 5 {
            fixture.put("ONE", &format!("k{n:03}"), &json!({"n": n}), None).expect("written");
        }
        fixture.put("TWO", "k007", &json!({"n": 0}), None).expect("written");
        fixture.write("ONE", "k008", None, None, OnConflict::Keep, None).expect("deleted");
        let new = planned(&fixture);
        let space = &fixture.services.shared_space;
        space.begin_copy(&fixture.room, &new).expect("copied");
        assert_eq!(shown(&fixture, &new, "k104")["siblings"][0]["value"], json!({"n": 104}));
        assert_eq!(shown(&fixture, &new, "k007")["conflict"], true);
        assert!(space.get(*ALICE, &new, &item("k008")).is_err(), "it was deleted");
        assert!(!is_queued(&fixture, &new));
    }

    #[test]
    fn an_interrupted_copy_goes_on_by_itself_and_copies_nothing_twice() {
        let fixture = Fixture::new();
        for n in 0..AT_ONCE + 5 {
            fixture.put("ONE", &format!("k{n:03}"), &json!({"n": n}), None).expect("written");
        }
        let new = planned(&fixture);
        let services = &fixture.services;
        replace(&fixture, &new);
        services.shared_space.follow().expect("followed");
        let before = queues::queued(&services.database, Queue::Copy, &new, fixture.room.as_str());
        assert!(services.shared_space.copy_some(&fixture.room, &new).expect("copied"));
        // As after a crash between the values and the note of how far it is.
        let row = before.expect("readable").expect("queued");
        services.shared_space.keep_copy(&fixture.room, &new, &row).expect("kept");
        services.shared_space.step().expect("done");
        assert!(is_queued(&fixture, &new), "whoever upgrades has a head start");
        services.clock.advance(std::time::Duration::from_millis(HEAD_START_MS));
        services.shared_space.step().expect("done");
        assert!(!is_queued(&fixture, &new));
        assert_eq!(shown(&fixture, &new, "k104")["siblings"][0]["value"], json!({"n": 104}));
        for key in ["k000", "k050", "k104"] {
            assert_eq!(shown(&fixture, &new, key)["siblings"].as_array().map(Vec::len), Some(1), "{key}");
        }
    }

    #[test]
    fn a_copy_whose_upgrade_went_no_further_ends() {
        let fixture = Fixture::new();
        fixture.put("ONE", "plan", &json!({"n": 1}), None).expect("written");
        let new = planned(&fixture);
        for (pause_ms, is_kept) in [(HEAD_START_MS, true), (UPGRADE_MAX_MS, false)] {
            fixture.services.clock.advance(std::time::Duration::from_millis(pause_ms + 1));
            fixture.services.shared_space.step().expect("done");
            assert_eq!(is_queued(&fixture, &new), is_kept);
        }
        assert!(fixture.services.shared_space.get(*ALICE, &new, &item("plan")).is_err());
    }

    #[test]
    fn more_siblings_than_one_may_leave_are_told() {
        let fixture = Fixture::new();
        for n in 0..MAX_SIBLINGS {
            fixture.put(&format!("D{n}"), "much", &json!({"n": n}), None).expect("written");
        }
        let new = planned(&fixture);
        let services = &fixture.services;
        services
            .shared_space
            .put(
                Writer { user: *ALICE, device: None, idempotency_key: None },
                &new,
                &Write { key: item("much"), value: None, token: None, on_conflict: OnConflict::Keep },
            )
            .expect("deleted");
        services.shared_space.begin_copy(&fixture.room, &new).expect("copied");
        let told = services.rooms.timeline(&new, None, Direction::Backward, 100).expect("a timeline");
        let told = told.iter().find(|(_, event)| event.kind_text() == "m.room.message").expect("a message");
        assert_eq!(told.1.content_object()["org.causeway.left_behind"]["values"], 1);
    }

    #[test]
    fn what_can_not_be_copied_is_told_in_the_new_room() {
        let fixture = Fixture::new();
        let written = fixture.put("ONE", "lost", &json!({"n": 1}), None).expect("written");
        fixture.put("ONE", "plan", &json!({"n": 2}), None).expect("written");
        let id: ChangeId = written["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
        let services = &fixture.services;
        let mut batch = services.database.batch();
        entries::delete_value(&mut batch, &fixture.room, &id);
        services.database.commit_durable(batch).expect("committed");
        let new = planned(&fixture);
        services.shared_space.begin_copy(&fixture.room, &new).expect("copied");
        assert_eq!(shown(&fixture, &new, "plan")["siblings"][0]["value"], json!({"n": 2}));
        let told = services.rooms.timeline(&new, None, Direction::Backward, 100).expect("a timeline");
        let told = told.iter().find(|(_, event)| event.kind_text() == "m.room.message").expect("a message");
        assert_eq!(told.1.content_object()["org.causeway.left_behind"]["values"], 1);
    }
}
