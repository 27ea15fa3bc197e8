//! Hashing and checking passwords: argon2id, always on a blocking thread (it
//! takes milliseconds by design).
//!
//! Each takes tens of mebibytes: as many run at once as there are cores, a bounded
//! number waits, and who comes when that many wait is told to come again.
//!
//! Parameters are part of the stored string, so changing the setting affects
//! new passwords only.

use std::{
    num::NonZero,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier},
};

use crate::{error::MatrixError, settings::PasswordSettings};

/// The longest password, in bytes: bounds what is hashed.
pub const PASSWORD_BYTES_MAX: usize = 512;

/// Bytes of salt.
const SALT_BYTES: usize = 16;

/// Hashes with the parameters of a setting.
pub struct Passwords {
    argon2: Argon2<'static>,
    /// Checked when an account doesn't exist, so that an answer's time doesn't tell.
    decoy: String,
    turns: Turns,
}

/// Waiting for each that runs: they hold threads that others could use.
const WAITING_PER_CORE: usize = 4;

/// When who has to wait is to come again, if he can't.
const RETRY_AFTER_MS: u64 = 1_000;

/// Whose turn it is to hash.
struct Turns {
    running_max: usize,
    now: Mutex<Now>,
    ended: Condvar,
}

#[derive(Default)]
struct Now {
    running: usize,
    waiting: usize,
}

/// Somebody's turn; it ends when this goes.
struct Turn<'a>(&'a Turns);

impl Turns {
    fn new(running_max: usize) -> Self {
        Self { running_max, now: Mutex::default(), ended: Condvar::new() }
    }

    fn now(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for a turn; `None` if too many wait already.
    fn take(&self) -> Option<Turn<'_>> {
        let mut now = self.now();
        if now.running >= self.running_max {
            if now.waiting >= self.running_max * WAITING_PER_CORE {
                return None;
            }
            now.waiting += 1;
            while now.running >= self.running_max {
                now = self.ended.wait(now).unwrap_or_else(PoisonError::into_inner);
            }
            now.waiting -= 1;
        }
        now.running += 1;
        Some(Turn(self))
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.now().running -= 1;
        self.0.ended.notify_one();
    }
}

fn busy() -> MatrixError {
    MatrixError::new(429, "M_LIMIT_EXCEEDED", "Too many passwords are being checked; try again soon")
        .with("retry_after_ms", RETRY_AFTER_MS)
}

/// The parameters of argon2id are out of its range, or hashing failed.
#[derive(Debug, thiserror::Error)]
#[error("argon2id: {0}")]
pub struct PasswordError(String);

impl Passwords {
    /// With these parameters.
    pub fn new(settings: PasswordSettings) -> Result<Self, PasswordError> {
        let params = Params::new(settings.memory_kib, settings.iterations, settings.parallelism, None)
            .map_err(|error| PasswordError(error.to_string()))?;
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let decoy = hash(&argon2, "a password that nobody has")?;
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        Ok(Self { argon2, decoy, turns: Turns::new(cores) })
    }

    /// The PHC string of a password.
    ///
    /// # Errors
    /// 429 when too many wait for their turn.
    pub fn hash(&self, password: &str) -> Result<String, MatrixError> {
        let _turn = self.turns.take().ok_or_else(busy)?;
        hash(&self.argon2, password).map_err(|error| MatrixError::internal(&error))
    }

    /// Whether `password` is the one that was hashed; takes as long if there is none.
    ///
    /// # Errors
    /// 429 when too many wait for their turn.
    pub fn verify(&self, password: &str, stored: Option<&str>) -> Result<bool, MatrixError> {
        let _turn = self.turns.take().ok_or_else(busy)?;
        let bounded = if password.len() <= PASSWORD_BYTES_MAX { password } else { "" };
        let matches = self.argon2.verify_password(bounded.as_bytes(), stored.unwrap_or(&self.decoy)).is_ok();
        Ok(matches && stored.is_some() && bounded.len() == password.len())
    }
}

fn hash(argon2: &Argon2<'_>, password: &str) -> Result<String, PasswordError> {
    let salt: [u8; SALT_BYTES] = rand::random();
    let hashed = argon2.hash_password_with_salt(password.as_bytes(), &salt);
    hashed.map(|hashed| hashed.to_string()).map_err(|error| PasswordError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_password_that_was_hashed_opens() {
        let passwords = Passwords::new(PasswordSettings::cheapest()).expect("parameters");
        let stored = passwords.hash("hunter2").expect("hash");
        assert!(stored.starts_with("$argon2id$"));
        assert_ne!(stored, passwords.hash("hunter2").expect("hash"), "salted");
        let opens = |password: &str, stored| passwords.verify(password, stored).expect("a turn");
        assert!(opens("hunter2", Some(&stored)));
        assert!(!opens("hunter3", Some(&stored)));
        assert!(!opens("hunter2", None));
        assert!(!opens("a password that nobody has", None));
        assert!(!opens(&"x".repeat(PASSWORD_BYTES_MAX + 1), Some(&stored)));
    }

    #[test]
    fn so_many_have_a_turn_so_many_wait_and_the_others_are_sent_away() {
        let turns = Turns::new(1);
        let first = turns.take().expect("a turn");
        std::thread::scope(|scope| {
            for _ in 0..WAITING_PER_CORE {
                scope.spawn(|| assert!(turns.take().is_some()));
            }
            while turns.now().waiting < WAITING_PER_CORE {
                std::thread::yield_now();
            }
            assert!(turns.take().is_none());
            drop(first);
        });
        let now = turns.now();
        assert_eq!((now.running, now.waiting), (0, 0));
    }
}
