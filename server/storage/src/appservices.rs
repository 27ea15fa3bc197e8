//! What is kept for each application service: how far it was told, the transaction that
//! it has not acknowledged, and what beside events waits for it.
//!
//! Only rows; what is told to whom is decided in `causeway_service::appservices`.
//!
//! Invariant: of a service there is one transaction at most, and its body does not change.

use ruma::{OwnedDeviceId, OwnedUserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Batch, Cf, Direction, Full, Read, StorageError, StreamPosition,
    codec::{self, KeyParts, key},
};

/// How far a service is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Up to where the stream was put into transactions.
    pub position: StreamPosition,
}

/// A transaction that was made and is not acknowledged.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Transaction {
    /// Its id, the same at each attempt.
    pub id: String,
    /// Its body, likewise.
    pub body: Box<RawValue>,
}

/// What waits for a service beside the events of its rooms.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Queued {
    /// An event of a room that this server is not in, as clients see events.
    Event {
        /// The event.
        event: Box<RawValue>,
    },
    /// A message to a device of one of its users.
    ToDevice {
        /// The user.
        user_id: OwnedUserId,
        /// The device.
        device_id: OwnedDeviceId,
        /// `sender`, `type` and `content`.
        event: Box<RawValue>,
    },
    /// One-time keys of a device were taken.
    Keys {
        /// The user.
        user_id: OwnedUserId,
        /// The device.
        device_id: OwnedDeviceId,
    },
}

/// How far a service is; `None` for one that is new.
pub fn progress(read: &(impl Read + ?Sized), service: &str) -> Result<Option<Progress>, StorageError> {
    codec::get(read, Cf::AppserviceProgress, key().str(service).as_ref())
}

/// Services of which something is stored, at most `limit`.
pub fn known(read: &(impl Read + ?Sized), limit: usize) -> Result<Vec<String>, StorageError> {
    let rows = read.scan(Cf::AppserviceProgress, &[], None, Direction::Forward, limit)?;
    let name = |row: &[u8]| KeyParts::new(Cf::AppserviceProgress, row).str().map(str::to_owned);
    rows.iter().map(|(row, _)| name(row)).collect()
}

/// Forgets all of a service that is registered no longer.
pub fn forget(batch: &mut Batch, service: &str) {
    batch.delete(Cf::AppserviceProgress, key().str(service));
    batch.delete(Cf::AppserviceTransactions, key().str(service));
    batch.delete_prefix(Cf::AppserviceQueue, key().str(service));
}

/// Writes it.
pub fn put_progress(batch: &mut Batch, service: &str, progress: &Progress) {
    codec::put(batch, Cf::AppserviceProgress, key().str(service), progress);
}

/// What the service has not acknowledged.
pub fn transaction(read: &(impl Read + ?Sized), service: &str) -> Result<Option<Transaction>, StorageError> {
    codec::get(read, Cf::AppserviceTransactions, key().str(service).as_ref())
}

/// Keeps it until [`delete_transaction`].
pub fn put_transaction(batch: &mut Batch, service: &str, transaction: &Transaction) {
    codec::put(batch, Cf::AppserviceTransactions, key().str(service), transaction);
}

/// The service has it.
pub fn delete_transaction(batch: &mut Batch, service: &str) {
    batch.delete(Cf::AppserviceTransactions, key().str(service));
}

/// Queues something beside events.
pub fn put_queued(batch: &mut Batch, service: &str, position: StreamPosition, queued: &Queued) {
    codec::put(batch, Cf::AppserviceQueue, key().str(service).u64(position.0), queued);
}

/// Whether so much waits for a service beside events.
pub fn is_full(read: &(impl Read + ?Sized), service: &str, full: Full) -> Result<bool, StorageError> {
    read.is_full(Cf::AppserviceQueue, key().str(service).as_ref(), full)
}

/// What waits for a service and is not after `until`, oldest first, at most `limit`.
pub fn queued(
    read: &(impl Read + ?Sized),
    service: &str,
    until: StreamPosition,
    limit: usize,
) -> Result<Vec<(StreamPosition, Queued)>, StorageError> {
    let rows =
        read.scan(Cf::AppserviceQueue, key().str(service).as_ref(), None, Direction::Forward, limit)?;
    let mut queued = Vec::with_capacity(rows.len());
    for (row, value) in rows {
        let mut parts = KeyParts::new(Cf::AppserviceQueue, &row);
        parts.str()?;
        let position = StreamPosition(parts.u64()?);
        if position > until {
            break;
        }
        queued.push((position, codec::decode(Cf::AppserviceQueue, &value)?));
    }
    Ok(queued)
}

/// It is in a transaction.
pub fn delete_queued(batch: &mut Batch, service: &str, position: StreamPosition) {
    batch.delete(Cf::AppserviceQueue, key().str(service).u64(position.0));
}

#[cfg(test)]
mod tests {
    use ruma::{owned_device_id, owned_user_id};

    use super::*;

    #[test]
    fn the_stored_bytes_are_these() {
        assert_eq!(codec::encode(&Progress { position: StreamPosition(7) }), b"\x01{\"position\":7}");
        let (user_id, device_id) = (owned_user_id!("@a:b.c"), owned_device_id!("D"));
        let event = RawValue::from_string("{\"type\":\"x\"}".to_owned()).expect("JSON");
        let queued = Queued::ToDevice { user_id, device_id, event };
        let expected = br#"\x01{"to_device":{"user_id":"@a:b.c","device_id":"D","event":{"type":"x"}}}"#;
        let stored = codec::encode(&queued);
        assert_eq!((stored[0], &stored[1..]), (1, &expected[4..]));
        let read: Queued = codec::decode(Cf::AppserviceQueue, &stored).expect("reads");
        assert!(matches!(read, Queued::ToDevice { event, .. } if event.get() == "{\"type\":\"x\"}"));
    }
}
