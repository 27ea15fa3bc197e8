//! What a destination is owed: it refused events, which were set aside. What
//! makes up for them is the last events of their rooms, and, where it has left the
//! room by one of them, that event.
//!
//! Invariant: what is remembered of a destination is bounded; what is past the
//! bound is told to the log.

use causeway_room::Pdu;
use causeway_storage::{
    StorageError,
    outbox::{self as rows, Destination, Entry},
    rooms,
};
use ruma::{EventId, ServerName, UserId, events::room::member::MembershipState};

use super::{CATCH_UP_AFTER_MS, OWED_EVENTS_MAX, OWED_HEADS_MAX, OWED_ROOMS_MAX, Outbox, Transaction};
use crate::notify::Topic;

/// Events that wait for a destination that can't be reached.
pub const ROWS_MAX: usize = 10_000;
/// The same when it could not be for [`DEAD_AFTER_MS`].
pub const ROWS_OF_DEAD_MAX: usize = 50;
/// Units that wait for such a destination: messages to devices (keys of rooms, say), changes
/// of devices. More than of events: nothing makes up for them.
pub const UNITS_MAX: usize = 10_000;
/// The same when it could not be for [`DEAD_AFTER_MS`].
pub const UNITS_OF_DEAD_MAX: usize = 1_000;
/// After this long a destination is not expected back.
pub const DEAD_AFTER_MS: u64 = 14 * 24 * 3_600 * 1_000;
/// Rows dropped in one batch.
const DROPPED_AT_ONCE: usize = 1_000;
/// Destinations read at once.
const DESTINATIONS_AT_ONCE: usize = 500;

impl Outbox {
    /// Forgets what `destination` refuses, and remembers the rooms of it for
    /// [`Self::catch_up`].
    pub fn set_aside(
        &self,
        destination: &ServerName,
        transaction: &Transaction,
        now_ms: u64,
    ) -> Result<(), StorageError> {
        let _writing = self.writing();
        let mut met = self.met(destination)?;
        for event_id in &transaction.events {
            self.owe(&mut met, destination, event_id)?;
        }
        // From the first of them: a destination that refuses again and again must
        // not put off what it is owed for ever.
        if met.owed_since_ms == 0 {
            met.owed_since_ms = now_ms;
        }
        let mut batch = self.database.batch();
        rows::put_destination(&mut batch, destination, &met);
        self.forget(batch, destination, transaction)
    }

    /// Drops what is too much for destinations that can't be reached; says how many rows.
    ///
    /// # Errors
    /// Storage failed.
    pub fn shorten_all(&self, now_ms: u64) -> Result<usize, StorageError> {
        let mut dropped = 0;
        for destination in rows::destinations(&self.database)? {
            dropped += self.shorten(&destination, now_ms)?;
        }
        Ok(dropped)
    }

    /// Drops the oldest rows of a destination that can't be reached until no more
    /// than [`ROWS_MAX`] events and [`UNITS_MAX`] units are left, or [`ROWS_OF_DEAD_MAX`]
    /// and [`UNITS_OF_DEAD_MAX`] after [`DEAD_AFTER_MS`].
    /// The newest stay, so that it is tried on; when it takes them, the last events
    /// of the others' rooms are sent ([`Self::catch_up`]). Says how many rows.
    fn shorten(&self, destination: &ServerName, now_ms: u64) -> Result<usize, StorageError> {
        let mut dropped = 0;
        loop {
            let _writing = self.writing();
            let mut met = self.met(destination)?;
            if met.failures == 0 {
                return Ok(dropped);
            }
            let is_dead = met.down_since_ms > 0 && now_ms.saturating_sub(met.down_since_ms) >= DEAD_AFTER_MS;
            let (events_max, units_max) =
                if is_dead { (ROWS_OF_DEAD_MAX, UNITS_OF_DEAD_MAX) } else { (ROWS_MAX, UNITS_MAX) };
            let from = self.first_row(destination);
            let limit = events_max + units_max + DROPPED_AT_ONCE;
            let found = rows::rows(&self.database, destination, from, limit)?;
            let units = found.iter().filter(|row| matches!(row.entry, Entry::Edu(_))).count();
            let mut excess_units = units.saturating_sub(units_max);
            let mut excess_events = (found.len() - units).saturating_sub(events_max);
            let excess = excess_events + excess_units;
            if excess == 0 {
                return Ok(dropped);
            }
            let (mut batch, mut done, mut is_some_kept) = (self.database.batch(), None, false);
            for row in &found {
                let left = match &row.entry {
                    Entry::Pdu(_) => &mut excess_events,
                    Entry::Edu(_) => &mut excess_units,
                };
                if *left == 0 {
                    is_some_kept = true;
                    continue;
                }
                *left -= 1;
                if let Entry::Pdu(event_id) = &row.entry {
                    self.owe(&mut met, destination, event_id)?;
                }
                rows::delete(&mut batch, destination, row.position);
                done = if is_some_kept { done } else { Some(row.position) };
            }
            if met.owed_since_ms == 0 {
                met.owed_since_ms = now_ms;
            }
            rows::put_destination(&mut batch, destination, &met);
            // A transaction that was begun is another one without them.
            rows::delete_in_flight(&mut batch, destination);
            let _unsynced = self.database.commit(batch)?;
            if let Some(done) = done {
                self.done().insert(destination.to_owned(), done);
            }
            dropped += excess;
            tracing::info!(server = %destination, excess, "dropped what waited for a server that does not answer");
        }
    }

    /// Remembers what makes up for an event: that its room had some, or, if the event
    /// may have put the destination out of the room, the event itself.
    fn owe(
        &self,
        met: &mut Destination,
        destination: &ServerName,
        event_id: &EventId,
    ) -> Result<(), StorageError> {
        let Some(meta) = rooms::event_meta(&self.database, event_id)? else { return Ok(()) };
        if self.puts_out(destination, &meta, event_id)?
            && !met.owed_events.iter().any(|owed| owed == event_id)
        {
            if met.owed_events.len() < OWED_EVENTS_MAX {
                met.owed_events.push(event_id.to_owned());
            } else {
                tracing::warn!(server = %destination, %event_id, "too much is owed: it won't hear of this event");
            }
        }
        if !met.owed_rooms.contains(&meta.room_id) {
            if met.owed_rooms.len() < OWED_ROOMS_MAX {
                met.owed_rooms.push(meta.room_id);
            } else {
                tracing::warn!(server = %destination, room = %meta.room_id,
                    "too much is owed: it hears of this room with its next event");
            }
        }
        Ok(())
    }

    /// Whether an event takes a user of `destination` out of a room in which that
    /// has nobody left, so that no later event of the room goes there.
    fn puts_out(
        &self,
        destination: &ServerName,
        meta: &rooms::EventMeta,
        event_id: &EventId,
    ) -> Result<bool, StorageError> {
        if rooms::joined_servers(&self.database, &meta.room_id)?.contains_key(destination) {
            return Ok(false);
        }
        let Some(version) = rooms::room(&self.database, &meta.room_id)?.map(|room| room.version) else {
            return Ok(false);
        };
        let raw = rooms::pdu_raw(&self.database, event_id)?;
        let rules = causeway_room::version::rules(&version);
        let Some(pdu) = rules.zip(raw).and_then(|(rules, raw)| Pdu::parse(&rules, raw.get()).ok()) else {
            return Ok(false);
        };
        let user = pdu.state_key().and_then(|key| <&UserId>::try_from(key).ok());
        let gone = matches!(pdu.membership(), Some(MembershipState::Leave | MembershipState::Ban));
        Ok(gone && user.is_some_and(|user| user.server_name() == destination))
    }

    /// The same for all destinations that can be reached, or have left a room by an
    /// event that they refused: nothing else may ever be sent to them. Answers how
    /// many events there are.
    ///
    /// # Errors
    /// Storage failed.
    pub fn catch_up_with_all(&self, now_ms: u64) -> Result<usize, StorageError> {
        let (mut queued, mut after) = (0, None);
        loop {
            let page = rows::destinations_met(&self.database, after.as_deref(), DESTINATIONS_AT_ONCE)?;
            for (server, met) in &page {
                // The others hear when they have taken something.
                if !met.owed_events.is_empty() || met.failures == 0 {
                    queued += self.catch_up(server, now_ms)?;
                }
            }
            match page.last() {
                Some((server, _)) if page.len() == DESTINATIONS_AT_ONCE => after = Some(server.clone()),
                _ => return Ok(queued),
            }
        }
    }

    /// After `destination` took events: queues the last ones of the rooms of which
    /// it refused some, if that is [`CATCH_UP_AFTER_MS`] ago. What led to them
    /// it will ask for. Answers how many there are.
    pub fn catch_up(&self, destination: &ServerName, now_ms: u64) -> Result<usize, StorageError> {
        let _writing = self.writing();
        let mut met = self.met(destination)?;
        let owes_nothing = met.owed_rooms.is_empty() && met.owed_events.is_empty();
        if owes_nothing || now_ms.saturating_sub(met.owed_since_ms) < CATCH_UP_AFTER_MS {
            return Ok(0);
        }
        let (mut batch, mut queued) = (self.database.batch(), 0);
        for room_id in std::mem::take(&mut met.owed_rooms) {
            if !rooms::joined_servers(&self.database, &room_id)?.contains_key(destination) {
                continue;
            }
            let heads = rooms::room(&self.database, &room_id)?.map(|room| room.heads).unwrap_or_default();
            for head in heads.iter().take(OWED_HEADS_MAX) {
                let position = batch.position();
                rows::push_pdu(&mut batch, destination, position, &head.event_id);
                queued += 1;
            }
        }
        for event_id in std::mem::take(&mut met.owed_events) {
            let position = batch.position();
            rows::push_pdu(&mut batch, destination, position, &event_id);
            queued += 1;
        }
        met.owed_since_ms = 0;
        rows::put_destination(&mut batch, destination, &met);
        let _commit = self.database.commit_durable(batch)?;
        self.notifier.notify([&Topic::Outbox]);
        Ok(queued)
    }
}
