//! This server's signing key, and the memory of other servers' keys.
//!
//! The own key is made at the first start and lives in the database, so that a
//! data folder is a whole server. Fetching and judging other servers' keys is
//! the federation door's business; here they are only kept.

mod line;

use std::{collections::BTreeMap, fmt};

pub use causeway_storage::server_keys::{RemoteKey, RemoteKeys};
use causeway_storage::{
    Database, StorageError,
    server_keys::{self as rows, OwnKey},
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName,
    serde::{Base64, base64::Standard},
    signatures::{Ed25519KeyPair, Ed25519KeyPairParseError, sign_json},
};

pub use self::line::{NotALine, SIDECAR_VERSION, SigningLine};
use crate::clock::Clock;

/// How long others may rely on the published keys, in milliseconds (one day):
/// after a change of keys the old ones are refused for requests this much later
/// at the latest.
pub const PUBLISHED_LIFETIME_MS: u64 = 24 * 3600 * 1000;

/// Why the own key can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ServerKeysError {
    /// The database failed.
    #[error("the signing key can't be read or written")]
    Storage(#[from] StorageError),
    /// The stored document is not base64.
    #[error("the stored signing key {version} is not base64")]
    Encoding {
        /// Which key.
        version: String,
    },
    /// The stored document is not a key.
    #[error("the stored signing key {version} is broken")]
    Document {
        /// Which key.
        version: String,
        /// Why.
        #[source]
        source: Ed25519KeyPairParseError,
    },
}

/// The signing key in use, and where keys are kept.
pub struct ServerKeys {
    database: Database,
    server_name: OwnedServerName,
    key_pair: Ed25519KeyPair,
    key_id: String,
    old: Vec<OldKey>,
}

/// A key that signed once.
struct OldKey {
    id: String,
    public: String,
    expired_ms: u64,
}

impl ServerKeys {
    /// Loads the signing key of `server_name`, or makes one.
    ///
    /// # Panics
    /// Never: a key without expiry was found or is made.
    pub fn open(
        database: Database,
        server_name: OwnedServerName,
        clock: &Clock,
    ) -> Result<Self, ServerKeysError> {
        let mut stored = rows::own(&database)?;
        if !stored.iter().any(|key| key.expired_ms.is_none()) {
            let made = generate(clock.now_ms());
            let mut batch = database.batch();
            rows::put_own(&mut batch, &made);
            let _synced = database.commit_durable(batch)?;
            stored.push(made);
        }
        let mut current = None;
        let mut old = Vec::new();
        for key in stored {
            let pair = parse(&key)?;
            match key.expired_ms {
                Some(expired_ms) => {
                    old.push(OldKey { id: key_id(&pair), public: public_key(&pair), expired_ms });
                }
                None => current = Some(pair),
            }
        }
        let key_pair = current.expect("one without expiry was found or made above");
        let key_id = key_id(&key_pair);
        Ok(Self { database, server_name, key_pair, key_id, old })
    }

    /// Makes a new signing key, which signs from the next [`Self::open`] on. The ones before
    /// stay published, for what they signed until now. Its id.
    ///
    /// # Errors
    /// The database failed, or a key in it is broken.
    pub fn rotate(database: &Database, clock: &Clock) -> Result<String, ServerKeysError> {
        let now_ms = clock.now_ms();
        let made = generate(now_ms);
        let id = key_id(&parse(&made)?);
        let mut batch = database.batch();
        for key in rows::own(database)?.into_iter().filter(|key| key.expired_ms.is_none()) {
            rows::put_own(&mut batch, &OwnKey { expired_ms: Some(now_ms), ..key });
        }
        rows::put_own(&mut batch, &made);
        let _synced = database.commit_durable(batch)?;
        Ok(id)
    }

    /// The name that is signed for.
    pub fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// The key that signs.
    pub fn key_pair(&self) -> &Ed25519KeyPair {
        &self.key_pair
    }

    /// The public halves of the keys that are stored, also the old ones, without making any.
    pub fn public(database: &Database) -> Result<BTreeMap<String, Base64<Standard>>, ServerKeysError> {
        let mut keys = BTreeMap::new();
        for key in rows::own(database)? {
            let pair = parse(&key)?;
            keys.insert(key_id(&pair), Base64::new(pair.public_key().to_vec()));
        }
        Ok(keys)
    }

    /// Its id, `ed25519:…`.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// Every public key of this server, also the old ones, by key id: what its
    /// own signatures are checked with.
    pub fn own_public_keys(&self) -> BTreeMap<String, Base64<Standard>> {
        let parse = |key: &str| Base64::parse(key).ok();
        let old = self.old.iter().filter_map(|key| Some((key.id.clone(), parse(&key.public)?)));
        let current = Base64::new(self.key_pair.public_key().to_vec());
        old.chain([(self.key_id.clone(), current)]).collect()
    }

    /// Signs `object` in this server's name.
    ///
    /// # Errors
    /// `object` has a `signatures` field that is not an object of objects.
    pub fn sign(&self, object: &mut CanonicalJsonObject) -> Result<(), ruma::signatures::JsonError> {
        sign_json(self.server_name.as_str(), &self.key_pair, object)
    }

    /// The document that `GET /_matrix/key/v2/server` answers with, signed.
    pub fn published(&self, now_ms: u64) -> CanonicalJsonObject {
        self.published_as(&self.server_name, now_ms)
    }

    /// The same in another name, under which a sidecar publishes the key by which it speaks for
    /// its homeserver.
    ///
    /// # Panics
    /// Never: the document is just made, so it has no signatures of a wrong shape.
    pub fn published_as(&self, name: &ServerName, now_ms: u64) -> CanonicalJsonObject {
        let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
        let time = |ms: u64| {
            CanonicalJsonValue::Integer(ruma::Int::new_saturating(i64::try_from(ms).unwrap_or(i64::MAX)))
        };
        let object = |fields: Vec<(&str, CanonicalJsonValue)>| {
            let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value));
            CanonicalJsonValue::Object(fields.collect())
        };
        let current = object(vec![("key", text(&public_key(&self.key_pair)))]);
        let old = self.old.iter().map(|key| {
            let fields = vec![("key", text(&key.public)), ("expired_ts", time(key.expired_ms))];
            (key.id.as_str(), object(fields))
        });
        let mut document = CanonicalJsonObject::from([
            ("server_name".to_owned(), text(name.as_str())),
            ("valid_until_ts".to_owned(), time(now_ms.saturating_add(PUBLISHED_LIFETIME_MS))),
            ("verify_keys".to_owned(), object(vec![(&self.key_id, current)])),
            ("old_verify_keys".to_owned(), object(old.collect())),
        ]);
        sign_json(name.as_str(), &self.key_pair, &mut document)
            .expect("the document was just made and has no signatures field");
        document
    }

    /// What is known of another server's keys.
    pub fn remembered(&self, server: &ServerName) -> Result<Option<RemoteKeys>, StorageError> {
        rows::remote(&self.database, server)
    }

    /// Remembers another server's keys. Not synced: they can be fetched again.
    pub fn remember(&self, server: &ServerName, keys: &RemoteKeys) -> Result<(), StorageError> {
        let mut batch = self.database.batch();
        rows::put_remote(&mut batch, server, keys);
        let _unsynced = self.database.commit(batch)?;
        Ok(())
    }
}

impl fmt::Debug for ServerKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerKeys").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// A new key; its version is drawn from its public half, so that a server that
/// lost its database and made a new key never has two keys of one id.
fn generate(now_ms: u64) -> OwnKey {
    let document = Ed25519KeyPair::generate();
    let pair = Ed25519KeyPair::from_der(&document, String::new()).expect("a document that was just made");
    let version = format!("k_{}", hex::encode(&pair.public_key()[..4]));
    let document = Base64::<Standard, &[u8]>::new(&document).encode();
    OwnKey { version, document, created_ms: now_ms, expired_ms: None }
}

fn parse(key: &OwnKey) -> Result<Ed25519KeyPair, ServerKeysError> {
    let version = || key.version.clone();
    let document = Base64::<Standard>::parse(&key.document)
        .map_err(|_| ServerKeysError::Encoding { version: version() })?;
    Ed25519KeyPair::from_der(document.as_bytes(), version())
        .map_err(|source| ServerKeysError::Document { version: version(), source })
}

fn key_id(pair: &Ed25519KeyPair) -> String {
    format!("ed25519:{}", pair.version())
}

fn public_key(pair: &Ed25519KeyPair) -> String {
    Base64::<Standard>::new(pair.public_key().to_vec()).encode()
}

#[cfg(test)]
mod tests {
    use ruma::{server_name, signatures::verify_json};

    use super::*;

    fn open(folder: &tempfile::TempDir) -> ServerKeys {
        let database = Database::open(folder.path(), &causeway_storage::Options::default()).expect("opens");
        ServerKeys::open(database, server_name!("a.example").to_owned(), &Clock::manual(5)).expect("opens")
    }

    #[test]
    fn the_key_outlives_a_restart_and_signs_what_is_published() {
        let folder = tempfile::tempdir().expect("a folder");
        let first = open(&folder).key_id().to_owned();
        let keys = open(&folder);
        assert_eq!(keys.key_id(), first);
        let document = keys.published(1_000);
        let map = BTreeMap::from([("a.example".to_owned(), keys.own_public_keys())]);
        verify_json(&map, &document).expect("signed by the key that it names");
        assert_eq!(
            document["valid_until_ts"],
            CanonicalJsonValue::Integer((1_000 + 24 * 3600 * 1000_i32).into())
        );
        assert!(document["verify_keys"].as_object().expect("object").contains_key(&first));
    }

    #[test]
    fn a_new_key_signs_and_the_old_one_stays_published_for_what_it_signed() {
        let folder = tempfile::tempdir().expect("a folder");
        let (before, old) = {
            let keys = open(&folder);
            let mut said = CanonicalJsonObject::new();
            keys.sign(&mut said).expect("signs");
            (said, keys.key_id().to_owned())
        };
        let new = {
            let options = causeway_storage::Options::default();
            let database = Database::open(folder.path(), &options).expect("opens");
            ServerKeys::rotate(&database, &Clock::manual(70)).expect("makes a key")
        };
        let keys = open(&folder);
        assert_eq!(keys.key_id(), new);
        let document = keys.published(1_000);
        let field = |name: &str| document[name].as_object().expect("an object").clone();
        assert_eq!(field("verify_keys").into_keys().collect::<Vec<_>>(), [new]);
        let expired = field("old_verify_keys")[&old].as_object().expect("an object")["expired_ts"].clone();
        assert_eq!(expired, CanonicalJsonValue::Integer(70.into()));
        let map = BTreeMap::from([("a.example".to_owned(), keys.own_public_keys())]);
        verify_json(&map, &before).expect("what the old key signed still holds");
    }

    #[test]
    fn what_is_known_of_others_is_kept() {
        let folder = tempfile::tempdir().expect("a folder");
        let keys = open(&folder);
        let other = server_name!("b.example");
        assert_eq!(keys.remembered(other).expect("reads"), None);
        let known = RemoteKeys { fetched_ms: 7, ..RemoteKeys::default() };
        keys.remember(other, &known).expect("writes");
        assert_eq!(keys.remembered(other).expect("reads"), Some(known));
    }
}
