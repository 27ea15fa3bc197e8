//! Read receipts: one per user, room, type and thread.
//!
//! Not here: who may see them (private ones are their owner's alone).

use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    Batch, Cf, Direction, Read, StorageError, StreamPosition,
    codec::{self, KeyParts, key},
};

/// Receipts read at once.
const PAGE: usize = 32;

/// Where somebody has read up to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Receipt {
    /// The last event read.
    pub event_id: OwnedEventId,
    /// When, in milliseconds since the epoch, as the reader's server says.
    pub ts_ms: u64,
    /// Where in the stream the receipt was set.
    pub position: StreamPosition,
}

/// A receipt with what it is filed under.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FiledReceipt {
    /// Whose.
    pub user_id: OwnedUserId,
    /// `m.read` or `m.read.private`.
    pub kind: String,
    /// `main`, a thread's root, or empty for a receipt without thread.
    pub thread: String,
    /// The receipt.
    pub receipt: Receipt,
}

/// One user's receipt.
pub fn receipt(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    user_id: &UserId,
    kind: &str,
    thread: &str,
) -> Result<Option<Receipt>, StorageError> {
    codec::get(read, Cf::Receipts, row(room_id, user_id, kind, thread).as_ref())
}

/// All of one user's receipts in a room, at most `limit`.
pub fn receipts_of(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    user_id: &UserId,
    limit: usize,
) -> Result<Vec<FiledReceipt>, StorageError> {
    let prefix = key().str(room_id).str(user_id);
    let rows = read.scan(Cf::Receipts, prefix.as_ref(), None, Direction::Forward, limit)?;
    rows.iter().map(|(row, value)| filed(row, codec::decode(Cf::Receipts, value)?)).collect()
}

/// Receipts set after `since` and up to `until`, in that order, at most `limit`
/// (the latest ones, if there are more).
pub fn receipts_since(
    read: &(impl Read + ?Sized),
    room_id: &RoomId,
    since: StreamPosition,
    until: StreamPosition,
    limit: usize,
) -> Result<Vec<FiledReceipt>, StorageError> {
    let prefix = key().str(room_id);
    let mut last = until.0;
    let mut found = Vec::new();
    // Mostly few are new, of very many.
    'pages: while found.len() < limit {
        let from = prefix.clone().u64(last);
        let rows =
            read.scan(Cf::ReceiptChanges, prefix.as_ref(), Some(from.as_ref()), Direction::Backward, PAGE)?;
        let is_last = rows.len() < PAGE;
        for (row, receipt_row) in rows {
            let mut parts = KeyParts::new(Cf::ReceiptChanges, &row);
            parts.str()?;
            let position = parts.u64()?;
            if position <= since.0 || found.len() == limit {
                break 'pages;
            }
            last = position - 1;
            if let Some(receipt) = codec::get(read, Cf::Receipts, &receipt_row)? {
                found.push(filed(&receipt_row, receipt)?);
            }
        }
        if is_last {
            break;
        }
    }
    found.reverse();
    Ok(found)
}

/// Sets a receipt in place of `previous`, which the caller has read under a
/// lock that no other writer of this receipt holds.
pub fn put_receipt(
    batch: &mut Batch,
    room_id: &RoomId,
    filed: (&UserId, &str, &str),
    (event_id, ts_ms): (&EventId, u64),
    previous: Option<&Receipt>,
) -> StreamPosition {
    let (user_id, kind, thread) = filed;
    let row = row(room_id, user_id, kind, thread);
    if let Some(previous) = previous {
        batch.delete(Cf::ReceiptChanges, key().str(room_id).u64(previous.position.0));
    }
    let position = batch.position();
    batch.put(Cf::ReceiptChanges, key().str(room_id).u64(position.0), &row);
    codec::put(batch, Cf::Receipts, &row, &Receipt { event_id: event_id.to_owned(), ts_ms, position });
    position
}

fn row(room_id: &RoomId, user_id: &UserId, kind: &str, thread: &str) -> codec::Key {
    key().str(room_id).str(user_id).str(kind).str(thread)
}

fn filed(row: &[u8], receipt: Receipt) -> Result<FiledReceipt, StorageError> {
    let mut parts = KeyParts::new(Cf::Receipts, row);
    parts.str()?;
    let broken = |_| StorageError::BrokenKey { cf: Cf::Receipts.name() };
    Ok(FiledReceipt {
        user_id: UserId::parse(parts.str()?).map_err(broken)?,
        kind: parts.str()?.to_owned(),
        thread: parts.str()?.to_owned(),
        receipt,
    })
}
