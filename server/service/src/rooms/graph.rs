//! Walking a room's events for other servers: auth chains, states, history.
//!
//! Every walk stays in one room: an id of another room's event is answered as
//! one that does not exist. That the asking server is in the room (and not
//! denied by its access control list) is the door's first question.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, hash_map::Entry},
    sync::Arc,
};

use causeway_room::{Pdu, state_tree};
use causeway_storage::rooms as rows;
use ruma::{EventId, OwnedEventId, RoomId, ServerName, events::room::member::MembershipState};

use super::{
    Rooms, Sight,
    error::RoomError,
    store::{Held, Reader},
};

/// Events that one answer may hold at most (`backfill`, `get_missing_events`).
pub const WALK_MAX: usize = 200;

/// Events back from what another server asks about that are looked at for own ones that it lacks.
const MISSED_MAX: usize = 1_000;
/// Members of a server by whom it is judged since when it is in a room.
const MEMBERS_LOOKED_AT: usize = 20;
/// Members read at once.
const MEMBERS_AT_ONCE: usize = 1_000;

/// A room's state as another server asks for it.
#[derive(Clone, Debug, Default)]
pub struct StateForServer {
    /// The state before the event.
    pub state: Vec<OwnedEventId>,
    /// All that authorises it.
    pub auth_chain: Vec<OwnedEventId>,
}

/// Which events a walk takes first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    /// The newest, by what they say.
    Deepest,
    /// The fewest steps away, then the deepest.
    Nearest,
}

impl Rooms {
    /// An accepted event of this room.
    fn in_room(&self, room_id: &RoomId, event_id: &EventId) -> Result<Option<Held>, RoomError> {
        let held = self.held(event_id)?;
        Ok(held.filter(|held| *held.meta.room_id == *room_id && held.meta.rejected.is_none()))
    }

    /// Everything that authorises these events: their auth events, those of
    /// those, and so on; without the events themselves unless they authorise
    /// each other. Never cut short.
    ///
    /// # Errors
    /// Storage.
    pub fn auth_chain(&self, room_id: &RoomId, of: &[OwnedEventId]) -> Result<Vec<OwnedEventId>, RoomError> {
        let mut seen: HashSet<OwnedEventId> = HashSet::new();
        let mut chain = Vec::new();
        let mut pending = Vec::new();
        let authority = |event_id: &EventId| {
            let found = self.store.authority(event_id)?;
            Ok::<_, RoomError>(
                found.filter(|authority| *authority.room_id == *room_id && !authority.is_rejected),
            )
        };
        for event_id in of {
            if let Some(authority) = authority(event_id)? {
                pending.extend(authority.auth_events.iter().cloned());
            }
        }
        while let Some(event_id) = pending.pop() {
            if seen.contains(&event_id) {
                continue;
            }
            if let Some(authority) = authority(&event_id)? {
                pending.extend(authority.auth_events.iter().cloned());
                chain.push(event_id.clone());
            }
            seen.insert(event_id);
        }
        Ok(chain)
    }

    /// The state before an event of this room, and its auth chain, as ids.
    ///
    /// # Errors
    /// [`RoomError::NotFound`] when it is no event of this room, or its state is not known.
    pub fn state_for_server(&self, room_id: &RoomId, at: &EventId) -> Result<StateForServer, RoomError> {
        let held = self.in_room(room_id, at)?;
        let held = held.filter(|held| !held.meta.outlier && held.meta.rejected.is_none());
        let root = held.and_then(|held| held.meta.state_before).ok_or(RoomError::NotFound("the event"))?;
        let entries = state_tree::entries(&Reader(&self.store), &root)?;
        let state: Vec<OwnedEventId> = entries.into_iter().map(|entry| entry.event_id).collect();
        let auth_chain = self.auth_chain(room_id, &state)?;
        Ok(StateForServer { state, auth_chain })
    }

    /// Events between two edges of another server's knowledge: back from
    /// `latest` (without them) until `earliest`, at most `limit`, oldest first.
    /// Those nearest to `latest` are chosen, breadth first, as the specification has it:
    /// a Synapse asks for ten, and drops for good what it can't have all direct past of.
    ///
    /// # Errors
    /// Storage.
    pub fn missing_events_for_server(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        earliest: &[OwnedEventId],
        latest: &[OwnedEventId],
        limit: usize,
        min_depth: u64,
    ) -> Result<Vec<Arc<Pdu>>, RoomError> {
        let mut start = Vec::new();
        for event_id in latest {
            if let Some(held) = self.in_room(room_id, event_id)? {
                start.extend(held.pdu.prev_events().iter().cloned());
            }
        }
        let stop: HashSet<OwnedEventId> = earliest.iter().chain(latest).cloned().collect();
        let mut found =
            self.walk_back(room_id, start, stop, limit.min(WALK_MAX), (Choice::Nearest, min_depth))?;
        found.sort_by(|a, b| (a.pdu.depth(), a.pdu.event_id()).cmp(&(b.pdu.depth(), b.pdu.event_id())));
        let mut sight = Sight::new(self, server, found.len());
        found.iter().map(|held| self.for_server(&mut sight, held)).collect()
    }

    /// The last place in the timeline of one of these events; `None` if it has none of them.
    ///
    /// # Errors
    /// Storage.
    pub fn last_place(&self, room_id: &RoomId, events: &[OwnedEventId]) -> Result<Option<i64>, RoomError> {
        let mut last = None;
        for event_id in events {
            last = last.max(self.in_room(room_id, event_id)?.and_then(|held| held.meta.position));
        }
        Ok(last)
    }

    /// This server's own events of what `latest` have in their past and `earliest` have not, oldest
    /// first, that `server` was sent since it is in the room; none if all that is no more than
    /// `answered` events, or if nothing is known of what it has.
    ///
    /// # Errors
    /// Storage.
    pub fn own_events_missed(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        earliest: &[OwnedEventId],
        latest: &[OwnedEventId],
        answered: usize,
    ) -> Result<Vec<OwnedEventId>, RoomError> {
        let missed = self.between(room_id, earliest, latest)?;
        if missed.len() <= answered + latest.len() {
            return Ok(Vec::new());
        }
        let Some(since) = self.joined_since(server, room_id)? else { return Ok(Vec::new()) };
        let is_own = |held: &&Held| {
            held.pdu.sender().server_name() == self.server_name()
                && held.meta.position.is_some_and(|position| position > since)
        };
        let mut own: Vec<&Held> = missed.iter().filter(is_own).collect();
        own.sort_by_key(|held| held.meta.position);
        Ok(own.into_iter().map(|held| held.pdu.event_id().to_owned()).collect())
    }

    /// `latest` and the events in their past that are not in that of `earliest`, as far
    /// as the deepest [`MISSED_MAX`] of both tell; none if no `earliest` is held.
    fn between(
        &self,
        room_id: &RoomId,
        earliest: &[OwnedEventId],
        latest: &[OwnedEventId],
    ) -> Result<Vec<Held>, RoomError> {
        let (mut pending, mut known) = (BinaryHeap::new(), HashMap::<_, bool>::new());
        let ends = earliest.iter().map(|id| (id, true)).chain(latest.iter().map(|id| (id, false)));
        let mut names: Vec<(OwnedEventId, bool)> =
            ends.map(|(id, is_known)| (id.clone(), is_known)).collect();
        let (mut found, mut unknown) = (Vec::new(), 0_usize);
        let mut is_any_held = false;
        for _ in 0..=MISSED_MAX {
            for (event_id, is_known) in names.drain(..) {
                match known.entry(event_id) {
                    Entry::Occupied(mut before) => {
                        // What is waiting counts among those of which nothing is known, until now.
                        unknown -= usize::from(is_known && !*before.get());
                        *before.get_mut() |= is_known;
                    }
                    Entry::Vacant(place) => {
                        let held = self.in_room(room_id, place.key())?.filter(|held| !held.meta.outlier);
                        let Some(held) = held else { continue };
                        is_any_held |= is_known;
                        unknown += usize::from(!is_known);
                        pending.push((held.pdu.depth(), place.key().clone()));
                        place.insert(is_known);
                    }
                }
            }
            if unknown == 0 || !is_any_held {
                break;
            }
            let Some((_, event_id)) = pending.pop() else { break };
            let is_known = known.get(&event_id).copied().unwrap_or_default();
            let Some(held) = self.held(&event_id)? else { continue };
            names = held.pdu.prev_events().iter().map(|id| (id.clone(), is_known)).collect();
            if !is_known {
                unknown -= 1;
                // From now on it does not wait.
                known.insert(event_id, true);
                found.push(held);
            }
        }
        Ok(if is_any_held { found } else { Vec::new() })
    }

    /// After which place of the timeline a server has certainly been in the room.
    fn joined_since(&self, server: &ServerName, room_id: &RoomId) -> Result<Option<i64>, RoomError> {
        let (mut since, mut looked_at, mut after) = (None, 0, None);
        loop {
            let page = rows::members(&self.store.database, room_id, after.as_deref(), MEMBERS_AT_ONCE)?;
            let joined = page.iter().filter(|(user_id, member)| {
                user_id.server_name() == server && member.membership == MembershipState::Join
            });
            for (_, member) in joined.take(MEMBERS_LOOKED_AT - looked_at) {
                let position = i64::try_from(member.position.0).unwrap_or(i64::MAX);
                since = Some(since.map_or(position, |since: i64| since.min(position)));
                looked_at += 1;
            }
            match page.last() {
                Some((user_id, _)) if page.len() == MEMBERS_AT_ONCE && looked_at < MEMBERS_LOOKED_AT => {
                    after = Some(user_id.clone());
                }
                _ => return Ok(since),
            }
        }
    }

    /// These events and what is before them, at most `limit`, newest first.
    ///
    /// # Errors
    /// Storage.
    pub fn backfill_for_server(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        from: &[OwnedEventId],
        limit: usize,
    ) -> Result<Vec<Arc<Pdu>>, RoomError> {
        let limit = limit.min(WALK_MAX);
        let found = self.walk_back(room_id, from.to_vec(), HashSet::new(), limit, (Choice::Deepest, 0))?;
        let mut sight = Sight::new(self, server, found.len());
        found.iter().map(|held| self.for_server(&mut sight, held)).collect()
    }

    /// Follows `prev_events`.
    fn walk_back(
        &self,
        room_id: &RoomId,
        start: Vec<OwnedEventId>,
        mut seen: HashSet<OwnedEventId>,
        limit: usize,
        (choice, min_depth): (Choice, u64),
    ) -> Result<Vec<Held>, RoomError> {
        let mut pending = BinaryHeap::new();
        let mut found = Vec::new();
        let (mut names, mut steps) = (start, 0_usize);
        loop {
            for event_id in names.drain(..) {
                if seen.insert(event_id.clone())
                    && let Some(held) = self.in_room(room_id, &event_id)?.filter(|held| !held.meta.outlier)
                    && held.pdu.depth() >= min_depth
                {
                    pending.push((Reverse(steps), held.pdu.depth(), event_id));
                }
            }
            let Some((Reverse(at), _, event_id)) = pending.pop() else { break };
            steps = if choice == Choice::Nearest { at + 1 } else { 0 };
            if found.len() >= limit {
                break;
            }
            if let Some(held) = self.held(&event_id)? {
                names = held.pdu.prev_events().to_vec();
                found.push(held);
            }
        }
        Ok(found)
    }
}
