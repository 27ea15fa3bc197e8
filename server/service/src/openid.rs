//! Tokens by which a user proves to somebody else (a widget, a call service) who he is
//! (`openid` in the client-server API). They open nothing here.
//!
//! In memory only, as they live for an hour.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use ruma::{OwnedUserId, UserId};

use crate::{clock::Clock, error::MatrixError, secrets};

/// How long one is valid, in milliseconds.
pub const LIFETIME_MS: u64 = 60 * 60 * 1000;
/// Tokens of one user at once; the oldest gives way.
const TOKENS_OF_ONE_MAX: usize = 20;
/// Tokens of all at once; the oldest gives way.
const TOKENS_MAX: usize = 20_000;

struct Issued {
    user_id: OwnedUserId,
    until_ms: u64,
    number: u64,
}

/// See the module.
pub struct OpenId {
    clock: Clock,
    /// By hash.
    tokens: Mutex<HashMap<[u8; 32], Issued>>,
}

impl OpenId {
    /// None yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, tokens: Mutex::default() }
    }

    /// A token for a user.
    pub fn make(&self, user_id: &UserId) -> String {
        let (token, now_ms) = (secrets::token(), self.clock.now_ms());
        let mut tokens = self.lock();
        tokens.retain(|_, issued| issued.until_ms > now_ms);
        let number = tokens.values().map(|issued| issued.number).max().map_or(0, |last| last + 1);
        let of_one = tokens.values().filter(|issued| issued.user_id == user_id).count();
        let gives_way = |issued: &Issued| of_one < TOKENS_OF_ONE_MAX || issued.user_id == user_id;
        if of_one >= TOKENS_OF_ONE_MAX || tokens.len() >= TOKENS_MAX {
            let able = tokens.iter().filter(|(_, issued)| gives_way(issued));
            let oldest = able.min_by_key(|(_, issued)| issued.number).map(|(hash, _)| *hash);
            oldest.and_then(|oldest| tokens.remove(&oldest));
        }
        let until_ms = now_ms.saturating_add(LIFETIME_MS);
        let issued = Issued { user_id: user_id.to_owned(), until_ms, number };
        tokens.insert(secrets::hash(&token), issued);
        token
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// 401 `M_UNKNOWN_TOKEN` for one that is unknown or too old.
    pub fn user(&self, token: &str) -> Result<OwnedUserId, MatrixError> {
        let now_ms = self.clock.now_ms();
        let tokens = self.lock();
        let issued = tokens.get(&secrets::hash(token)).filter(|issued| issued.until_ms > now_ms);
        let issued =
            issued.ok_or_else(|| MatrixError::new(401, "M_UNKNOWN_TOKEN", "Unknown or expired token"))?;
        Ok(issued.user_id.clone())
    }

    /// A map is whole between statements, so a panic elsewhere is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Issued>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ruma::user_id;

    use super::*;

    #[test]
    fn a_token_is_known_for_an_hour_and_the_oldest_of_a_user_gives_way() {
        let clock = Clock::manual(0);
        let openid = OpenId::new(clock.clone());
        let (alice, bob) = (user_id!("@alice:a.example"), user_id!("@bob:a.example"));
        let (first, bobs) = (openid.make(alice), openid.make(bob));
        assert_eq!(openid.user(&first).expect("known"), alice);
        for _ in 1..TOKENS_OF_ONE_MAX {
            openid.make(alice);
        }
        assert!(openid.user(&first).is_ok());
        openid.make(alice);
        assert_eq!(openid.user(&first).expect_err("gave way").status, 401);
        assert_eq!(openid.user(&bobs).expect("known"), bob);
        clock.advance(Duration::from_millis(LIFETIME_MS));
        assert_eq!(openid.user(&bobs).expect_err("too old").errcode, "M_UNKNOWN_TOKEN");
    }
}
