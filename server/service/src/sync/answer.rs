//! One answer of /sync in the making: what was asked, up to where it is
//! answered, and what all rooms share.

use std::collections::BTreeSet;

use causeway_room::Root;
use causeway_storage::Direction;
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId,
    api::client::filter::FilterDefinition,
    push::{PushConditionRoomCtx, Ruleset},
};
use serde_json::json;

use super::{
    Request, StateAfter, SyncService,
    account_data::{self, ByRoom},
    filter,
    progress::Told,
    response::{RawEvent, StateSection, Unread, raw_event},
    unread::{self, Counted, UNREAD_PAGE, UNREAD_SCAN_MAX},
};
use crate::{
    error::MatrixError, ignored::ignored_users, room_view::RoomView, shown::Shower, typing::TypingChanges,
};

/// The account data `m.push_rules`.
#[derive(serde::Deserialize)]
struct PushRules {
    global: Ruleset,
}

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
    /// What the answer says of rooms' items; see [`super::progress`].
    pub told: Vec<Told>,
    until: u64,
    account_data: ByRoom,
    typing: TypingChanges,
    /// The user's push rules, once they are needed.
    rules: std::cell::OnceCell<Ruleset>,
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
        let since = request.since.map_or(0, |since| since.position);
        let typing_since = request.since.map_or(0, |since| since.typing);
        Ok(Self {
            services,
            request,
            filter: &request.filter,
            view,
            shower: Shower::new(view, (user_id, &request.device_id), services.clock.now_ms()),
            ignored: ignored_users(database, user_id)?,
            told: Vec::new(),
            until,
            account_data: account_data::changed(database, user_id, since, until)?,
            typing: services.typing.changed_since(joined.iter().map(|room_id| &**room_id), typing_since),
            rules: std::cell::OnceCell::new(),
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
            .filter(|(kind, _)| filter::global_event_passes(&self.filter.account_data, kind));
        wanted.map(|(_, event)| event).collect()
    }

    /// The user's account data of a room.
    pub fn room_account_data(&mut self, room_id: &RoomId) -> Vec<RawEvent> {
        let pieces = self.account_data.remove(room_id.as_str()).unwrap_or_default();
        let filter = &self.filter.room.account_data;
        let passes = |kind: &str| {
            filter::event_passes(filter, room_id, filter::EventHead { kind, sender: "", has_url: false })
        };
        pieces.into_iter().filter(|(kind, _)| passes(kind)).map(|(_, event)| event).collect()
    }

    /// Who types in the room, if that changed.
    pub fn typing_event(&self, room_id: &RoomId) -> Option<RawEvent> {
        let users: &Vec<OwnedUserId> = self.typing.by_room.get(room_id)?;
        Some(raw_event(&json!({ "type": "m.typing", "content": { "user_ids": users } })))
    }

    /// Counts the room's unread events; only those that were not counted before are looked at.
    pub fn unread(&self, room_id: &RoomId, root: &Root) -> Result<Unread, MatrixError> {
        let user_id = self.user_id();
        let read = self.services.receipts.read_up_to(room_id, user_id)?;
        let read = match read {
            Some(read) => read,
            None => self.joined_at(room_id)?,
        };
        let mut counted = self.services.unread.counted(user_id, room_id, read);
        let until = i64::try_from(self.until).unwrap_or(i64::MAX);
        if counted.until >= until {
            return Ok(counted.unread);
        }
        let new = self.events_between(room_id, counted.until, until)?;
        if !new.is_empty() {
            let context = self.push_context(room_id, root)?;
            let rules = self.rules()?;
            for event_id in &new {
                let Some(held) = self.view.held(event_id)? else { continue };
                if held.pdu.sender() != user_id {
                    unread::add(&mut counted.unread, rules, &context, held.pdu.raw());
                }
            }
        }
        counted = Counted { read, until, unread: counted.unread };
        self.services.unread.remember(user_id, room_id, counted);
        Ok(counted.unread)
    }

    /// The latest events of a stretch, at most [`UNREAD_SCAN_MAX`]; reads little more than that.
    fn events_between(
        &self,
        room_id: &RoomId,
        after: i64,
        until: i64,
    ) -> Result<Vec<OwnedEventId>, MatrixError> {
        let mut events = Vec::new();
        let mut from = until;
        while events.len() < UNREAD_SCAN_MAX {
            let page = self.view.timeline(room_id, Some(from), Direction::Backward, UNREAD_PAGE)?;
            let is_last = page.len() < UNREAD_PAGE;
            for row in page {
                if row.position <= after {
                    return Ok(events);
                }
                from = row.position - 1;
                events.push(row.event_id);
            }
            if is_last {
                break;
            }
        }
        Ok(events)
    }

    /// Without a receipt everything since the user's own membership event is unread.
    fn joined_at(&self, room_id: &RoomId) -> Result<i64, MatrixError> {
        let member = causeway_storage::rooms::membership(self.view.database(), self.user_id(), room_id)?;
        Ok(member.map_or(0, |member| i64::try_from(member.position.0).unwrap_or(i64::MAX)))
    }

    fn push_context(&self, room_id: &RoomId, root: &Root) -> Result<PushConditionRoomCtx, MatrixError> {
        let user_id = self.user_id();
        let servers = causeway_storage::rooms::joined_servers(self.view.database(), room_id)?;
        let members: u64 = servers.values().sum();
        let own = self.view.state(root, "m.room.member", user_id.as_str())?;
        let name = own.and_then(|own| own.content_object().get("displayname")?.as_str().map(str::to_owned));
        let members = ruma::UInt::new_saturating(members);
        let name = name.unwrap_or_else(|| user_id.localpart().to_owned());
        Ok(PushConditionRoomCtx::new(room_id.to_owned(), members, user_id.to_owned(), name))
    }

    fn rules(&self) -> Result<&Ruleset, MatrixError> {
        if let Some(rules) = self.rules.get() {
            return Ok(rules);
        }
        let own = account_data::content(self.view.database(), self.user_id(), "", "m.push_rules")?;
        let own = own.and_then(|content| serde_json::from_str::<PushRules>(content.get()).ok());
        let rules = own.map_or_else(|| Ruleset::server_default(self.user_id()), |rules| rules.global);
        Ok(self.rules.get_or_init(|| rules))
    }
}
