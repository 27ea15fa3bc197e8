//! Taking over a room as another server's `send_join` answered it: the state before the
//! join, all that authorises it, and the join.
//!
//! That may be 200,000 events. They are written in small pieces, between which others
//! write: first the events, then the nodes of the state, then the current state and the
//! members; the batch that makes the room (its own row, the join, what concerns users of
//! this server, positions) is the last and small.
//!
//! Invariants: nobody sees anything of a room before that batch; what a join that failed or
//! was interrupted left behind is deleted at once, or before the next try or at the next
//! start ([`causeway_storage::rooms::clear_joining`]). The room's current state after a join
//! is what the resident server gave, as far as it authorises itself, and the join; what this
//! server believed of the room when it was in it before is history.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use causeway_room::{Pdu, Root, StateKey, state_tree};
use causeway_storage::{
    Batch, Database, StreamPosition,
    rooms::{self as rows, Room},
};
use ruma::{EventId, OwnedEventId, RoomId, UserId, events::room::member::MembershipState};
use serde_json::Value;

use super::{
    Rooms,
    commit::member_row,
    error::RoomError,
    head::Head,
    order,
    receive::{RECEIVED_MAX, Received, state_entry},
    store::{Importing, VersionRules},
    writer::{Admission, RoomWriter},
};

/// Events, and their bytes, that are written at once.
const PIECE_EVENTS: usize = 500;
const PIECE_BYTES: usize = 1 << 20;
/// Rows, or nodes of a state, that are written at once.
const PIECE_ROWS: usize = 2_000;
/// Events that are left out and told of one by one.
const TOLD_MAX: usize = 20;
/// Interrupted joins that are looked for at once.
const JOINING_AT_ONCE: usize = 1_000;

/// What a join brings besides itself.
struct Given<'a> {
    events: Vec<Arc<Pdu>>,
    /// Those of them that are the state before it.
    state: &'a HashSet<OwnedEventId>,
}

impl Rooms {
    /// Takes over a room as `send_join` answered it: the join, the state before
    /// it and the state's auth chain, all with checked signatures. Works for a
    /// room that this server was in before, too.
    ///
    /// # Errors
    /// [`RoomError::Forbidden`] when the state does not allow the join,
    /// [`RoomError::Invalid`] when it is no state of this room.
    pub fn import_join(
        &self,
        room_id: &RoomId,
        version: &Arc<VersionRules>,
        join: Pdu,
        state: Vec<Pdu>,
        auth_chain: Vec<Pdu>,
    ) -> Result<(), RoomError> {
        if state.len() + auth_chain.len() > RECEIVED_MAX {
            return Err(RoomError::Invalid("the room is too large".to_owned()));
        }
        let empty = beginning(version, state.iter().chain(&auth_chain))?;
        let state_ids: HashSet<OwnedEventId> = state.iter().map(|pdu| pdu.event_id().to_owned()).collect();
        // One event may be in both lists.
        let mut all: BTreeMap<OwnedEventId, Pdu> = BTreeMap::new();
        for pdu in state.into_iter().chain(auth_chain) {
            all.insert(pdu.event_id().to_owned(), pdu);
        }
        let join = Arc::new(join);
        let load = || {
            Ok(Head::load(&self.store.database, room_id)?
                .unwrap_or_else(|| Head::new(Arc::clone(version), empty)))
        };
        self.write_from(room_id, load, |writer| {
            if writer.is_joined_here() {
                // Somebody of this server joined meanwhile: the room is here.
                let mut received = writer.receive(&join, false)?;
                if matches!(received, Received::Missing { .. }) {
                    writer.take_all(all.into_values().collect(), RoomWriter::take_outlier)?;
                    let state: Vec<_> = state_ids.into_iter().collect();
                    received = writer.receive_with_state(&join, &state)?;
                }
                return match received {
                    Received::Accepted | Received::Duplicate => Ok(()),
                    other => Err(RoomError::Forbidden(format!("the join was not accepted: {other:?}"))),
                };
            }
            let events = order::named_first(all.into_values().collect());
            writer.take_over(&join, Given { events, state: &state_ids })
        })
    }

    /// Deletes what joins left behind that were interrupted. To be called before anything
    /// reads rooms.
    ///
    /// # Errors
    /// The database failed; it is tried again at the next start.
    pub(super) fn clear_interrupted_joins(&self) -> Result<(), RoomError> {
        let database = &self.store.database;
        loop {
            let rooms = rows::joining(database, JOINING_AT_ONCE)?;
            for room_id in &rooms {
                rows::clear_joining(database, room_id, None)?;
                tracing::info!(%room_id, "what an interrupted join left behind was deleted");
            }
            if rooms.len() < JOINING_AT_ONCE {
                return Ok(());
            }
        }
    }
}

/// The row of a room of which nothing is known but its beginning.
fn beginning<'a>(
    version: &VersionRules,
    mut events: impl Iterator<Item = &'a Pdu>,
) -> Result<Room, RoomError> {
    let create = events.find(|pdu| pdu.is_state("m.room.create", ""));
    let create = create.ok_or_else(|| RoomError::Invalid("the state has no create event".to_owned()))?;
    let stated = create.content_object();
    let stated = stated.get("room_version").and_then(Value::as_str).unwrap_or("1");
    if stated != version.version.as_str() {
        return Err(RoomError::Invalid("the create event says another room version".to_owned()));
    }
    Ok(Room {
        version: version.version.clone(),
        create: create.event_id().to_owned(),
        heads: Vec::new(),
        state: state_tree::empty(),
        history_floor: 0,
    })
}

impl RoomWriter<'_> {
    fn take_over(&mut self, join: &Arc<Pdu>, given: Given<'_>) -> Result<(), RoomError> {
        // It is another server's word until the room is here: not to be used after a failure.
        self.is_doubtful = true;
        let database = self.rooms.store.database.clone();
        let is_new = rows::room(&database, &self.room_id)?.is_none();
        let ids: Vec<OwnedEventId> =
            given.events.iter().filter(|_| is_new).map(|pdu| pdu.event_id().to_owned()).collect();
        let learnt = if is_new { Some(self.mark(&database)?) } else { None };
        let done = self.bring_in(join, given, learnt);
        if done.is_err() && is_new {
            self.pending.clear();
            rows::clear_joining(&database, &self.room_id, Some(&ids))?;
        }
        done
    }

    /// Marks the room; the position at which its members are learnt of.
    fn mark(&mut self, database: &Database) -> Result<StreamPosition, RoomError> {
        if rows::is_joining(database, &self.room_id)? {
            // Another try ended without deleting what it had written.
            rows::clear_joining(database, &self.room_id, None)?;
        }
        let mut batch = database.batch();
        rows::put_joining(&mut batch, &self.room_id);
        let learnt = batch.position();
        database.commit_durable(batch)?;
        Ok(learnt)
    }

    fn bring_in(
        &mut self,
        join: &Arc<Pdu>,
        given: Given<'_>,
        learnt: Option<StreamPosition>,
    ) -> Result<(), RoomError> {
        self.work.importing = Some(Importing::new(&self.room_id, &self.head.rules));
        let entries = self.take_events(given)?;
        let before = state_tree::from_entries(&mut self.work, entries);
        self.write_nodes(&before)?;
        let auth_state = self.auth_state(&before, join)?;
        causeway_room::auth::check_against(&self.head.rules.rules, join, &auth_state)?;
        let mut missing = Vec::new();
        for event_id in join.prev_events() {
            if self.work.held(event_id)?.is_none_or(|held| held.meta.outlier) {
                missing.push(event_id.clone());
            }
        }
        // What this server thought to be the end of the room is so no more.
        self.head.row.heads.clear();
        self.unresolved = false;
        self.set_current(before)?;
        if let Some(learnt) = learnt {
            self.write_current(learnt)?;
            let room_id = self.room_id.clone();
            rows::delete_joining(&mut self.batch, &room_id);
        }
        self.admit(join, Admission { before, relay: false, missing, followed: false })
    }

    /// Judges and writes the events; the pieces of the state.
    fn take_events(&mut self, given: Given<'_>) -> Result<Vec<(StateKey, OwnedEventId)>, RoomError> {
        let mut entries = Vec::with_capacity(given.state.len());
        let (mut bytes, mut left_out) = (0, 0);
        for pdu in given.events {
            let result = self.take_outlier(&pdu)?;
            let event_id = pdu.event_id();
            if !matches!(result, Received::Accepted | Received::Duplicate) {
                left_out += 1;
                if left_out <= TOLD_MAX {
                    tracing::warn!(%event_id, room_id = %self.room_id, ?result, "event of the joined room's state left out");
                }
            }
            if given.state.contains(event_id) {
                let held = self.work.held(event_id)?.filter(|held| *held.meta.room_id == *self.room_id);
                entries.extend(held.as_ref().and_then(state_entry));
            }
            bytes += pdu.raw().get().len();
            if bytes >= PIECE_BYTES || self.pending.len() >= PIECE_EVENTS {
                self.write_events()?;
                bytes = 0;
            }
        }
        self.write_events()?;
        if left_out > TOLD_MAX {
            tracing::warn!(left_out, room_id = %self.room_id, "events of the joined room's state left out");
        }
        Ok(entries)
    }

    /// Commits the events that are pending, none of which has a place in the room.
    fn write_events(&mut self) -> Result<(), RoomError> {
        let mut batch = self.rooms.store.database.batch();
        for pending in std::mem::take(&mut self.pending) {
            rows::put_event(&mut batch, pending.pdu.event_id(), pending.pdu.raw(), &pending.meta);
        }
        self.write_piece(batch)?;
        self.work.settle_events();
        Ok(())
    }

    /// Commits the nodes of a state that are not stored.
    fn write_nodes(&mut self, root: &Root) -> Result<(), RoomError> {
        let mut nodes = HashMap::new();
        self.work.new_nodes_below(root, &mut nodes);
        let mut batch = self.rooms.store.database.batch();
        for (id, node) in &nodes {
            rows::put_node(&mut batch, id, node);
            batch = self.write_if_full(batch)?;
        }
        self.write_piece(batch)?;
        for (id, node) in &nodes {
            self.work.nodes.remove(id);
            self.rooms.store.remember_node(*id, node);
        }
        Ok(())
    }

    /// Commits the current state and the members of a room that was not here, but for the
    /// users of this server: their own lists of rooms change with the room.
    fn write_current(&mut self, learnt: StreamPosition) -> Result<(), RoomError> {
        let mut batch = self.rooms.store.database.batch();
        for (key, change) in std::mem::take(&mut self.changed) {
            if self.is_of_member_here(&key) {
                self.changed.insert(key, change);
                continue;
            }
            let event_id = change.1.as_deref();
            rows::put_current(&mut batch, &self.room_id, &key, event_id);
            if key.kind == "m.room.member"
                && let (Ok(user_id), Some(event_id)) = (UserId::parse(&*key.key), event_id)
            {
                self.put_member_elsewhere(&mut batch, &user_id, event_id, learnt)?;
            }
            batch = self.write_if_full(batch)?;
        }
        self.write_piece(batch)
    }

    fn put_member_elsewhere(
        &self,
        batch: &mut Batch,
        user_id: &UserId,
        event_id: &EventId,
        learnt: StreamPosition,
    ) -> Result<(), RoomError> {
        let event = self.work.named(event_id)?;
        let row = member_row(&event, learnt);
        rows::put_member(batch, &self.room_id, user_id, Some(&row));
        let is_joined = row.membership == MembershipState::Join;
        rows::put_remote_membership(batch, user_id, &self.room_id, is_joined);
        Ok(())
    }

    fn is_of_member_here(&self, key: &StateKey) -> bool {
        let user_id = UserId::parse(&*key.key).ok().filter(|_| key.kind == "m.room.member");
        user_id.is_some_and(|user_id| user_id.server_name() == self.rooms.server_name)
    }

    fn write_if_full(&self, batch: Batch) -> Result<Batch, RoomError> {
        if batch.len() < PIECE_ROWS {
            return Ok(batch);
        }
        self.write_piece(batch)?;
        Ok(self.rooms.store.database.batch())
    }

    /// Commits a piece; what makes the room comes after it in the log, and syncs it.
    fn write_piece(&self, batch: Batch) -> Result<(), RoomError> {
        if !batch.is_empty() {
            let _synced_by_the_last = self.rooms.store.database.commit(batch)?;
        }
        Ok(())
    }
}
