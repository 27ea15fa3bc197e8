//! History that administrators have deleted: messages before a point lose their content for
//! good, and nobody is shown that they were.
//!
//! What stays of a message is what a redaction leaves: its place, its hashes and signatures.
//! So no event's id, past or authorisation changes, other servers get what is theirs, and a
//! message that comes again is known and not taken again. State and redactions stay whole.
//!
//! Not here: files that the messages named, and what other servers keep.

use std::{collections::BTreeMap, sync::Arc};

use causeway_storage::{
    Direction,
    rooms::{self as rows, EventMeta, TimePlace},
};
use ruma::{EventId, OwnedEventId, RoomId};

use super::{
    Rooms,
    commit::relation,
    error::RoomError,
    indexes::{ThreadChange, thread_root},
    store::Held,
    writer::RoomWriter,
};
use crate::words::{searched_text, words};

/// Events that are looked at, and changed at most, in one write.
const STEP: usize = 500;

/// Which messages are to go.
#[derive(Clone, Debug)]
pub struct PurgeWish {
    /// Those before this event.
    pub before: Option<OwnedEventId>,
    /// Those that say they were sent before this time, in milliseconds since the epoch.
    pub before_ms: Option<u64>,
    /// Those of this server's users as well, of which others may have no copy.
    pub with_local: bool,
}

impl Rooms {
    /// Deletes what messages of a room's past said; how many.
    ///
    /// # Errors
    /// [`RoomError::UnknownRoom`], [`RoomError::NotFound`] when there is no such event in the
    /// room's timeline. What was deleted until then stays deleted.
    pub fn purge_history(&self, room_id: &RoomId, wish: &PurgeWish) -> Result<usize, RoomError> {
        let end = wish.before.as_deref().map(|event_id| self.place_in(room_id, event_id)).transpose()?;
        let (mut from, mut purged) = (i64::MIN, 0);
        loop {
            let step = rows::timeline(&self.store.database, room_id, Some(from), Direction::Forward, STEP)?;
            let is_last = step.len() < STEP;
            let Some(last) = step.last().map(|row| row.position) else { return Ok(purged) };
            let mut doomed = Vec::new();
            for row in step.iter().take_while(|row| end.is_none_or(|end| row.position < end)) {
                doomed.extend(self.held(&row.event_id)?.filter(|held| self.is_wished(wish, held)));
            }
            purged += doomed.len();
            if !doomed.is_empty() {
                let left = self.write(room_id, |writer| writer.purge(&doomed))?;
                for held in &left {
                    self.store.remember(held);
                }
            }
            if is_last || end.is_some_and(|end| end <= last) {
                return Ok(purged);
            }
            from = last.saturating_add(1);
        }
    }

    fn place_in(&self, room_id: &RoomId, event_id: &EventId) -> Result<i64, RoomError> {
        let held = self.held(event_id)?.filter(|held| *held.meta.room_id == *room_id);
        held.and_then(|held| held.meta.position).ok_or(RoomError::NotFound("the event"))
    }

    fn is_wished(&self, wish: &PurgeWish, held: &Held) -> bool {
        let pdu = &held.pdu;
        !held.meta.is_purged()
            && pdu.state_key().is_none()
            && wish.before_ms.is_none_or(|before_ms| pdu.origin_server_ts() < before_ms)
            && (wish.with_local || pdu.sender().server_name() != self.server_name)
    }
}

impl RoomWriter<'_> {
    /// Takes the content of these messages away, and them out of all that is for reading;
    /// what is left of them.
    fn purge(&mut self, doomed: &[Held]) -> Result<Vec<Held>, RoomError> {
        let rules = Arc::clone(self.rules());
        let purged_ts = Some(self.rooms.clock.now_ms());
        let mut threads: BTreeMap<OwnedEventId, ThreadChange> = BTreeMap::new();
        let mut left = Vec::with_capacity(doomed.len());
        for held in doomed {
            let event_id = held.pdu.event_id();
            // As it is now, under the lock.
            let Some(held) = self.work.held(event_id)?.filter(|held| !held.meta.is_purged()) else {
                continue;
            };
            let Some(position) = held.meta.position else { continue };
            let at = TimePlace { ts: held.pdu.origin_server_ts(), position };
            let target = relation(&held.pdu, position).map(|(target, _)| target);
            rows::forget_reading(&mut self.batch, &self.room_id, event_id, at, target.as_deref());
            for word in searched_text(&held.pdu).iter().flat_map(|text| words(text)) {
                rows::delete_word(&mut self.batch, &self.room_id, &word, position);
            }
            let is_counted = rows::redaction_of(&self.rooms.store.database, event_id)?.is_none();
            if let Some(root) = thread_root(&held.pdu).filter(|_| is_counted) {
                threads.entry(root).or_default().removed.push(position);
            }
            // What a redaction names is needed, and it says nothing else but why.
            let is_redaction = held.pdu.kind_text() == "m.room.redaction";
            let pdu = if is_redaction { held.pdu } else { Arc::new(held.pdu.redacted(&rules.rules)?) };
            let meta = EventMeta { purged_ts, ..EventMeta::clone(&held.meta) };
            rows::put_event(&mut self.batch, event_id, pdu.raw(), &meta);
            left.push(Held { pdu, meta: Arc::new(meta) });
        }
        for (root, change) in threads {
            self.put_thread(&root, &change)?;
        }
        Ok(left)
    }
}

#[cfg(test)]
mod tests {
    use causeway_room::Pdu;
    use serde_json::json;

    use super::*;
    use crate::rooms::{
        Preset,
        tests::{Server, federation::join_over, message, state},
    };

    #[test]
    fn what_is_purged_keeps_its_place_and_its_signature_for_other_servers() {
        let (a, b) = (Server::new("a.example"), Server::new("b.example"));
        let (alice, bob) = (a.user("alice"), b.user("bob"));
        let room_id = a.create(&alice, Preset::PublicChat);
        let early = a.send(&room_id, message(&alice, "early"));
        let topic = a.send(&room_id, state(&alice, "m.room.topic", "", json!({ "topic": "stays" })));
        let late = a.send(&room_id, message(&alice, "late"));
        let before = a.rooms.state_root(&room_id).expect("reads");
        let wish = PurgeWish { before: Some(late.event_id().to_owned()), before_ms: None, with_local: false };
        let purge = |wish: &PurgeWish| a.rooms.purge_history(&room_id, wish).expect("is done");
        assert_eq!(purge(&wish), 0, "only its own users have written");
        let wish = PurgeWish { with_local: true, ..wish };
        assert_eq!((purge(&wish), purge(&wish)), (1, 0));
        assert_eq!(a.rooms.state_root(&room_id).expect("reads"), before);

        join_over(&a, &b, &room_id, &bob).expect("joins");
        let history =
            a.rooms.backfill_for_server(b.rooms.server_name(), &room_id, &[late.event_id().to_owned()], 9);
        let history = history.expect("reads");
        let given = |event_id: &EventId| -> Option<&Arc<Pdu>> {
            history.iter().find(|pdu| pdu.event_id() == event_id)
        };
        let (early_now, topic_now) = (given(early.event_id()).expect("is there"), given(topic.event_id()));
        assert_eq!(early_now.content_object().get("body"), None);
        assert_eq!(topic_now.map(|pdu| pdu.content_object()), Some(topic.content_object()));
        let rules = a.rooms.version_rules(&room_id).expect("known");
        let again = Pdu::from_object(&rules.rules, early_now.object()).expect("is an event");
        assert_eq!(again.event_id(), early.event_id(), "its id is the hash of what is left");
        // What follows it still has its past.
        a.send(&room_id, message(&alice, "later"));
    }
}
