//! The face of items in room state, for writes that came by another way than a
//! state event.
//!
//! A queue, one row for each item, so that only the newest face is shown; rate
//! limited for each room. Only the origin of the change that is first in display
//! order projects it. A conflicted item's face lists the other siblings, and is
//! shown again when that list changes.
//!
//! Never over an event without a stamp (that is adopted first), never after a
//! redaction, and the same change at most five times.

use std::collections::BTreeMap;

use causeway_room::Pdu;
use causeway_shared_space::{ItemKey, Kind};
use causeway_storage::{
    rooms as room_rows,
    shared_space::{
        items,
        notices,
        queues::{self, Queue, QueueRow},
    },
};
use ruma::{OwnedRoomId, RoomId};
use serde_json::Value as Json;

use super::{DECLARATION_TYPE, ITEM_TYPE, SharedSpace, agenda::Task, error::SpaceError, stored};
use crate::rooms::RoomWriter;

/// Items of a room that are shown in its state unless the declaration says otherwise.
pub const PROJECTION_MAX: u64 = 1_000;
/// The most that a declaration can ask for.
const PROJECTION_MAX_MOST: u64 = 10_000;
/// Faces shown in one room in one round, and how long a round lasts.
const ROUND_FACES_MAX: usize = 20;
const ROUND_MS: u64 = 250;
/// How often one change is shown.
const SHOWN_MAX: usize = 5;

impl SharedSpace {
    /// Queues an item's face, if the room shows items and there is room for it.
    pub(super) fn queue_projection(&self, writer: &mut RoomWriter<'_>, key: &ItemKey) -> Result<(), SpaceError> {
        let room = writer.room_id().to_owned();
        let most = projection_max(writer.state(DECLARATION_TYPE, "")?.as_deref());
        if most == 0 {
            return Ok(());
        }
        let shown = writer.state(ITEM_TYPE, key.as_str())?.is_some();
        if !shown && self.shown_items(&room)? >= most {
            return Ok(());
        }
        let now_ms = self.clock.now_ms();
        queues::put(writer.batch(), Queue::Projection, &room, key.as_str(), &QueueRow::due(now_ms));
        self.agenda.note(Queue::Projection, now_ms);
        Ok(())
    }

    /// How many items the room's state shows. Counted once, then kept in mind.
    fn shown_items(&self, room: &RoomId) -> Result<u64, SpaceError> {
        if let Some(shown) = super::lock(&self.shown).get(room) {
            return Ok(*shown);
        }
        let most = usize::try_from(PROJECTION_MAX_MOST).unwrap_or(usize::MAX);
        let shown = room_rows::current_of(&self.db, room, Some(ITEM_TYPE), None, most)?.len() as u64;
        super::lock(&self.shown).insert(room.to_owned(), shown);
        Ok(shown)
    }

    /// Shows what is due.
    pub(super) fn project(&self) -> Result<(), SpaceError> {
        let now_ms = self.clock.now_ms();
        let mut by_room: BTreeMap<OwnedRoomId, Vec<Task>> = BTreeMap::new();
        for task in self.agenda.take(&self.db, Queue::Projection, now_ms)? {
            by_room.entry(task.room.clone()).or_default().push(task);
        }
        for (room, mut tasks) in by_room {
            if tasks.len() > ROUND_FACES_MAX {
                tasks.truncate(ROUND_FACES_MAX);
                self.agenda.note(Queue::Projection, now_ms + ROUND_MS);
            }
            for task in tasks {
                if let Err(error) = self.project_one(&room, &task) {
                    if matches!(error, SpaceError::Storage(_)) {
                        return Err(error);
                    }
                    let error = crate::error::Chain(&error);
                    tracing::info!(%room, %error, "an item's face can't be shown");
                    self.drop_row(&room, &task.subject)?;
                }
            }
        }
        Ok(())
    }

    fn drop_row(&self, room: &RoomId, key: &str) -> Result<(), SpaceError> {
        let mut batch = self.db.batch();
        queues::delete(&mut batch, Queue::Projection, room, key);
        let _unsynced = self.db.commit(batch)?;
        Ok(())
    }

    fn project_one(&self, room: &RoomId, task: &Task) -> Result<(), SpaceError> {
        let Ok(key) = ItemKey::new(&task.subject) else { return self.drop_row(room, &task.subject) };
        self.rooms.write(room, |writer| {
            queues::delete(writer.batch(), Queue::Projection, room, key.as_str());
            let most = projection_max(writer.state(DECLARATION_TYPE, "")?.as_deref());
            let shown = writer.state(ITEM_TYPE, key.as_str())?;
            if most == 0 || (shown.is_none() && self.shown_items(room)? >= most) {
                return Ok(());
            }
            let row = items::item(&self.db, room, key.as_str())?.unwrap_or_default();
            let Some(face) = row.item.face() else { return Ok(()) };
            let Some(change) = stored::change(&self.db, room, &face.entry)? else { return Ok(()) };
            let faces = row.local.get(&face.id).map_or(&[][..], |local| &local.faces);
            let others: Vec<String> = match row.item.conflict(&key) {
                Some(_) => row.item.siblings().iter().skip(1).map(|other| other.id.to_string()).collect(),
                None => Vec::new(),
            };
            if change.server() != self.server_name()
                || change.header().adopts().is_some()
                || (change.header().kind() == Kind::Put && change.value().is_none())
                || faces.len() >= SHOWN_MAX
                || (shown.is_none() && change.header().kind() == Kind::Delete)
            {
                return Ok(());
            }
            if let Some(shown) = &shown {
                let ours = faces.iter().any(|face| *face.event_id == *shown.event_id());
                if ours && listed(shown) == others {
                    return Ok(());
                }
                let unstamped = notices::change_of_event(&self.db, room, shown.event_id())?.is_none();
                if unstamped || self.rooms.redaction_of(shown.event_id())?.is_some() {
                    return Ok(());
                }
            }
            let author = face.author.clone();
            self.in_draft(writer, |_, draft, writer| self.append_face(draft, writer, change, &author))?;
            if shown.is_none() {
                *super::lock(&self.shown).entry(room.to_owned()).or_default() += 1;
            }
            Ok(())
        })
    }

    /// Room state may show something else than the item's face since an event
    /// of another server came: if the face is ours, it is shown again.
    pub(super) fn check_face(&self, room: &RoomId, key: &ItemKey) -> Result<(), SpaceError> {
        let row = items::item(&self.db, room, key.as_str())?.unwrap_or_default();
        let Some(face) = row.item.face() else { return Ok(()) };
        let Some(entry) = stored::change(&self.db, room, &face.entry)? else { return Ok(()) };
        if entry.server() != self.server_name() {
            return Ok(());
        }
        let shown = row.local.get(&face.id).map_or(0, |local| local.faces.len());
        // Each time later: two servers must not race each other.
        let due = self.clock.now_ms() + (1_000 << shown.min(SHOWN_MAX));
        let mut batch = self.db.batch();
        queues::put(&mut batch, Queue::Projection, room, key.as_str(), &QueueRow::due(due));
        let _unsynced = self.db.commit(batch)?;
        self.agenda.note(Queue::Projection, due);
        Ok(())
    }
}

/// How many items a room's state shows by its declaration.
fn projection_max(declaration: Option<&Pdu>) -> u64 {
    let Some(content) = declaration.map(Pdu::content_object) else { return PROJECTION_MAX };
    if content.get("projection").and_then(Json::as_str) == Some("none") {
        return 0;
    }
    content.get("projection_max").and_then(Json::as_u64).unwrap_or(PROJECTION_MAX).min(PROJECTION_MAX_MOST)
}

/// The other siblings that a face lists.
fn listed(face: &Pdu) -> Vec<String> {
    let content = face.content_object();
    let list = content.get(causeway_shared_space::value::CONFLICT_FIELD).and_then(Json::as_array);
    let ids = list.into_iter().flatten().filter_map(|other| other["id"].as_str());
    ids.map(str::to_owned).collect()
}

