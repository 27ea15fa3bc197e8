//! What a shared space needs of the room that it belongs to, whoever keeps that room.
//!
//! There are two: the rooms of this server (`shared_space::own_rooms`), and rooms of a
//! homeserver beside which this process runs (`crate::upstream`), of which only facts
//! are at hand that were asked for.
//!
//! Invariants:
//! - what is run on a room may be run again from its beginning: a fact that is not at hand
//!   is fetched without the room's lock, and a policy server is asked so. It has no effect
//!   but by its batch and its events, or one that may be had twice;
//! - nothing of what was given up is kept.

use std::{fmt, ops::Deref, sync::Arc};

use causeway_room::{NewEvent, Pdu};
use causeway_storage::{Batch, StreamPosition, rooms::Place};
use ruma::{
    DeviceId, EventId, OwnedEventId, OwnedRoomId, OwnedServerName, RoomId, ServerName, UserId,
    events::room::member::MembershipState,
};

use super::error::SpaceError;
use crate::{
    notify::Topic,
    room_event::RoomEvent,
    rooms::{Power, RoomError, Unsynced, VersionRules},
    sync::Given,
};

/// An event, and what its server made of it.
#[derive(Clone, Debug)]
pub struct HeldEvent {
    /// The event.
    pub event: RoomEvent,
    /// The room's rules refused it.
    pub rejected: bool,
    /// It is kept out of the room.
    pub soft_failed: bool,
    /// Where it stands in the stream; `None` for history.
    pub position: Option<u64>,
}

impl HeldEvent {
    /// The event, if it was accepted into its room.
    pub fn accepted(self) -> Option<RoomEvent> {
        (!self.rejected && !self.soft_failed).then_some(self.event)
    }
}

/// What becomes of an event that is appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Appended {
    /// It is in the room with this write.
    Sent(OwnedEventId),
    /// It is sent after this write, or given up if the room does not take it; it is
    /// heard of when it comes round.
    Queued,
}

/// What an event that is appended is about: of two that wait to be sent and are about
/// the same, only the later one is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// The face of the item with this key.
    Face(String),
    /// The conflict with this id is told.
    Notice(String),
    /// The notice in this event has ended.
    Edit(OwnedEventId),
    /// An answer to this event.
    Answer(OwnedEventId),
    /// The service user gets this membership.
    Member(&'static str),
    /// The power levels.
    Levels,
    /// What stayed behind in a room that was replaced.
    LeftBehind,
}

/// As rows are called.
impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Face(key) => write!(f, "face:{key}"),
            Self::Notice(conflict) => write!(f, "notice:{conflict}"),
            Self::Edit(event) => write!(f, "edit:{event}"),
            Self::Answer(event) => write!(f, "answer:{event}"),
            Self::Member(membership) => write!(f, "member:{membership}"),
            Self::Levels => f.write_str("levels"),
            Self::LeftBehind => f.write_str("left_behind"),
        }
    }
}

/// What is known of one room.
pub trait RoomFacts {
    /// The room.
    fn room_id(&self) -> &RoomId;

    /// Its version and rules.
    ///
    /// # Errors
    /// It is not known here, or not at hand.
    fn rules(&mut self) -> Result<Arc<VersionRules>, RoomError>;

    /// An event of the current state.
    ///
    /// # Errors
    /// It could not be read, or is not at hand.
    fn state(&mut self, kind: &str, key: &str) -> Result<Option<RoomEvent>, RoomError>;

    /// An event of this room.
    ///
    /// # Errors
    /// The same.
    fn event(&mut self, event_id: &EventId) -> Result<Option<HeldEvent>, RoomError>;

    /// This piece of the current state may be an event that [`Self::event`] does not know: a
    /// homeserver need not show by its id what was there before it joined the room.
    fn may_be_current(&mut self, _kind: &str, _key: &str) {}

    /// The redaction that applies to an event.
    ///
    /// # Errors
    /// The same.
    fn redaction_of(&mut self, event_id: &EventId) -> Result<Option<OwnedEventId>, RoomError>;

    /// The events that show an event's sender's right to send it.
    ///
    /// # Errors
    /// The same.
    fn rights_shown_by(&mut self, event: &RoomEvent) -> Result<Vec<OwnedEventId>, RoomError>;

    /// A user's membership in the current state; `leave` when there is none.
    ///
    /// # Errors
    /// The same.
    fn membership(&mut self, user_id: &UserId) -> Result<MembershipState, RoomError> {
        let event = self.state("m.room.member", user_id.as_str())?;
        Ok(event.and_then(|event| event.membership()).unwrap_or(MembershipState::Leave))
    }

    /// Who has which power in the current state.
    ///
    /// # Errors
    /// The same.
    fn power(&mut self) -> Result<Power, RoomError> {
        Ok(Power::new(self.state("m.room.create", "")?, self.state("m.room.power_levels", "")?))
    }
}

/// One room under its writer's lock.
pub trait RoomAccess: RoomFacts {
    /// Sends an event of a local user. What was sent is seen by what comes after it; what
    /// is queued is not.
    ///
    /// # Errors
    /// The room, as far as it is known, does not take it; the room is as before then.
    fn append(&mut self, event: NewEvent, subject: Subject) -> Result<Appended, RoomError>;

    /// The batch that is committed with the events.
    fn batch(&mut self) -> &mut Batch;

    /// Notifies a topic when the write is durable.
    fn notify(&mut self, topic: Topic);
}

/// How a room is written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// Somebody waits: also for who has to be asked.
    Now,
    /// In the background, to be tried again: nobody is waited for.
    Patiently,
    /// It appends nothing: no policy server is asked.
    Once,
    /// The same for what others wrote. Nobody is asked for an event that is not at hand: it
    /// is as if it did not exist yet.
    Judging,
    /// The same, not synced yet.
    Unsynced,
}

/// The rooms that the shared spaces are of.
pub(super) struct Backend(pub(super) Arc<dyn RoomBackend>);

impl Deref for Backend {
    type Target = dyn RoomBackend;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl Backend {
    /// [`RoomBackend::write`] with [`How::Now`], for a value.
    pub(super) fn write<T>(
        &self,
        room: &RoomId,
        work: impl FnMut(&mut dyn RoomAccess) -> Result<T, SpaceError>,
    ) -> Result<T, SpaceError> {
        self.written(room, How::Now, work).map(|(value, _)| value)
    }

    /// The same with [`How::Patiently`].
    pub(super) fn write_patiently<T>(
        &self,
        room: &RoomId,
        work: impl FnMut(&mut dyn RoomAccess) -> Result<T, SpaceError>,
    ) -> Result<T, SpaceError> {
        self.written(room, How::Patiently, work).map(|(value, _)| value)
    }

    /// The same with [`How::Once`].
    pub(super) fn write_once<T>(
        &self,
        room: &RoomId,
        work: impl FnMut(&mut dyn RoomAccess) -> Result<T, SpaceError>,
    ) -> Result<T, SpaceError> {
        self.written(room, How::Once, work).map(|(value, _)| value)
    }

    /// The same with [`How::Judging`].
    pub(super) fn write_judging<T>(
        &self,
        room: &RoomId,
        work: impl FnMut(&mut dyn RoomAccess) -> Result<T, SpaceError>,
    ) -> Result<T, SpaceError> {
        self.written(room, How::Judging, work).map(|(value, _)| value)
    }

    /// The same with [`How::Unsynced`].
    pub(super) fn write_unsynced<T>(
        &self,
        room: &RoomId,
        work: impl FnMut(&mut dyn RoomAccess) -> Result<T, SpaceError>,
    ) -> Result<(T, Unsynced), SpaceError> {
        self.written(room, How::Unsynced, work)
    }

    fn written<T>(
        &self,
        room: &RoomId,
        how: How,
        mut work: impl FnMut(&mut dyn RoomAccess) -> Result<T, SpaceError>,
    ) -> Result<(T, Unsynced), SpaceError> {
        let mut value = None;
        let unsynced = self.0.write(room, how, &mut |writer| {
            value = Some(work(writer)?);
            Ok(())
        })?;
        Ok((value.ok_or(SpaceError::Stored("write"))?, unsynced))
    }

    /// [`RoomBackend::read`], for a value.
    pub(super) fn read<T>(
        &self,
        room: &RoomId,
        mut work: impl FnMut(&mut dyn RoomFacts) -> Result<T, SpaceError>,
    ) -> Result<T, SpaceError> {
        let mut value = None;
        self.0.read(room, &mut |facts| {
            value = Some(work(facts)?);
            Ok(())
        })?;
        value.ok_or(SpaceError::Stored("reading"))
    }
}

/// What is run on a room under its lock, from its beginning if need be.
pub type Writing<'a> = dyn FnMut(&mut dyn RoomAccess) -> Result<(), SpaceError> + 'a;
/// What is run on what is known of a room.
pub type Reading<'a> = dyn FnMut(&mut dyn RoomFacts) -> Result<(), SpaceError> + 'a;

/// All rooms.
pub trait RoomBackend: Send + Sync {
    /// Runs `work` under the room's lock and commits what it wants; synced, except for
    /// [`How::Unsynced`].
    ///
    /// # Errors
    /// What `work` fails with; nothing was written then.
    fn write(&self, room: &RoomId, how: How, work: &mut Writing<'_>) -> Result<Unsynced, SpaceError>;

    /// Runs `work` on what is known of the room, without its lock.
    ///
    /// # Errors
    /// What `work` fails with.
    fn read(&self, room: &RoomId, work: &mut Reading<'_>) -> Result<(), SpaceError>;

    /// Returns when a write is durable, and wakes those who wait for it.
    ///
    /// # Errors
    /// Syncing failed.
    fn sync(&self, unsynced: Unsynced) -> Result<(), RoomError>;

    /// Whether a user is joined.
    ///
    /// # Errors
    /// It could not be read, or asked for.
    fn is_joined(&self, room: &RoomId, user: &UserId) -> Result<bool, RoomError>;

    /// Whether a user is banned, as far as is known.
    ///
    /// # Errors
    /// It could not be read.
    fn is_banned(&self, room: &RoomId, user: &UserId) -> Result<bool, RoomError>;

    /// An event, whatever became of it; it may be one of another room.
    ///
    /// # Errors
    /// It could not be read, or asked for.
    fn event(&self, room: &RoomId, event_id: &EventId) -> Result<Option<HeldEvent>, RoomError>;

    /// Where an event stands in the stream, as far as is known here; `None` for history.
    ///
    /// # Errors
    /// It could not be read.
    fn position(&self, room: &RoomId, event_id: &EventId) -> Result<Option<u64>, RoomError>;

    /// What state showed of an item before one of its events, where this server knows it
    /// itself; the outer `None`: it does not.
    ///
    /// # Errors
    /// It could not be read.
    fn shown_before(&self, event: &HeldEvent, key: &str) -> Result<Option<Option<RoomEvent>>, RoomError>;

    /// Whether all that can be known of a room is at hand: an event that is not is nowhere.
    fn has_all(&self) -> bool;

    /// Asks for what was wanted of rooms by others' changes and was not at hand. Returns
    /// the rooms of which something came.
    ///
    /// # Errors
    /// Storage.
    fn ask_for_wanted(&self) -> Result<Vec<OwnedRoomId>, RoomError>;

    /// The stretches of a room's events that a device was given.
    ///
    /// # Errors
    /// It could not be read.
    fn given(&self, user: &UserId, device: &DeviceId, room: &RoomId) -> Result<Vec<Given>, RoomError>;

    /// The item's event in the state with this root (hexadecimal).
    ///
    /// # Errors
    /// It could not be read.
    fn item_at(&self, root: &str, key: &str) -> Result<Option<OwnedEventId>, RoomError>;

    /// Events of all rooms after a position, in order.
    ///
    /// # Errors
    /// It could not be read.
    fn stream(&self, after: StreamPosition, limit: usize) -> Result<Vec<Place>, RoomError>;

    /// All events up to this position have been followed, and need not be kept for that.
    ///
    /// # Errors
    /// Storage.
    fn followed(&self, up_to: StreamPosition) -> Result<(), RoomError>;

    /// Keys of other items that an event at this position took from the room's state, or
    /// changed there, as far as is known.
    ///
    /// # Errors
    /// It could not be read.
    fn items_changed_beside(
        &self,
        room: &RoomId,
        position: u64,
        event: &RoomEvent,
        limit: usize,
    ) -> Result<Vec<String>, RoomError>;

    /// How many items the room's state shows, at most `most`.
    ///
    /// # Errors
    /// It could not be read.
    fn shown_items(&self, room: &RoomId, most: u64) -> Result<u64, RoomError>;

    /// The servers with joined members.
    ///
    /// # Errors
    /// It could not be read, or asked for.
    fn joined_servers(&self, room: &RoomId) -> Result<Vec<OwnedServerName>, RoomError>;

    /// Whether a server has a joined member.
    ///
    /// # Errors
    /// The same.
    fn is_server_joined(&self, room: &RoomId, server: &ServerName) -> Result<bool, RoomError>;

    /// Another server speaks of the room's shared space, of which nothing may be known here
    /// though both are in the room: where that may be, it is looked up, so often as is good.
    ///
    /// # Errors
    /// Storage.
    fn spoken_of(&self, room: &RoomId, by: &ServerName) -> Result<(), RoomError>;

    /// Takes the rooms that came to be known as shared spaces other than by this server's own
    /// joins, which are told of by themselves; after a start, all of them.
    fn take_new(&self) -> Vec<OwnedRoomId>;

    /// Whether the room's access control list lets a server take part.
    ///
    /// # Errors
    /// The same.
    fn server_acl_allows(&self, room: &RoomId, server: &ServerName) -> Result<bool, RoomError>;

    /// An event as another server in the room may have it, where it is held.
    ///
    /// # Errors
    /// It could not be read.
    fn pdu_for_server(&self, server: &ServerName, event_id: &EventId) -> Result<Option<Arc<Pdu>>, RoomError>;

    /// Whether the room has a policy server.
    ///
    /// # Errors
    /// It could not be read, or asked for.
    fn has_policy(&self, room: &RoomId) -> Result<bool, RoomError>;

    /// Asks the room's policy server, if it has one, whether a user may send such an event.
    ///
    /// # Errors
    /// Its refusal.
    fn approve(&self, room: &RoomId, event: NewEvent) -> Result<(), RoomError>;
}
