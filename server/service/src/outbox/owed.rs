//! What a destination is owed: it refused events, which were set aside. What
//! makes up for them is the last events of their rooms, and, where it has left the
//! room by one of them, that event.
//!
//! It has rows by destination and room, and is read in pages: a page is queued when little
//! waits for the destination any more, so that one that was away for a month is told of all its
//! rooms, one page after the other, without any new event.
//!
//! Invariant: what is remembered of a destination is bounded, and is in memory by pages only;
//! what is past the bound is told to the log.

use std::collections::BTreeSet;

use causeway_room::Pdu;
use causeway_storage::{
    Batch, StorageError,
    outbox::{
        self as rows, Entry,
        owed::{self, Owed},
    },
    rooms,
};
use ruma::{EventId, OwnedEventId, ServerName, UserId, events::room::member::MembershipState};

use super::{CATCH_UP_AFTER_MS, OWED_HEADS_MAX, OWED_MAX, Outbox, Transaction};
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
/// Rooms, and events by which one was left, that are queued at once; and how much may wait when
/// they are.
const OWED_AT_ONCE: usize = 500;

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
        let mut batch = self.database.batch();
        self.owe(&mut batch, destination, &transaction.events, now_ms)?;
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
            let met = self.met(destination)?;
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
            let mut events = Vec::new();
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
                    events.push(event_id.clone());
                }
                rows::delete(&mut batch, destination, row.position);
                done = if is_some_kept { done } else { Some(row.position) };
            }
            self.owe(&mut batch, destination, &events, now_ms)?;
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

    /// Remembers what makes up for events: that their rooms had some, or, if one may have put the
    /// destination out of its room, that event.
    fn owe(
        &self,
        batch: &mut Batch,
        destination: &ServerName,
        events: &[OwnedEventId],
        now_ms: u64,
    ) -> Result<(), StorageError> {
        let mut met = self.met(destination)?;
        // From the first of them: a destination that refuses again and again must
        // not put off what it is owed for ever.
        if met.owed_since_ms == 0 {
            met.owed_since_ms = now_ms;
            rows::put_destination(batch, destination, &met);
        }
        let (since_ms, mut found) = (met.owed_since_ms, BTreeSet::new());
        for event_id in events {
            let Some(meta) = rooms::event_meta(&self.database, event_id)? else { continue };
            if self.puts_out(destination, &meta, event_id)? {
                let (room_id, event_id) = (meta.room_id.clone(), Some(event_id.clone()));
                found.insert(Owed { since_ms, room_id, event_id });
            }
            found.insert(Owed { since_ms, room_id: meta.room_id, event_id: None });
        }
        let mut count = owed::count(&self.database, destination, OWED_MAX)?;
        for one in &found {
            if owed::is_owed(&self.database, destination, one)? {
                continue;
            }
            if count >= OWED_MAX {
                tracing::warn!(server = %destination, room = %one.room_id, event_id = ?one.event_id,
                    "too much is owed: it hears of this room with its next event");
                continue;
            }
            owed::put(batch, destination, one);
            count += 1;
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
        if rooms::server_count(&self.database, &meta.room_id, destination)? > 0 {
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

    /// [`Self::catch_up`] with all destinations that can be reached, or that nothing waits for, of
    /// which some have left a room by an event that they refused: nothing else may ever be sent
    /// to them. Answers how many events there are.
    ///
    /// # Errors
    /// Storage failed.
    pub fn catch_up_with_all(&self, now_ms: u64) -> Result<usize, StorageError> {
        let (mut queued, mut after) = (0, None);
        while let Some(server) = owed::next_destination(&self.database, after.as_deref())? {
            // The others hear when they have taken something.
            if self.met(&server)?.failures == 0 || self.depth_up_to(&server, 1)? == 0 {
                queued += self.catch_up(&server, now_ms)?;
            }
            after = Some(server);
        }
        Ok(queued)
    }

    /// After `destination` took events, and while little waits for it: queues the last ones of
    /// rooms of which it refused some, or was not sent some, if that is [`CATCH_UP_AFTER_MS`] ago,
    /// a page of rooms. What led to them it will ask for. Answers how many there are.
    ///
    /// # Errors
    /// Storage failed.
    pub fn catch_up(&self, destination: &ServerName, now_ms: u64) -> Result<usize, StorageError> {
        let due_ms = now_ms.saturating_sub(CATCH_UP_AFTER_MS);
        loop {
            let _writing = self.writing();
            let page = owed::owed(&self.database, destination, due_ms, OWED_AT_ONCE)?;
            if page.is_empty() || self.depth_up_to(destination, OWED_AT_ONCE)? >= OWED_AT_ONCE {
                return Ok(0);
            }
            let (mut batch, mut queued) = (self.database.batch(), 0);
            // What is noted from now on is of another round.
            let mut met = self.met(destination)?;
            if met.owed_since_ms > 0 && met.owed_since_ms <= due_ms {
                met.owed_since_ms = 0;
                rows::put_destination(&mut batch, destination, &met);
            }
            for one in &page {
                owed::delete(&mut batch, destination, one);
                for event_id in self.makes_up(destination, one)? {
                    let position = batch.position();
                    rows::push_pdu(&mut batch, destination, position, &event_id);
                    queued += 1;
                }
            }
            let _commit = self.database.commit_durable(batch)?;
            // Else nothing of the page concerns it any more, and there may be another.
            if queued > 0 {
                self.notifier.notify([&Topic::Outbox]);
                return Ok(queued);
            }
        }
    }

    /// The events that make up for what `destination` was not sent.
    fn makes_up(&self, destination: &ServerName, owed: &Owed) -> Result<Vec<OwnedEventId>, StorageError> {
        if let Some(event_id) = &owed.event_id {
            return Ok(vec![event_id.clone()]);
        }
        if rooms::server_count(&self.database, &owed.room_id, destination)? == 0 {
            return Ok(Vec::new());
        }
        let heads = rooms::room(&self.database, &owed.room_id)?.map(|room| room.heads).unwrap_or_default();
        Ok(heads.into_iter().take(OWED_HEADS_MAX).map(|head| head.event_id).collect())
    }
}
