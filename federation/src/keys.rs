//! Other servers' signing keys: fetched, checked, remembered.
//!
//! Keys come from the server itself, or, when that does not answer, from a
//! notary that settings name (server-server API, "Retrieving server keys"). What
//! was once properly signed is remembered for ever, so that the events of a
//! server that is gone can still be checked.
//!
//! Invariants: one fetch per server at a time, [`FETCHES_MAX`] in all; a server
//! is not asked again before its pause has passed, however many requests claim
//! to be from it.

pub mod document;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use causeway_service::{
    clock::Clock,
    server_keys::{RemoteKey, RemoteKeys, ServerKeys},
};
use http::Method;
use ruma::{CanonicalJsonObject, CanonicalJsonValue, OwnedServerName, ServerName, serde::Base64};
use serde_json::json;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use self::document::{DOCUMENT_BYTES_MAX, Document, DocumentError, telling_of};
use crate::{
    backoff::{Backoff, BackoffPolicy},
    client::{FederationClient, Request},
    error::blocking,
    signing::PublicKeys,
};

/// Fetches at once, over all servers.
pub const FETCHES_MAX: usize = 64;
/// Servers whose keys are held in memory.
pub const HELD_MAX: usize = 10_000;
/// Longest wait for a key document.
const FETCH_TIMEOUT: Duration = Duration::from_secs(15);
/// Notaries asked for one server.
const NOTARIES_MAX: usize = 3;
/// Pauses between fetches of one server that fails.
const PAUSES: BackoffPolicy =
    BackoffPolicy { first: Duration::from_millis(500), longest: Duration::from_mins(10) };
/// A server that answered is asked again no sooner, even for a key it did not list.
const ANSWERED_PAUSE_MS: u64 = 10_000;

/// What a key must be good for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A request that is made now.
    Request,
    /// An event with this `origin_server_ts`, in a room version (5 and up) that
    /// asks for keys that were valid then.
    Event {
        /// Milliseconds since the Unix epoch.
        origin_server_ts: u64,
    },
    /// Something signed at a time that nobody vouches for: any key that the
    /// server ever had.
    Anytime,
}

/// The keys of other servers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KeyRing(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    own: Arc<ServerKeys>,
    client: FederationClient,
    clock: Clock,
    notaries: Vec<OwnedServerName>,
    fetches: Semaphore,
    held: Mutex<HashMap<OwnedServerName, Arc<Held>>>,
}

/// One server's keys in memory.
#[derive(Debug, Default)]
struct Held {
    /// Held across a fetch, so that there is one at a time.
    fetching: AsyncMutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Whether storage was looked at.
    loaded: bool,
    known: RemoteKeys,
    backoff: Backoff,
    /// No fetch before this time, after one that succeeded.
    answered_until_ms: u64,
}

impl Held {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl KeyRing {
    /// A key ring that fetches with `client`.
    pub fn new(
        own: Arc<ServerKeys>,
        client: FederationClient,
        clock: Clock,
        notaries: Vec<OwnedServerName>,
    ) -> Self {
        let fetches = Semaphore::new(FETCHES_MAX);
        Self(Arc::new(Inner { own, client, clock, notaries, fetches, held: Mutex::default() }))
    }

    /// The keys of `server` that are good for `purpose`. They are fetched only
    /// if none of `wanted` (key ids) is among those already known.
    ///
    /// Never fails: keys that can't be had are not in the answer.
    pub async fn keys(&self, server: &ServerName, wanted: &[String], purpose: Purpose) -> PublicKeys {
        let held = self.held(server);
        self.load(server, &held).await;
        if server == self.0.own.server_name() {
            let mut keys = good_for(&held.state().known, purpose, self.0.clock.now_ms());
            keys.extend(self.0.own.own_public_keys());
            return keys;
        }
        let now_ms = self.0.clock.now_ms();
        let usable = good_for(&held.state().known, purpose, now_ms);
        if wanted.iter().any(|id| usable.contains_key(id)) {
            return usable;
        }
        self.fetch(server, &held).await;
        good_for(&held.state().known, purpose, self.0.clock.now_ms())
    }

    /// What is known of the keys of `server`, fetched if one of `wanted` (key id
    /// to the latest time that it must be good for) is not covered.
    pub async fn known(&self, server: &ServerName, wanted: &BTreeMap<String, u64>) -> RemoteKeys {
        let held = self.held(server);
        self.load(server, &held).await;
        if server == self.0.own.server_name() {
            let mut known = held.state().known.clone();
            let keys = self.0.own.own_public_keys().into_iter().map(|(id, key)| {
                (id, RemoteKey { key: key.encode(), valid_until_ms: u64::MAX, retired: false })
            });
            known.keys.extend(keys);
            return known;
        }
        let covers = |known: &RemoteKeys| {
            wanted
                .iter()
                .all(|(id, until_ms)| known.keys.get(id).is_some_and(|key| key.valid_until_ms >= *until_ms))
        };
        if !covers(&held.state().known) {
            self.fetch(server, &held).await;
        }
        held.state().known.clone()
    }

    /// Takes what is published in this server's own name: by the homeserver beside which it
    /// stands, which has keys of its own, and tells of those that this server once had. True if the key that
    /// signs here is among those that are good for requests.
    ///
    /// # Errors
    /// It is not signed by its keys, or another server's.
    pub async fn take_own(&self, published: &CanonicalJsonObject) -> Result<bool, DocumentError> {
        let own = Arc::clone(&self.0.own);
        let name = own.server_name().to_owned();
        let document = Document::parse_of(&name, published, self.0.clock.now_ms())?;
        let mine = own.own_public_keys().get(own.key_id()).map(Base64::encode);
        let published = document.keys.get(own.key_id()).filter(|key| !key.retired);
        let is_mine = published.is_some_and(|key| Some(&key.key) == mine.as_ref());
        let held = self.held(&name);
        self.load(&name, &held).await;
        let known = {
            let mut state = held.state();
            document.merge_into(&mut state.known, true, self.0.clock.now_ms());
            state.known.clone()
        };
        self.remember(&name, known).await;
        Ok(is_mine)
    }

    /// What `witness` says that the keys of `server` are: hearsay, good for what
    /// `witness` is believed in anyway, and remembered nowhere. Anybody can make
    /// up keys of a server that does not answer.
    pub async fn hearsay(&self, server: &ServerName, witness: &ServerName) -> RemoteKeys {
        let mut known = RemoteKeys::default();
        let Ok(_permit) = self.0.fetches.acquire().await else { return known };
        if server != witness
            && let Some(document) = self.ask_notary(server, witness).await
        {
            document.merge_into(&mut known, false, self.0.clock.now_ms());
        }
        known
    }

    /// The documents of `server` as it signed them, the newest and those that tell of
    /// further keys in `wanted`. They are fetched if those keys (or, of none, any) are
    /// not known to hold until `minimum_valid_until_ms`; what is older is told all the same.
    pub async fn documents(
        &self,
        server: &ServerName,
        wanted: &[String],
        minimum_valid_until_ms: u64,
    ) -> Vec<String> {
        let held = self.held(server);
        self.load(server, &held).await;
        let holds = |key: &RemoteKey| key.valid_until_ms >= minimum_valid_until_ms;
        let fresh = {
            let keys = &held.state().known.keys;
            let known = |id| keys.get(id).is_some_and(|key| key.retired || holds(key));
            if wanted.is_empty() { keys.values().any(holds) } else { wanted.iter().all(known) }
        };
        if !fresh {
            self.fetch(server, &held).await;
        }
        telling_of(&held.state().known, wanted)
    }

    /// Whether `server` may be asked for its keys again at once: it was heard from.
    pub fn heard_from(&self, server: &ServerName) {
        let held = self.all().get(server).cloned();
        if let Some(held) = held {
            held.state().backoff = Backoff::default();
        }
    }

    fn all(&self) -> MutexGuard<'_, HashMap<OwnedServerName, Arc<Held>>> {
        self.0.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held(&self, server: &ServerName) -> Arc<Held> {
        let mut all = self.all();
        if all.len() >= HELD_MAX && !all.contains_key(server) {
            // Entries in use live on in their users' hands; storage has the keys.
            all.retain(|_, held| Arc::strong_count(held) > 1);
        }
        Arc::clone(all.entry(server.to_owned()).or_default())
    }

    async fn load(&self, server: &ServerName, held: &Arc<Held>) {
        if held.state().loaded {
            return;
        }
        let (own, name) = (Arc::clone(&self.0.own), server.to_owned());
        let found = blocking(move || {
            own.remembered(&name).map_err(|error| causeway_service::error::MatrixError::internal(&error))
        });
        if let Ok(found) = found.await {
            let mut state = held.state();
            if !state.loaded {
                state.loaded = true;
                state.known = found.unwrap_or_default();
            }
        }
    }

    /// Fetches unless somebody just did, or it is too soon.
    async fn fetch(&self, server: &ServerName, held: &Arc<Held>) {
        let before = held.state().known.fetched_ms;
        let _one_at_a_time = held.fetching.lock().await;
        {
            let state = held.state();
            let now_ms = self.0.clock.now_ms();
            if state.known.fetched_ms != before
                || now_ms < state.answered_until_ms
                || state.backoff.wait(PAUSES, now_ms).is_some()
            {
                return;
            }
        }
        let Ok(_permit) = self.0.fetches.acquire().await else { return };
        let mut found = self.ask_itself(server).await;
        let from_itself = found.is_some();
        if found.is_none() {
            found = self.ask_notaries(server).await;
        }
        let now_ms = self.0.clock.now_ms();
        let known = {
            let mut state = held.state();
            if from_itself {
                state.backoff = Backoff::default();
                state.answered_until_ms = now_ms + ANSWERED_PAUSE_MS;
            } else {
                state.backoff = state.backoff.failed(PAUSES, now_ms, rand::random());
            }
            let Some(document) = found else { return };
            document.merge_into(&mut state.known, from_itself, now_ms);
            state.known.clone()
        };
        self.remember(server, known).await;
    }

    async fn remember(&self, server: &ServerName, known: RemoteKeys) {
        let (own, name) = (Arc::clone(&self.0.own), server.to_owned());
        let kept = blocking(move || {
            own.remember(&name, &known)
                .map_err(|error| causeway_service::error::MatrixError::internal(&error))
        });
        if kept.await.is_err() {
            tracing::warn!(%server, "keys are not remembered beyond this run");
        }
    }

    async fn ask_itself(&self, server: &ServerName) -> Option<Document> {
        let mut request = Request::new(server, Method::GET, "/_matrix/key/v2/server");
        request.timeout = Some(FETCH_TIMEOUT);
        request.response_bytes_max = DOCUMENT_BYTES_MAX;
        let response = match self.0.client.send_ok(request).await {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!(%server, error = %causeway_service::error::Chain(&error), "no keys");
                return None;
            }
        };
        let object = serde_json::from_slice::<CanonicalJsonObject>(&response.body).ok()?;
        Document::parse_of(server, &object, self.0.clock.now_ms())
            .inspect_err(|error| tracing::warn!(%server, %error, "its key document is refused"))
            .ok()
    }

    async fn ask_notaries(&self, server: &ServerName) -> Option<Document> {
        let own_name = self.0.own.server_name();
        for notary in self
            .0
            .notaries
            .iter()
            .filter(|notary| *notary != server && *notary != own_name)
            .take(NOTARIES_MAX)
        {
            if let Some(document) = self.ask_notary(server, notary).await {
                return Some(document);
            }
        }
        None
    }

    async fn ask_notary(&self, server: &ServerName, notary: &ServerName) -> Option<Document> {
        let body = json!({"server_keys": {server.as_str(): {}}});
        let mut request = Request::new(notary, Method::POST, "/_matrix/key/v2/query").json(&body).ok()?;
        request.timeout = Some(FETCH_TIMEOUT);
        request.response_bytes_max = DOCUMENT_BYTES_MAX;
        let response = self.0.client.send_ok(request).await.ok()?;
        let answer = serde_json::from_slice::<CanonicalJsonObject>(&response.body).ok()?;
        let documents = answer.get("server_keys").and_then(CanonicalJsonValue::as_array)?;
        let mut objects = documents.iter().take(NOTARIES_MAX).filter_map(CanonicalJsonValue::as_object);
        let now_ms = self.0.clock.now_ms();
        objects.find_map(|object| Document::parse_of(server, object, now_ms).ok())
    }
}

/// The keys that may be used for `purpose`.
pub(crate) fn good_for(known: &RemoteKeys, purpose: Purpose, now_ms: u64) -> PublicKeys {
    let good = |key: &RemoteKey| match purpose {
        Purpose::Request => !key.retired && key.valid_until_ms >= now_ms,
        Purpose::Event { origin_server_ts } => key.valid_until_ms >= origin_server_ts,
        Purpose::Anytime => true,
    };
    let keys = known.keys.iter().filter(|(_, key)| good(key));
    keys.filter_map(|(id, key)| Some((id.clone(), Base64::parse(&key.key).ok()?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_good_for_what_their_validity_says() {
        let key = |valid_until_ms, retired| RemoteKey { key: "AAAA".to_owned(), valid_until_ms, retired };
        let known = RemoteKeys {
            keys: [("new", key(100, false)), ("stale", key(50, false)), ("old", key(80, true))]
                .map(|(id, key)| (id.to_owned(), key))
                .into(),
            ..RemoteKeys::default()
        };
        let ids = |purpose| good_for(&known, purpose, 60).into_keys().collect::<Vec<_>>();
        assert_eq!(ids(Purpose::Request), ["new"]);
        assert_eq!(ids(Purpose::Event { origin_server_ts: 70 }), ["new", "old"]);
        assert_eq!(ids(Purpose::Event { origin_server_ts: 40 }), ["new", "old", "stale"]);
        assert_eq!(ids(Purpose::Event { origin_server_ts: 101 }), [""; 0]);
        assert_eq!(ids(Purpose::Anytime), ["new", "old", "stale"]);
    }
}
