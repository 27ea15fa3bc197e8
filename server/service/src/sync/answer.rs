//! One answer of /sync in the making: what was asked, up to where it is
//! answered, and what all rooms share.

use std::{collections::BTreeSet, sync::Arc};

use causeway_room::Pdu;
use ruma::{OwnedRoomId, OwnedUserId, RoomId, UserId, api::client::filter::EventFormat};

use super::{
    Request, StateAfter, SyncService,
    account_data::{self, ByRoom},
    counting::Counter,
    fields::Fields,
    filter::{self, FilterDefinition},
    progress::Told,
    response::{RawEvent, StateSection},
    typing_event,
};
use crate::{
    client_event::Shape,
    error::MatrixError,
    ignored::ignored_users,
    room_view::RoomView,
    shown::{Detail, Shower},
    typing::TypingChanges,
};

/// See the module.
pub struct Answer<'a> {
    /// The services.
    pub services: &'a SyncService,
    /// What was asked.
    pub request: &'a Request,
    /// Its filter.
    pub filter: &'a FilterDefinition,
    /// Rooms as they are.
    pub view: RoomView<'a>,
    /// Shows events to the user.
    pub shower: Shower<'a>,
    /// Whom the user ignores.
    pub ignored: BTreeSet<String>,
    /// Counts what the user has not read.
    pub counter: Counter<'a>,
    /// What the answer says of rooms' items; see [`super::progress`].
    pub told: Vec<Told>,
    shape: Shape,
    fields: Option<Fields>,
    until: u64,
    account_data: ByRoom,
    typing: TypingChanges,
}

impl<'a> Answer<'a> {
    /// Begins an answer that tells of everything up to `until`.
    pub fn new(
        services: &'a SyncService,
        request: &'a Request,
        until: u64,
        joined: &[OwnedRoomId],
    ) -> Result<Self, MatrixError> {
        let view = RoomView::new(&services.rooms);
        let user_id = &*request.user_id;
        let database = view.database();
        let since = request.since.map(|since| since.position);
        let typing_since = request.since.map_or(0, |since| since.typing);
        Ok(Self {
            services,
            request,
            filter: &request.filter,
            view,
            shower: Shower::new(view, (user_id, &request.device_id), services.clock.now_ms()),
            ignored: ignored_users(database, user_id)?,
            counter: Counter::new(services, user_id, until),
            told: Vec::new(),
            shape: match request.filter.event_format {
                EventFormat::Federation => Shape::Federation,
                _ => Shape::Sync,
            },
            fields: Fields::new(request.filter.event_fields.as_deref()),
            until,
            account_data: account_data::changed(database, user_id, since, until)?,
            typing: services.typing.changed_since(joined.iter().map(|room_id| &**room_id), typing_since),
        })
    }

    /// Who asks.
    pub fn user_id(&self) -> &'a UserId {
        &self.request.user_id
    }

    /// The position that the device has, if it has one.
    pub fn since(&self) -> Option<u64> {
        self.request.since.map(|since| since.position)
    }

    /// The same; zero if it has none.
    pub fn since_position(&self) -> u64 {
        self.since().unwrap_or(0)
    }

    /// The position that the answer reaches.
    pub fn until(&self) -> u64 {
        self.until
    }

    /// The number of the last change in typing that the answer tells of.
    pub fn typing_changes(&self) -> u64 {
        self.typing.changes
    }

    /// An event of a room as the filter wants events.
    pub fn show(&self, pdu: &Arc<Pdu>, detail: Detail) -> Result<RawEvent, MatrixError> {
        let event = self.shower.show(pdu, self.shape, detail)?;
        Ok(match &self.fields {
            Some(fields) => fields.of(event),
            None => event,
        })
    }

    /// The section in the form that was asked for.
    pub fn state_section(&self, events: Vec<RawEvent>) -> StateSection {
        match self.request.state_after {
            None => StateSection::Before(events),
            Some(StateAfter::Stable) => StateSection::After(events),
            Some(StateAfter::Unstable) => StateSection::AfterUnstable(events),
        }
    }

    /// The user's account data that belongs to no room.
    pub fn global_account_data(&mut self) -> Vec<RawEvent> {
        let pieces = self.account_data.remove("").unwrap_or_default();
        let wanted = pieces
            .into_iter()
            .filter(|piece| filter::global_event_passes(&self.filter.account_data, &piece.kind));
        wanted.map(|piece| piece.event).collect()
    }

    /// The user's account data of a room.
    pub fn room_account_data(&mut self, room_id: &RoomId) -> Vec<RawEvent> {
        let pieces = self.account_data.remove(room_id.as_str()).unwrap_or_default();
        let filter = &self.filter.room.account_data;
        let passes = |kind: &str| {
            filter::event_passes(filter, room_id, filter::EventHead { kind, sender: "", has_url: false })
        };
        pieces.into_iter().filter(|piece| passes(&piece.kind)).map(|piece| piece.event).collect()
    }

    /// Who types in the room, if that changed.
    pub fn typing_event(&self, room_id: &RoomId) -> Option<RawEvent> {
        let users: &Vec<OwnedUserId> = self.typing.by_room.get(room_id)?;
        Some(typing_event(users))
    }
}
