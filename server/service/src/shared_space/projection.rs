//! The face of items in room state, for writes that came by another way than a
//! state event.
//!
//! A queue, one row for each item, so that only the newest face is shown; slow,
//! so that writers hardly notice it. Only the origin of the change that is first
//! in display order projects it. A conflicted item's face lists the other
//! siblings, and is shown again when that list changes.
//!
//! Never over an event without a stamp (that is adopted first) and never again
//! after a redaction. Where the room's state went back to something else, the
//! same change is shown again at most [`AGAIN_MAX`] times, each time later.

use std::collections::BTreeMap;

use causeway_shared_space::{Change, ItemKey, Kind};
use causeway_storage::shared_space::{
    items, notices,
    queues::{self, Queue, QueueRow},
};
use ruma::{OwnedRoomId, RoomId};
use serde_json::Value as Json;

use super::{
    ITEM_TYPE, SharedSpace, agenda::Task, backend::RoomAccess, declaration::PROJECTION_MAX_MOST,
    draft::Draft, error::SpaceError, lock, stored,
};
use crate::{room_event::RoomEvent, rooms::RoomError};

/// Faces shown in one round over all rooms, and how long a round lasts.
const ROUND_FACES_MAX: usize = 20;
const ROUND_MS: u64 = 250;
/// How often the same change is shown again because the state went back.
const AGAIN_MAX: u32 = 5;
/// The first pause before that; it doubles.
const AGAIN_FIRST_MS: u64 = 1_000;
/// Until faces are looked at again for which the homeserver did not answer.
const LACKING_WAIT_MS: u64 = 5_000;
/// Items looked at after the state went back, for one event.
const WENT_BACK_MAX: usize = 1_000;

/// Faces shown in the present round.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    began_ms: u64,
    shown: usize,
}

impl Pace {
    /// How many faces may be shown now; if none, when some may be.
    fn admit(&mut self, now_ms: u64) -> Result<usize, u64> {
        let ends_ms = self.began_ms + ROUND_MS;
        if now_ms >= ends_ms {
            *self = Self { began_ms: now_ms, shown: 0 };
        }
        match ROUND_FACES_MAX - self.shown {
            0 => Err(ends_ms),
            left => Ok(left),
        }
    }
}

/// What is to be done about an item's face.
enum Decision {
    /// It is right, or not ours.
    Leave,
    /// Show it again, at this time (ms since the epoch).
    Wait(u64),
    /// Show this change; whether that is again.
    Show(Box<Change>, bool),
}

impl SharedSpace {
    /// Queues an item's face, if the room shows items and there is room for it.
    pub(super) fn queue_projection(
        &self,
        writer: &mut dyn RoomAccess,
        key: &ItemKey,
    ) -> Result<(), SpaceError> {
        let room = writer.room_id().to_owned();
        if self.rooms.has_all() && !self.has_room_for_face(writer, key)? {
            return Ok(());
        }
        let now_ms = self.clock.now_ms();
        queues::put(writer.batch(), Queue::Projection, &room, key.as_str(), &QueueRow::due(now_ms));
        self.agenda.note(Queue::Projection, now_ms);
        Ok(())
    }

    /// Whether the room shows items, and this one too. It is looked at again when it is shown.
    fn has_room_for_face(&self, writer: &mut dyn RoomAccess, key: &ItemKey) -> Result<bool, SpaceError> {
        let room = writer.room_id().to_owned();
        let most = self.declaration(writer)?.projection_max;
        if most == 0 {
            return Ok(false);
        }
        let is_new = writer.state(ITEM_TYPE, key.as_str())?.is_none()
            && queues::queued(&self.db, Queue::Projection, &room, key.as_str())?.is_none();
        if is_new {
            let counted = self.counted_faces(&room)?;
            if counted >= most {
                return Ok(false);
            }
            lock(&self.shown).insert(room, counted + 1);
        }
        Ok(true)
    }

    /// How many items the room's state shows or is about to show. Counted when
    /// nothing is queued, then kept in mind; a write that fails may count for nothing.
    fn counted_faces(&self, room: &RoomId) -> Result<u64, SpaceError> {
        if let Some(counted) = lock(&self.shown).get(room) {
            return Ok(*counted);
        }
        let counted = self.shown_faces(room)?;
        lock(&self.shown).insert(room.to_owned(), counted);
        Ok(counted)
    }

    /// How many items the room's state shows.
    fn shown_faces(&self, room: &RoomId) -> Result<u64, SpaceError> {
        Ok(self.rooms.shown_items(room, PROJECTION_MAX_MOST)?)
    }

    /// Shows what is due, as far as the round allows.
    pub(super) fn project(&self) -> Result<(), SpaceError> {
        let now_ms = self.clock.now_ms();
        let mut left = match lock(&self.pace).admit(now_ms) {
            Ok(left) => left,
            Err(later) => {
                self.agenda.postpone(Queue::Projection, now_ms, later);
                return Ok(());
            }
        };
        let mut by_room: BTreeMap<OwnedRoomId, Vec<Task>> = BTreeMap::new();
        for task in self.agenda.take(&self.db, Queue::Projection, now_ms)? {
            by_room.entry(task.room.clone()).or_default().push(task);
        }
        // Every room gets its share, so that a busy one does not keep the others waiting.
        let share = (left / by_room.len().max(1)).max(1);
        for (room, mut tasks) in by_room {
            let may = share.min(left);
            if tasks.len() > may {
                tasks.truncate(may);
                self.agenda.note(Queue::Projection, now_ms + ROUND_MS);
            } else {
                // All that is queued is done: what was counted is what is there.
                lock(&self.shown).remove(&room);
            }
            left -= tasks.len();
            lock(&self.pace).shown += tasks.len();
            self.project_in_room(&room, &tasks)?;
        }
        Ok(())
    }

    /// If the faces can't be shown together, each is shown by itself: one must not
    /// keep the others away.
    fn project_in_room(&self, room: &RoomId, tasks: &[Task]) -> Result<(), SpaceError> {
        if tasks.is_empty() {
            return Ok(());
        }
        let Err(error) = self.project_all(room, tasks) else { return Ok(()) };
        if error.is_lacking() {
            self.agenda.note(Queue::Projection, self.clock.now_ms() + LACKING_WAIT_MS);
            return Ok(());
        }
        if error.is_storage() {
            return Err(error);
        }
        if let SpaceError::Room(RoomError::Unsigned) = error {
            // The room's policy server was asked about the first of them.
            self.agenda.note(Queue::Projection, self.clock.now_ms() + ROUND_MS);
            return Ok(());
        }
        if tasks.len() > 1 {
            return tasks.chunks(1).try_for_each(|task| self.project_in_room(room, task));
        }
        tracing::warn!(%room, error = %crate::error::Chain(&error), "the face of an item can't be shown");
        let mut batch = self.db.batch();
        queues::delete(&mut batch, Queue::Projection, room, &tasks[0].subject);
        let _unsynced = self.db.commit(batch)?;
        Ok(())
    }

    /// All in one batch, and so with one wait for the disk.
    fn project_all(&self, room: &RoomId, tasks: &[Task]) -> Result<(), SpaceError> {
        self.rooms.write_patiently(room, |writer| {
            let most = self.declaration(writer)?.projection_max;
            let mut shown = self.shown_faces(room)?;
            let mut faces = Vec::with_capacity(tasks.len());
            for task in tasks {
                queues::delete(writer.batch(), Queue::Projection, room, &task.subject);
                let Ok(key) = ItemKey::new(&task.subject) else { continue };
                let is_new = writer.state(ITEM_TYPE, key.as_str())?.is_none();
                if most == 0 || (is_new && shown >= most) {
                    continue;
                }
                match self.decide(writer, &key, &task.row)? {
                    Decision::Leave => {}
                    Decision::Wait(due) => {
                        let row = QueueRow { attempts: 1, ..QueueRow::due(due) };
                        queues::put(writer.batch(), Queue::Projection, room, key.as_str(), &row);
                        self.agenda.note(Queue::Projection, due);
                    }
                    Decision::Show(change, again) => {
                        shown += u64::from(is_new);
                        faces.push((*change, again));
                    }
                }
            }
            if faces.is_empty() {
                return Ok(());
            }
            self.in_draft(writer, |_, draft, writer| {
                faces.into_iter().try_for_each(|(change, again)| self.show(draft, writer, change, again))
            })
        })
    }

    fn show(
        &self,
        draft: &mut Draft<'_>,
        writer: &mut dyn RoomAccess,
        change: Change,
        again: bool,
    ) -> Result<(), SpaceError> {
        let (key, id) = (change.header().key().clone(), change.header().item_id());
        let author = change.header().author().to_owned();
        match self.append_face(draft, writer, change, &author) {
            Ok(_) => {}
            // The author has left or may not write any more: there is nobody to show it.
            Err(SpaceError::Room(
                error @ (RoomError::Forbidden(_) | RoomError::TooLarge | RoomError::Policy(_)),
            )) => {
                tracing::info!(room = %writer.room_id(), change = %id, %error, "an item has no face");
                return Ok(());
            }
            Err(error) => return Err(error),
        }
        if again {
            draft.item(&key)?.local.entry(id).or_default().projected_again += 1;
        }
        Ok(())
    }

    fn decide(
        &self,
        writer: &mut dyn RoomAccess,
        key: &ItemKey,
        queued: &QueueRow,
    ) -> Result<Decision, SpaceError> {
        let room = writer.room_id().to_owned();
        let row = items::item(&self.db, &room, key.as_str())?.unwrap_or_default();
        let Some(face) = row.item.face().filter(|face| !face.is_adoption()) else {
            return Ok(Decision::Leave);
        };
        let Some(change) = stored::change(&self.db, &room, &face.entry)? else { return Ok(Decision::Leave) };
        let state = writer.state(ITEM_TYPE, key.as_str())?;
        let is_redacted = change.header().kind() == Kind::Put && change.value().is_none();
        if change.server() != self.server_name() || is_redacted || (state.is_none() && face.is_tombstone()) {
            return Ok(Decision::Leave);
        }
        let local = row.local.get(&face.id).cloned().unwrap_or_default();
        let again = match &state {
            None => !local.faces.is_empty(),
            Some(event) => match notices::change_of_event(&self.db, &room, event.event_id())? {
                None => return Ok(Decision::Leave),
                Some(shown) if shown == face.entry => {
                    let others: Vec<String> = match row.item.conflict(key) {
                        Some(_) => {
                            row.item.siblings().iter().skip(1).map(|other| other.id.to_string()).collect()
                        }
                        None => Vec::new(),
                    };
                    if listed(event) == others || writer.redaction_of(event.event_id())?.is_some() {
                        return Ok(Decision::Leave);
                    }
                    false
                }
                Some(_) => !local.faces.is_empty(),
            },
        };
        if again {
            if local.projected_again >= AGAIN_MAX {
                tracing::warn!(%room, change = %face.id, "the room's state does not keep an item's face");
                return Ok(Decision::Leave);
            }
            for face in &local.faces {
                if writer.redaction_of(&face.event_id)?.is_some() {
                    return Ok(Decision::Leave);
                }
            }
            // Two servers must not race each other.
            if queued.attempts == 0 {
                return Ok(Decision::Wait(self.clock.now_ms() + (AGAIN_FIRST_MS << local.projected_again)));
            }
        }
        Ok(Decision::Show(Box::new(change), again))
    }

    /// Room state may show something else than the item's face: if the face is
    /// ours, it is looked at.
    pub(super) fn check_face(&self, room: &RoomId, key: &ItemKey) -> Result<(), SpaceError> {
        let row = items::item(&self.db, room, key.as_str())?.unwrap_or_default();
        if row.item.face().is_none_or(|face| face.author.server_name() != self.server_name()) {
            return Ok(());
        }
        let due = self.clock.now_ms();
        let mut batch = self.db.batch();
        queues::put(&mut batch, Queue::Projection, room, key.as_str(), &QueueRow::due(due));
        let _unsynced = self.db.commit(batch)?;
        self.agenda.note(Queue::Projection, due);
        Ok(())
    }

    /// An event of another server can take the room's state back to something
    /// else, also that of items which it does not speak of. `position` is its own.
    pub(super) fn check_faces_after(
        &self,
        room: &RoomId,
        position: u64,
        event: &RoomEvent,
    ) -> Result<(), SpaceError> {
        if event.sender().server_name() == self.server_name() {
            return Ok(());
        }
        for key in self.rooms.items_changed_beside(room, position, event, WENT_BACK_MAX)? {
            if let Ok(key) = ItemKey::new(&key) {
                self.check_face(room, &key)?;
            }
        }
        Ok(())
    }
}

/// The other siblings that a face lists.
fn listed(face: &RoomEvent) -> Vec<String> {
    let content = face.content_object();
    let list = content.get(causeway_shared_space::value::CONFLICT_FIELD).and_then(Json::as_array);
    let ids = list.into_iter().flatten().filter_map(|other| other["id"].as_str());
    ids.map(str::to_owned).collect()
}
