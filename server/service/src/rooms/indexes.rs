//! What is derived of a write's events for reading, beside the timeline: the
//! room's threads, the words in it, and the order of time.
//!
//! Invariant: written in the batch of the events, so that an index and what it
//! is of are never apart.

use std::collections::{BTreeMap, BTreeSet};

use causeway_room::Pdu;
use causeway_storage::{
    Direction,
    rooms::{self as rows, Thread, TimePlace},
};
use ruma::{OwnedEventId, OwnedUserId};

use super::{
    commit::{Redactions, relation},
    error::RoomError,
    store::Held,
    writer::RoomWriter,
};
use crate::words::{searched_text, words};

/// Events of a thread that are looked through for the last one that stays.
const LATEST_SCAN_MAX: usize = 1_000;

/// What a write changes in one thread.
#[derive(Default)]
pub(super) struct ThreadChange {
    /// Events that came: where they stand, and who sent them.
    added: Vec<(i64, OwnedUserId)>,
    /// Where events stand that were redacted.
    pub(super) removed: Vec<i64>,
}

impl RoomWriter<'_> {
    /// Events that this write redacts and that were not redacted before.
    pub(super) fn newly_redacted(
        &self,
        redactions: &Redactions,
    ) -> Result<BTreeSet<OwnedEventId>, RoomError> {
        let mut found = BTreeSet::new();
        for (target, _, applies) in redactions {
            if *applies && rows::redaction_of(&self.rooms.store.database, target)?.is_none() {
                found.insert(target.clone());
            }
        }
        Ok(found)
    }

    /// Keeps the room's threads in step with what came and what was redacted.
    pub(super) fn put_threads(
        &mut self,
        held: &[Held],
        redacted: &BTreeSet<OwnedEventId>,
    ) -> Result<(), RoomError> {
        let mut changes: BTreeMap<OwnedEventId, ThreadChange> = BTreeMap::new();
        for held in held.iter().filter(|held| !redacted.contains(held.pdu.event_id())) {
            let Some(position) = held.meta.position else { continue };
            let Some(root) = thread_root(&held.pdu) else { continue };
            changes.entry(root).or_default().added.push((position, held.pdu.sender().to_owned()));
        }
        let came: BTreeSet<_> = held.iter().map(|held| held.pdu.event_id()).collect();
        for event_id in redacted.iter().filter(|event_id| !came.contains(&***event_id)) {
            let Some(held) = self.work.held(event_id)? else { continue };
            let (Some(position), Some(root)) = (held.meta.position, thread_root(&held.pdu)) else { continue };
            changes.entry(root).or_default().removed.push(position);
        }
        for (root, change) in changes {
            self.put_thread(&root, &change)?;
        }
        Ok(())
    }

    pub(super) fn put_thread(&mut self, root: &OwnedEventId, change: &ThreadChange) -> Result<(), RoomError> {
        let database = &self.rooms.store.database;
        let old = rows::thread(database, &self.room_id, root)?;
        let mut new = old.clone().unwrap_or(Thread { latest: i64::MIN, count: 0 });
        if change.removed.contains(&new.latest) {
            let related =
                rows::relations(database, root, Some(new.latest), Direction::Backward, LATEST_SCAN_MAX)?;
            for related in related {
                let stays = related.rel_type == "m.thread"
                    && !change.removed.contains(&related.position)
                    && rows::redaction_of(database, &related.event_id)?.is_none();
                if stays && self.work.held(&related.event_id)?.is_some_and(|held| self.is_here(&held)) {
                    new.latest = related.position;
                    break;
                }
            }
        }
        new.count = new.count.saturating_sub(change.removed.len() as u64);
        for (position, sender) in &change.added {
            new.latest = new.latest.max(*position);
            new.count += 1;
            if sender.server_name() == self.rooms.server_name {
                rows::put_participant(&mut self.batch, &self.room_id, root, sender);
            }
        }
        rows::put_thread(&mut self.batch, &self.room_id, root, old.as_ref(), &new);
        Ok(())
    }

    /// Makes what came findable, and what was redacted no more.
    pub(super) fn put_words(
        &mut self,
        held: &[Held],
        redacted: &BTreeSet<OwnedEventId>,
    ) -> Result<(), RoomError> {
        let mut texts = Vec::new();
        for held in held.iter().filter(|held| !redacted.contains(held.pdu.event_id())) {
            let Some(position) = held.meta.position else { continue };
            texts.extend(searched_text(&held.pdu).map(|text| (position, text)));
        }
        if !texts.is_empty() && self.state("m.room.encryption", "")?.is_some() {
            texts.clear();
        }
        for (position, text) in texts {
            for word in words(&text) {
                rows::put_word(&mut self.batch, &self.room_id, &word, position);
            }
        }
        for event_id in redacted {
            let Some(held) = self.work.held(event_id)?.filter(|held| self.is_here(held)) else { continue };
            let (Some(position), Some(text)) = (held.meta.position, searched_text(&held.pdu)) else {
                continue;
            };
            for word in words(&text) {
                rows::delete_word(&mut self.batch, &self.room_id, &word, position);
            }
        }
        Ok(())
    }

    /// Makes what came findable by its time.
    pub(super) fn put_times(&mut self, held: &[Held]) {
        for held in held {
            if let Some(position) = held.meta.position {
                let at = TimePlace { ts: held.pdu.origin_server_ts(), position };
                rows::put_time(&mut self.batch, &self.room_id, at, held.pdu.event_id());
            }
        }
    }

    fn is_here(&self, held: &Held) -> bool {
        *held.meta.room_id == *self.room_id
    }
}

/// The root of the thread that an event belongs to.
pub(super) fn thread_root(pdu: &Pdu) -> Option<OwnedEventId> {
    let (root, related) = relation(pdu, 0)?;
    (related.rel_type == "m.thread" && pdu.state_key().is_none()).then_some(root)
}
