//! What another server may have of a room that it is in: everything that
//! authorises, and of the rest what its users may see; without what was redacted.
//!
//! The rule for users is [`crate::visible`]'s. An event of history whose own
//! state is not known is judged by the state of the nearest event after it that
//! came live; where none is known, of the first that did.

use std::{collections::VecDeque, sync::Arc};

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
        if held.pdu.state_key().is_none()
            && (!sight.sees_event(held)? || self.hides_erased_from(sight, held)?)
        {
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

    /// The memberships that show what was sent in this state; `None`: all do, to
    /// any server in the room.
    fn seen_by(&self, root: &Root) -> Result<Option<&'static [MembershipState]>, RoomError> {
        let visibility = visibility_of(self.state_at(root, "m.room.history_visibility", "")?.as_deref());
        Ok(match visibility {
            HistoryVisibility::Invited => Some(&[MembershipState::Join, MembershipState::Invite]),
            HistoryVisibility::Joined => Some(&[MembershipState::Join]),
            _ => None,
        })
    }

    /// Whether a user of a server has one of these memberships in a state.
    fn has_member(
        &self,
        server: &ServerName,
        root: &Root,
        enough: &[MembershipState],
    ) -> Result<bool, RoomError> {
        for entry in causeway_room::state_tree::entries(&Reader(&self.store), root)? {
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

/// States whose judgement is remembered: the ends of a few branches.
const REMEMBERED_MAX: usize = 4;
/// Differences between states that are looked at for one answer.
const DIFFERENCES_MAX: usize = 50_000;

/// What a server may see in one state of a room after the other. Where that hangs on
/// who is in the room, neighbours share nearly everything: a state is walked whole
/// only if the way there changed the room's visibility or one of the server's
/// members, and only so many times; and only so many differences are looked at.
pub(crate) struct Sight<'a> {
    rooms: &'a Rooms,
    server: &'a ServerName,
    /// What it may see.
    seen: Known,
    /// Where it was in the room, which matters for what erased users sent.
    was_in: Known,
    differences: usize,
}

/// What is known of a few states.
struct Known {
    /// The latest last.
    known: VecDeque<(Root, bool)>,
    walks: usize,
}

/// Walks for erased users besides: the states at their erasure.
const ERASURES_MAX: usize = 2;

impl<'a> Sight<'a> {
    /// For this server, with at most `walks` states walked whole.
    pub(crate) fn new(rooms: &'a Rooms, server: &'a ServerName, walks: usize) -> Self {
        let known = |walks| Known { known: VecDeque::new(), walks };
        let (seen, was_in) = (known(walks), known(walks + ERASURES_MAX));
        Self { rooms, server, seen, was_in, differences: DIFFERENCES_MAX }
    }

    /// Whether any user of the server may see the event; not when it takes too much to know.
    pub(crate) fn sees_event(&mut self, held: &Held) -> Result<bool, RoomError> {
        self.rooms.nearest_state(held)?.map_or(Ok(true), |root| self.sees(root))
    }

    fn sees(&mut self, root: Root) -> Result<bool, RoomError> {
        if let Some(sees) = self.seen.of(&root) {
            return Ok(sees);
        }
        let Some(enough) = self.rooms.seen_by(&root)? else { return Ok(true) };
        self.look(|sight| &mut sight.seen, root, enough)
    }

    /// Whether any user of the server was joined in a state; not when it takes too much to know.
    pub(super) fn was_in(&mut self, root: Root) -> Result<bool, RoomError> {
        if let Some(was_in) = self.was_in.of(&root) {
            return Ok(was_in);
        }
        self.look(|sight| &mut sight.was_in, root, &[MembershipState::Join])
    }

    fn look(
        &mut self,
        known: impl Fn(&mut Self) -> &mut Known,
        root: Root,
        enough: &[MembershipState],
    ) -> Result<bool, RoomError> {
        let last = known(self).known.back().copied();
        let holds = match self.as_last(last, &root)? {
            Some(holds) => holds,
            None if known(self).walks == 0 => return Ok(false),
            None => {
                known(self).walks -= 1;
                self.rooms.has_member(self.server, &root, enough)?
            }
        };
        known(self).note(root, holds);
        Ok(holds)
    }

    /// What holds for the last state, if nothing that matters is between them.
    fn as_last(&mut self, last: Option<(Root, bool)>, root: &Root) -> Result<Option<bool>, RoomError> {
        let Some((last, holds)) = last.filter(|_| self.differences > 0) else { return Ok(None) };
        let differences = self.rooms.state_diff(&last, root)?;
        self.differences = self.differences.saturating_sub(differences.len());
        Ok((!self.matters(&differences)).then_some(holds))
    }

    fn matters(&self, differences: &[Difference]) -> bool {
        let matters = |key: &StateKey| {
            let is_visibility = key.kind == "m.room.history_visibility" && key.key.is_empty();
            is_visibility || is_member_of(self.server, key)
        };
        differences.iter().any(|difference| matters(&difference.key))
    }
}

impl Known {
    fn of(&self, root: &Root) -> Option<bool> {
        self.known.iter().find(|(known, _)| known == root).map(|(_, holds)| *holds)
    }

    fn note(&mut self, root: Root, holds: bool) {
        if self.known.len() == REMEMBERED_MAX {
            self.known.pop_front();
        }
        self.known.push_back((root, holds));
    }
}

fn is_member_of(server: &ServerName, key: &StateKey) -> bool {
    key.kind == "m.room.member"
        && UserId::parse(&*key.key).is_ok_and(|user_id| user_id.server_name() == server)
}

#[cfg(test)]
mod tests {
    use ruma::server_name;
    use serde_json::json;

    use super::*;
    use crate::rooms::{
        Preset,
        tests::{Server, message, state},
    };

    /// A room whose state changes with each of a few messages, and these.
    fn changing(visibility: &str) -> (Server, Vec<Held>) {
        let server = Server::new("a.example");
        let alice = server.user("alice");
        let room_id = server.create(&alice, Preset::PublicChat);
        let content = json!({ "history_visibility": visibility });
        server.send(&room_id, state(&alice, "m.room.history_visibility", "", content));
        let said = (0..4).map(|n| {
            server.send(&room_id, state(&alice, "org.example", &n.to_string(), json!({ "n": n })));
            let said = server.send(&room_id, message(&alice, "said"));
            server.rooms.held(said.event_id()).expect("reads").expect("held")
        });
        let said = said.collect();
        (server, said)
    }

    #[test]
    fn looking_for_differences_ends() {
        let (server, said) = changing("joined");
        let mut sight = Sight::new(&server.rooms, server_name!("a.example"), 1);
        sight.differences = 2;
        let seen: Vec<bool> = said.iter().map(|held| sight.sees_event(held).expect("reads")).collect();
        assert_eq!(seen, [true, true, true, false], "a walk, and two differences");
        // What is known costs nothing.
        for (held, seen) in said.iter().zip(seen) {
            assert_eq!(sight.sees_event(held).expect("reads"), seen);
        }
    }

    #[test]
    fn what_all_in_the_room_may_see_takes_no_walk() {
        let (server, said) = changing("shared");
        let mut sight = Sight::new(&server.rooms, server_name!("b.example"), 0);
        assert!(said.iter().all(|held| sight.sees_event(held).expect("reads")));
        assert_eq!(sight.differences, DIFFERENCES_MAX);
    }
}
