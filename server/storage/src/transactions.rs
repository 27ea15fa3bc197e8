//! Transaction ids: which requests of a device were done already, and with
//! what outcome (client-server API, "Transaction identifiers").

use ruma::{DeviceId, EventId, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Cf, Direction, Read, StorageError,
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

/// Rows of one step over all.
#[derive(Debug, Default)]
pub struct Page {
    /// The rows' keys, and what was answered or which event was made.
    pub rows: Vec<(Vec<u8>, String)>,
    /// Where to go on; `None` at the end.
    pub next: Option<Vec<u8>>,
}

/// Up to `limit` answers from `from` on.
pub fn answers(read: &impl Read, from: Option<&[u8]>, limit: usize) -> Result<Page, StorageError> {
    page(read, Cf::Transactions, from, limit, |_, row| codec::decode(Cf::Transactions, row))
}

/// Replaces an answer by its key.
pub fn replace_answer(batch: &mut Batch, key: &[u8], answer: &str) {
    batch.put(Cf::Transactions, key, codec::encode(answer));
}

/// Forgets an answer by its key.
pub fn delete_answer(batch: &mut Batch, key: &[u8]) {
    batch.delete(Cf::Transactions, key);
}

/// Up to `limit` events that were made by requests, from `from` on.
pub fn origins(read: &impl Read, from: Option<&[u8]>, limit: usize) -> Result<Page, StorageError> {
    let event_id = |key: &[u8], _: &[u8]| Ok(codec::KeyParts::new(Cf::EventOrigins, key).str()?.to_owned());
    page(read, Cf::EventOrigins, from, limit, event_id)
}

/// Forgets which request made an event, by the row's key.
pub fn delete_origin(batch: &mut Batch, key: &[u8]) {
    batch.delete(Cf::EventOrigins, key);
}

fn page(
    read: &impl Read,
    cf: Cf,
    from: Option<&[u8]>,
    limit: usize,
    says: impl Fn(&[u8], &[u8]) -> Result<String, StorageError>,
) -> Result<Page, StorageError> {
    let mut found = read.scan(cf, &[], from, Direction::Forward, limit.saturating_add(1))?;
    let next = if found.len() > limit { found.pop().map(|(key, _)| key) } else { None };
    let rows = found.into_iter().map(|(key, row)| {
        let said = says(&key, &row)?;
        Ok((key, said))
    });
    Ok(Page { rows: rows.collect::<Result<_, StorageError>>()?, next })
}

fn row(user_id: &UserId, device_id: &DeviceId, transaction_id: &str, endpoint: &str) -> codec::Key {
    key().str(user_id).str(device_id).str(transaction_id).str(endpoint)
}
