//! Tokens by which a user who is logged in logs another device in
//! (`m.login.token`; client-server API, "Login").
//!
//! In memory only, as they live for two minutes. Each is used once.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::{OwnedUserId, UserId};

use crate::{clock::Clock, credential::Credential, error::MatrixError, secrets};

/// How long one is valid, in milliseconds.
pub const LIFETIME_MS: u64 = 2 * 60 * 1000;
/// Tokens at once; the oldest give way.
const TOKENS_MAX: usize = 10_000;

/// A token that was not used yet.
struct Waiting {
    user_id: OwnedUserId,
    /// What the user showed for it: a token ends with the password that it was given for.
    credential: Credential,
    until_ms: u64,
}

/// See the module.
pub struct LoginTokens {
    clock: Clock,
    /// By hash.
    tokens: Mutex<HashMap<[u8; 32], Waiting>>,
}

impl LoginTokens {
    /// None yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, tokens: Mutex::default() }
    }

    /// A token for a user who has proven who he is.
    pub fn make(&self, user_id: &UserId, credential: Credential) -> String {
        let (token, now_ms) = (secrets::token(), self.clock.now_ms());
        let mut tokens = self.lock();
        if tokens.len() >= TOKENS_MAX {
            tokens.retain(|_, waiting| waiting.until_ms > now_ms);
        }
        if tokens.len() >= TOKENS_MAX {
            let oldest = tokens.iter().min_by_key(|(_, waiting)| waiting.until_ms).map(|(hash, _)| *hash);
            oldest.and_then(|oldest| tokens.remove(&oldest));
        }
        let until_ms = now_ms.saturating_add(LIFETIME_MS);
        tokens.insert(secrets::hash(&token), Waiting { user_id: user_id.to_owned(), credential, until_ms });
        token
    }

    /// Whose token this is, and what he showed for it. It is spent by that.
    ///
    /// # Errors
    /// 403 `M_FORBIDDEN` for one that is unknown, spent or too old.
    pub fn spend(&self, token: &str) -> Result<(OwnedUserId, Credential), MatrixError> {
        let found = self.lock().remove(&secrets::hash(token));
        match found {
            Some(waiting) if self.clock.now_ms() < waiting.until_ms => {
                Ok((waiting.user_id, waiting.credential))
            }
            _ => Err(MatrixError::forbidden("Invalid login token")),
        }
    }

    /// A map is whole between statements, so a panic elsewhere is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Waiting>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
