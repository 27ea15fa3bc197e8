//! The verify keys of origins: kept with the entries that they signed, because
//! an entry outlives the server that could answer for its key.
//!
//! Not here: fetching keys. The replication driver fetches what
//! [`SharedSpace::unknown_keys`] names before it hands entries over.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use causeway_shared_space::Change;
use causeway_storage::shared_space::entries;
pub use causeway_storage::shared_space::entries::VerifyKeyRow;
use ruma::{OwnedServerName, ServerName};

use super::{SharedSpace, error::SpaceError};

/// Length of an Ed25519 public key.
const KEY_BYTES: usize = 32;

impl SharedSpace {
    /// The public key of a server under which an entry is signed, if known.
    pub(super) fn verify_key(
        &self,
        server: &ServerName,
        key_id: &str,
    ) -> Result<Option<Vec<u8>>, SpaceError> {
        let text = if server == self.server_name() {
            self.keys.own_public_keys().get(key_id).map(|key| STANDARD_NO_PAD.encode(key.as_bytes()))
        } else {
            match entries::verify_key(&self.db, server.as_str(), key_id)? {
                // The origin has spoken since: what others said of its keys is void.
                Some(row)
                    if row.hearsay
                        && self.keys.remembered(server)?.is_some_and(|known| !known.keys.is_empty()) =>
                {
                    self.take_remembered_key(server, key_id)?
                }
                Some(row) => Some(row.key),
                // Known from events that it signed: kept with the entries from now on.
                None => self.take_remembered_key(server, key_id)?,
            }
        };
        let key = text.and_then(|text| STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok());
        Ok(key.filter(|key| key.len() == KEY_BYTES))
    }

    fn take_remembered_key(&self, server: &ServerName, key_id: &str) -> Result<Option<String>, SpaceError> {
        let Some(known) = self.keys.remembered(server)? else { return Ok(None) };
        let Some(key) = known.keys.get(key_id) else { return Ok(None) };
        let row = VerifyKeyRow {
            key: key.key.clone(),
            valid_until_ts: key.valid_until_ms,
            published: known.document.as_deref().map(Into::into),
            hearsay: false,
        };
        self.keep_verify_key(server, key_id, &row)?;
        Ok(Some(row.key))
    }

    /// Which keys are needed for these entries and not known, or only by hearsay:
    /// server and key id.
    pub fn unknown_keys(
        &self,
        changes: &[Change],
    ) -> Result<BTreeSet<(OwnedServerName, String)>, SpaceError> {
        let mut unknown = BTreeSet::new();
        for change in changes {
            let needed = (change.server().to_owned(), change.signature().key_id().to_owned());
            if unknown.contains(&needed) || needed.0 == self.server_name() {
                continue;
            }
            let known = entries::verify_key(&self.db, needed.0.as_str(), &needed.1)?;
            let known = known.is_some_and(|row| !row.hearsay);
            if !known && self.take_remembered_key(&needed.0, &needed.1)?.is_none() {
                unknown.insert(needed);
            }
        }
        Ok(unknown)
    }

    /// Keeps a key whose server published it: the caller has verified that the
    /// signed document holds it. What a peer says never replaces what is known.
    pub fn keep_verify_key(
        &self,
        server: &ServerName,
        key_id: &str,
        row: &VerifyKeyRow,
    ) -> Result<(), SpaceError> {
        if row.hearsay && entries::verify_key(&self.db, server.as_str(), key_id)?.is_some() {
            return Ok(());
        }
        let mut batch = self.db.batch();
        entries::put_verify_key(&mut batch, server.as_str(), key_id, row);
        // In the log before any entry that needs it; synced with that.
        let _commit = self.db.commit(batch)?;
        Ok(())
    }
}
