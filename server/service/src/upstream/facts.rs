//! What the upstream said of rooms, for a while: pieces of state, events, servers.
//!
//! In memory only, and no copy of the rooms' state: each piece is as old as the request that
//! brought it, and whoever wants it says how old it may be ([`Freshness`]). An event that
//! happens makes its piece stale and never replaces it: it says what was sent, not what state
//! became of it.
//!
//! Not here: asking ([`super::request`]).
//!
//! Invariants: what an answer brings is as old as the moment before the question; what
//! happened since is not undone by it; rooms, pieces, events and their bytes are bounded.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use ruma::{EventId, OwnedEventId, OwnedServerName, RoomId};
use serde_json::value::RawValue;

use super::{
    freshness::{Asked, Freshness},
    memory::{EVENTS_MAX, Memory},
    request::{Fact, UpstreamError, Wanted},
};
use crate::{
    cache::Cache,
    clock::Clock,
    room_event::{RoomEvent, ShownError, ShownEvent},
};

/// All of it.
#[derive(Debug)]
pub struct Facts {
    clock: Clock,
    memory: Mutex<Memory>,
    /// Which events show the right to send an event.
    rights: Cache<OwnedEventId, Arc<[OwnedEventId]>>,
}

impl Facts {
    /// Nothing yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, memory: Mutex::default(), rights: Cache::new(EVENTS_MAX) }
    }

    /// A piece of a room's state, if it is at hand and fresh enough; the inner `None`: there is
    /// no such event.
    pub fn state(
        &self,
        room: &RoomId,
        kind: &str,
        key: &str,
        freshness: Freshness,
    ) -> Option<Option<RoomEvent>> {
        let now_ms = self.clock.now_ms();
        let mut memory = self.lock();
        let room = memory.room(room)?;
        let kept = room.pieces.get(&(kind.to_owned(), key.to_owned()))?;
        // Neither the create event nor whether there is one ever changes.
        let is_create = kind == "m.room.create" && kept.value.is_some();
        let freshness = if is_create { EVER } else { freshness };
        kept.if_fresh(now_ms, freshness)
    }

    /// The servers with joined members.
    pub fn servers(&self, room: &RoomId, freshness: Freshness) -> Option<Arc<BTreeSet<OwnedServerName>>> {
        let now_ms = self.clock.now_ms();
        let mut memory = self.lock();
        memory.room(room)?.servers.as_ref()?.if_fresh(now_ms, freshness)
    }

    /// An event by its id. What an event says does not change, but whether it is redacted does:
    /// `freshness` is for that, and for that there is none.
    pub fn event(&self, room: &RoomId, id: &EventId, freshness: Freshness) -> Option<Option<RoomEvent>> {
        let now_ms = self.clock.now_ms();
        let memory = self.lock();
        let found = memory.events.get(id)?.if_fresh(now_ms, freshness)?;
        // An id of another room's event says nothing of this one.
        Some(found.filter(|event| event.room_id() == room))
    }

    /// The same of an event that is known, however old that is.
    pub fn known_event(&self, room: &RoomId, id: &EventId) -> Option<RoomEvent> {
        self.event(room, id, EVER).flatten()
    }

    /// The events that show an event's sender's right to send it.
    pub fn rights(&self, id: &EventId) -> Option<Arc<[OwnedEventId]>> {
        self.rights.get(id)
    }

    /// Which of these are not at hand, or not fresh enough.
    pub fn lacking(&self, room: &RoomId, wanted: &[Wanted], freshness: Freshness) -> Vec<Wanted> {
        let is_at_hand = |wanted: &&Wanted| match wanted {
            Wanted::State { kind, key } => self.state(room, kind, key, freshness).is_some(),
            Wanted::Event(id) => self.event(room, id, freshness).is_some(),
            Wanted::Rights(id) => self.rights(id).is_some(),
            Wanted::Servers => self.servers(room, freshness).is_some(),
        };
        wanted.iter().filter(|wanted| !is_at_hand(wanted)).cloned().collect()
    }

    /// A question about a room begins now.
    pub fn begin(&self, room: &RoomId) -> Asked {
        let at_ms = self.clock.now_ms();
        let mut memory = self.lock();
        memory.make_room(room);
        Asked { at_ms, change: memory.change }
    }

    /// Keeps what was answered to a question about a room.
    ///
    /// # Errors
    /// The answer is to another question, or makes no sense.
    pub fn learn(
        &self,
        room: &RoomId,
        asked: Asked,
        wanted: &[Wanted],
        facts: Vec<Fact>,
    ) -> Result<(), UpstreamError> {
        for (wanted, fact) in wanted.iter().zip(facts) {
            match (wanted, fact) {
                (Wanted::State { kind, key }, Fact::Event(event)) => {
                    let event = read(room, event.as_deref())?.filter(|event| event.is_state(kind, key));
                    self.lock().keep_piece(room, asked, (kind, key), event);
                }
                (Wanted::Event(id), Fact::Event(event)) => {
                    let event = read(room, event.as_deref())?.filter(|event| event.event_id() == id);
                    self.lock().keep_answer(id, asked, event);
                }
                (Wanted::Rights(id), Fact::Events(events)) => {
                    let mut ids = Vec::with_capacity(events.len());
                    for event in events {
                        let Some(event) = read(room, Some(&event))? else { continue };
                        ids.push(event.event_id().to_owned());
                        self.lock().keep_event(&event, asked.at_ms);
                    }
                    self.rights.insert(id.clone(), ids.into());
                }
                (Wanted::Servers, Fact::Servers(servers)) => {
                    self.lock().keep_servers(room, asked, Arc::new(servers));
                }
                _ => return Err(UpstreamError::Odd("an answer to another question".to_owned())),
            }
        }
        Ok(())
    }

    /// Something happened in a room, and may have changed what is kept of it.
    pub fn happened(&self, event: &RoomEvent) {
        let mut memory = self.lock();
        if let Some(redacted) = event.redacts() {
            memory.events.outdate(redacted);
        }
        let Some(key) = event.state_key() else { return };
        let kind = event.kind_text();
        memory.changed(event.room_id(), kind, key);
        if kind == "m.room.member" {
            memory.changed(event.room_id(), "", "");
        }
    }

    /// An event that the upstream showed to a client just now.
    pub fn note(&self, event: &RoomEvent) {
        let at_ms = self.clock.now_ms();
        self.lock().keep_event(event, at_ms);
    }

    /// Nothing of a room is at hand any more: it was asked for in the name of somebody who left it.
    pub fn forget(&self, room: &RoomId) {
        self.lock().forget(room);
    }

    /// The maps are whole between statements, so a panic elsewhere is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const EVER: Freshness = Freshness { age_max_ms: u64::MAX, stale: true };

/// An event as it was answered; `None` also if it is one of another room.
fn read(room: &RoomId, event: Option<&RawValue>) -> Result<Option<RoomEvent>, UpstreamError> {
    let Some(event) = event else { return Ok(None) };
    match ShownEvent::parse(room, event.get()) {
        Ok(event) => Ok(Some(event.into())),
        Err(ShownError::AnotherRoom) => Ok(None),
        Err(error) => Err(UpstreamError::Odd(crate::error::Chain(&error).to_string())),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ruma::{OwnedRoomId, room_id};
    use serde_json::{Value, json};

    use super::*;
    use crate::upstream::memory::{
        CHANGES_MAX, EVENTS_BYTES_MAX, PIECES_BYTES_MAX, PIECES_MAX, ROOMS_MAX, weight,
    };

    fn member(id: &str, membership: &str) -> Value {
        json!({
            "event_id": id, "sender": "@zoe:s1", "type": "m.room.member", "state_key": "@zoe:s1",
            "content": { "membership": membership },
        })
    }

    fn raw(event: &Value) -> Fact {
        Fact::Event(Some(RawValue::from_string(event.to_string()).expect("JSON")))
    }

    fn shown(room: &RoomId, event: &Value) -> RoomEvent {
        ShownEvent::parse(room, &event.to_string()).expect("an event").into()
    }

    fn wanted() -> [Wanted; 1] {
        [Wanted::State { kind: "m.room.member".to_owned(), key: "@zoe:s1".to_owned() }]
    }

    #[test]
    fn a_piece_is_as_old_as_its_question_and_stale_after_an_event() {
        let (clock, room) = (Clock::manual(1_000), room_id!("!r:s1"));
        let facts = Facts::new(clock.clone());
        let look = |freshness| facts.state(room, "m.room.member", "@zoe:s1", freshness);
        let asked = facts.begin(room);
        clock.advance(Duration::from_secs(3));
        facts.learn(room, asked, &wanted(), vec![raw(&member("$1", "join"))]).expect("learns");
        assert!(look(Freshness::WRITER).expect("at hand").is_some());
        assert!(facts.known_event(room, &OwnedEventId::try_from("$1").expect("an id")).is_some());
        clock.advance(Duration::from_millis(2_001));
        assert!(look(Freshness::WRITER).is_none(), "six seconds after the question");
        assert!(look(Freshness::WRITER.since(2_000)).is_some());
        assert!(look(Freshness::PEER).is_some());
        facts.happened(&shown(room, &member("$2", "leave")));
        assert!(look(Freshness::PEER).is_none());
        let still = look(Freshness::SILENT_PEER).expect("while nobody answers").expect("an event");
        assert_eq!(still.event_id().as_str(), "$1", "what was sent is not what state became");
    }

    #[test]
    fn an_answer_under_way_does_not_undo_what_happened_meanwhile() {
        let room = room_id!("!r:s1");
        let facts = Facts::new(Clock::manual(1_000));
        let asked = facts.begin(room);
        let other = json!({
            "event_id": "$o", "sender": "@zoe:s1", "type": "org.causeway.item", "state_key": "k", "content": {},
        });
        facts.happened(&shown(room, &other));
        facts.learn(room, asked, &wanted(), vec![raw(&member("$1", "join"))]).expect("learns");
        let look = || facts.state(room, "m.room.member", "@zoe:s1", Freshness::WRITER);
        assert!(look().is_some(), "another piece changed");
        let asked = facts.begin(room);
        facts.happened(&shown(room, &member("$2", "leave")));
        facts.learn(room, asked, &wanted(), vec![raw(&member("$1", "join"))]).expect("learns");
        assert!(look().is_none());
        let asked = facts.begin(room);
        for n in 0..=CHANGES_MAX {
            let mut other = other.clone();
            other["state_key"] = n.to_string().into();
            facts.happened(&shown(room, &other));
        }
        facts.learn(room, asked, &wanted(), vec![raw(&member("$2", "leave"))]).expect("learns");
        assert!(look().is_none(), "too much happened to know");
        let asked = facts.begin(room);
        facts.learn(room, asked, &wanted(), vec![raw(&member("$2", "leave"))]).expect("learns");
        assert!(look().is_some());
    }

    #[test]
    fn servers_go_with_members_and_redactions_outdate_their_event() {
        let room = room_id!("!r:s1");
        let facts = Facts::new(Clock::manual(1_000));
        let asked = facts.begin(room);
        let id = OwnedEventId::try_from("$1").expect("an id");
        let wanted = [Wanted::Servers, Wanted::Event(id.clone())];
        let servers = Fact::Servers(BTreeSet::from([OwnedServerName::try_from("s2").expect("a name")]));
        facts.learn(room, asked, &wanted, vec![servers, raw(&member("$1", "join"))]).expect("learns");
        assert!(facts.lacking(room, &wanted, Freshness::PEER).is_empty());
        facts.happened(&shown(room, &member("$2", "leave")));
        assert_eq!(facts.lacking(room, &wanted, Freshness::PEER), [Wanted::Servers]);
        let redaction = json!({
            "event_id": "$red", "sender": "@zoe:s1", "type": "m.room.redaction", "redacts": "$1", "content": {},
        });
        facts.happened(&shown(room, &redaction));
        assert_eq!(facts.lacking(room, &wanted, Freshness::PEER), wanted);
        assert!(facts.known_event(room, &id).is_some());
        assert!(facts.known_event(room_id!("!other:s1"), &id).is_none());
        // Not everything that is current is shown by its id.
        facts.learn(room, asked, &[Wanted::Event(id.clone())], vec![Fact::Event(None)]).expect("learns");
        assert!(facts.known_event(room, &id).is_some());
        let odd = facts.learn(room, asked, &[Wanted::Servers], vec![Fact::Event(None)]);
        assert!(matches!(odd, Err(UpstreamError::Odd(_))));
    }

    #[test]
    fn rooms_pieces_and_bytes_are_bounded() {
        let facts = Facts::new(Clock::manual(1_000));
        for n in 0..ROOMS_MAX + 5 {
            facts.begin(&OwnedRoomId::try_from(format!("!{n}:s1")).expect("an id"));
        }
        assert_eq!(facts.lock().rooms.len(), ROOMS_MAX);
        let room = room_id!("!r:s1");
        let large = "x".repeat(60_000);
        for n in 0..PIECES_MAX * 3 {
            let asked = facts.begin(room);
            let key = n.to_string();
            let event = json!({
                "event_id": format!("${n}"), "sender": "@zoe:s1", "type": "t", "state_key": key, "content": { "v": large },
            });
            let wanted = [Wanted::State { kind: "t".to_owned(), key }];
            facts.learn(room, asked, &wanted, vec![raw(&event)]).expect("learns");
        }
        let memory = facts.lock();
        assert_eq!(memory.rooms[room].pieces.len(), PIECES_MAX);
        let weighed: usize = memory.rooms[room].pieces.values().map(|kept| weight(kept.value.as_ref())).sum();
        assert_eq!((memory.rooms[room].bytes, memory.bytes), (weighed, weighed));
        assert!(memory.events.bytes <= EVENTS_BYTES_MAX && memory.bytes <= PIECES_BYTES_MAX);
    }
}
