//! What another server may have of a room that it is in: everything that
//! authorises, and of the rest what its users may see; without what was redacted.
//!
//! The rule for users is [`crate::visible`]'s. An event of history whose own
//! state is not known is judged by the state of the nearest event after it that
//! came live; where none is known, of the first that did.

use std::sync::Arc;

use causeway_room::{Pdu, Root, visibility::visibility_of};
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
        self.for_server(server, &held).map(Some)
    }

    /// An event as a server in its room may have it.
    pub(crate) fn for_server(&self, server: &ServerName, held: &Held) -> Result<Arc<Pdu>, RoomError> {
        // State is what authorisation is made of: a server in the room needs it whole.
        if held.pdu.state_key().is_none() && !self.visible_to_server(server, held)? {
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

    /// Whether any user of a server (which is in the room) may see the event.
    pub(crate) fn visible_to_server(&self, server: &ServerName, held: &Held) -> Result<bool, RoomError> {
        self.nearest_state(held)?.map_or(Ok(true), |root| self.server_sees(server, root))
    }

    /// Whether any user of a server (which is in the room) may see what was sent in this state.
    pub(crate) fn server_sees(&self, server: &ServerName, root: Root) -> Result<bool, RoomError> {
        let visibility = visibility_of(self.state_at(&root, "m.room.history_visibility", "")?.as_deref());
        let enough: &[MembershipState] = match visibility {
            HistoryVisibility::Invited => &[MembershipState::Join, MembershipState::Invite],
            HistoryVisibility::Joined => &[MembershipState::Join],
            _ => return Ok(true),
        };
        for entry in causeway_room::state_tree::entries(&Reader(&self.store), &root)? {
            let theirs = entry.key.kind == "m.room.member"
                && UserId::parse(&*entry.key.key).is_ok_and(|user_id| user_id.server_name() == server);
            if theirs
                && let Some(held) = self.held(&entry.event_id)?
                && held.pdu.membership().is_some_and(|membership| enough.contains(&membership))
            {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
