//! Change logs: entries by dot and by id, the shape of the logs, values, forks,
//! and the verify keys that the entries were signed with.
//!
//! Invariants: [`LinkRow`] of an id is written in the batch that writes the
//! entry; the shape rows ([`put_log`]) of a room say what its entries are.

use causeway_shared_space::{
    ChangeId, Counter, Dot, ReplicaId, Standing,
    change_log::{Link, ReplicaLog, RunId},
};
use ruma::RoomId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{key_with_id, last_text, parts, trailing_id};
use crate::{
    Batch, Cf, Direction, Read, Row, StorageError,
    codec::{self, KeyParts},
};

/// One held entry, without its value.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EntryRow {
    /// Header and signature as received: `{"header", "signature"}`.
    pub entry: Box<RawValue>,
    /// What the entry counts for.
    pub standing: Standing,
    /// When it became held here (ms since the epoch).
    pub received_ts: u64,
}

/// Where an entry hangs, and whether it has effect: what most lookups need.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkRow {
    /// Its dot.
    pub dot: Dot,
    /// The entry before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<ChangeId>,
    /// The run that it is part of.
    pub run: RunId,
    /// Whether it takes part in its item.
    pub effective: bool,
}

impl LinkRow {
    /// The row for a placed entry.
    pub fn new(link: Link, effective: bool) -> Self {
        Self { dot: link.dot, previous: link.previous, run: link.run, effective }
    }

    /// As the pure crate has it.
    pub fn link(self) -> Link {
        Link { dot: self.dot, previous: self.previous, run: self.run }
    }
}

/// A server's verify key that entries were checked with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerifyKeyRow {
    /// The public key, unpadded base64.
    pub key: String,
    /// Until when the origin said it is valid (ms since the epoch).
    pub valid_until_ts: u64,
    /// The server's key object in which it was published, signed; served with the entries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<Box<str>>,
    /// Only a peer that served entries says so, and a room's events bear it out: it
    /// counts in that room, and gives way to the server's own word.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hearsay: bool,
    /// The key of who speaks for the server, by a claim that is relied on until then (ms since
    /// the epoch): what it signed and is not held yet is taken no longer. None: the server's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub claimed_until_ts: Option<u64>,
}

/// Where a held entry hangs.
pub fn link(db: &impl Read, room: &RoomId, id: &ChangeId) -> Result<Option<LinkRow>, StorageError> {
    codec::get(db, Cf::SpaceIds, &key_with_id(&[room.as_str()], id))
}

/// The held entries with this dot: more than one after a fork.
pub fn at(db: &impl Read, room: &RoomId, dot: &Dot) -> Result<Vec<ChangeId>, StorageError> {
    let prefix = dot_key(room, &dot.replica, dot.counter);
    let rows = db.scan(Cf::SpaceEntries, &prefix, None, Direction::Forward, usize::MAX)?;
    Ok(rows.iter().filter_map(|(key, _)| trailing_id(key)).collect())
}

/// The entry with this id, if it is held.
pub fn entry(db: &impl Read, room: &RoomId, id: &ChangeId) -> Result<Option<EntryRow>, StorageError> {
    let Some(link) = link(db, room, id)? else { return Ok(None) };
    codec::get(db, Cf::SpaceEntries, &entry_key(room, &link.dot, id))
}

/// Entries of one replica with a counter of at least `from`, of all its
/// branches, at most `limit`; with `after`, past the entry of that counter and id.
pub fn entries_from(
    db: &impl Read,
    room: &RoomId,
    replica: &ReplicaId,
    from: Counter,
    after: Option<&ChangeId>,
    limit: usize,
) -> Result<Vec<(u64, ChangeId, EntryRow)>, StorageError> {
    let prefix = parts(&[room.as_str(), replica.as_str()]);
    let mut from = dot_key(room, replica, from);
    if let Some(after) = after {
        from.extend_from_slice(after.as_bytes());
        from.push(0);
    }
    let rows = db.scan(Cf::SpaceEntries, &prefix, Some(&from), Direction::Forward, limit)?;
    rows.iter()
        .map(|(key, row)| {
            let mut parts = KeyParts::new(Cf::SpaceEntries, key);
            parts.str()?;
            parts.str()?;
            let (counter, id) = (parts.u64()?, ChangeId::from_bytes(parts.bytes()?));
            Ok((counter, id, codec::decode(Cf::SpaceEntries, row)?))
        })
        .collect()
}

/// The shape of a room's logs, by replica.
pub fn logs(db: &impl Read, room: &RoomId) -> Result<Vec<(ReplicaId, ReplicaLog)>, StorageError> {
    let rows = db.scan(Cf::SpaceLogs, &parts(&[room.as_str()]), None, Direction::Forward, usize::MAX)?;
    rows.iter()
        .map(|(key, row)| {
            let replica = last_text(Cf::SpaceLogs, key)?
                .parse()
                .map_err(|_| StorageError::BrokenKey { cf: Cf::SpaceLogs.name() })?;
            Ok((replica, codec::decode(Cf::SpaceLogs, row)?))
        })
        .collect()
}

/// Rooms in which this server holds a log, after `after`, at most `limit`.
pub fn rooms(db: &impl Read, after: Option<&str>, limit: usize) -> Result<Vec<String>, StorageError> {
    let mut rooms: Vec<String> = Vec::new();
    let mut from = after.map(past_room);
    while rooms.len() < limit {
        let rows = db.scan(Cf::SpaceLogs, &[], from.as_deref(), Direction::Forward, 1)?;
        let Some((key, _)) = rows.first() else { break };
        let room = KeyParts::new(Cf::SpaceLogs, key).str()?.to_owned();
        from = Some(past_room(&room));
        rooms.push(room);
    }
    Ok(rooms)
}

/// After all keys of a room: no replica's text begins with 0xFF.
fn past_room(room: &str) -> Vec<u8> {
    let mut key = parts(&[room]);
    key.push(codec::SEPARATOR);
    key
}

/// A held value, as canonical JSON.
pub fn value(db: &impl Read, room: &RoomId, id: &ChangeId) -> Result<Option<Vec<u8>>, StorageError> {
    db.get(Cf::SpaceValues, &key_with_id(&[room.as_str()], id))
}

/// Held values in the order of `ids`.
pub fn values(db: &impl Read, room: &RoomId, ids: &[ChangeId]) -> Result<Vec<Option<Vec<u8>>>, StorageError> {
    let keys: Vec<_> = ids.iter().map(|id| key_with_id(&[room.as_str()], id)).collect();
    db.multi_get(Cf::SpaceValues, &keys)
}

/// Up to `limit` values of all rooms after a row, each with its row.
pub fn values_after(db: &impl Read, after: Option<&[u8]>, limit: usize) -> Result<Vec<Row>, StorageError> {
    let from = after.map(|after| [after, &[0]].concat());
    db.scan(Cf::SpaceValues, &[], from.as_deref(), Direction::Forward, limit)
}

/// Up to `limit` proofs of forks in a room, each the JSON of two entries.
pub fn forks(db: &impl Read, room: &RoomId, limit: usize) -> Result<Vec<Vec<u8>>, StorageError> {
    let rows = db.scan(Cf::SpaceForks, &parts(&[room.as_str()]), None, Direction::Forward, limit)?;
    Ok(rows.into_iter().map(|(_, proof)| proof).collect())
}

/// The verify key that entries of `server` were checked with, by its own word or
/// a notary's.
pub fn verify_key(db: &impl Read, server: &str, key_id: &str) -> Result<Option<VerifyKeyRow>, StorageError> {
    let row: Option<VerifyKeyRow> = codec::get(db, Cf::SpaceKeys, &parts(&[server, key_id]))?;
    // Rows of old may be what some peer said.
    Ok(row.filter(|row| !row.hearsay))
}

/// The verify key of `server` that is believed in one room, because its events show it.
pub fn verify_key_in(
    db: &impl Read,
    room: &RoomId,
    server: &str,
    key_id: &str,
) -> Result<Option<VerifyKeyRow>, StorageError> {
    codec::get(db, Cf::SpaceKeys, &parts(&[server, key_id, room.as_str()]))
}

/// Verify keys of `server` that entries of a room may be checked with, of the
/// first `limit` that are kept.
pub fn verify_keys(
    db: &impl Read,
    room: &RoomId,
    server: &str,
    limit: usize,
) -> Result<Vec<VerifyKeyRow>, StorageError> {
    let rows = db.scan(Cf::SpaceKeys, &parts(&[server]), None, Direction::Forward, limit)?;
    let mut keys = Vec::new();
    for (key, row) in &rows {
        let mut parts = KeyParts::new(Cf::SpaceKeys, key);
        parts.str()?;
        parts.str()?;
        let row: VerifyKeyRow = codec::decode(Cf::SpaceKeys, row)?;
        let good = if parts.rest().is_empty() { !row.hearsay } else { parts.str()? == room.as_str() };
        keys.extend(good.then_some(row));
    }
    Ok(keys)
}

/// Up to `limit` entries of a room that could not be judged yet, in the order of
/// their ids, past `after`.
pub fn unproven(
    db: &impl Read,
    room: &RoomId,
    after: Option<&ChangeId>,
    limit: usize,
) -> Result<Vec<ChangeId>, StorageError> {
    let prefix = parts(&[room.as_str()]);
    let from = after.map(|after| {
        let mut from = key_with_id(&[room.as_str()], after);
        from.push(0);
        from
    });
    let rows = db.scan(Cf::SpaceUnproven, &prefix, from.as_deref(), Direction::Forward, limit)?;
    Ok(rows.iter().filter_map(|(key, _)| trailing_id(key)).collect())
}

/// Writes an entry and where it hangs.
pub fn put_entry(batch: &mut Batch, room: &RoomId, id: &ChangeId, link: &LinkRow, row: &EntryRow) {
    codec::put(batch, Cf::SpaceEntries, entry_key(room, &link.dot, id), row);
    put_link(batch, room, id, link);
}

/// Writes where an entry hangs.
pub fn put_link(batch: &mut Batch, room: &RoomId, id: &ChangeId, link: &LinkRow) {
    codec::put(batch, Cf::SpaceIds, key_with_id(&[room.as_str()], id), link);
}

/// Writes the shape of one replica's log.
pub fn put_log(batch: &mut Batch, room: &RoomId, replica: &ReplicaId, row: &ReplicaLog) {
    codec::put(batch, Cf::SpaceLogs, parts(&[room.as_str(), replica.as_str()]), row);
}

/// Keeps a value.
pub fn put_value(batch: &mut Batch, room: &RoomId, id: &ChangeId, canonical: &str) {
    batch.put(Cf::SpaceValues, key_with_id(&[room.as_str()], id), canonical);
}

/// Forgets a value (retention).
pub fn delete_value(batch: &mut Batch, room: &RoomId, id: &ChangeId) {
    batch.delete(Cf::SpaceValues, key_with_id(&[room.as_str()], id));
}

/// Erases a value for good: an empty row stays, so that the value is not kept
/// when it comes again (redaction).
pub fn erase_value(batch: &mut Batch, room: &RoomId, id: &ChangeId) {
    batch.put(Cf::SpaceValues, key_with_id(&[room.as_str()], id), []);
}

/// Keeps the proof of a fork.
pub fn put_fork(batch: &mut Batch, room: &RoomId, dot: &Dot, ids: [&ChangeId; 2], proof: &str) {
    let mut key = dot_key(room, &dot.replica, dot.counter);
    for id in ids {
        key.extend_from_slice(id.as_bytes());
    }
    batch.put(Cf::SpaceForks, key, proof);
}

/// Keeps a verify key with the entries that need it.
pub fn put_verify_key(batch: &mut Batch, server: &str, key_id: &str, row: &VerifyKeyRow) {
    codec::put(batch, Cf::SpaceKeys, parts(&[server, key_id]), row);
}

/// Keeps a verify key for the entries of one room.
pub fn put_verify_key_in(batch: &mut Batch, room: &RoomId, server: &str, key_id: &str, row: &VerifyKeyRow) {
    codec::put(batch, Cf::SpaceKeys, parts(&[server, key_id, room.as_str()]), row);
}

/// Notes that an entry could not be judged yet.
pub fn put_unproven(batch: &mut Batch, room: &RoomId, id: &ChangeId) {
    batch.put(Cf::SpaceUnproven, key_with_id(&[room.as_str()], id), []);
}

/// The entry is judged.
pub fn delete_unproven(batch: &mut Batch, room: &RoomId, id: &ChangeId) {
    batch.delete(Cf::SpaceUnproven, key_with_id(&[room.as_str()], id));
}

fn dot_key(room: &RoomId, replica: &ReplicaId, counter: Counter) -> Vec<u8> {
    let mut key = parts(&[room.as_str(), replica.as_str()]);
    key.extend_from_slice(&counter.value().to_be_bytes());
    key
}

fn entry_key(room: &RoomId, dot: &Dot, id: &ChangeId) -> Vec<u8> {
    let mut key = dot_key(room, &dot.replica, dot.counter);
    key.extend_from_slice(id.as_bytes());
    key
}
