//! Tokens that let one register: those in the configuration, which never end,
//! and those that administrators make, which are counted and may end.
//!
//! Invariant: a token is used at most as often as it may be, however many
//! registrations run at once: a use is taken before an account is made, and
//! given back when none was.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use causeway_storage::registration_tokens::RegistrationToken;
use causeway_storage::{Database, registration_tokens as rows};
use subtle::ConstantTimeEq;

use crate::{
    clock::Clock,
    error::MatrixError,
    secrets,
    settings::{Registration, Settings},
};

/// Tokens at once.
pub const TOKENS_MAX: usize = 10_000;
/// Characters of a token (specification, "Token-authenticated registration").
pub const TOKEN_CHARS_MAX: usize = 64;
/// What means something else where a path names a token.
const UNADDRESSABLE: &[&str] = &["new", ".", ".."];
/// Characters of a token that the server chooses.
const TOKEN_CHARS: usize = 16;

/// A token that an administrator wishes for.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The token; `None` for one that the server chooses.
    pub token: Option<String>,
    /// Characters of one that the server chooses.
    pub length: Option<usize>,
    /// How often it may be used.
    pub uses_allowed: Option<u64>,
    /// When it ends, in milliseconds since the epoch.
    pub expires_ts: Option<u64>,
}

/// What of a token is to be changed; the outer `None` leaves it as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Change {
    /// How often it may be used.
    pub uses_allowed: Option<Option<u64>>,
    /// When it ends, in milliseconds since the epoch.
    pub expires_ts: Option<Option<u64>>,
}

/// See the module.
pub struct RegistrationTokens {
    database: Database,
    clock: Clock,
    settings: Arc<Settings>,
    /// Held from reading a token until what follows from it is committed.
    writing: Mutex<()>,
}

impl RegistrationTokens {
    /// Over `database`.
    pub fn new(database: Database, clock: Clock, settings: Arc<Settings>) -> Self {
        Self { database, clock, settings, writing: Mutex::default() }
    }

    /// Whether `token` lets one register now.
    pub fn is_valid(&self, token: &str) -> Result<bool, MatrixError> {
        if !is_token(token) {
            return Ok(self.is_configured(token));
        }
        let row = rows::token(&self.database, token)?;
        Ok(self.is_configured(token) || row.is_some_and(|row| self.is_usable(&row)))
    }

    /// Whether a token's row allows one more use now.
    pub fn is_usable(&self, row: &RegistrationToken) -> bool {
        row.uses_allowed.is_none_or(|allowed| row.completed < allowed)
            && row.expires_ts.is_none_or(|expires| self.clock.now_ms() < expires)
    }

    /// Takes a use of a valid token.
    ///
    /// # Errors
    /// 403 when there is none left by now.
    pub fn take(&self, token: &str) -> Result<(), MatrixError> {
        if self.is_configured(token) {
            return Ok(());
        }
        let _writing = self.lock();
        let row = if is_token(token) { rows::token(&self.database, token)? } else { None };
        match row.filter(|row| self.is_usable(row)) {
            Some(row) => self.write(token, &RegistrationToken { completed: row.completed + 1, ..row }),
            None => Err(MatrixError::forbidden("Invalid registration token")),
        }
    }

    /// Gives back what [`Self::take`] took: no account was made.
    pub fn give_back(&self, token: &str) -> Result<(), MatrixError> {
        let _writing = self.lock();
        match rows::token(&self.database, token)? {
            Some(row) if !self.is_configured(token) => {
                let completed = row.completed.saturating_sub(1);
                self.write(token, &RegistrationToken { completed, ..row })
            }
            _ => Ok(()),
        }
    }

    /// The tokens that administrators made, at most [`TOKENS_MAX`].
    pub fn list(&self) -> Result<Vec<(String, RegistrationToken)>, MatrixError> {
        Ok(rows::tokens(&self.database, TOKENS_MAX)?)
    }

    /// One of them.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND`.
    pub fn token(&self, token: &str) -> Result<RegistrationToken, MatrixError> {
        let row = if is_token(token) { rows::token(&self.database, token)? } else { None };
        row.ok_or_else(|| MatrixError::not_found("No such registration token"))
    }

    /// Makes a token.
    ///
    /// # Errors
    /// 400 `M_INVALID_PARAM` for one that is none, exists, or ended already.
    pub fn create(&self, wish: Wish) -> Result<(String, RegistrationToken), MatrixError> {
        let invalid = MatrixError::invalid_param;
        let length = wish.length.unwrap_or(TOKEN_CHARS);
        if !(1..=TOKEN_CHARS_MAX).contains(&length) {
            return Err(invalid("A token has 1 to 64 characters"));
        }
        let token = wish.token.unwrap_or_else(|| secrets::alphanumeric(length));
        if !is_token(&token) {
            return Err(invalid("A token has 1 to 64 characters of A-Z, a-z, 0-9 and ._~-"));
        }
        if UNADDRESSABLE.contains(&&*token) {
            return Err(invalid("A token of this name could not be asked for or deleted"));
        }
        let change = Change { uses_allowed: Some(wish.uses_allowed), expires_ts: Some(wish.expires_ts) };
        let row = self.changed(&RegistrationToken::default(), change)?;
        let _writing = self.lock();
        if rows::token(&self.database, &token)?.is_some() || self.is_configured(&token) {
            return Err(invalid("There is such a token already"));
        }
        if self.list()?.len() >= TOKENS_MAX {
            return Err(invalid("There are too many tokens: delete some"));
        }
        self.write(&token, &row)?;
        Ok((token, row))
    }

    /// Changes a token.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND`; 400 `M_INVALID_PARAM` for an end that is past.
    pub fn change(&self, token: &str, change: Change) -> Result<RegistrationToken, MatrixError> {
        let _writing = self.lock();
        let row = self.changed(&self.token(token)?, change)?;
        self.write(token, &row)?;
        Ok(row)
    }

    /// Deletes a token.
    ///
    /// # Errors
    /// 404 `M_NOT_FOUND`.
    pub fn delete(&self, token: &str) -> Result<(), MatrixError> {
        let _writing = self.lock();
        self.token(token)?;
        let mut batch = self.database.batch();
        rows::delete(&mut batch, token);
        self.database.commit_durable(batch)?;
        Ok(())
    }

    fn changed(&self, row: &RegistrationToken, change: Change) -> Result<RegistrationToken, MatrixError> {
        if change.expires_ts.flatten().is_some_and(|expires| expires < self.clock.now_ms()) {
            return Err(MatrixError::invalid_param("The time of expiry is past"));
        }
        Ok(RegistrationToken {
            uses_allowed: change.uses_allowed.unwrap_or(row.uses_allowed),
            expires_ts: change.expires_ts.unwrap_or(row.expires_ts),
            completed: row.completed,
        })
    }

    fn write(&self, token: &str, row: &RegistrationToken) -> Result<(), MatrixError> {
        let mut batch = self.database.batch();
        rows::put(&mut batch, token, row);
        self.database.commit_durable(batch)?;
        Ok(())
    }

    fn is_configured(&self, token: &str) -> bool {
        match &self.settings.registration {
            Registration::Token(tokens) => tokens
                .iter()
                .any(|known| !known.is_empty() && known.as_bytes().ct_eq(token.as_bytes()).into()),
            Registration::Closed | Registration::Open => false,
        }
    }

    /// The lock guards no data, so a panic under it breaks nothing.
    fn lock(&self) -> MutexGuard<'_, ()> {
        self.writing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_token(token: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._~-".contains(c);
    (1..=TOKEN_CHARS_MAX).contains(&token.len()) && token.chars().all(allowed)
}
