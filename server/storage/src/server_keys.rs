//! Signing keys: this server's own, and what is known of other servers'.
//!
//! Rows only; which key is good for what is decided in `causeway-service` and
//! in the federation door.

use std::collections::BTreeMap;

use ruma::ServerName;
use serde::{Deserialize, Serialize};

use crate::{Batch, Cf, Direction, Read, StorageError, codec};

/// Keys of its own that a server may have had.
const OWN_KEYS_MAX: usize = 1_000;

/// One of this server's own keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnKey {
    /// The part of the key id after `ed25519:`.
    pub version: String,
    /// PKCS#8 document, base64.
    pub document: String,
    /// When it was made, milliseconds since the Unix epoch.
    pub created_ms: u64,
    /// When it was last used for signing; `None`: it still is.
    pub expired_ms: Option<u64>,
}

/// What is known of another server's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteKeys {
    /// Every key ever seen properly signed, by key id. None is ever dropped: old
    /// events stay verifiable when their server is gone.
    pub keys: BTreeMap<String, RemoteKey>,
    /// The newest document as the server signed it, to answer others with.
    pub document: Option<String>,
    /// Earlier documents, oldest first, that list keys which the server no longer tells of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub former: Vec<String>,
    /// When the newest document was fetched, milliseconds since the Unix epoch.
    pub fetched_ms: u64,
}

/// One key of another server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RemoteKey {
    /// Public key, unpadded base64.
    pub key: String,
    /// Good for signatures made up to this time, milliseconds since the Unix epoch.
    pub valid_until_ms: u64,
    /// Listed as an old key: no longer good for requests.
    pub retired: bool,
}

/// This server's own keys.
pub fn own(read: &impl Read) -> Result<Vec<OwnKey>, StorageError> {
    let rows = read.scan(Cf::ServerKeys, &[], None, Direction::Forward, OWN_KEYS_MAX)?;
    rows.iter().map(|(_, value)| codec::decode(Cf::ServerKeys, value)).collect()
}

/// Sets one of this server's own keys.
pub fn put_own(batch: &mut Batch, key: &OwnKey) {
    codec::put(batch, Cf::ServerKeys, codec::key().str(&key.version), key);
}

/// What is known of the keys of `server`.
pub fn remote(read: &impl Read, server: &ServerName) -> Result<Option<RemoteKeys>, StorageError> {
    codec::get(read, Cf::RemoteServerKeys, codec::key().str(server).as_ref())
}

/// Sets what is known of the keys of `server`.
pub fn put_remote(batch: &mut Batch, server: &ServerName, keys: &RemoteKeys) {
    codec::put(batch, Cf::RemoteServerKeys, codec::key().str(server), keys);
}
