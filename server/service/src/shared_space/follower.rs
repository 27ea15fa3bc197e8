//! What room events mean for shared spaces.
//!
//! Follows the server's stream of events from a durable cursor, up to what is
//! visible. Each step can be repeated: after a crash the last events come again
//! and change nothing.
//!
//! - item events with a stamp: the change is joined, also before those it hangs on;
//! - item events without one: queued for adoption;
//! - conflict notices of other servers: remembered;
//! - reactions and replies to notices: settlements;
//! - redactions of item events: the value goes;
//! - declarations: members get the power to write;
//! - any state: what could not be judged is judged again.

use causeway_room::Pdu;
use causeway_shared_space::{ItemKey, Stamp, StampError};
use causeway_storage::{
    StreamPosition,
    shared_space::{notices, queues},
};
use ruma::{EventId, RoomId};
use serde_json::Value as Json;

use super::{
    DECLARATION_TYPE, ITEM_TYPE, SharedSpace,
    error::SpaceError,
    hearing::{NOTICE_FIELD, SUMMARY_FIELD},
    lock,
    state_event::remember_face,
};

/// Events taken in one step.
const STEP_MAX: usize = 200;

impl SharedSpace {
    /// Follows the stream to its visible end.
    ///
    /// # Errors
    /// Storage failed; what was not followed is followed next time.
    pub fn follow(&self) -> Result<(), SpaceError> {
        // One follower at a time, whoever calls: a client's write waits for it too.
        let mut cursor = lock(&self.cursor);
        let mut at = match *cursor {
            Some(at) => at,
            None => queues::meta::<u64>(&self.db, &["follower"])?.unwrap_or_default(),
        };
        loop {
            let places = self.rooms.stream(StreamPosition(at), STEP_MAX)?;
            let Some(last) = places.last() else { break };
            let last = last.position.0;
            for place in &places {
                if let Some(event) = self.rooms.event(&place.event_id)?
                    && let Err(error) = self
                        .follow_event(&place.room_id, &event)
                        .and_then(|()| self.check_faces_after(&place.room_id, place.position.0, &event))
                {
                    // A broken event must not stop the stream; what storage refuses will come again.
                    if matches!(error, SpaceError::Storage(_)) {
                        return Err(error);
                    }
                    let error = crate::error::Chain(&error);
                    tracing::warn!(event = %place.event_id, %error, "an event means nothing to the shared space");
                }
            }
            at = last;
            let mut batch = self.db.batch();
            queues::put_meta(&mut batch, &["follower"], &at);
            // Losing the cursor in a crash only repeats steps.
            let _unsynced = self.db.commit(batch)?;
            *cursor = Some(at);
        }
        Ok(())
    }

    fn follow_event(&self, room: &RoomId, event: &Pdu) -> Result<(), SpaceError> {
        match (event.kind_text(), event.state_key()) {
            (ITEM_TYPE, Some(key)) => self.follow_item(room, key, event),
            (DECLARATION_TYPE, Some("")) => self.follow_declaration(room, event),
            ("m.reaction", None) => self.follow_reaction(room, event),
            ("m.room.message", None) => self.follow_message(room, event),
            ("m.room.redaction", None) => self.follow_redaction(room, event),
            (_, Some(_)) => self.judge_again(room).map(|_| ()),
            _ => Ok(()),
        }
    }

    fn follow_item(&self, room: &RoomId, key: &str, event: &Pdu) -> Result<(), SpaceError> {
        let Ok(key) = ItemKey::new(key) else { return Ok(()) };
        if notices::change_of_event(&self.db, room, event.event_id())?.is_some() {
            return Ok(());
        }
        match self.read_stamp(room, &key, event) {
            Ok(Some(stamp)) => return self.join_stamped(room, &key, event, stamp),
            Ok(None) => {}
            Err(error) => {
                self.metrics.refused("stamp");
                let error = crate::error::Chain(&error);
                tracing::info!(event = %event.event_id(), %error, "a stamp says nothing; the event is adopted");
            }
        }
        // Perhaps another server's adoption of it was here before it.
        self.judge_again(room)?;
        self.queue_adoption(room, event)
    }

    /// The same for an event that waits for adoption: its stamp may be proven by now.
    pub(super) fn follow_item_again(&self, room: &RoomId, event: &Pdu) -> Result<(), SpaceError> {
        let Ok(key) = ItemKey::new(event.state_key().unwrap_or_default()) else { return Ok(()) };
        match self.read_stamp(room, &key, event) {
            Ok(Some(stamp)) => self.join_stamped(room, &key, event, stamp),
            _ => Ok(()),
        }
    }

    /// The event's stamp, if it is genuine. `None` too when no key proves it:
    /// the log brings the change, and the event may be adopted if it does not.
    pub(super) fn read_stamp(
        &self,
        room: &RoomId,
        key: &ItemKey,
        event: &Pdu,
    ) -> Result<Option<Stamp>, StampError> {
        let content = event.content_raw().get().as_bytes();
        let Some(stamp) = Stamp::read(room, key, event.sender(), content)? else { return Ok(None) };
        let origin = stamp.change().server().to_owned();
        let ids = [stamp.change().signature().key_id().to_owned(), stamp.carrier_key_id().to_owned()];
        let keys: Vec<(String, Vec<u8>)> = ids
            .into_iter()
            .filter_map(|id| Some((id.clone(), self.verify_key(&origin, &id).ok()??)))
            .collect();
        let find = |id: &str| keys.iter().find(|(known, _)| known == id).map(|(_, key)| key.as_slice());
        Ok(stamp.verify(find)?.then_some(stamp))
    }

    fn join_stamped(
        &self,
        room: &RoomId,
        key: &ItemKey,
        event: &Pdu,
        stamp: Stamp,
    ) -> Result<(), SpaceError> {
        let change = stamp.into_change();
        let (id, item_id) = (change.id(), change.header().item_id());
        let mut outcome = causeway_replication::Outcome::default();
        self.rooms.write(room, |writer| {
            self.in_draft(writer, |_, draft, writer| {
                self.join_one(draft, writer, &change, &mut outcome)?;
                remember_face(draft, key, &item_id, event.event_id().to_owned())?;
                notices::put_change_of_event(writer.batch(), room, event.event_id(), &id);
                Ok::<_, SpaceError>(())
            })
        })?;
        self.metrics.joined(outcome.new);
        self.check_face(room, key)
    }

    /// Whoever may redact an item's event takes its value away, here as there.
    fn follow_redaction(&self, room: &RoomId, event: &Pdu) -> Result<(), SpaceError> {
        let Some(target) = event.redacts() else { return Ok(()) };
        let applied = self.rooms.redaction_of(target)?;
        if applied.is_none_or(|applied| applied.event_id() != event.event_id()) {
            return Ok(());
        }
        // A reaction that settled something is known as a change too: taking it
        // back takes nobody's value away.
        if self.rooms.held(target)?.is_none_or(|held| held.pdu.kind_text() != ITEM_TYPE) {
            return Ok(());
        }
        match notices::change_of_event(&self.db, room, target)? {
            Some(id) => self.redact(room, &id, event),
            None => Ok(()),
        }
    }

    fn follow_message(&self, room: &RoomId, event: &Pdu) -> Result<(), SpaceError> {
        let content = event.content_object();
        if content.contains_key(NOTICE_FIELD) || content.contains_key(SUMMARY_FIELD) {
            return self.follow_notice(room, event, &content);
        }
        let reply_to =
            content.get("m.relates_to").and_then(|relation| relation["m.in_reply_to"]["event_id"].as_str());
        let Some(notice) = reply_to.and_then(|id| EventId::parse(id).ok()) else { return Ok(()) };
        let body = content.get("body").and_then(Json::as_str).unwrap_or_default();
        match super::choice::of_reply(body) {
            Some(choice) => self.follow_choice(room, event, &notice, choice),
            None => Ok(()),
        }
    }

    fn follow_reaction(&self, room: &RoomId, event: &Pdu) -> Result<(), SpaceError> {
        let content = event.content_object();
        let Some(relation) = content.get("m.relates_to") else { return Ok(()) };
        let notice = relation["event_id"].as_str().and_then(|id| EventId::parse(id).ok());
        let choice = relation["key"].as_str().and_then(super::choice::of_reaction);
        match (notice, choice) {
            (Some(notice), Some(choice)) => self.follow_choice(room, event, &notice, choice),
            _ => Ok(()),
        }
    }
}
