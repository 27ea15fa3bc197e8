//! Notices that stand in the room, whoever sent them: what they list is remembered.
//!
//! Anybody can write such a message; only who may speak is believed: a service
//! user, or an author of what is listed, and only of the conflict that has these siblings.

use causeway_shared_space::{ChangeId, ConflictId, ItemKey, conflict::conflict_id};
use causeway_storage::{
    Batch,
    shared_space::{
        items::ItemRow,
        notices::{self, NoticeRow},
        queues::{self, Queue, QueueRow},
    },
};
use ruma::{EventId, OwnedUserId, RoomId};
use serde::Deserialize;
use serde_json::{Map, Value as Json};

use super::{SERVICE_LOCALPART, SharedSpace, choice::NUMBERED_MAX, error::SpaceError, notices::NOTICES_MAX};
use crate::room_event::RoomEvent;

/// What a notice of one conflict carries.
pub(crate) const NOTICE_FIELD: &str = "org.causeway.conflict";
/// What a message that tells several carries.
pub(crate) const SUMMARY_FIELD: &str = "org.causeway.conflicts";
/// Siblings that a notice of another server may list.
const LISTED_MAX: usize = 64;
/// Conflicts that one message may tell: an event holds less.
pub(super) const CONFLICTS_MAX: usize = 500;

#[derive(Deserialize)]
struct Listed {
    id: ConflictId,
    key: Option<String>,
    siblings: Vec<ListedSibling>,
}

#[derive(Deserialize)]
struct ListedSibling {
    id: ChangeId,
    author: OwnedUserId,
}

impl SharedSpace {
    /// A notice of another server, or an own one coming round.
    pub(super) fn follow_notice(
        &self,
        room: &RoomId,
        event: &RoomEvent,
        content: &Map<String, Json>,
    ) -> Result<(), SpaceError> {
        if content.contains_key("m.new_content")
            || !notices::notices_at(&self.db, room, event.event_id(), 1)?.is_empty()
        {
            return Ok(());
        }
        let read = |field: &str| content.get(field).cloned().unwrap_or_default();
        let (listed, several) = match serde_json::from_value::<Listed>(read(NOTICE_FIELD)) {
            Ok(one) => (vec![one], false),
            Err(_) => (serde_json::from_value(read(SUMMARY_FIELD)).unwrap_or_default(), true),
        };
        if listed.len() > CONFLICTS_MAX {
            return Ok(());
        }
        let authors = if several { numbered_authors(&listed) } else { Vec::new() };
        let now_ms = self.clock.now_ms();
        let mut batch = self.db.batch();
        for listed in &listed {
            if let Some(row) = self.heard(room, event, listed, &authors)? {
                self.keep_notice(&mut batch, room, event.event_id(), &row)?;
                if ItemKey::new(&row.key).is_ok() {
                    queues::put(&mut batch, Queue::Notice, room, &row.key, &QueueRow::due(now_ms));
                }
            }
        }
        let _unsynced = self.db.commit(batch)?;
        self.agenda.note(Queue::Notice, now_ms);
        Ok(())
    }

    /// What is remembered of one listed conflict, if its sender is believed.
    fn heard(
        &self,
        room: &RoomId,
        event: &RoomEvent,
        listed: &Listed,
        authors: &[OwnedUserId],
    ) -> Result<Option<NoticeRow>, SpaceError> {
        if listed.siblings.len() < 2 || listed.siblings.len() > LISTED_MAX {
            return Ok(None);
        }
        let siblings: Vec<ChangeId> = listed.siblings.iter().map(|sibling| sibling.id).collect();
        // A list under another conflict's id would keep that one from being told.
        if conflict_id(siblings.iter().copied()) != listed.id {
            return Ok(None);
        }
        let sender = event.sender();
        let mut believed = sender.localpart() == SERVICE_LOCALPART;
        let mut key = None;
        for id in &siblings {
            if let Some(header) = self.header_of_item_id(room, id)? {
                believed |= header.author() == sender;
                key = Some(header.key().clone());
            }
        }
        if !believed {
            return Ok(None);
        }
        let conflict = listed.id.to_string();
        // In an encrypted room the key is not said. Whose it is shows when a sibling comes.
        let key = match key.or_else(|| ItemKey::new(listed.key.as_deref()?).ok()) {
            Some(key) => key.to_string(),
            None => notices::unresolved_key(&conflict),
        };
        let authors = authors.to_vec();
        Ok(Some(NoticeRow { conflict, key, siblings, sender: sender.to_owned(), authors, outcome: None }))
    }

    /// Keeps a notice, and forgets the oldest about its item when there are many.
    pub(super) fn keep_notice(
        &self,
        batch: &mut Batch,
        room: &RoomId,
        event: &EventId,
        row: &NoticeRow,
    ) -> Result<(), SpaceError> {
        let mut known = notices::notices_of(&self.db, room, &row.key, 2 * NOTICES_MAX)?;
        known.retain(|(other, _)| other != event);
        if known.len() >= NOTICES_MAX {
            let mut aged = Vec::with_capacity(known.len());
            for (event, row) in known {
                aged.push((self.stream_position(room, &event)?, event, row));
            }
            aged.sort_by(|one, other| (one.0, &one.1).cmp(&(other.0, &other.1)));
            let surplus = aged.len() + 1 - NOTICES_MAX;
            for (_, event, row) in aged.iter().take(surplus) {
                notices::delete_notice(batch, room, event, row);
            }
        }
        notices::put_notice(batch, room, event, row);
        Ok(())
    }

    /// Notices that told an item's conflict before any of its siblings was held.
    pub(super) fn resolve_notices(
        &self,
        room: &RoomId,
        key: &ItemKey,
        row: &ItemRow,
    ) -> Result<(), SpaceError> {
        let Some(conflict) = row.item.conflict(key) else { return Ok(()) };
        let unresolved = notices::unresolved_key(&conflict.id.to_string());
        let waiting = notices::notices_of(&self.db, room, &unresolved, NOTICES_MAX)?;
        for (event, mut notice) in waiting {
            let mut batch = self.db.batch();
            notices::delete_notice(&mut batch, room, &event, &notice);
            key.as_str().clone_into(&mut notice.key);
            self.keep_notice(&mut batch, room, &event, &notice)?;
            let _unsynced = self.db.commit(batch)?;
        }
        Ok(())
    }
}

/// Those whom numbers mean in a message that tells several conflicts.
fn numbered_authors(listed: &[Listed]) -> Vec<OwnedUserId> {
    let all = listed.iter().flat_map(|listed| &listed.siblings);
    let mut authors: Vec<OwnedUserId> = all.map(|sibling| sibling.author.clone()).collect();
    authors.sort();
    authors.dedup();
    authors.truncate(NUMBERED_MAX);
    authors
}
