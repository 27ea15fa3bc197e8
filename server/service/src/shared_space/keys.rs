//! The verify keys of origins: kept with the entries that they signed, because
//! an entry outlives the server that could answer for its key.
//!
//! Not here: fetching keys. The replication driver fetches what
//! [`SharedSpace::unknown_keys`] names before it hands entries over.

use std::collections::BTreeSet;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use causeway_shared_space::Change;
use causeway_storage::shared_space::entries::{self, VerifyKeyRow};
use ruma::{OwnedServerName, ServerName};

use super::{SharedSpace, error::SpaceError};

/// Length of an Ed25519 public key.
const KEY_BYTES: usize = 32;

impl SharedSpace {
    /// The public key of a server under which an entry is signed, if known.
    pub(super) fn verify_key(&self, server: &ServerName, key_id: &str) -> Result<Option<Vec<u8>>, SpaceError> {
        let text = if server == self.server_name() {
            self.keys.own_public_keys().get(key_id).map(|key| STANDARD_NO_PAD.encode(key.as_bytes()))
        } else {
            entries::verify_key(&self.db, server.as_str(), key_id)?.map(|row| row.key)
        };
        let key = text.and_then(|text| STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok());
        Ok(key.filter(|key| key.len() == KEY_BYTES))
    }

    /// Which keys are needed for these entries and not known: server and key id.
    pub fn unknown_keys(&self, changes: &[Change]) -> Result<BTreeSet<(OwnedServerName, String)>, SpaceError> {
        let mut unknown = BTreeSet::new();
        for change in changes {
            let needed = (change.server().to_owned(), change.signature().key_id().to_owned());
            if !unknown.contains(&needed) && self.verify_key(&needed.0, &needed.1)?.is_none() {
                unknown.insert(needed);
            }
        }
        Ok(unknown)
    }

    /// Keeps a key whose server published it (the caller has verified that).
    /// `published` is the signed document, to be served with the entries.
    pub fn keep_verify_key(
        &self,
        server: &ServerName,
        key_id: &str,
        key: &str,
        valid_until_ts: u64,
        published: Option<&str>,
    ) -> Result<(), SpaceError> {
        let row = VerifyKeyRow { key: key.to_owned(), valid_until_ts, published: published.map(Into::into) };
        let mut batch = self.db.batch();
        entries::put_verify_key(&mut batch, server.as_str(), key_id, &row);
        // In the log before any entry that needs it; synced with that.
        let _commit = self.db.commit(batch)?;
        Ok(())
    }
}
