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
//! - tombstones, beside another homeserver: the items go along;
//! - any state: what could not be judged is judged again.

use std::sync::{MutexGuard, atomic::Ordering};

use causeway_shared_space::{Change, ItemKey, Stamp, StampError};
use causeway_storage::{
    StreamPosition,
    rooms::Place,
    shared_space::{entries, notices, queues},
};
use ruma::{EventId, OwnedRoomId, RoomId};
use serde_json::Value as Json;

use super::{
    DECLARATION_TYPE, ITEM_TYPE, SharedSpace,
    backend::HeldEvent,
    draft::Placement,
    error::SpaceError,
    hearing::{NOTICE_FIELD, SUMMARY_FIELD},
    lock,
    state_event::remember_face,
};
use crate::room_event::RoomEvent;

/// Events taken in one step.
const STEP_MAX: usize = 200;

/// Threads that wait at once for what they could do without.
const FOLLOWERS_MAX: usize = 4;
/// Changes that are joined in one batch.
const GROUP_MAX: usize = 100;

/// An item's event whose stamp is genuine.
struct Stamped {
    room: OwnedRoomId,
    position: u64,
    key: ItemKey,
    event: RoomEvent,
    change: Change,
}

/// What is found where an item's event would have its stamp.
pub(super) enum StampRead {
    /// None.
    None,
    /// The change's origin made it for this event.
    Genuine(Box<Stamp>),
    /// It can't be told from a forged one: its key is not known yet.
    WaitsForKey(Box<Stamp>),
}

/// A broken event must not stop the stream; what storage refuses will come again.
fn unless_broken(error: SpaceError, event: &RoomEvent) -> Result<(), SpaceError> {
    if error.is_storage() {
        return Err(error);
    }
    let error = crate::error::Chain(&error);
    tracing::warn!(event = %event.event_id(), %error, "an event means nothing to the shared space");
    Ok(())
}

impl SharedSpace {
    /// Follows the stream to its visible end.
    ///
    /// # Errors
    /// Storage failed; what was not followed is followed next time.
    pub fn follow(&self) -> Result<(), SpaceError> {
        self.follow_while(|| true)
    }

    /// The same, but ending before another page of events once `wanted` is false.
    pub(super) fn follow_while(&self, wanted: impl Fn() -> bool) -> Result<(), SpaceError> {
        // One follower at a time, whoever calls: a client's write waits for it too.
        self.follow_from(lock(&self.cursor), wanted)
    }

    /// The same for those to whom it only saves work: not if several of them
    /// wait already, as each keeps a thread while there is a long backlog.
    pub fn follow_if_free(&self) -> Result<(), SpaceError> {
        let waiting = self.followers.fetch_add(1, Ordering::Relaxed);
        let followed = if waiting < FOLLOWERS_MAX { self.follow() } else { Ok(()) };
        self.followers.fetch_sub(1, Ordering::Relaxed);
        followed
    }

    fn follow_from(
        &self,
        mut cursor: MutexGuard<'_, Option<u64>>,
        wanted: impl Fn() -> bool,
    ) -> Result<(), SpaceError> {
        let mut at = match *cursor {
            Some(at) => at,
            None => queues::meta::<u64>(&self.db, &["follower"])?.unwrap_or_default(),
        };
        while wanted() {
            let places = self.rooms.stream(StreamPosition(at), STEP_MAX)?;
            let Some(last) = places.last() else { break };
            let last = last.position.0;
            self.follow_places(&places)?;
            at = last;
            let mut batch = self.db.batch();
            queues::put_meta(&mut batch, &["follower"], &at);
            // Losing the cursor in a crash only repeats steps.
            let _unsynced = self.db.commit(batch)?;
            *cursor = Some(at);
            self.rooms.followed(StreamPosition(at))?;
        }
        Ok(())
    }

    /// Follows some events in their order. Neighbours that only bring changes are
    /// joined in one batch: a busy room's events come by the dozen.
    fn follow_places(&self, places: &[Place]) -> Result<(), SpaceError> {
        let mut group: Vec<Stamped> = Vec::new();
        for place in places {
            if group.last().is_some_and(|last| last.room != place.room_id) || group.len() >= GROUP_MAX {
                self.join_group(&std::mem::take(&mut group))?;
            }
            let held = self.rooms.event(&place.room_id, &place.event_id)?;
            let Some(event) = held.and_then(HeldEvent::accepted) else { continue };
            if let Some(stamped) = self.stamped(place, &event)? {
                group.push(stamped);
                continue;
            }
            // What an event means goes by items that are as the stream has them.
            self.join_group(&std::mem::take(&mut group))?;
            self.follow_event(&place.room_id, &event)
                .and_then(|()| self.check_faces_after(&place.room_id, place.position.0, &event))
                .or_else(|error| unless_broken(error, &event))?;
        }
        self.join_group(&group)
    }

    fn follow_event(&self, room: &RoomId, event: &RoomEvent) -> Result<(), SpaceError> {
        match (event.kind_text(), event.state_key()) {
            (ITEM_TYPE, Some(key)) => self.follow_unstamped(room, key, event),
            (DECLARATION_TYPE, Some("")) => self.follow_declaration(room, event),
            ("m.reaction", None) => self.follow_reaction(room, event),
            ("m.room.message", None) => self.follow_message(room, event),
            ("m.room.redaction", None) => self.follow_redaction(room, event),
            ("m.room.tombstone", Some("")) => {
                self.judge_soon(room)?;
                self.plan_after(room, event)
            }
            (_, Some(_)) => self.judge_soon(room),
            _ => Ok(()),
        }
    }

    /// The change that an item's event brings, if it is yet to be joined.
    fn stamped(&self, place: &Place, event: &RoomEvent) -> Result<Option<Stamped>, SpaceError> {
        let room = &place.room_id;
        let Some(key) = event.state_key().filter(|_| event.kind_text() == ITEM_TYPE) else { return Ok(None) };
        let Ok(key) = ItemKey::new(key) else { return Ok(None) };
        if notices::change_of_event(&self.db, room, event.event_id())?.is_some() {
            return Ok(None);
        }
        match self.examine_stamp(room, &key, event) {
            Ok(StampRead::Genuine(stamp)) if self.is_wanted(room, stamp.change())? => Ok(Some(Stamped {
                room: room.clone(),
                position: place.position.0,
                key,
                event: event.clone(),
                change: stamp.into_change(),
            })),
            // Without its key the log brings the change, and the event may be
            // adopted if it does not.
            Ok(_) => Ok(None),
            Err(error) => {
                self.metrics.refused("stamp");
                let error = crate::error::Chain(&error);
                tracing::info!(event = %event.event_id(), %error, "a stamp says nothing; the event is adopted");
                Ok(None)
            }
        }
    }

    /// An item's event that brings no change.
    fn follow_unstamped(&self, room: &RoomId, key: &str, event: &RoomEvent) -> Result<(), SpaceError> {
        if ItemKey::new(key).is_err() || notices::change_of_event(&self.db, room, event.event_id())?.is_some()
        {
            return Ok(());
        }
        // Perhaps another server's adoption of it was here before it.
        self.judge_soon(room)?;
        self.queue_adoption(room, event)
    }

    /// The same for an event that waits for adoption: its stamp may be proven by now. True if it is
    /// genuine: such an event is nobody's to adopt, also if its change may not be taken.
    pub(super) fn follow_item_again(&self, room: &RoomId, event: &RoomEvent) -> Result<bool, SpaceError> {
        let Ok(key) = ItemKey::new(event.state_key().unwrap_or_default()) else { return Ok(false) };
        let Ok(StampRead::Genuine(stamp)) = self.examine_stamp(room, &key, event) else { return Ok(false) };
        if self.is_wanted(room, stamp.change())? {
            let (change, event) = (stamp.into_change(), event.clone());
            self.join_stamped(&[Stamped { room: room.to_owned(), position: 0, key, event, change }])?;
        }
        Ok(true)
    }

    /// Whether the change of a genuine stamp is held, or may be.
    fn is_wanted(&self, room: &RoomId, change: &Change) -> Result<bool, SpaceError> {
        Ok(entries::link(&self.db, room, &change.id())?.is_some() || self.may_be_taken(change)?)
    }

    /// What an event's stamp is worth, by all keys that were ever known.
    pub(super) fn examine_stamp(
        &self,
        room: &RoomId,
        key: &ItemKey,
        event: &RoomEvent,
    ) -> Result<StampRead, StampError> {
        let content = event.content_raw().get().as_bytes();
        let Some(stamp) = Stamp::read(room, key, event.sender(), content)? else {
            return Ok(StampRead::None);
        };
        let origin = stamp.change().server().to_owned();
        let ids = [Some(stamp.change().signature().key_id()), stamp.carrier_key_id()];
        let keys: Vec<(String, Vec<u8>)> = ids
            .into_iter()
            .flatten()
            .map(str::to_owned)
            .filter_map(|id| Some((id.clone(), self.verify_key(room, &origin, &id).ok()??)))
            .collect();
        let find = |id: &str| keys.iter().find(|(known, _)| known == id).map(|(_, key)| key.as_slice());
        Ok(if stamp.verify(find)? {
            StampRead::Genuine(Box::new(stamp))
        } else {
            StampRead::WaitsForKey(Box::new(stamp))
        })
    }

    /// Joins the changes of a group. If they can't be joined together, each is
    /// joined by itself: one must not keep the others out.
    fn join_group(&self, group: &[Stamped]) -> Result<(), SpaceError> {
        let together = self.join_stamped(group);
        if together.is_err() && group.len() > 1 {
            for stamped in group.chunks(1) {
                self.join_stamped(stamped).or_else(|error| unless_broken(error, &stamped[0].event))?;
            }
        } else if let (Err(error), Some(only)) = (together, group.first()) {
            unless_broken(error, &only.event)?;
        }
        for stamped in group {
            let Stamped { room, position, key, event, .. } = stamped;
            let checked = self.check_face(room, key);
            checked
                .and_then(|()| self.check_faces_after(room, *position, event))
                .or_else(|error| unless_broken(error, event))?;
        }
        Ok(())
    }

    /// Joins changes that events of one room brought, in one batch.
    fn join_stamped(&self, group: &[Stamped]) -> Result<(), SpaceError> {
        let Some(Stamped { room, .. }) = group.first() else { return Ok(()) };
        let mut took_ms = Vec::new();
        self.rooms.write_judging(room, |writer| {
            let mut outcome = causeway_replication::Outcome::default();
            took_ms.clear();
            self.in_draft(writer, |_, draft, writer| {
                for Stamped { key, event, change, .. } in group {
                    let (id, item_id) = (change.id(), change.header().item_id());
                    let placement = self.join_one(draft, writer, change, &mut outcome)?;
                    took_ms.extend((placement == Placement::New).then(|| self.age_ms(change)));
                    remember_face(draft, key, &item_id, event.event_id().to_owned())?;
                    notices::put_change_of_event(writer.batch(), room, event.event_id(), &id);
                }
                Ok(())
            })
        })?;
        self.metrics.joined(&took_ms);
        Ok(())
    }

    /// Whoever may redact an item's event takes its value away, here as there.
    fn follow_redaction(&self, room: &RoomId, event: &RoomEvent) -> Result<(), SpaceError> {
        let Some(target) = event.redacts() else { return Ok(()) };
        let applied = self.rooms.read(room, |facts| Ok(facts.redaction_of(target)?))?;
        if applied.is_none_or(|applied| applied != event.event_id()) {
            return Ok(());
        }
        // A reaction that settled something is known as a change too: taking it
        // back takes nobody's value away.
        if self.rooms.event(room, target)?.is_none_or(|held| held.event.kind_text() != ITEM_TYPE) {
            return Ok(());
        }
        match notices::change_of_event(&self.db, room, target)? {
            Some(id) => self.redact(room, &id, event),
            None => self.redact_unadopted(room, target),
        }
    }

    fn follow_message(&self, room: &RoomId, event: &RoomEvent) -> Result<(), SpaceError> {
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

    fn follow_reaction(&self, room: &RoomId, event: &RoomEvent) -> Result<(), SpaceError> {
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
