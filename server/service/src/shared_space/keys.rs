//! The verify keys of origins: kept with the entries that they signed, because
//! an entry outlives the server that could answer for its key.
//!
//! A key is known by the origin's own word or a notary's. What the peer says that
//! serves the entries is hearsay: anybody can make up a key for a server that is
//! gone. It is believed in a room whose events show the key: one by a user of that
//! origin which this server accepted there bears a signature by it. So an entry is
//! believed as far as the event that shows its author's right to write, and a key
//! that somebody got into a room of his own is worth nothing elsewhere.
//!
//! A key may also be that of who speaks for the origin, by a claim (protocol, §5.5). What it
//! signed while the claim stood is held for ever; what is not held yet is taken only while it stands.
//!
//! Not here: fetching keys. The replication driver fetches what
//! [`SharedSpace::unknown_keys`] names before it hands entries over.

use std::{collections::BTreeSet, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use causeway_room::Pdu;
use causeway_shared_space::Change;
use causeway_storage::shared_space::entries;
pub use causeway_storage::shared_space::entries::VerifyKeyRow;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedEventId, OwnedServerName, RoomId, ServerName,
    canonical_json::redact,
    room_version_rules::RoomVersionRules,
    serde::Base64,
    signatures::{PublicKeyMap, PublicKeySet, verify_json},
};

use super::{ITEM_TYPE, SharedSpace, error::SpaceError};
use crate::cache::Cache;

/// Length of an Ed25519 public key.
const KEY_BYTES: usize = 32;
/// Keys that are kept in memory, at most twice as many: every entry needs one.
const CACHED_MAX: usize = 1_024;
/// Events that are looked at for one key that a peer says somebody has.
const LOOKED_AT_MAX: usize = 200;

/// Published keys by server and key id.
pub(super) type VerifyKeyCache = Cache<(OwnedServerName, String), Arc<[u8]>>;

/// An empty [`VerifyKeyCache`].
pub(super) fn verify_key_cache() -> VerifyKeyCache {
    Cache::new(CACHED_MAX)
}

/// What the peer that served entries says that a key of their origin is.
#[derive(Debug)]
pub struct Hearsay {
    /// The origin.
    pub server: OwnedServerName,
    /// The key's id.
    pub key_id: String,
    /// The key, with the document that says so.
    pub row: VerifyKeyRow,
}

impl SharedSpace {
    /// The public key of a server under which an entry of a room is signed, if known. This
    /// server's own name may have had another key, in a data folder that is lost, or has one that
    /// the homeserver holds beside which this one stands: those that were published count.
    pub(super) fn verify_key(
        &self,
        room: &RoomId,
        server: &ServerName,
        key_id: &str,
    ) -> Result<Option<Vec<u8>>, SpaceError> {
        let is_own = server == self.server_name();
        if is_own && let Some(key) = self.keys.own_public_keys().get(key_id) {
            return Ok(Some(key.as_bytes().to_vec()));
        }
        let name = (server.to_owned(), key_id.to_owned());
        if let Some(key) = self.verify_keys.get(&name) {
            return Ok(Some(key.to_vec()));
        }
        let known = match entries::verify_key(&self.db, server.as_str(), key_id)? {
            Some(row) => {
                if row.claimed_until_ts.is_none()
                    && let Some(key) = decode(&row.key)
                {
                    self.verify_keys.insert_read(name, key.into());
                }
                Some(row.key)
            }
            // Known from events that it signed: kept with the entries from now on.
            None => self.take_remembered_key(server, key_id)?,
        };
        let text = match known {
            Some(key) => Some(key),
            // Once the origin has spoken, what others say of its keys is void.
            None if is_own || self.has_spoken(server)? => None,
            None => entries::verify_key_in(&self.db, room, server.as_str(), key_id)?.map(|row| row.key),
        };
        Ok(text.and_then(|text| decode(&text)))
    }

    /// Whether a change that is not held yet may be taken: not if who signed it spoke for its
    /// origin, and that is not known to be so any more.
    pub(super) fn may_be_taken(&self, change: &Change) -> Result<bool, SpaceError> {
        let (server, key_id) = (change.server(), change.signature().key_id());
        if self.verify_keys.get(&(server.to_owned(), key_id.to_owned())).is_some() {
            return Ok(true);
        }
        let row = entries::verify_key(&self.db, server.as_str(), key_id)?;
        Ok(row.is_none_or(|row| self.is_relied_on(&row)))
    }

    fn is_relied_on(&self, row: &VerifyKeyRow) -> bool {
        row.claimed_until_ts.is_none_or(|until_ms| self.clock.now_ms() < until_ms)
    }

    /// Whether a server, or a notary for it, has ever said which keys it has.
    fn has_spoken(&self, server: &ServerName) -> Result<bool, SpaceError> {
        Ok(self.keys.remembered(server)?.is_some_and(|known| !known.keys.is_empty()))
    }

    fn take_remembered_key(&self, server: &ServerName, key_id: &str) -> Result<Option<String>, SpaceError> {
        let Some(known) = self.keys.remembered(server)? else { return Ok(None) };
        let Some(key) = known.keys.get(key_id) else { return Ok(None) };
        let row = VerifyKeyRow {
            key: key.key.clone(),
            valid_until_ts: key.valid_until_ms,
            published: known.document.as_deref().map(Into::into),
            hearsay: false,
            claimed_until_ts: None,
        };
        self.keep_verify_key(server, key_id, &row)?;
        Ok(Some(row.key))
    }

    /// Which keys are needed for these entries and not known, or only by hearsay, or by a claim
    /// that has to be looked at again: server and key id.
    pub fn unknown_keys(
        &self,
        changes: &[Change],
    ) -> Result<BTreeSet<(OwnedServerName, String)>, SpaceError> {
        let needed = changes.iter().map(|change| (change.server(), change.signature().key_id()));
        let needed: BTreeSet<(&ServerName, &str)> = needed.collect();
        let mut unknown = BTreeSet::new();
        let own = self.keys.own_public_keys();
        let is_own =
            |server: &ServerName, key_id: &str| server == self.server_name() && own.contains_key(key_id);
        for (server, key_id) in needed.into_iter().filter(|(server, key_id)| !is_own(server, key_id)) {
            let needed = (server.to_owned(), key_id.to_owned());
            if self.verify_keys.get(&needed).is_some() {
                continue;
            }
            let known = entries::verify_key(&self.db, needed.0.as_str(), &needed.1)?;
            if !known.is_some_and(|row| self.is_relied_on(&row))
                && self.take_remembered_key(&needed.0, &needed.1)?.is_none()
            {
                unknown.insert(needed);
            }
        }
        Ok(unknown)
    }

    /// Takes of what a peer says of keys what the room bears out. `changes` are
    /// the entries that it served with it.
    pub fn hear_keys(&self, room: &RoomId, changes: &[Change], said: &[Hearsay]) -> Result<(), SpaceError> {
        for Hearsay { server, key_id, row } in said {
            let Some(key) = decode(&row.key) else { continue };
            // Of this server's own name others know nothing that it has not published.
            if server == self.server_name()
                || self.has_spoken(server)?
                || self.verify_key(room, server, key_id)?.is_some()
            {
                continue;
            }
            if !self.is_shown(room, server, key_id, &key, changes)? {
                self.metrics.refused("hearsay_key");
                tracing::warn!(%server, key_id, "a key that only the peer vouches for is not believed");
                continue;
            }
            let mut batch = self.db.batch();
            let row = VerifyKeyRow { hearsay: true, ..row.clone() };
            entries::put_verify_key_in(&mut batch, room, server.as_str(), key_id, &row);
            let _commit = self.db.commit(batch)?;
        }
        Ok(())
    }

    /// Whether an event that was accepted in the room shows that the server has
    /// that key: one that shows an author's right to write, or an item's face.
    fn is_shown(
        &self,
        room: &RoomId,
        server: &ServerName,
        key_id: &str,
        key: &[u8],
        changes: &[Change],
    ) -> Result<bool, SpaceError> {
        let rules = self.rooms.read(room, |facts| Ok(facts.rules()?))?;
        let mut looked_at: BTreeSet<OwnedEventId> = BTreeSet::new();
        let signed = changes
            .iter()
            .filter(|change| change.server() == server && change.signature().key_id() == key_id);
        for change in signed {
            let header = change.header();
            let face = self.rooms.read(room, |facts| Ok(facts.state(ITEM_TYPE, header.key().as_str())?))?;
            let face = face.map(|face| face.event_id().to_owned());
            for event_id in header.authorized_by().iter().cloned().chain(face) {
                if looked_at.len() == LOOKED_AT_MAX || !looked_at.insert(event_id.clone()) {
                    continue;
                }
                let Some(held) = self.rooms.event(room, &event_id)? else { continue };
                if !held.rejected
                    && held.event.room_id() == room
                    && held.event.sender().server_name() == server
                    && held
                        .event
                        .pdu()
                        .is_some_and(|pdu| is_signed_by(&rules.rules, pdu, server, key_id, key))
                {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// Keeps a key whose server, or who speaks for it, published it, or a notary for these: the
    /// caller has verified that the signed document holds it.
    pub fn keep_verify_key(
        &self,
        server: &ServerName,
        key_id: &str,
        row: &VerifyKeyRow,
    ) -> Result<(), SpaceError> {
        let mut batch = self.db.batch();
        entries::put_verify_key(&mut batch, server.as_str(), key_id, row);
        // In the log before any entry that needs it; synced with that.
        let _commit = self.db.commit(batch)?;
        if row.claimed_until_ts.is_none()
            && let Some(key) = decode(&row.key)
        {
            self.verify_keys.insert((server.to_owned(), key_id.to_owned()), key.into());
        }
        Ok(())
    }
}

fn decode(text: &str) -> Option<Vec<u8>> {
    let key = STANDARD_NO_PAD.decode(text.trim_end_matches('=')).ok()?;
    (key.len() == KEY_BYTES).then_some(key)
}

/// Whether an event bears a valid signature by this very key.
fn is_signed_by(
    rules: &RoomVersionRules,
    event: &Pdu,
    server: &ServerName,
    key_id: &str,
    key: &[u8],
) -> bool {
    let object = event.object();
    let signatures = object.get("signatures").and_then(CanonicalJsonValue::as_object);
    let by = signatures.and_then(|all| all.get(server.as_str())).and_then(CanonicalJsonValue::as_object);
    let Some(signature) = by.and_then(|by| by.get(key_id)).cloned() else { return false };
    // A signature covers the redacted event; only this one is looked at.
    let Ok(mut redacted) = redact(object, &rules.redaction, None) else { return false };
    let by = CanonicalJsonObject::from([(key_id.to_owned(), signature)]);
    let only = CanonicalJsonObject::from([(server.to_string(), CanonicalJsonValue::Object(by))]);
    redacted.insert("signatures".to_owned(), CanonicalJsonValue::Object(only));
    let keys = PublicKeySet::from([(key_id.to_owned(), Base64::new(key.to_vec()))]);
    verify_json(&PublicKeyMap::from([(server.to_string(), keys)]), &redacted).is_ok()
}

#[cfg(test)]
mod tests {
    use causeway_shared_space::ReplicaId;

    use super::{
        super::{
            pair::{Pair, put},
            tests::ALICE,
        },
        *,
    };
    use crate::server_keys::{RemoteKey, RemoteKeys};

    #[test]
    fn what_a_speaker_signed_is_taken_while_the_claim_stands_and_stays_when_it_was() {
        let pair = Pair::new();
        let (space, now_ms) = (&pair.a.shared_space, pair.a.clock.now_ms());
        let (name, keys) = (ruma::server_name!("n.example"), &pair.b.server_keys);
        let id = keys.key_id().to_owned();
        let claim = |until_ms| {
            let row = VerifyKeyRow {
                key: keys.own_public_keys()[&id].encode(),
                valid_until_ts: u64::MAX,
                published: None,
                hearsay: false,
                claimed_until_ts: Some(until_ms),
            };
            space.keep_verify_key(name, &id, &row).expect("kept");
        };
        let [one, other] = ["one", "other"].map(|key| {
            pair.change(key, put(1), |new| {
                new.dot.replica = ReplicaId::new(name, 7).expect("a replica");
                new.author = ruma::owned_user_id!("@nina:n.example");
            })
        });
        claim(now_ms + 60_000);
        assert!(space.unknown_keys(std::slice::from_ref(&one)).expect("reads").is_empty());
        assert_eq!(pair.join(std::slice::from_ref(&one)), 1);
        claim(now_ms);
        let changes = [one, other];
        assert_eq!(space.unknown_keys(&changes).expect("reads").len(), 1, "it is looked at again");
        let outcome = space.join(&pair.room, name, changes.to_vec()).expect("joined");
        assert_eq!((outcome.known, outcome.new, outcome.refused), (1, 0, 1));
        claim(u64::MAX);
        assert_eq!(pair.join(&changes), 1);
    }

    #[test]
    fn an_own_entry_under_a_key_that_is_lost_is_read_once_that_key_is_published() {
        let pair = Pair::new();
        let (space, own) = (&pair.a.shared_space, pair.a.server_keys.server_name());
        // Under the key of the other server: for all that is known here, an own one of earlier.
        let change = pair.change("plan", put(1), |new| {
            new.dot.replica = ReplicaId::new(own, 7).expect("a replica");
            new.author = (*ALICE).to_owned();
            new.authorized_by = pair.shown(*ALICE);
        });
        let changes = [change];
        assert_eq!(pair.join(&changes), 0);
        let keys = &pair.b.server_keys;
        let (id, key) = (keys.key_id().to_owned(), keys.own_public_keys()[keys.key_id()].encode());
        let lacking = space.unknown_keys(&changes).expect("reads");
        assert_eq!(lacking.into_iter().collect::<Vec<_>>(), [(own.to_owned(), id.clone())]);

        let row = VerifyKeyRow {
            key: key.clone(),
            valid_until_ts: u64::MAX,
            published: None,
            hearsay: true,
            claimed_until_ts: None,
        };
        let said = Hearsay { server: own.to_owned(), key_id: id.clone(), row };
        space.hear_keys(&pair.room, &changes, &[said]).expect("hears");
        assert_eq!(pair.join(&changes), 0, "nobody else says what was published in this name");

        let published = RemoteKey { key, valid_until_ms: 0, retired: true };
        let known = RemoteKeys { keys: [(id, published)].into(), ..RemoteKeys::default() };
        pair.a.server_keys.remember(own, &known).expect("writes");
        assert!(space.unknown_keys(&changes).expect("reads").is_empty());
        assert_eq!(pair.join(&changes), 1);
    }
}
