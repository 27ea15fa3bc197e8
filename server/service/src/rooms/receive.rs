//! Events from other servers: the checks on receipt of a PDU, in the order of
//! the specification (server-server API, "Checks performed on receipt of a PDU").
//!
//! The door has checked format, signatures and hash (checks 1 to 3). Here an
//! event is judged by its auth events, by the state before it, and by the
//! current state, and by the room's policy server's signature. Nothing is fetched: what is missing is named, and the door
//! fetches it and calls again.
//!
//! Invariants: a rejected event is stored as rejected, and with it falls what
//! names it in `auth_events`; a soft-failed event is stored, and is neither in
//! the timeline nor a head; no event of another room is ever used.

use std::sync::Arc;

use causeway_room::{Pdu, Root, auth, state_tree};
use causeway_storage::rooms::{self as rows, EventMeta};
use ruma::{EventId, OwnedEventId, RoomId, ServerName};

use super::{
    Rooms,
    error::RoomError,
    order,
    store::Held,
    writer::{Admission, RoomWriter},
};

/// Events of one call: the state of a room and its auth chain come in one.
pub const RECEIVED_MAX: usize = 200_000;

/// Events without a place in their room that are written at once.
const OUTLIERS_AT_ONCE: usize = 500;

/// Heads at which they are joined.
const HEADS_MERGED_AT: usize = 10;

/// Events by which they are joined at once: enough for those that a transaction brings.
const MERGES_MAX: usize = 4;

/// The type of the event that joins them; others use it for the same.
const MERGE_TYPE: &str = "org.matrix.dummy_event";

/// What became of a received event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// It is in the room.
    Accepted,
    /// Allowed by its past, not by the current state: stored, and shown to nobody.
    SoftFailed(String),
    /// Not allowed: stored as such.
    Rejected(String),
    /// It was here already.
    Duplicate,
    /// Nothing was stored; these are needed first.
    Missing {
        /// Events before it whose state is not known here.
        prev: Vec<OwnedEventId>,
        /// Auth events that are not held.
        auth: Vec<OwnedEventId>,
    },
    /// Nothing was stored: it is not an event of a room that this server is in.
    Refused(String),
}

/// Events by id, and what became of each.
pub type Results = Vec<(OwnedEventId, Received)>;

impl Rooms {
    /// Takes in events of one room whose signatures were checked, in any order.
    /// `origin` is who sent them, which need not be who made them.
    ///
    /// # Errors
    /// Storage only; what is wrong with an event is its result.
    pub fn receive_pdus(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        pdus: Vec<Pdu>,
    ) -> Result<Results, RoomError> {
        tracing::trace!(%origin, %room_id, count = pdus.len(), "events received");
        if !self.is_joined_here(room_id)? {
            return Ok(refuse_all(&pdus, "this server is not in the room"));
        }
        self.write_once(room_id, |writer| {
            let results = writer.take_all(pdus, |writer, pdu| writer.receive(pdu, false))?;
            writer.merge_heads()?;
            Ok(results)
        })
    }

    /// Takes in events that are only to authorise others, in any order.
    ///
    /// # Errors
    /// As [`Self::receive_pdus`].
    pub fn receive_outliers(&self, room_id: &RoomId, mut pdus: Vec<Pdu>) -> Result<Results, RoomError> {
        let excess = pdus.split_off(pdus.len().min(RECEIVED_MAX));
        let (mut results, mut last) = (Results::with_capacity(pdus.len()), None);
        // In pieces, between which others write: a whole state may come.
        for some in order::named_first(pdus).chunks(OUTLIERS_AT_ONCE) {
            let (taken, unsynced) = self.write_unsynced(room_id, |writer| {
                let taken = some.iter().map(|pdu| Ok((pdu.event_id().to_owned(), writer.take_outlier(pdu)?)));
                taken.collect::<Result<Results, RoomError>>()
            })?;
            results.extend(taken);
            if unsynced.commit.is_some() {
                last = Some(unsynced);
            }
        }
        if let Some(last) = last {
            self.sync(last)?;
        }
        results.extend(refuse_all(&excess, "too many events at once"));
        Ok(results)
    }

    /// Takes in an event whose `prev_events` can't be had, with the state before
    /// it as another server told it: all held, as outliers or otherwise.
    ///
    /// # Errors
    /// As [`Self::receive_pdus`].
    pub fn import_state(
        &self,
        room_id: &RoomId,
        pdu: Pdu,
        state: &[OwnedEventId],
    ) -> Result<Received, RoomError> {
        if !self.is_joined_here(room_id)? {
            return Ok(Received::Refused("this server is not in the room".to_owned()));
        }
        self.write_once(room_id, |writer| writer.receive_with_state(&Arc::new(pdu), state))
    }
}

fn refuse_all(pdus: &[Pdu], why: &str) -> Results {
    pdus.iter().map(|pdu| (pdu.event_id().to_owned(), Received::Refused(why.to_owned()))).collect()
}

impl RoomWriter<'_> {
    /// Takes events one by one, those first that others of them name; what is past
    /// [`RECEIVED_MAX`] is refused.
    pub(crate) fn take_all(
        &mut self,
        mut pdus: Vec<Pdu>,
        take: impl Fn(&mut Self, &Arc<Pdu>) -> Result<Received, RoomError>,
    ) -> Result<Results, RoomError> {
        let excess = pdus.split_off(pdus.len().min(RECEIVED_MAX));
        let mut results = Results::with_capacity(pdus.len() + excess.len());
        for pdu in order::named_first(pdus) {
            let result = take(self, &pdu)?;
            results.push((pdu.event_id().to_owned(), result));
        }
        results.extend(refuse_all(&excess, "too many events at once"));
        Ok(results)
    }

    /// Joins the room's ends with an event that says nothing else, when there are
    /// many and nobody here is writing: each further event costs a resolution
    /// over all of them, at every server.
    fn merge_heads(&mut self) -> Result<(), RoomError> {
        for _ in 0..MERGES_MAX {
            if self.head.row.heads.len() < HEADS_MERGED_AT {
                return Ok(());
            }
            self.settle()?;
            let Some(merge) = self.saying_nothing(MERGE_TYPE)? else { return Ok(()) };
            match self.append(merge) {
                Ok(_) => {}
                // Where a policy server would be asked, it is left undone.
                Err(RoomError::Forbidden(_) | RoomError::Unsigned) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The checks that need no state: whose room, and whether it is here already.
    fn known(&self, pdu: &Pdu) -> Result<Option<Received>, RoomError> {
        if pdu.room_id() != self.room_id {
            return Ok(Some(Received::Refused("it belongs to another room".to_owned())));
        }
        if pdu.is_state("m.room.create", "") && pdu.event_id() != self.head.row.create {
            return Ok(Some(Received::Refused("the room has another beginning".to_owned())));
        }
        Ok(match self.work.held(pdu.event_id())? {
            Some(held) if *held.meta.room_id != *self.room_id => {
                Some(Received::Refused("it belongs to another room".to_owned()))
            }
            Some(Held { meta, .. }) if !meta.outlier => Some(match &meta.rejected {
                Some(why) => Received::Rejected(why.clone()),
                None => Received::Duplicate,
            }),
            _ => None,
        })
    }

    /// Whether an event that this room holds may be built on.
    fn usable(&self, event_id: &EventId) -> Result<Option<Held>, RoomError> {
        Ok(self.work.held(event_id)?.filter(|held| *held.meta.room_id == *self.room_id))
    }

    fn missing_auth(&self, pdu: &Pdu) -> Result<Vec<OwnedEventId>, RoomError> {
        let mut missing = Vec::new();
        for event_id in pdu.auth_events() {
            // An event of another room is held and never usable: the rules
            // reject what names it, so it is not "missing".
            if self.work.held(event_id)?.is_none() {
                missing.push(event_id.clone());
            }
        }
        Ok(missing)
    }

    /// Checks 4a: the auth events themselves, and what they allow.
    fn check_by_auth_events(&mut self, pdu: &Pdu) -> Result<Result<(), String>, RoomError> {
        let rules = Arc::clone(self.rules());
        let mut events = Vec::with_capacity(pdu.auth_events().len() + 1);
        for event_id in pdu.auth_events() {
            events.extend(self.work.held(event_id)?.map(|held| held.pdu));
        }
        if let Some(create) = self.work.held(&self.head.row.create)? {
            events.push(create.pdu);
        }
        let fetch = |id: &EventId| events.iter().find(|event| event.event_id() == id).cloned();
        if let Err(refusal) = auth::check_auth_events(&rules.rules, pdu, fetch) {
            return Ok(Err(refusal.0));
        }
        let state = auth::state_of(events);
        Ok(auth::check_against(&rules.rules, pdu, &state).map_err(|refusal| refusal.0))
    }

    fn check_by_state(&mut self, pdu: &Pdu, root: &Root) -> Result<Result<(), String>, RoomError> {
        let rules = Arc::clone(self.rules());
        let state = match self.auth_state(root, pdu) {
            Ok(state) => state,
            Err(RoomError::Forbidden(why)) => return Ok(Err(why)),
            Err(error) => return Err(error),
        };
        Ok(auth::check_against(&rules.rules, pdu, &state).map_err(|refusal| refusal.0))
    }

    /// Takes in an event as it came. `relay`: other servers get it from this
    /// one, because it came in through a `send_…` endpoint or is our own.
    pub(crate) fn receive(&mut self, pdu: &Arc<Pdu>, relay: bool) -> Result<Received, RoomError> {
        if let Some(result) = self.known(pdu)? {
            if result == Received::Duplicate {
                self.place_history(pdu)?;
            }
            return Ok(result);
        }
        let auth = self.missing_auth(pdu)?;
        let (states, prev) = self.states_after_prev(pdu)?;
        if !prev.is_empty() || !auth.is_empty() {
            return Ok(Received::Missing { prev, auth });
        }
        if states.is_empty() {
            return Ok(Received::Refused("it follows no event".to_owned()));
        }
        let before = self.resolve_roots(&states)?;
        self.judge(pdu, before, relay, Vec::new())
    }

    /// The states after what an event follows, and which of these is not known with its state.
    fn states_after_prev(&self, pdu: &Pdu) -> Result<(Vec<Root>, Vec<OwnedEventId>), RoomError> {
        let (mut states, mut prev) = (Vec::new(), Vec::new());
        for event_id in pdu.prev_events() {
            match self.usable(event_id)?.and_then(|held| held.meta.state_after) {
                Some(root) => states.push(root),
                None => prev.push(event_id.clone()),
            }
        }
        Ok((states, prev))
    }

    /// An event that was given as history, and so took part in no state, comes itself: if it
    /// stands on what is known, it has its say like any other, where it is. Otherwise nobody's ban
    /// would count here that somebody else told as history before.
    fn place_history(&mut self, pdu: &Arc<Pdu>) -> Result<(), RoomError> {
        let is_placed = |held: &Held| held.meta.is_unplaced_history() && !held.meta.is_purged();
        let Some(held) = self.work.held(pdu.event_id())?.filter(is_placed) else { return Ok(()) };
        // As it is held: what comes now may lack its content, and must not take it away.
        let pdu = &Arc::clone(&held.pdu);
        let (states, missing) = self.states_after_prev(pdu)?;
        if !missing.is_empty() || states.is_empty() {
            return Ok(());
        }
        let before = self.resolve_roots(&states)?;
        let current = self.head.row.state;
        if self.check_by_state(pdu, &before)?.is_err() || self.check_by_state(pdu, &current)?.is_err() {
            return Ok(());
        }
        if self.check_by_policy(pdu)?.is_err() {
            return Ok(());
        }
        let after = self.after(pdu, &before)?;
        let meta = EventMeta { state_before: Some(before), state_after: Some(after), ..(*held.meta).clone() };
        self.keep(pdu, meta);
        self.advance_heads(pdu, after)
    }

    /// The same with the state before the event given, for what is missing of its past ("state
    /// at missing events"). If nothing is any more, it is not needed.
    pub(crate) fn receive_with_state(
        &mut self,
        pdu: &Arc<Pdu>,
        state: &[OwnedEventId],
    ) -> Result<Received, RoomError> {
        let result = self.receive(pdu, false)?;
        if !matches!(result, Received::Missing { .. }) {
            return Ok(result);
        }
        let mut auth = self.missing_auth(pdu)?;
        let mut entries = Vec::with_capacity(state.len());
        for event_id in state {
            match self.usable(event_id)? {
                Some(held) => entries.extend(state_entry(&held)),
                None => auth.push(event_id.clone()),
            }
        }
        if !auth.is_empty() {
            return Ok(Received::Missing { prev: Vec::new(), auth });
        }
        let mut missing = Vec::new();
        let mut states = Vec::new();
        for event_id in pdu.prev_events() {
            match self.usable(event_id)? {
                Some(held) if !held.meta.outlier => states.extend(held.meta.state_after),
                _ => missing.push(event_id.clone()),
            }
        }
        // What is known here is not to be taken back by what somebody says of it: his word is
        // one of the states, as if it were that after what is missing.
        states.push(state_tree::from_entries(&mut self.work, entries));
        let before = self.resolve_roots(&states)?;
        self.judge(pdu, before, false, missing)
    }

    /// Checks 4 to 7, and the consequence.
    fn judge(
        &mut self,
        pdu: &Arc<Pdu>,
        before: Root,
        relay: bool,
        missing: Vec<OwnedEventId>,
    ) -> Result<Received, RoomError> {
        let mut verdict = self.check_by_auth_events(pdu)?;
        if verdict.is_ok() {
            verdict = self.check_by_state(pdu, &before)?;
        }
        let mut meta = EventMeta {
            room_id: self.room_id.clone(),
            position: None,
            edge: None,
            rejected: None,
            soft_failed: false,
            outlier: false,
            purged_ts: None,
            gap_before: !missing.is_empty(),
            state_before: Some(before),
            state_after: Some(before),
        };
        if let Err(why) = verdict {
            tracing::info!(event_id = %pdu.event_id(), room_id = %self.room_id, %why, "event rejected");
            meta.rejected = Some(why.clone());
            self.keep(&Arc::new(rejected(pdu, self.rules())?), meta);
            self.lacks_no_more(pdu)?;
            return Ok(Received::Rejected(why));
        }
        let current = self.head.row.state;
        let mut verdict = self.check_by_state(pdu, &current)?;
        if verdict.is_ok() {
            verdict = self.check_by_policy(pdu)?;
        }
        if let Err(why) = verdict {
            tracing::info!(event_id = %pdu.event_id(), room_id = %self.room_id, %why, "event soft-failed");
            meta.soft_failed = true;
            if let Some(state_key) = pdu.state_key() {
                let key = causeway_room::StateKey::new(pdu.kind_text(), state_key);
                meta.state_after = Some(state_tree::set(&mut self.work, &before, &key, pdu.event_id())?);
            }
            self.keep(pdu, meta);
            self.lacks_no_more(pdu)?;
            return Ok(Received::SoftFailed(why));
        }
        let followed = rows::is_missing(&self.rooms.store.database, &self.room_id, pdu.event_id())?;
        self.admit(pdu, Admission { before, relay, missing, followed })?;
        Ok(Received::Accepted)
    }

    /// Notes that an event which has no place in the timeline need not be asked for any more.
    fn lacks_no_more(&mut self, pdu: &Pdu) -> Result<(), RoomError> {
        if rows::is_missing(&self.rooms.store.database, &self.room_id, pdu.event_id())? {
            rows::delete_missing(&mut self.batch, &self.room_id, pdu.event_id());
        }
        Ok(())
    }

    /// Stores an event for its authority only, judged by its auth events.
    pub(crate) fn take_outlier(&mut self, pdu: &Arc<Pdu>) -> Result<Received, RoomError> {
        if let Some(result) = self.known(pdu)? {
            return Ok(result);
        }
        if let Some(held) = self.work.held(pdu.event_id())? {
            return Ok(held.meta.rejected.clone().map_or(Received::Duplicate, Received::Rejected));
        }
        let auth = self.missing_auth(pdu)?;
        if !auth.is_empty() {
            return Ok(Received::Missing { prev: Vec::new(), auth });
        }
        let verdict = self.check_by_auth_events(pdu)?;
        let mut meta = EventMeta {
            room_id: self.room_id.clone(),
            position: None,
            edge: None,
            rejected: None,
            soft_failed: false,
            outlier: true,
            purged_ts: None,
            gap_before: false,
            state_before: None,
            state_after: None,
        };
        match verdict {
            Ok(()) => {
                self.keep(pdu, meta);
                Ok(Received::Accepted)
            }
            Err(why) => {
                meta.rejected = Some(why.clone());
                self.keep(&Arc::new(rejected(pdu, self.rules())?), meta);
                Ok(Received::Rejected(why))
            }
        }
    }
}

/// The piece of state that an event is; a rejected one is none.
pub(crate) fn state_entry(held: &Held) -> Option<(causeway_room::StateKey, OwnedEventId)> {
    let state_key = held.pdu.state_key().filter(|_| held.meta.rejected.is_none())?;
    Some((causeway_room::StateKey::new(held.pdu.kind_text(), state_key), held.pdu.event_id().to_owned()))
}

fn rejected(pdu: &Pdu, rules: &super::VersionRules) -> Result<Pdu, RoomError> {
    Ok(Pdu::from_stored(&rules.rules, pdu.event_id().to_owned(), pdu.raw().get(), true)?)
}
