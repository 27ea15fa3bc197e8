//! Hashing and checking passwords: argon2id, always on a blocking thread (it
//! takes milliseconds by design).
//!
//! Parameters are part of the stored string, so changing the setting affects
//! new passwords only.

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, PasswordVerifier},
};

use crate::settings::PasswordSettings;

/// The longest password, in bytes: bounds what is hashed.
pub const PASSWORD_BYTES_MAX: usize = 512;

/// Bytes of salt.
const SALT_BYTES: usize = 16;

/// Hashes with the parameters of a setting.
pub struct Passwords {
    argon2: Argon2<'static>,
    /// Checked when an account doesn't exist, so that an answer's time doesn't tell.
    decoy: String,
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
        Ok(Self { argon2, decoy })
    }

    /// The PHC string of a password.
    pub fn hash(&self, password: &str) -> Result<String, PasswordError> {
        hash(&self.argon2, password)
    }

    /// Whether `password` is the one that was hashed; takes as long if there is none.
    pub fn verify(&self, password: &str, stored: Option<&str>) -> bool {
        let bounded = if password.len() <= PASSWORD_BYTES_MAX { password } else { "" };
        let matches = self.argon2.verify_password(bounded.as_bytes(), stored.unwrap_or(&self.decoy)).is_ok();
        matches && stored.is_some() && bounded.len() == password.len()
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
        assert!(passwords.verify("hunter2", Some(&stored)));
        assert!(!passwords.verify("hunter3", Some(&stored)));
        assert!(!passwords.verify("hunter2", None));
        assert!(!passwords.verify("a password that nobody has", None));
        assert!(!passwords.verify(&"x".repeat(PASSWORD_BYTES_MAX + 1), Some(&stored)));
    }
}
