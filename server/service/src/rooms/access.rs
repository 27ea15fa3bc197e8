//! What another server may have of a room that it is in: everything that
//! authorises, and of the rest what its users may see; without what was redacted.
//!
//! The rule for users is [`crate::visible`]'s. An event of history whose own
//! state is not known is judged by the state of the nearest event after it that
//! came live; where none is known, of the first that did.

use std::sync::Arc;

use causeway_room::{Pdu, Root, StateKey, state_tree::Difference, visibility::visibility_of};
use causeway_storage::{Direction, rooms as rows};
use ruma::{
    EventId, OwnedEventId, ServerName, UserId,
    events::room::{history_visibility::HistoryVisibility, member::MembershipState},
};

use super::{
    Rooms,
    error::RoomError,
    store::{Held, Reader},
};

impl Rooms {
    /// The state before an event, or of the nearest event after it that came live.
    pub(crate) fn nearest_state(&self, held: &Held) -> Result<Option<Root>, RoomError> {
        if held.meta.state_before.is_some() {
            return Ok(held.meta.state_before);
        }
        let edge = Some(held.meta.edge.unwrap_or_default());
        let first = rows::timeline(&self.store.database, &held.meta.room_id, edge, Direction::Forward, 1)?;
        let Some(first) = first.first() else { return Ok(None) };
        Ok(self.held(&first.event_id)?.and_then(|first| first.meta.state_before))
    }

    /// An event for another server: of a room that it is in, redacted where the
    /// room's history visibility hides it from that server's users.
    ///
    /// # Errors
    /// Storage.
    pub fn event_for_server(
        &self,
        server: &ServerName,
        event_id: &EventId,
    ) -> Result<Option<Arc<Pdu>>, RoomError> {
        let Some(held) = self.held(event_id)? else { return Ok(None) };
        if held.meta.rejected.is_some() || !self.is_server_joined(&held.meta.room_id, server)? {
            return Ok(None);
        }
        self.for_server(&mut Sight::new(self, server, 1), &held).map(Some)
    }

    /// An event as a server in its room may have it.
    pub(crate) fn for_server(&self, sight: &mut Sight<'_>, held: &Held) -> Result<Arc<Pdu>, RoomError> {
        // State is what authorisation is made of: a server in the room needs it whole.
        if held.pdu.state_key().is_none() && !sight.sees_event(held)? {
            let rules = self.version_rules(&held.meta.room_id)?;
            return Ok(Arc::new(held.pdu.redacted(&rules.rules)?));
        }
        self.without_redacted(held)
    }

    /// An event without what was redacted of it.
    fn without_redacted(&self, held: &Held) -> Result<Arc<Pdu>, RoomError> {
        if self.redaction_of(held.pdu.event_id())?.is_none() {
            return Ok(Arc::clone(&held.pdu));
        }
        let rules = self.version_rules(&held.meta.room_id)?;
        Ok(Arc::new(held.pdu.redacted(&rules.rules)?))
    }

    /// The events of these ids that are held, in order, as a server in the room
    /// may have the state and what authorises it: without what was redacted.
    ///
    /// # Errors
    /// Storage.
    pub fn state_pdus_for_server(
        &self,
        ids: impl IntoIterator<Item = OwnedEventId>,
    ) -> Result<Vec<Arc<Pdu>>, RoomError> {
        let mut pdus = Vec::new();
        for event_id in ids {
            if let Some(held) = self.held(&event_id)? {
                pdus.push(self.without_redacted(&held)?);
            }
        }
        Ok(pdus)
    }

    /// Whether any user of a server (which is in the room) may see what was sent in this state.
    fn server_sees(&self, server: &ServerName, root: Root) -> Result<bool, RoomError> {
        let visibility = visibility_of(self.state_at(&root, "m.room.history_visibility", "")?.as_deref());
        let enough: &[MembershipState] = match visibility {
            HistoryVisibility::Invited => &[MembershipState::Join, MembershipState::Invite],
            HistoryVisibility::Joined => &[MembershipState::Join],
            _ => return Ok(true),
        };
        for entry in causeway_room::state_tree::entries(&Reader(&self.store), &root)? {
            if is_member_of(server, &entry.key)
                && let Some(held) = self.held(&entry.event_id)?
                && held.pdu.membership().is_some_and(|membership| enough.contains(&membership))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// What a server may see in one state of a room after the other. Neighbours share
/// nearly everything: a state is walked whole only if the way there changed the
/// room's visibility or one of the server's members, and only so many times.
pub(crate) struct Sight<'a> {
    rooms: &'a Rooms,
    server: &'a ServerName,
    last: Option<(Root, bool)>,
    walks: usize,
}

impl<'a> Sight<'a> {
    /// For this server, with at most `walks` states walked whole.
    pub(crate) fn new(rooms: &'a Rooms, server: &'a ServerName, walks: usize) -> Self {
        Self { rooms, server, last: None, walks }
    }

    /// Whether any user of the server may see the event; not when it takes too much to know.
    pub(crate) fn sees_event(&mut self, held: &Held) -> Result<bool, RoomError> {
        self.rooms.nearest_state(held)?.map_or(Ok(true), |root| self.sees(root))
    }

    fn sees(&mut self, root: Root) -> Result<bool, RoomError> {
        if let Some((last, sees)) = &self.last
            && (*last == root || !self.matters(&self.rooms.state_diff(last, &root)?))
        {
            let sees = *sees;
            self.last = Some((root, sees));
            return Ok(sees);
        }
        if self.walks == 0 {
            self.last = None;
            return Ok(false);
        }
        self.walks -= 1;
        let sees = self.rooms.server_sees(self.server, root)?;
        self.last = Some((root, sees));
        Ok(sees)
    }

    fn matters(&self, differences: &[Difference]) -> bool {
        let matters = |key: &StateKey| {
            let is_visibility = key.kind == "m.room.history_visibility" && key.key.is_empty();
            is_visibility || is_member_of(self.server, key)
        };
        differences.iter().any(|difference| matters(&difference.key))
    }
}

fn is_member_of(server: &ServerName, key: &StateKey) -> bool {
    key.kind == "m.room.member"
        && UserId::parse(&*key.key).is_ok_and(|user_id| user_id.server_name() == server)
}
