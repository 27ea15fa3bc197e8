//! One answer of simplified sliding sync in the making: what was asked, what
//! the connection has, and what all rooms share.

use std::collections::{BTreeMap, BTreeSet};

use causeway_storage::{StreamPosition, rooms::Member, sliding::SentRoom};
use ruma::{EventId, OwnedRoomId, OwnedUserId, RoomId};
use serde_json::value::RawValue;

use super::{
    connection::{Changes, Standing},
    request::Request,
    required::Required,
};
use crate::{
    error::MatrixError,
    ignored::ignored_users,
    room_view::RoomView,
    shown::Shower,
    sync::{SyncService, account_data, counting::Counter, others},
};

/// See the module.
pub struct Making<'a> {
    /// The services.
    pub services: &'a SyncService,
    /// What was asked.
    pub request: &'a Request,
    /// What the connection has, as it acknowledged.
    pub standing: Standing,
    /// Rooms as they are.
    pub view: RoomView<'a>,
    /// Shows events to the user.
    pub shower: Shower<'a>,
    /// Counts what the user has not read.
    pub counter: Counter<'a>,
    /// Whom the user ignores.
    pub ignored: BTreeSet<String>,
    /// The user's direct chats.
    pub direct: BTreeSet<OwnedRoomId>,
    /// The position that the answer reaches.
    pub until: u64,
    /// What the connection will have been sent of the rooms that it asks for.
    pub rows: BTreeMap<OwnedRoomId, SentRoom>,
    /// Which state it asks for.
    pub required: BTreeMap<u64, Required>,
}

impl<'a> Making<'a> {
    /// Begins an answer that tells of everything up to `until`.
    pub fn new(
        services: &'a SyncService,
        request: &'a Request,
        standing: Standing,
        until: u64,
    ) -> Result<Self, MatrixError> {
        let view = services.view();
        let user_id = &*request.user_id;
        Ok(Self {
            services,
            request,
            standing,
            view,
            shower: Shower::new(view, (user_id, &request.device_id), services.now_ms()),
            counter: Counter::new(services, user_id, until),
            ignored: ignored_users(view.database(), user_id)?,
            direct: direct_rooms(view, request)?,
            until,
            rows: BTreeMap::new(),
            required: BTreeMap::new(),
        })
    }

    /// The position that the client has, if it has one.
    pub fn since(&self) -> Option<u64> {
        self.request.pos.map(|pos| pos.position)
    }

    /// Up to where the connection was told of a room; `None` if it was not.
    pub fn told_until(&self, room_id: &RoomId) -> Option<u64> {
        let sent = self.standing.sent.get(room_id)?;
        Some(sent.until.map_or(self.since()?, |until| until.0))
    }

    /// Whether an event is a message of somebody whom the user ignores.
    pub fn hides(&self, event_id: &EventId) -> Result<bool, MatrixError> {
        let event = self.view.event(event_id)?;
        Ok(event.is_some_and(|event| {
            event.state_key().is_none() && self.ignored.contains(event.sender().as_str())
        }))
    }

    /// Stripped state of a room that the user is invited to or knocked on.
    pub fn stripped(&self, room_id: &RoomId, member: &Member) -> Result<Vec<Box<RawValue>>, MatrixError> {
        others::stripped_state(self.view, &self.request.user_id, room_id, member)
    }

    /// What the answer makes true; `account_data` says whether that which belongs to no room was told.
    ///
    /// Rooms that nothing asks for any more are not live from now on, whether or
    /// not something happens in them: what they lack is read when they come back.
    pub fn changes(self, account_data: bool, is_known: impl Fn(&RoomId) -> bool) -> Changes {
        let since = StreamPosition(self.since().unwrap_or(0));
        let mut rooms = Vec::new();
        for (room_id, before) in &self.standing.sent {
            if !is_known(room_id) {
                rooms.push((room_id.clone(), None));
            } else if !self.rows.contains_key(room_id) && before.until.is_none() {
                rooms.push((room_id.clone(), Some(SentRoom { until: Some(since), ..before.clone() })));
            }
        }
        for (room_id, row) in self.rows {
            if self.standing.sent.get(&room_id) != Some(&row) {
                rooms.push((room_id, Some(row)));
            }
        }
        Changes { rooms, account_data, required: self.required }
    }
}

fn direct_rooms(view: RoomView<'_>, request: &Request) -> Result<BTreeSet<OwnedRoomId>, MatrixError> {
    let content = account_data::content(view.database(), &request.user_id, "", "m.direct")?;
    let direct: Option<BTreeMap<OwnedUserId, Vec<String>>> =
        content.and_then(|content| serde_json::from_str(content.get()).ok());
    let rooms = direct.into_iter().flat_map(BTreeMap::into_values).flatten();
    Ok(rooms.filter_map(|room_id| RoomId::parse(room_id).ok()).collect())
}
