//! Makes the indexes for reading of a data folder whose rooms were written by
//! programs that had none of them, or not all: threads, words, times.
//!
//! Run before anything writes. Repeatable: a start that was interrupted is made
//! up for by the next. What the indexes hold is [`super::indexes`]' business.

use std::collections::BTreeMap;

use causeway_storage::{
    Batch, Direction,
    rooms::{self as rows, Thread, TimePlace},
};
use ruma::{OwnedEventId, RoomId};

use super::{Rooms, error::RoomError, indexes::thread_root, store::Held};
use crate::words::{searched_text, words};

/// What the indexes hold now. To be raised when something is added to them.
const VERSION: u64 = 1;
/// Events that are read and written at once.
const STEP: usize = 500;

impl Rooms {
    /// The rooms with complete indexes.
    ///
    /// # Errors
    /// Storage.
    pub(crate) fn indexed(self) -> Result<Self, RoomError> {
        self.purge_waiting()?;
        self.clear_interrupted_joins()?;
        self.complete_indexes()?;
        Ok(self)
    }

    /// Completes the indexes if they are of an earlier version.
    ///
    /// # Errors
    /// Storage.
    fn complete_indexes(&self) -> Result<(), RoomError> {
        let database = &self.store.database;
        if rows::indexes_version(database)? >= VERSION {
            return Ok(());
        }
        let mut after = None;
        loop {
            let step = rows::room_ids(database, after.as_deref(), STEP)?;
            for room_id in &step {
                tracing::info!(%room_id, "indexing a room");
                self.index_room(room_id)?;
            }
            if step.len() < STEP {
                break;
            }
            after = step.last().cloned();
        }
        let mut batch = database.batch();
        rows::put_indexes_version(&mut batch, VERSION);
        let _commit = database.commit_durable(batch)?;
        Ok(())
    }

    fn index_room(&self, room_id: &RoomId) -> Result<(), RoomError> {
        let database = &self.store.database;
        let is_encrypted = self.state_event(room_id, "m.room.encryption", "")?.is_some();
        let mut threads: BTreeMap<OwnedEventId, Thread> = BTreeMap::new();
        let mut from = i64::MIN;
        loop {
            let step = rows::timeline(database, room_id, Some(from), Direction::Forward, STEP)?;
            let mut batch = database.batch();
            for row in &step {
                let Some(held) = self.held(&row.event_id)? else { continue };
                let at = TimePlace { ts: held.pdu.origin_server_ts(), position: row.position };
                rows::put_time(&mut batch, room_id, at, &row.event_id);
                if rows::redaction_of(database, &row.event_id)?.is_none() {
                    self.index_event(&mut batch, &held, row.position, is_encrypted, &mut threads);
                }
            }
            let _commit = database.commit(batch)?;
            match step.last() {
                Some(last) if step.len() == STEP => from = last.position.saturating_add(1),
                _ => break,
            }
        }
        for (root, thread) in threads {
            let old = rows::thread(database, room_id, &root)?;
            let mut batch = database.batch();
            rows::put_thread(&mut batch, room_id, &root, old.as_ref(), &thread);
            let _commit = database.commit(batch)?;
        }
        Ok(())
    }

    /// An event that was not redacted.
    fn index_event(
        &self,
        batch: &mut Batch,
        held: &Held,
        position: i64,
        is_encrypted: bool,
        threads: &mut BTreeMap<OwnedEventId, Thread>,
    ) {
        let (room_id, sender) = (&held.meta.room_id, held.pdu.sender());
        if let Some(root) = thread_root(&held.pdu) {
            if sender.server_name() == self.server_name {
                rows::put_participant(batch, room_id, &root, sender);
            }
            let thread = threads.entry(root).or_insert(Thread { latest: position, count: 0 });
            thread.latest = thread.latest.max(position);
            thread.count += 1;
        }
        let text = searched_text(&held.pdu).filter(|_| !is_encrypted);
        for word in text.iter().flat_map(|text| words(text)) {
            rows::put_word(batch, room_id, &word, position);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rooms::{
        Preset,
        tests::{Server, message},
    };

    #[test]
    fn a_folder_without_indexes_gets_them() {
        let server = Server::new("a.example");
        let alice = server.user("alice");
        let room_id = server.create(&alice, Preset::PublicChat);
        let root = server.send(&room_id, message(&alice, "the root"));
        let reply = |text: &str| {
            let relates_to = json!({ "rel_type": "m.thread", "event_id": root.event_id() });
            let content = json!({ "msgtype": "m.text", "body": text, "m.relates_to": relates_to });
            let event = causeway_room::NewEvent::new("m.room.message", alice.clone(), None, content);
            server.send(&room_id, event.expect("content"))
        };
        let (first, last) = (reply("first reply"), reply("last reply"));
        server.rooms.redact(&room_id, &alice, first.event_id(), None, None).expect("redacts");
        let database = &server.rooms.store.database;
        let place = |pdu: &causeway_room::Pdu| {
            server
                .rooms
                .held(pdu.event_id())
                .expect("reads")
                .expect("is held")
                .meta
                .position
                .expect("a place")
        };
        // As a program left them that knew of no index.
        let thread = rows::thread(database, &room_id, root.event_id()).expect("reads").expect("is there");
        let mut batch = database.batch();
        rows::put_thread(
            &mut batch,
            &room_id,
            root.event_id(),
            Some(&thread),
            &Thread { count: 0, ..thread },
        );
        for word in ["last", "root"] {
            rows::delete_word(&mut batch, &room_id, word, place(&last));
            rows::delete_word(&mut batch, &room_id, word, place(&root));
        }
        let _commit = database.commit_durable(batch).expect("commits");
        server.rooms.complete_indexes().expect("reads and writes");
        let thread = rows::thread(database, &room_id, root.event_id()).expect("reads");
        assert_eq!(thread, Some(Thread { latest: place(&last), count: 1 }));
        let found = |word| rows::word_positions(database, &room_id, word, i64::MAX, 9).expect("reads");
        assert_eq!((found("last"), found("root")), (vec![place(&last)], vec![place(&root)]));
        assert!(found("first").is_empty(), "it was redacted");
        assert_eq!(rows::indexes_version(database).expect("reads"), VERSION);
    }
}
