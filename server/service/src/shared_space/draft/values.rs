//! Which values are kept, and which files and values are asked for.
//!
//! Invariants: a change that counts for nothing has no value here; an erased
//! value is not kept when it comes again; nothing is fetched for a change before
//! it has effect.

use causeway_shared_space::{Change, Header, Standing};
use causeway_storage::{
    Batch,
    shared_space::{
        entries,
        queues::{self, Queue, QueueRow},
    },
};

use super::{
    super::{error::SpaceError, quota, wanted_media},
    Draft,
};

impl Draft<'_> {
    /// Keeps the value of an entry that is held without it.
    pub fn keep_missing_value(&mut self, batch: &mut Batch, change: &Change) -> Result<(), SpaceError> {
        let id = change.id();
        if change.value().is_none() || entries::value(self.db, self.room, &id)?.is_some() {
            return Ok(());
        }
        match entries::entry(self.db, self.room, &id)? {
            Some(row) if self.has_room(change.header(), quota::value_size(change))? => {
                self.quota.add(change.server(), quota::value_size(change));
                self.keep_value(batch, change, row.standing)
            }
            _ => Ok(()),
        }
    }

    /// Whether its server may put so many bytes more into the room. This server may.
    pub(super) fn has_room(&mut self, header: &Header, bytes: u64) -> Result<bool, SpaceError> {
        let origin = header.server();
        Ok(origin == self.own || self.quota.has_room(self.db, self.room, origin, bytes)?)
    }

    /// Keeps the value of a change, if it is at hand and the change may have one.
    pub(super) fn keep_value(
        &mut self,
        batch: &mut Batch,
        change: &Change,
        standing: Standing,
    ) -> Result<(), SpaceError> {
        if matches!(standing, Standing::Void(_)) || self.is_erased(change.header())? {
            return Ok(());
        }
        if let Some(value) = change.value() {
            let id = change.id();
            entries::put_value(batch, self.room, &id, value.as_str());
            queues::delete(batch, Queue::Value, self.room, &id.to_string());
        }
        if standing.is_effective() { self.want(batch, change) } else { Ok(()) }
    }

    /// What an effective change needs besides its header is asked for: its
    /// value, and the file that the value refers to.
    pub(super) fn want(&mut self, batch: &mut Batch, change: &Change) -> Result<(), SpaceError> {
        if change.header().value_hash().is_none() || self.is_erased(change.header())? {
            return Ok(());
        }
        let Some(value) = change.value() else {
            let row = QueueRow::due(self.now_ms);
            queues::put(batch, Queue::Value, self.room, &change.id().to_string(), &row);
            return Ok(());
        };
        if let Some(file) =
            wanted_media::file_of(value.as_str(), change.header().author().server_name(), self.own)
        {
            let before = queues::queued(self.db, Queue::Media, self.room, file.url.as_str())?;
            let row = wanted_media::row_for(&file, before.as_ref());
            queues::put(batch, Queue::Media, self.room, file.url.as_str(), &row);
            self.wanted_files = true;
        }
        Ok(())
    }

    /// Whether a redaction came before the value did.
    fn is_erased(&self, header: &Header) -> Result<bool, SpaceError> {
        let id = header.item_id();
        if self.facts.written.contains(&id) {
            return Ok(false);
        }
        let erased = entries::value(self.db, self.room, &id)?.is_some_and(|value| value.is_empty());
        Ok(erased || self.erased.contains(&id))
    }
}
