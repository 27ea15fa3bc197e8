//! Rows of registration tokens that administrators made.

use serde::{Deserialize, Serialize};

use crate::{
    Batch, Cf, Direction, Read, StorageError,
    codec::{self, KeyParts, key},
};

/// One token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegistrationToken {
    /// How often it may be used; `None` for as often as anybody likes.
    pub uses_allowed: Option<u64>,
    /// How often it was used.
    pub completed: u64,
    /// When it ends, in milliseconds since the epoch; `None` for never.
    pub expires_ts: Option<u64>,
}

/// A token's row.
pub fn token(read: &impl Read, token: &str) -> Result<Option<RegistrationToken>, StorageError> {
    codec::get(read, Cf::RegistrationTokens, key().str(token).as_ref())
}

/// Adds or replaces it.
pub fn put(batch: &mut Batch, token: &str, row: &RegistrationToken) {
    codec::put(batch, Cf::RegistrationTokens, key().str(token), row);
}

/// Deletes it.
pub fn delete(batch: &mut Batch, token: &str) {
    batch.delete(Cf::RegistrationTokens, key().str(token));
}

/// All tokens in order, at most `limit`.
pub fn tokens(read: &impl Read, limit: usize) -> Result<Vec<(String, RegistrationToken)>, StorageError> {
    let rows = read.scan(Cf::RegistrationTokens, b"", None, Direction::Forward, limit)?;
    rows.iter()
        .map(|(row, value)| {
            let token = KeyParts::new(Cf::RegistrationTokens, row).str()?.to_owned();
            Ok((token, codec::decode(Cf::RegistrationTokens, value)?))
        })
        .collect()
}
