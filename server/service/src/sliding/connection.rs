//! The connections of devices: which token each is at, and what it was sent.
//!
//! A token is `(position, generation)`, as in [`crate::sync::progress`]: answers
//! within a generation continue each other without a gap for every room that is
//! *live* (a [`SentRoom`] without `until`), so that most answers write nothing.
//! Whatever a position can't tell (a room that is new, one that fell out of every
//! list, a gap) makes a new generation, *pending* until its token comes back.
//!
//! - A request with the last token again finds everything as it was: its answer
//!   is made anew, nothing is lost.
//! - Several answers may wait for the same connection, because a client may give
//!   a request up and send another one; whichever it took, it presents.
//! - Any other token is unknown, and the client begins anew. So is one of a
//!   connection that was dropped because the device made too many.
//! - Generations are never given twice, to anybody: a token of another device is
//!   unknown.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
};

use causeway_storage::{
    Batch, Database, StorageError, StreamPosition,
    sliding::{self as rows, Connection, PendingAnswer, SentRoom},
};
use ruma::OwnedRoomId;

use super::{
    request::{Request, unknown_pos},
    required::Required,
};
use crate::{
    clock::Clock,
    error::MatrixError,
    sync::{CONNECTIONS_MAX, token::SyncToken},
};

/// Answers that may wait for their acknowledgement; the oldest are dropped first.
pub const PENDING_MAX: usize = 4;

/// Required states remembered for a connection. What is forgotten is sent again.
pub const REQUIRED_KEPT_MAX: usize = 8;

/// Where a connection stands when a request is answered.
#[derive(Debug, Default)]
pub struct Standing {
    /// What it was sent.
    pub sent: BTreeMap<OwnedRoomId, SentRoom>,
    /// Whether it was told of the account data that belongs to no room.
    pub account_data: bool,
    required: BTreeMap<u64, Required>,
}

impl Standing {
    /// What a room was sent with; `None` if that is forgotten.
    pub fn required(&self, number: u64) -> Option<Required> {
        self.required.get(&number).cloned()
    }
}

/// What an answer makes true once it is acknowledged.
#[derive(Debug, Default)]
pub struct Changes {
    /// Rooms of which something new is known; `None` forgets one.
    pub rooms: Vec<(OwnedRoomId, Option<SentRoom>)>,
    /// Whether the account data that belongs to no room was told.
    pub account_data: bool,
    /// What rooms are sent with.
    pub required: BTreeMap<u64, Required>,
}

/// See the module.
pub struct Connections {
    database: Database,
    clock: Clock,
    /// The last generation handed out. Starts at the wall clock's microseconds,
    /// so that no generation of an earlier run comes again. Held while rows of
    /// any connection are read and written: a point read and an unsynced write.
    generation: Mutex<u64>,
}

impl Connections {
    pub(super) fn new(database: Database, clock: Clock) -> Self {
        let generation = Mutex::new(clock.now_ms().saturating_mul(1_000));
        Self { database, clock, generation }
    }

    /// Takes note of the token that a request presents.
    ///
    /// # Errors
    /// `M_UNKNOWN_POS`.
    pub(super) fn acknowledge(&self, request: &Request) -> Result<(), MatrixError> {
        let Some(pos) = request.pos else { return Ok(()) };
        if pos.position > self.database.visible().0 {
            return Err(unknown_pos());
        }
        let writing = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        let (user_id, device_id, conn_id) = (&request.user_id, &request.device_id, &*request.conn_id);
        let mut connection =
            rows::connection(&self.database, user_id, device_id, conn_id)?.ok_or_else(unknown_pos)?;
        let mut batch = self.database.batch();
        let step = step(&mut connection, pos).ok_or_else(unknown_pos)?;
        let mut is_step_back = false;
        match step {
            Step::Same => return Ok(()),
            Step::Onward => {}
            Step::Back => is_step_back = true,
            Step::To(answer) => {
                is_step_back = answer.is_fresh;
                if answer.is_fresh {
                    rows::forget_rooms(&mut batch, user_id, device_id, conn_id);
                }
                for (room_id, sent) in &answer.rooms {
                    let at = (conn_id, &**room_id);
                    rows::put_sent_room(&mut batch, user_id, device_id, at, sent.as_ref());
                }
            }
        }
        connection.used_ms = self.clock.now_ms();
        rows::put_connection(&mut batch, user_id, device_id, conn_id, &connection);
        // As for /sync: losing a step onward costs a false conflict at worst,
        // losing a step back could cost a write.
        let commit = self.database.commit(batch)?;
        drop(writing);
        if is_step_back {
            self.database.wait_durable(commit)?;
        }
        Ok(())
    }

    /// Where the connection stands, as acknowledged.
    pub(super) fn standing(&self, request: &Request) -> Result<Standing, StorageError> {
        if request.pos.is_none() {
            return Ok(Standing::default());
        }
        let (user_id, device_id, conn_id) = (&request.user_id, &request.device_id, &*request.conn_id);
        let snapshot = self.database.snapshot();
        let connection = rows::connection(&snapshot, user_id, device_id, conn_id)?.unwrap_or_default();
        let sent = rows::sent_rooms(&snapshot, user_id, device_id, conn_id)?;
        let required = rows::required_states(&snapshot, user_id, device_id, conn_id)?;
        let required =
            required.into_iter().map(|(number, entries)| (number, Required::stored(&entries))).collect();
        Ok(Standing { sent, account_data: connection.account_data, required })
    }

    /// An answer is about to be sent; says the generation for its token.
    ///
    /// # Errors
    /// `M_UNKNOWN_POS` when the connection has gone on in the meantime.
    pub(super) fn answer(&self, request: &Request, changes: Changes) -> Result<u64, MatrixError> {
        let mut generation = self.generation.lock().unwrap_or_else(PoisonError::into_inner);
        let (user_id, device_id, conn_id) = (&request.user_id, &request.device_id, &*request.conn_id);
        let held = rows::connection(&self.database, user_id, device_id, conn_id)?;
        let is_new = held.is_none();
        let mut connection = held.unwrap_or_default();
        if let Some(pos) = request.pos {
            if is_new || (connection.generation, connection.position.0) != (pos.generation, pos.position) {
                return Err(unknown_pos());
            }
            if changes.rooms.is_empty() && changes.account_data == connection.account_data {
                return Ok(pos.generation);
            }
        }
        let fresh = *generation + 1;
        *generation = fresh;
        connection.used_ms = self.clock.now_ms();
        connection.pending.push(PendingAnswer {
            generation: fresh,
            is_fresh: request.pos.is_none(),
            account_data: changes.account_data,
            rooms: changes.rooms,
        });
        if connection.pending.len() > PENDING_MAX {
            connection.pending.remove(0);
        }
        let mut batch = self.database.batch();
        if is_new {
            self.make_room(&mut batch, request)?;
        }
        let kept = rows::required_states(&self.database, user_id, device_id, conn_id)?.into_keys().collect();
        for (number, required) in remember(&kept, changes.required) {
            let entries = required.map(|required| required.entries());
            rows::put_required(&mut batch, user_id, device_id, (conn_id, number), entries.as_ref());
        }
        rows::put_connection(&mut batch, user_id, device_id, conn_id, &connection);
        let _unsynced = self.database.commit(batch)?;
        Ok(fresh)
    }

    /// Drops what the device used least lately, if it has too many connections.
    fn make_room(&self, batch: &mut Batch, request: &Request) -> Result<(), StorageError> {
        let (user_id, device_id) = (&request.user_id, &request.device_id);
        let mut held = rows::connections(&self.database, user_id, device_id, CONNECTIONS_MAX + 1)?;
        held.sort_by_key(|(_, connection)| connection.used_ms);
        let excess = (held.len() + 1).saturating_sub(CONNECTIONS_MAX);
        for (conn_id, _) in &held[..excess] {
            rows::forget_connection(batch, user_id, device_id, conn_id);
        }
        Ok(())
    }
}

/// What a token does to a connection.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing new.
    Same,
    /// Further within a generation.
    Onward,
    /// Back within a generation.
    Back,
    /// To an answer that was pending.
    To(PendingAnswer),
}

/// Takes note of the token; `None` if it is unknown.
fn step(connection: &mut Connection, pos: SyncToken) -> Option<Step> {
    let position = StreamPosition(pos.position);
    if let Some(at) = connection.pending.iter().position(|answer| answer.generation == pos.generation) {
        let answer = connection.pending.swap_remove(at);
        connection.pending.clear();
        connection.position = position;
        connection.generation = pos.generation;
        connection.account_data = answer.account_data;
        return Some(Step::To(answer));
    }
    if connection.generation != pos.generation {
        return None;
    }
    let step = match position.cmp(&connection.position) {
        std::cmp::Ordering::Equal => return Some(Step::Same),
        std::cmp::Ordering::Greater => Step::Onward,
        std::cmp::Ordering::Less => Step::Back,
    };
    connection.pending.clear();
    connection.position = position;
    Some(step)
}

/// Adds what rooms are sent with now, and forgets others (`None`) beyond the bound.
fn remember(kept: &BTreeSet<u64>, used: BTreeMap<u64, Required>) -> BTreeMap<u64, Option<Required>> {
    let fresh = used.keys().filter(|number| !kept.contains(number)).count();
    let excess = (kept.len() + fresh).saturating_sub(REQUIRED_KEPT_MAX);
    let unused = kept.iter().filter(|number| !used.contains_key(number));
    let mut changes: BTreeMap<u64, Option<Required>> =
        unused.take(excess).map(|number| (*number, None)).collect();
    let mut room = REQUIRED_KEPT_MAX.saturating_sub(kept.len() - changes.len());
    for (number, required) in used {
        if room > 0 && !kept.contains(&number) {
            changes.insert(number, Some(required));
            room -= 1;
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(position: u64, generation: u64) -> SyncToken {
        SyncToken { position, typing: 0, generation }
    }

    fn waiting(connection: &mut Connection, generation: u64) {
        connection.pending.push(PendingAnswer { generation, ..PendingAnswer::default() });
    }

    #[test]
    fn whichever_answer_was_taken_is_gone_on_from() {
        let mut connection = Connection { generation: 1, ..Connection::default() };
        waiting(&mut connection, 2);
        waiting(&mut connection, 3);
        assert_eq!(step(&mut connection, token(0, 1)), Some(Step::Same), "a retry drops nothing");
        assert!(matches!(step(&mut connection, token(9, 2)), Some(Step::To(_))));
        assert_eq!(step(&mut connection, token(9, 3)), None, "the other one was given up");
        assert_eq!(step(&mut connection, token(9, 1)), None, "and the one before is left behind");
        assert_eq!(step(&mut connection, token(12, 2)), Some(Step::Onward));
        assert_eq!(step(&mut connection, token(9, 2)), Some(Step::Back));
        assert_eq!(connection.position.0, 9);
    }

    #[test]
    fn required_states_are_kept_up_to_a_bound_and_those_in_use_first() {
        let mut kept = BTreeSet::new();
        let mut use_them = |used: std::ops::Range<u64>| {
            let used = used.map(|number| (number, Required::default())).collect();
            for (number, required) in remember(&kept, used) {
                if required.is_some() {
                    kept.insert(number)
                } else {
                    kept.remove(&number)
                };
            }
            kept.clone()
        };
        for number in 0..20 {
            let kept = use_them(number..number + 1);
            assert!(kept.len() <= REQUIRED_KEPT_MAX && kept.contains(&number), "{number}");
        }
        let kept = use_them(100..120);
        assert_eq!(kept.len(), REQUIRED_KEPT_MAX);
        assert!(kept.iter().all(|number| *number >= 100));
    }
}
