//! Whose token a client shows: asked of the upstream, and remembered for a moment.
//!
//! Invariants: a token is held as its hash only; one question for each token is under way;
//! what is remembered is at most [`REMEMBERED_MAX`] and ends by itself; while the upstream
//! does not answer nobody is let in.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use causeway_service::{clock::Clock, error::MatrixError, secrets, session::Session, turns::Turns};
use reqwest::{StatusCode, header::HeaderValue};
use ruma::{OwnedDeviceId, OwnedServerName};
use tokio::sync::Semaphore;

use super::{
    client::{Refusal, UpstreamClient, UpstreamError},
    requests::{Acting, WhoAmI},
};

/// How long a token is believed to be someone's.
pub const GOOD_FOR: Duration = Duration::from_secs(10);
/// How long a token is believed to be nobody's.
pub const BAD_FOR: Duration = Duration::from_secs(2);
/// Tokens of which something is remembered.
pub const REMEMBERED_MAX: usize = 10_000;
/// Questions that are under way at once.
const ASKED_AT_ONCE_MAX: usize = 32;
/// Who may wait for the answer about one token.
const WAITING_MAX: usize = 128;

/// What a refusal may say of a token. What is unknown here is no valid token either.
const REFUSALS: [&str; 8] = [
    "M_UNKNOWN_TOKEN",
    "M_MISSING_TOKEN",
    "M_USER_LOCKED",
    "M_USER_SUSPENDED",
    "M_USER_DEACTIVATED",
    "M_CONSENT_NOT_GIVEN",
    "M_RESOURCE_LIMIT_EXCEEDED",
    "M_FORBIDDEN",
];

type Hash = [u8; 32];

struct Remembered {
    said: Result<Session, Refusal>,
    at_ms: u64,
}

impl Remembered {
    fn is_fresh(&self, now_ms: u64) -> bool {
        let fresh_for = if self.said.is_ok() { GOOD_FOR } else { BAD_FOR };
        // A clock that was set back makes it old.
        now_ms.checked_sub(self.at_ms).is_some_and(|age| u128::from(age) < fresh_for.as_millis())
    }
}

/// See the module.
pub struct Sessions {
    client: UpstreamClient,
    clock: Clock,
    server_name: OwnedServerName,
    remembered: Mutex<HashMap<Hash, Remembered>>,
    asking: Turns<Hash>,
    /// Anybody can make up tokens.
    under_way: Semaphore,
}

impl Sessions {
    /// Asks `client`, the homeserver of this name.
    pub fn new(client: UpstreamClient, clock: Clock, server_name: OwnedServerName) -> Self {
        let (asking, under_way) = (Turns::new(1), Semaphore::new(ASKED_AT_ONCE_MAX));
        Self { client, clock, server_name, remembered: Mutex::default(), asking, under_way }
    }

    /// Whose token it is. `forwarded_for` is from where he came.
    ///
    /// # Errors
    /// What the upstream says of the token; 502 `M_UNKNOWN` when it says nothing.
    pub async fn session(
        &self,
        token: &str,
        acting: &Acting,
        forwarded_for: Option<&HeaderValue>,
    ) -> Result<Session, MatrixError> {
        let hash = secrets::hash(&format!("{token} {}", acting.query()));
        if let Some(said) = self.remembered(&hash) {
            return said.map_err(|refusal| refused(&refusal));
        }
        let busy = || MatrixError::new(429, "M_LIMIT_EXCEEDED", "Too many requests at once");
        let _turn = self.asking.take_among(&hash, WAITING_MAX).await.ok_or_else(busy)?;
        // Somebody else may have asked meanwhile.
        if let Some(said) = self.remembered(&hash) {
            return said.map_err(|refusal| refused(&refusal));
        }
        let _under_way = self.under_way.try_acquire().map_err(|_| busy())?;
        let said = match self.client.whoami(token, acting, forwarded_for).await {
            Ok(who) => Ok(self.session_of(who)?),
            Err(UpstreamError::Refused(refusal)) if says_who(&refusal) => Err(refusal),
            Err(UpstreamError::Token) => {
                return Err(MatrixError::new(401, "M_UNKNOWN_TOKEN", "Unknown access token"));
            }
            Err(UpstreamError::Refused(refusal)) if refusal.status == StatusCode::TOO_MANY_REQUESTS => {
                let error = MatrixError::new(429, "M_LIMIT_EXCEEDED", "Too many requests");
                let pause = refusal.retry_after_ms;
                return Err(match pause {
                    Some(pause) => error.with("retry_after_ms", pause),
                    None => error,
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the homeserver does not say whose token a client shows");
                return Err(MatrixError::new(502, "M_UNKNOWN", "The homeserver does not answer"));
            }
        };
        self.remember(hash, said.clone());
        said.map_err(|refusal| refused(&refusal))
    }

    fn session_of(&self, who: WhoAmI) -> Result<Session, MatrixError> {
        if who.user_id.server_name() != self.server_name {
            tracing::error!(user_id = %who.user_id, "the homeserver is another one than it should be");
            return Err(MatrixError::new(502, "M_UNKNOWN", "The homeserver is not the expected one"));
        }
        // Application services have none.
        let device_id = who.device_id.unwrap_or_else(|| OwnedDeviceId::from(""));
        Ok(Session { is_guest: who.is_guest, ..Session::of(who.user_id, device_id) })
    }

    fn remembered(&self, hash: &Hash) -> Option<Result<Session, Refusal>> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        let known = remembered.get(hash).filter(|known| known.is_fresh(self.clock.now_ms()))?;
        Some(known.said.clone())
    }

    fn remember(&self, hash: Hash, said: Result<Session, Refusal>) {
        let at_ms = self.clock.now_ms();
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.len() >= REMEMBERED_MAX {
            remembered.retain(|_, known| known.is_fresh(at_ms));
        }
        while remembered.len() >= REMEMBERED_MAX {
            // Whoever it was is asked about again.
            let Some(one) = remembered.keys().next().copied() else { break };
            remembered.remove(&one);
        }
        remembered.insert(hash, Remembered { said, at_ms });
    }
}

/// Whether it is an answer to the question, and not a sign that something is out of order.
fn says_who(refusal: &Refusal) -> bool {
    matches!(refusal.status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)
}

fn refused(refusal: &Refusal) -> MatrixError {
    let known = REFUSALS.into_iter().find(|code| *code == refusal.errcode);
    let error = MatrixError::new(
        refusal.status.as_u16(),
        known.unwrap_or("M_UNKNOWN_TOKEN"),
        refusal.message.clone(),
    );
    if refusal.soft_logout { error.with("soft_logout", true) } else { error }
}
