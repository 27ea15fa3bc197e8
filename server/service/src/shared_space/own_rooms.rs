//! The rooms of this server as a shared space needs them.
//!
//! Not here: anything that is not in [`super::backend`]'s words: the rooms themselves are
//! [`crate::rooms`].

use std::sync::Arc;

use causeway_room::{NewEvent, Pdu, state_tree::NodeId};
use causeway_storage::{Batch, StreamPosition, rooms as rows, rooms::Place};
use ruma::{
    DeviceId, EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId,
    events::room::member::MembershipState,
};

use super::{
    ITEM_TYPE,
    backend::{Appended, HeldEvent, How, Reading, RoomAccess, RoomBackend, RoomFacts, Subject, Writing},
    error::SpaceError,
};
use crate::{
    notify::Topic,
    room_event::RoomEvent,
    rooms::{Held, RoomError, RoomWriter, Rooms, Unsynced, VersionRules},
    sync::{self, Given},
};

impl From<Held> for HeldEvent {
    fn from(Held { pdu, meta }: Held) -> Self {
        Self {
            event: RoomEvent::Own(pdu),
            rejected: meta.rejected.is_some(),
            soft_failed: meta.soft_failed,
            position: meta.position.and_then(|position| u64::try_from(position).ok()),
        }
    }
}

/// A room as it is, for who does not write to it.
struct OwnRoom<'a> {
    rooms: &'a Rooms,
    room: &'a RoomId,
}

impl RoomFacts for OwnRoom<'_> {
    fn room_id(&self) -> &RoomId {
        self.room
    }

    fn rules(&mut self) -> Result<Arc<VersionRules>, RoomError> {
        self.rooms.version_rules(self.room)
    }

    fn state(&mut self, kind: &str, key: &str) -> Result<Option<RoomEvent>, RoomError> {
        Ok(self.rooms.state_event(self.room, kind, key)?.map(RoomEvent::Own))
    }

    fn event(&mut self, event_id: &EventId) -> Result<Option<HeldEvent>, RoomError> {
        Ok(self.rooms.held(event_id)?.map(HeldEvent::from))
    }

    fn redaction_of(&mut self, event_id: &EventId) -> Result<Option<OwnedEventId>, RoomError> {
        let redaction = self.rooms.redaction_of(event_id)?;
        Ok(redaction.map(|redaction| redaction.event_id().to_owned()))
    }

    fn rights_shown_by(&mut self, event: &RoomEvent) -> Result<Vec<OwnedEventId>, RoomError> {
        let create = self.state("m.room.create", "")?;
        Ok(with_create(event, create.as_ref().map(RoomEvent::event_id)))
    }
}

impl RoomFacts for RoomWriter<'_> {
    fn room_id(&self) -> &RoomId {
        RoomWriter::room_id(self)
    }

    fn rules(&mut self) -> Result<Arc<VersionRules>, RoomError> {
        Ok(Arc::clone(RoomWriter::rules(self)))
    }

    fn state(&mut self, kind: &str, key: &str) -> Result<Option<RoomEvent>, RoomError> {
        Ok(RoomWriter::state(self, kind, key)?.map(RoomEvent::Own))
    }

    fn event(&mut self, event_id: &EventId) -> Result<Option<HeldEvent>, RoomError> {
        Ok(RoomWriter::event(self, event_id)?.map(HeldEvent::from))
    }

    fn redaction_of(&mut self, event_id: &EventId) -> Result<Option<OwnedEventId>, RoomError> {
        let redaction = self.rooms.redaction_of(event_id)?;
        Ok(redaction.map(|redaction| redaction.event_id().to_owned()))
    }

    fn rights_shown_by(&mut self, event: &RoomEvent) -> Result<Vec<OwnedEventId>, RoomError> {
        let create = RoomWriter::state(self, "m.room.create", "")?;
        Ok(with_create(event, create.as_ref().map(|create| Pdu::event_id(create))))
    }
}

/// What an event names as what authorised it, and the create event, which newer room
/// versions do not name.
fn with_create(event: &RoomEvent, create: Option<&EventId>) -> Vec<OwnedEventId> {
    event.auth_events().iter().cloned().chain(create.map(ToOwned::to_owned)).collect()
}

impl RoomAccess for RoomWriter<'_> {
    fn append(&mut self, event: NewEvent, _subject: Subject) -> Result<Appended, RoomError> {
        let pdu = RoomWriter::append(self, event)?;
        Ok(Appended::Sent(Pdu::event_id(&pdu).to_owned()))
    }

    fn batch(&mut self) -> &mut Batch {
        RoomWriter::batch(self)
    }

    fn notify(&mut self, topic: Topic) {
        RoomWriter::notify(self, topic);
    }
}

impl RoomBackend for Rooms {
    fn write(&self, room: &RoomId, how: How, work: &mut Writing<'_>) -> Result<Unsynced, SpaceError> {
        match how {
            How::Now => Rooms::write(self, room, |writer| work(writer))?,
            How::Patiently => self.write_patiently(room, |writer| work(writer))?,
            How::Once | How::Judging => self.write_once(room, |writer| work(writer))?,
            How::Unsynced => return Ok(self.write_unsynced(room, |writer| work(writer))?.1),
        }
        Ok(Unsynced::default())
    }

    fn read(&self, room: &RoomId, work: &mut Reading<'_>) -> Result<(), SpaceError> {
        work(&mut OwnRoom { rooms: self, room })
    }

    fn sync(&self, unsynced: Unsynced) -> Result<(), RoomError> {
        Rooms::sync(self, unsynced)
    }

    fn is_joined(&self, room: &RoomId, user: &UserId) -> Result<bool, RoomError> {
        Rooms::is_joined(self, room, user)
    }

    fn is_banned(&self, room: &RoomId, user: &UserId) -> Result<bool, RoomError> {
        let member = rows::member(&self.store.database, room, user)?;
        Ok(member.is_some_and(|member| member.membership == MembershipState::Ban))
    }

    fn event(&self, _room: &RoomId, event_id: &EventId) -> Result<Option<HeldEvent>, RoomError> {
        Ok(self.held(event_id)?.map(HeldEvent::from))
    }

    fn position(&self, _room: &RoomId, event_id: &EventId) -> Result<Option<u64>, RoomError> {
        // From memory where it can be: this is asked for each face at each write.
        let held = self.held(event_id)?;
        Ok(held.and_then(|held| held.meta.position).and_then(|position| u64::try_from(position).ok()))
    }

    fn shown_before(&self, event: &HeldEvent, key: &str) -> Result<Option<Option<RoomEvent>>, RoomError> {
        let Some(held) = self.held(event.event.event_id())? else { return Ok(None) };
        // The state that is kept with fetched history is good for who may see
        // it, not for more: it is the one of some event near by.
        let is_history = held.meta.position.is_some_and(|position| position < 0);
        match held.meta.state_before.as_ref().filter(|_| !is_history) {
            Some(root) => Ok(Some(self.state_at(root, ITEM_TYPE, key)?.map(RoomEvent::Own))),
            None => Ok(None),
        }
    }

    fn has_all(&self) -> bool {
        true
    }

    fn ask_for_wanted(&self) -> Result<Vec<OwnedRoomId>, RoomError> {
        Ok(Vec::new())
    }

    fn given(&self, user: &UserId, device: &DeviceId, room: &RoomId) -> Result<Vec<Given>, RoomError> {
        sync::given(self, user, device, room)
    }

    fn item_at(&self, root: &str, key: &str) -> Result<Option<OwnedEventId>, RoomError> {
        let Some(root) = parse_root(root) else { return Ok(None) };
        let event = self.state_at(&root, ITEM_TYPE, key)?;
        Ok(event.map(|event| Pdu::event_id(&event).to_owned()))
    }

    fn stream(&self, after: StreamPosition, limit: usize) -> Result<Vec<Place>, RoomError> {
        Rooms::stream(self, after, limit)
    }

    fn followed(&self, _up_to: StreamPosition) -> Result<(), RoomError> {
        Ok(())
    }

    fn items_changed_beside(
        &self,
        room: &RoomId,
        position: u64,
        event: &RoomEvent,
        limit: usize,
    ) -> Result<Vec<String>, RoomError> {
        let position = i64::try_from(position).unwrap_or(i64::MAX);
        let Some((before, after)) = self.state_roots_around(room, position)? else { return Ok(Vec::new()) };
        if before == after {
            return Ok(Vec::new());
        }
        let differing = self.state_diff(&before, &after)?.into_iter().map(|difference| difference.key);
        let items = differing.filter(|key| key.kind == *ITEM_TYPE).take(limit);
        let others = items.filter(|key| event.state_key() != Some(key.key.as_str()));
        Ok(others.map(|key| key.key).collect())
    }

    fn shown_items(&self, room: &RoomId, most: u64) -> Result<u64, RoomError> {
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        Ok(rows::current_of(&self.store.database, room, Some(ITEM_TYPE), None, most)?.len() as u64)
    }

    fn joined_servers(&self, room: &RoomId) -> Result<Vec<OwnedServerName>, RoomError> {
        Rooms::joined_servers(self, room)
    }

    fn is_server_joined(&self, room: &RoomId, server: &ServerName) -> Result<bool, RoomError> {
        Rooms::is_server_joined(self, room, server)
    }

    fn spoken_of(&self, _room: &RoomId, _by: &ServerName) -> Result<(), RoomError> {
        Ok(())
    }

    fn take_new(&self) -> Vec<OwnedRoomId> {
        Vec::new()
    }

    fn server_acl_allows(&self, room: &RoomId, server: &ServerName) -> Result<bool, RoomError> {
        Rooms::server_acl_allows(self, room, server)
    }

    fn pdu_for_server(&self, server: &ServerName, event_id: &EventId) -> Result<Option<Arc<Pdu>>, RoomError> {
        self.event_for_server(server, event_id)
    }

    fn has_policy(&self, room: &RoomId) -> Result<bool, RoomError> {
        Ok(self.policy(room)?.is_some())
    }

    fn approve(&self, room: &RoomId, event: NewEvent) -> Result<(), RoomError> {
        Rooms::approve(self, room, event)
    }
}

/// A state's root as the progress of a device names it.
fn parse_root(text: &str) -> Option<NodeId> {
    let mut root = [0; 32];
    hex::decode_to_slice(text, &mut root).ok().map(|()| NodeId(root))
}
