//! Rows of device lists between servers: how far others were told of our
//! users' devices, and what is held of the devices of theirs.
//!
//! A remote list is one row: it changes as a whole and is read as a whole.

use std::collections::BTreeMap;

use ruma::{OwnedServerName, OwnedUserId, ServerName, UserId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::{
    Batch, Cf, Direction, Read, StorageError, StreamPosition,
    codec::{self, Key, KeyParts, key},
};

/// The devices and cross-signing keys of a user of another server.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct RemoteList {
    /// The number of the last change that is in it, as its server counts.
    pub stream_id: u64,
    /// Signed device keys by device id, raw as far as they are signed.
    pub devices: BTreeMap<String, Box<RawValue>>,
    /// The master key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub master: Option<Box<RawValue>>,
    /// The self-signing key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub self_signing: Option<Box<RawValue>>,
}

/// A list that is to be fetched, and how that went so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stale {
    /// Attempts that failed in a row.
    pub failures: u32,
    /// No attempt before this time, milliseconds since the Unix epoch.
    pub retry_at_ms: u64,
    /// Where in the stream it was last marked: one who fetched it knows by this
    /// whether the list changed meanwhile, also if the row was deleted in between.
    pub marks: u64,
    /// Whether the users here know that it changed.
    #[serde(default)]
    pub told: Told,
}

/// What the users here were told of changes of a list since it is to be fetched:
/// until it was, they are told of one, and of all others together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// Of none: perhaps there was none.
    #[default]
    No,
    /// Of the first.
    First,
    /// Of the first; there were others, which they are to be told of at the end.
    Owed,
}

/// The number of the last change of a local user's devices; zero before the first.
pub fn number(read: &impl Read, user_id: &UserId) -> Result<u64, StorageError> {
    let row = read.get(Cf::DeviceListNumbers, key().str(user_id).as_ref())?;
    row.map_or(Ok(0), |bytes| codec::decode_u64(Cf::DeviceListNumbers, &bytes))
}

/// Sets it.
pub fn put_number(batch: &mut Batch, user_id: &UserId, number: StreamPosition) {
    batch.put(Cf::DeviceListNumbers, key().str(user_id), number.0.to_be_bytes());
}

/// What is held of a user of another server.
pub fn remote(read: &impl Read, user_id: &UserId) -> Result<Option<RemoteList>, StorageError> {
    codec::get(read, Cf::RemoteDeviceLists, key().str(user_id).as_ref())
}

/// Replaces it.
pub fn put_remote(batch: &mut Batch, user_id: &UserId, list: &RemoteList) {
    codec::put(batch, Cf::RemoteDeviceLists, key().str(user_id), list);
}

/// Forgets it, and that it was to be fetched.
pub fn delete_remote(batch: &mut Batch, user_id: &UserId) {
    batch.delete(Cf::RemoteDeviceLists, key().str(user_id));
    delete_stale(batch, user_id);
}

/// Whether anything is held of a user, or is to be fetched.
pub fn is_known(read: &impl Read, user_id: &UserId) -> Result<bool, StorageError> {
    let is_stale = read.get(Cf::StaleDeviceLists, stale_key(user_id).as_ref())?.is_some();
    Ok(is_stale || read.get(Cf::RemoteDeviceLists, key().str(user_id).as_ref())?.is_some())
}

fn stale_key(user_id: &UserId) -> Key {
    key().str(user_id.server_name()).str(user_id)
}

/// Marks a user's list as to be fetched: one that is being fetched is fetched
/// again, and one that could not be is tried at once.
pub fn mark(read: &impl Read, batch: &mut Batch, user_id: &UserId) -> Result<(), StorageError> {
    let known = stale(read, user_id)?.unwrap_or_default();
    let marks = batch.position().0;
    put_stale(batch, user_id, &Stale { retry_at_ms: 0, marks, ..known });
    Ok(())
}

/// The same for a list of which a change was heard of. Whether the users here
/// are to be told now: they are told once until it was fetched.
pub fn mark_changed(read: &impl Read, batch: &mut Batch, user_id: &UserId) -> Result<bool, StorageError> {
    let known = stale(read, user_id)?.unwrap_or_default();
    let told = if known.told == Told::No { Told::First } else { Told::Owed };
    let marks = batch.position().0;
    put_stale(batch, user_id, &Stale { retry_at_ms: 0, marks, told, ..known });
    Ok(told == Told::First)
}

/// Whether a user's list is to be fetched.
pub fn stale(read: &impl Read, user_id: &UserId) -> Result<Option<Stale>, StorageError> {
    codec::get(read, Cf::StaleDeviceLists, stale_key(user_id).as_ref())
}

/// Notes that it is, or how an attempt went.
pub fn put_stale(batch: &mut Batch, user_id: &UserId, stale: &Stale) {
    codec::put(batch, Cf::StaleDeviceLists, stale_key(user_id), stale);
}

/// Notes that it was fetched.
pub fn delete_stale(batch: &mut Batch, user_id: &UserId) {
    batch.delete(Cf::StaleDeviceLists, stale_key(user_id));
}

/// The first server after `after`, in the order of names, with lists that are to be fetched.
pub fn next_stale_server(
    read: &impl Read,
    after: Option<&ServerName>,
) -> Result<Option<OwnedServerName>, StorageError> {
    // User ids are text, so no row of the server follows this.
    let from = after.map(|server| key().str(server).bytes(&[u8::MAX]).finish());
    let rows = read.scan(Cf::StaleDeviceLists, b"", from.as_deref(), Direction::Forward, 1)?;
    let broken = |_| StorageError::BrokenKey { cf: Cf::StaleDeviceLists.name() };
    let server =
        |row: &[u8]| ServerName::parse(KeyParts::new(Cf::StaleDeviceLists, row).str()?).map_err(broken);
    rows.first().map(|(row, _)| server(row)).transpose()
}

/// Lists of a server's users that are to be fetched, of users after `after` in
/// order, at most `limit`.
pub fn stale_of(
    read: &impl Read,
    server: &ServerName,
    after: Option<&UserId>,
    limit: usize,
) -> Result<Vec<(OwnedUserId, Stale)>, StorageError> {
    let prefix = key().str(server);
    let from = after.map(|user_id| stale_key(user_id).bytes(&[0]).finish());
    let rows =
        read.scan(Cf::StaleDeviceLists, prefix.as_ref(), from.as_deref(), Direction::Forward, limit)?;
    let decoded = rows.iter().map(|(row, value)| {
        let mut parts = KeyParts::new(Cf::StaleDeviceLists, row);
        parts.str()?;
        let broken = |_| StorageError::BrokenKey { cf: Cf::StaleDeviceLists.name() };
        let user_id = OwnedUserId::try_from(parts.str()?).map_err(broken)?;
        Ok((user_id, codec::decode(Cf::StaleDeviceLists, value)?))
    });
    decoded.collect()
}
