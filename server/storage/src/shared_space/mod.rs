//! The rows of shared spaces: change logs, items, conflicts and the queues
//! that follow from them.
//!
//! Not here: any rule. Which change supersedes which, what a conflict is and who
//! may write is decided above; these functions only name rows. Truth is in
//! [`entries`] (logs and islands); [`items`] is derived from it in the same
//! batch and could be rebuilt.
//!
//! Every key begins with the room's id, so that a room can be walked and dropped
//! as one range. A replica is named by its text (`server/incarnation`), an
//! item by its key, a change by its 32-byte id.

pub mod entries;
pub mod items;
pub mod notices;
pub mod pasts;
pub mod queues;
pub mod usage;

use causeway_shared_space::ChangeId;

use crate::{
    Cf, StorageError,
    codec::{self, KeyParts},
};

/// A key of strings.
fn parts(parts: &[&str]) -> Vec<u8> {
    parts.iter().fold(codec::key(), codec::Key::str).finish()
}

/// Strings, then a change id.
fn key_with_id(strings: &[&str], id: &ChangeId) -> Vec<u8> {
    let mut key = parts(strings);
    key.extend_from_slice(id.as_bytes());
    key
}

/// The id at the end of a key.
fn trailing_id(key: &[u8]) -> Option<ChangeId> {
    let at = key.len().checked_sub(32)?;
    <[u8; 32]>::try_from(&key[at..]).ok().map(ChangeId::from_bytes)
}

/// The last string of a key of strings.
fn last_text(cf: Cf, key: &[u8]) -> Result<String, StorageError> {
    let mut parts = KeyParts::new(cf, key);
    let mut last = "";
    while !parts.rest().is_empty() {
        last = parts.str()?;
    }
    Ok(last.to_owned())
}
