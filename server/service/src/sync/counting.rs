//! Counting what a user has not read of a room, for one answer.
//!
//! Not here: what counts ([`super::unread`]), and where the count is kept.

use causeway_room::Root;
use causeway_storage::Direction;
use ruma::{
    OwnedEventId, RoomId, UserId,
    push::{PushConditionRoomCtx, Ruleset},
};

use super::{
    SyncService, account_data,
    response::Unread,
    unread::{self, Counted, UNREAD_PAGE, UNREAD_SCAN_MAX},
};
use crate::{error::MatrixError, room_view::RoomView};

/// The account data `m.push_rules`.
#[derive(serde::Deserialize)]
struct PushRules {
    global: Ruleset,
}

/// Counts for one user, up to one position.
pub struct Counter<'a> {
    services: &'a SyncService,
    view: RoomView<'a>,
    user_id: &'a UserId,
    until: u64,
    /// The user's push rules, once they are needed.
    rules: std::cell::OnceCell<Ruleset>,
}

impl<'a> Counter<'a> {
    /// For this user.
    pub fn new(services: &'a SyncService, user_id: &'a UserId, until: u64) -> Self {
        Self { services, view: services.view(), user_id, until, rules: std::cell::OnceCell::new() }
    }

    /// Counts the room's unread events; only those that were not counted before are looked at.
    pub fn unread(&self, room_id: &RoomId, root: &Root) -> Result<Unread, MatrixError> {
        let user_id = self.user_id;
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
        let member = causeway_storage::rooms::membership(self.view.database(), self.user_id, room_id)?;
        Ok(member.map_or(0, |member| i64::try_from(member.position.0).unwrap_or(i64::MAX)))
    }

    fn push_context(&self, room_id: &RoomId, root: &Root) -> Result<PushConditionRoomCtx, MatrixError> {
        let user_id = self.user_id;
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
        let own = account_data::content(self.view.database(), self.user_id, "", "m.push_rules")?;
        let own = own.and_then(|content| serde_json::from_str::<PushRules>(content.get()).ok());
        let rules = own.map_or_else(|| Ruleset::server_default(self.user_id), |rules| rules.global);
        Ok(self.rules.get_or_init(|| rules))
    }
}
