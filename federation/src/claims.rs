//! Who speaks for a server in shared spaces (protocol, §5.5): a sidecar whose key its homeserver
//! does not publish has a name of its own, and the homeserver's name says in a page that this one
//! speaks for it there.
//!
//! A claim adds keys, and a place to ask; it adds no names. Whatever a speaker signs is said in
//! the name that claims it, and only about shared spaces: keys by a claim verify entries, stamps
//! and requests to our own endpoints, never events or anything else.
//!
//! Invariants: a claim is the word of whoever answers by TLS at the name itself, without
//! redirects, within [`CLAIM_BYTES_MAX`], not at an address that settings deny; none is relied on
//! for longer than [`SILENT_FOR`] without having been read again, nor after it was read that there
//! is none; one look at a server's page at a time, [`LOOKS_MAX`] in all.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use causeway_service::{clock::Clock, error::Chain, server_keys::RemoteKeys};
use http::header::CACHE_CONTROL;
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;
use tokio::sync::{Mutex as AsyncMutex, Semaphore};

use crate::{
    backoff::{Backoff, BackoffPolicy},
    client::{ClientError, FederationClient, Request, Response},
    discovery::well_known::max_age,
    keys::{KeyRing, Purpose},
    signing::PublicKeys,
};

/// Where a server's name publishes its claim.
pub const CLAIM_PATH: &str = "/.well-known/org.causeway.shared_spaces";
/// Largest claim, in bytes.
pub const CLAIM_BYTES_MAX: usize = 4 * 1024;
/// Longest name of a speaker, as of every server that takes part (protocol, §10).
const NAME_BYTES_MAX: usize = 230;
/// Pages that are looked at at once.
const LOOKS_MAX: usize = 16;
/// Longest wait for one of these turns; then what is known has to do.
const TURN_WAIT: Duration = Duration::from_secs(2);
/// Servers of which something is known.
const KNOWN_MAX: usize = 10_000;
/// How long a claim holds that says nothing of it, and what it may say.
const LIFETIME: Duration = Duration::from_mins(10);
const LIFETIME_MIN: Duration = Duration::from_secs(10);
const LIFETIME_MAX: Duration = Duration::from_hours(1);
/// How long it is believed that there is none.
const NONE_FOR: Duration = Duration::from_mins(1);
/// How long a claim outlives the last time that it could be read, while nobody answers.
const SILENT_FOR: Duration = Duration::from_hours(24);
/// Pauses between looks at a page while nobody answers.
const PAUSES: BackoffPolicy =
    BackoffPolicy { first: Duration::from_secs(1), longest: Duration::from_mins(10) };

/// What a server's name says of who speaks for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Claim {
    /// Somebody does.
    Stands {
        /// Who.
        speaker: OwnedServerName,
        /// Until when that needs not be looked at again (ms since the epoch).
        until_ms: u64,
    },
    /// Nobody does.
    None,
    /// It can't be read now.
    Unknown,
}

/// What names say of who speaks for them. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Claims(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: FederationClient,
    clock: Clock,
    looks: Semaphore,
    known: Mutex<HashMap<OwnedServerName, Arc<Known>>>,
    /// Servers that are asked where their speaker is: not at their own place.
    spoken_for: Mutex<HashSet<OwnedServerName>>,
}

#[derive(Debug, Default)]
struct Known {
    /// Held across a look, so that there is one at a time.
    looking: AsyncMutex<()>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    speaker: Option<OwnedServerName>,
    /// When the page was read last; 0: never.
    read_ms: u64,
    /// What was read needs no second look until then.
    fresh_until_ms: u64,
    backoff: Backoff,
}

/// What a look at a page found.
#[derive(Debug, PartialEq, Eq)]
enum Found {
    Speaker(OwnedServerName, Duration),
    Nobody,
    Silence,
}

#[derive(Deserialize)]
struct Page {
    speaker: OwnedServerName,
}

impl Claims {
    /// Claims that are read with `client`.
    pub fn new(client: FederationClient, clock: Clock) -> Self {
        let looks = Semaphore::new(LOOKS_MAX);
        Self(Arc::new(Inner { client, clock, looks, known: Mutex::default(), spoken_for: Mutex::default() }))
    }

    /// Who speaks for `server`, from memory or by looking.
    pub async fn of(&self, server: &ServerName) -> Claim {
        let known = self.known(server);
        if let Some(claim) = known.state().fresh(self.0.clock.now_ms()) {
            return claim;
        }
        let _one_at_a_time = known.looking.lock().await;
        if let Some(claim) = known.state().fresh(self.0.clock.now_ms()) {
            return claim;
        }
        // Whoever has many names has as many pages that take long: others' claims stand meanwhile.
        let turn = tokio::time::timeout(TURN_WAIT, self.0.looks.acquire()).await;
        let Ok(Ok(_turn)) = turn else { return known.state().claim(self.0.clock.now_ms()) };
        let found = self.look(server).await;
        let now_ms = self.0.clock.now_ms();
        let mut state = known.state();
        state.note(server, found, now_ms);
        state.claim(now_ms)
    }

    /// The keys of who speaks for `server` that are good for a request made now.
    pub async fn request_keys(&self, keys: &KeyRing, server: &ServerName, wanted: &[String]) -> PublicKeys {
        match self.of(server).await {
            Claim::Stands { speaker, .. } => keys.keys(&speaker, wanted, Purpose::Request).await,
            Claim::None | Claim::Unknown => PublicKeys::new(),
        }
    }

    /// What is known of the keys of who speaks for `server`, and until when they may be relied on.
    pub async fn known_keys(
        &self,
        keys: &KeyRing,
        server: &ServerName,
        wanted: &BTreeMap<String, u64>,
    ) -> Option<(RemoteKeys, u64)> {
        let Claim::Stands { speaker, until_ms } = self.of(server).await else { return None };
        Some((keys.known(&speaker, wanted).await, until_ms))
    }

    /// Notes whether `server` is to be asked where its speaker is.
    pub fn lead(&self, server: &ServerName, to_speaker: bool) {
        let mut led = lock(&self.0.spoken_for);
        if !to_speaker {
            led.remove(server);
        } else if led.len() < KNOWN_MAX {
            led.insert(server.to_owned());
        }
    }

    /// Asks `destination`, or who speaks for it, about shared spaces; an answer other than 2xx is an error.
    ///
    /// # Errors
    /// As [`FederationClient::send_ok`], or nobody speaks for it any more.
    pub async fn send_ok(&self, request: Request<'_>) -> Result<Response, ClientError> {
        let server = request.destination;
        let is_led = lock(&self.0.spoken_for).contains(server);
        if !is_led {
            return self.0.client.send_ok(request).await;
        }
        // What is in a room is told to nobody who does not speak for its server now.
        let Claim::Stands { speaker, .. } = self.of(server).await else {
            return Err(ClientError::Unspoken(server.to_owned()));
        };
        self.0.client.send_ok(Request { at: Some(&speaker), ..request }).await
    }

    fn known(&self, server: &ServerName) -> Arc<Known> {
        let mut all = lock(&self.0.known);
        if all.len() >= KNOWN_MAX && !all.contains_key(server) {
            let now_ms = self.0.clock.now_ms();
            all.retain(|_, known| Arc::strong_count(known) > 1 || known.state().is_of_use(now_ms));
            if all.len() >= KNOWN_MAX {
                all.clear();
            }
        }
        Arc::clone(all.entry(server.to_owned()).or_default())
    }

    async fn look(&self, server: &ServerName) -> Found {
        match self.0.client.page(server, CLAIM_PATH, CLAIM_BYTES_MAX).await {
            Ok(response) => {
                let header = response.headers.get(CACHE_CONTROL).and_then(|value| value.to_str().ok());
                said(&response.body, header)
            }
            Err(ClientError::Status { status, .. }) if status.as_u16() == 408 => Found::Silence,
            Err(error) if error.is_outage() => {
                tracing::debug!(%server, error = %Chain(&error), "who speaks for it can't be read");
                Found::Silence
            }
            Err(_) => Found::Nobody,
        }
    }
}

impl Known {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl State {
    /// What is known, if it need not, or must not, be looked at again.
    fn fresh(&self, now_ms: u64) -> Option<Claim> {
        // A clock that was set back makes nothing hold for longer.
        let is_fresh = now_ms < self.fresh_until_ms && now_ms >= self.read_ms;
        (is_fresh || self.backoff.wait(PAUSES, now_ms).is_some()).then(|| self.claim(now_ms))
    }

    fn claim(&self, now_ms: u64) -> Claim {
        let is_recent = self.read_ms > 0 && now_ms < self.read_ms.saturating_add(ms(SILENT_FOR));
        match &self.speaker {
            _ if !is_recent => Claim::Unknown,
            Some(speaker) => {
                let is_fresh = now_ms < self.fresh_until_ms;
                let until_ms =
                    if is_fresh { self.fresh_until_ms } else { now_ms.saturating_add(ms(LIFETIME_MIN)) };
                Claim::Stands { speaker: speaker.clone(), until_ms }
            }
            None => Claim::None,
        }
    }

    fn is_of_use(&self, now_ms: u64) -> bool {
        self.speaker.is_some() && now_ms < self.read_ms.saturating_add(ms(SILENT_FOR))
    }

    fn note(&mut self, server: &ServerName, found: Found, now_ms: u64) {
        let (speaker, lifetime) = match found {
            Found::Speaker(speaker, lifetime) => (Some(speaker), lifetime),
            Found::Nobody => (None, NONE_FOR),
            Found::Silence => {
                self.backoff = self.backoff.failed(PAUSES, now_ms, rand::random());
                return;
            }
        };
        match (&self.speaker, &speaker) {
            (Some(before), None) => tracing::warn!(%server, speaker = %before,
                "its name does not say any more that this sidecar speaks for it: \
                what it asks, and new changes that it signed, are refused"),
            (before, Some(speaker)) if before.as_ref() != Some(speaker) => {
                tracing::info!(%server, %speaker, "its name says who speaks for it in shared spaces");
            }
            _ => {}
        }
        self.speaker = speaker;
        self.read_ms = now_ms;
        self.fresh_until_ms = now_ms.saturating_add(ms(lifetime));
        self.backoff = Backoff::default();
    }
}

/// What a page says.
fn said(body: &[u8], cache_control: Option<&str>) -> Found {
    match serde_json::from_slice::<Page>(body) {
        Ok(Page { speaker }) if speaker.as_str().len() <= NAME_BYTES_MAX => {
            let lifetime = max_age(cache_control).unwrap_or(LIFETIME).clamp(LIFETIME_MIN, LIFETIME_MAX);
            Found::Speaker(speaker, lifetime)
        }
        Ok(_) | Err(_) => Found::Nobody,
    }
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// What is in it is whole between statements, so a panic elsewhere is no reason to stop.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use ruma::{owned_server_name, server_name};

    use super::*;

    fn speaker(lifetime: Duration) -> Found {
        Found::Speaker(owned_server_name!("items.a.example"), lifetime)
    }

    #[test]
    fn a_page_says_one_name_or_nothing() {
        let good = br#"{"speaker":"items.a.example","more":1}"#;
        for (header, lifetime) in [
            (None, LIFETIME),
            (Some("max-age=120"), Duration::from_mins(2)),
            (Some("no-store"), LIFETIME_MIN),
            (Some("max-age=999999"), LIFETIME_MAX),
        ] {
            assert_eq!(said(good, header), speaker(lifetime), "{header:?}");
        }
        let long = format!(r#"{{"speaker":"{}.example"}}"#, "a".repeat(NAME_BYTES_MAX));
        let bad: [&[u8]; 7] = [
            b"",
            b"<html>",
            b"[]",
            b"{}",
            br#"{"speaker":["a.example","b.example"]}"#,
            br#"{"speaker":"a.example/x"}"#,
            long.as_bytes(),
        ];
        for page in bad {
            assert_eq!(said(page, None), Found::Nobody, "{}", String::from_utf8_lossy(page));
        }
    }

    #[test]
    fn a_claim_outlives_silence_for_a_day_and_ends_at_once_by_the_names_own_word() {
        let (name, day_ms) = (server_name!("a.example"), ms(SILENT_FOR));
        let stands = |state: &State, now_ms| matches!(state.claim(now_ms), Claim::Stands { .. });
        let mut state = State::default();
        assert_eq!(state.claim(5), Claim::Unknown, "nothing was read yet");
        state.note(name, speaker(LIFETIME_MIN), 1_000);
        assert!(state.fresh(1_000 + ms(LIFETIME_MIN) - 1).is_some());
        assert!(state.fresh(1_000 + ms(LIFETIME_MIN)).is_none(), "it is looked at again");
        assert!(state.fresh(999).is_none(), "whatever the clock");
        state.note(name, Found::Silence, 20_000);
        assert!(stands(&state, 20_000) && state.fresh(20_000).is_some(), "and not at once again");
        assert!(stands(&state, 999 + day_ms));
        assert_eq!(state.claim(1_000 + day_ms), Claim::Unknown);
        state.note(name, speaker(LIFETIME), 30_000);
        state.note(name, Found::Nobody, 31_000);
        assert_eq!(state.claim(31_000), Claim::None);
        state.note(name, Found::Silence, 32_000);
        assert_eq!(state.claim(32_000), Claim::None, "silence brings nothing back");
    }
}
