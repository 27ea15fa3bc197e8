//! Transaction ids: which requests of a device were done already, and with
//! what outcome (client-server API, "Transaction identifiers").

use ruma::{DeviceId, EventId, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Cf, Read, StorageError,
    codec::{self, key},
};

/// Which request an event came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// Whose.
    pub user_id: String,
    /// From which device.
    pub device_id: String,
    /// Its transaction id.
    pub transaction_id: String,
}

/// What was answered to this transaction id at this endpoint, if it was used before.
pub fn answer(
    read: &(impl Read + ?Sized),
    user_id: &UserId,
    device_id: &DeviceId,
    transaction_id: &str,
    endpoint: &str,
) -> Result<Option<String>, StorageError> {
    codec::get(read, Cf::Transactions, row(user_id, device_id, transaction_id, endpoint).as_ref())
}

/// Remembers the answer.
pub fn put_answer(
    batch: &mut Batch,
    user_id: &UserId,
    device_id: &DeviceId,
    transaction_id: &str,
    endpoint: &str,
    answer: &str,
) {
    codec::put(batch, Cf::Transactions, row(user_id, device_id, transaction_id, endpoint), answer);
}

/// The request that made an event, if it had a transaction id.
pub fn origin(read: &(impl Read + ?Sized), event_id: &EventId) -> Result<Option<Origin>, StorageError> {
    codec::get(read, Cf::EventOrigins, key().str(event_id).as_ref())
}

/// Remembers it.
pub fn put_origin(batch: &mut Batch, event_id: &EventId, origin: &Origin) {
    codec::put(batch, Cf::EventOrigins, key().str(event_id), origin);
}

fn row(user_id: &UserId, device_id: &DeviceId, transaction_id: &str, endpoint: &str) -> codec::Key {
    key().str(user_id).str(device_id).str(transaction_id).str(endpoint)
}
