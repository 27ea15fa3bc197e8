//! Events that point to other events: relations and redactions.

use ruma::{EventId, OwnedEventId};
use serde::{Deserialize, Serialize};

use super::{event_id_part, event_id_value};
use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{self, KeyParts, key},
};

/// An event that relates to another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Related {
    /// Where it stands in the timeline.
    #[serde(skip)]
    pub position: i64,
    /// The event.
    pub event_id: OwnedEventId,
    /// `rel_type` of its `m.relates_to`.
    pub rel_type: String,
    /// Its type.
    pub kind: String,
}

/// Notes that an event relates to `target`.
pub fn put_relation(batch: &mut Batch, target: &EventId, related: &Related) {
    codec::put(batch, Cf::Relations, key().str(target).i64(related.position), related);
}

/// Takes that back.
pub(super) fn delete_relation(batch: &mut Batch, target: &EventId, position: i64) {
    batch.delete(Cf::Relations, key().str(target).i64(position));
}

/// What relates to `target`, from a position (inclusive), at most `limit`.
pub fn relations(
    read: &(impl Read + ?Sized),
    target: &EventId,
    from: Option<i64>,
    direction: Direction,
    limit: usize,
) -> Result<Vec<Related>, StorageError> {
    let from = from.map(|position| key().str(target).i64(position).finish());
    let rows = read.scan(Cf::Relations, key().str(target).as_ref(), from.as_deref(), direction, limit)?;
    rows.iter()
        .map(|(row, value)| {
            let mut parts = KeyParts::new(Cf::Relations, row);
            parts.str()?;
            let position = parts.i64()?;
            let related: Related = codec::decode(Cf::Relations, value)?;
            Ok(Related { position, ..related })
        })
        .collect()
}

/// The event that redacted `target`, if one did and was allowed to.
pub fn redaction_of(
    read: &(impl Read + ?Sized),
    target: &EventId,
) -> Result<Option<OwnedEventId>, StorageError> {
    let value = read.get(Cf::Redactions, key().str(target).as_ref())?;
    value.map(|value| event_id_value(Cf::Redactions, &value)).transpose()
}

/// Notes that `redaction` redacts `target`.
pub fn put_redaction(batch: &mut Batch, target: &EventId, redaction: &EventId) {
    batch.put(Cf::Redactions, key().str(target), redaction.as_str());
}

/// Redactions of an event that was not held when they came, at most `limit`.
pub fn pending_redactions(
    read: &(impl Read + ?Sized),
    target: &EventId,
    limit: usize,
) -> Result<Vec<OwnedEventId>, StorageError> {
    let rows =
        read.scan(Cf::PendingRedactions, key().str(target).as_ref(), None, Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, _)| {
            let mut parts = KeyParts::new(Cf::PendingRedactions, row);
            parts.str()?;
            event_id_part(Cf::PendingRedactions, &mut parts)
        })
        .collect()
}

/// Keeps a redaction for when its target comes.
pub fn put_pending_redaction(batch: &mut Batch, target: &EventId, redaction: &EventId) {
    batch.put(Cf::PendingRedactions, key().str(target).str(redaction), []);
}
