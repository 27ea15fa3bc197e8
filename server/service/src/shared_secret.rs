//! Registration by a shared secret, as Synapse has it: who knows the secret
//! proves it by an HMAC over a nonce, and may create any account.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use crate::{clock::Clock, error::MatrixError, secrets};

/// Nonces at once; the oldest give way.
const NONCES_MAX: usize = 1_000;

/// How long a nonce may be used, in milliseconds.
const NONCE_LIFETIME_MS: u64 = 60_000;

/// Characters of a nonce.
const NONCE_CHARS: usize = 64;

/// What is proven.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The nonce that was handed out.
    pub nonce: &'a str,
    /// The localpart.
    pub username: &'a str,
    /// The password.
    pub password: &'a str,
    /// Whether the account is an administrator's.
    pub admin: bool,
    /// A kind of user, if any: part of what is signed.
    pub user_type: Option<&'a str>,
    /// The HMAC-SHA1 in hex.
    pub mac: &'a str,
}

/// See the module.
pub struct SharedSecret {
    secret: Option<String>,
    clock: Clock,
    nonces: Mutex<HashMap<String, u64>>,
}

impl SharedSecret {
    /// Closed if there is no secret.
    pub fn new(secret: Option<String>, clock: Clock) -> Self {
        Self { secret: secret.filter(|secret| !secret.is_empty()), clock, nonces: Mutex::default() }
    }

    /// A nonce, to be used once within a minute.
    ///
    /// # Errors
    /// 400 when there is no secret.
    pub fn nonce(&self) -> Result<String, MatrixError> {
        self.secret()?;
        let now_ms = self.clock.now_ms();
        let nonce = secrets::alphanumeric(NONCE_CHARS);
        let mut nonces = self.nonces.lock().unwrap_or_else(PoisonError::into_inner);
        nonces.retain(|_, made_ms| made_ms.saturating_add(NONCE_LIFETIME_MS) > now_ms);
        if nonces.len() >= NONCES_MAX {
            let oldest = nonces.iter().min_by_key(|(_, made_ms)| **made_ms).map(|(nonce, _)| nonce.clone());
            oldest.and_then(|oldest| nonces.remove(&oldest));
        }
        nonces.insert(nonce.clone(), now_ms);
        Ok(nonce)
    }

    /// Spends the nonce and checks the proof.
    ///
    /// # Errors
    /// 400 for an unknown nonce, 403 for a wrong HMAC.
    pub fn verify(&self, claim: &Claim<'_>) -> Result<(), MatrixError> {
        let secret = self.secret()?;
        let made_ms = self.nonces.lock().unwrap_or_else(PoisonError::into_inner).remove(claim.nonce);
        if made_ms.is_none_or(|made_ms| made_ms.saturating_add(NONCE_LIFETIME_MS) <= self.clock.now_ms()) {
            return Err(MatrixError::new(400, "M_UNKNOWN", "Unrecognised nonce"));
        }
        let wrong = || MatrixError::forbidden("HMAC incorrect");
        let given = hex::decode(claim.mac).map_err(|_| wrong())?;
        mac(secret, claim).verify_slice(&given).map_err(|_| wrong())
    }

    fn secret(&self) -> Result<&str, MatrixError> {
        self.secret
            .as_deref()
            .ok_or_else(|| MatrixError::new(400, "M_UNKNOWN", "Shared secret registration is not enabled"))
    }
}

fn mac(secret: &str, claim: &Claim<'_>) -> Hmac<Sha1> {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    let admin = if claim.admin { "admin" } else { "notadmin" };
    let parts = [claim.nonce, claim.username, claim.password, admin].into_iter().chain(claim.user_type);
    for (index, part) in parts.enumerate() {
        if index > 0 {
            mac.update(b"\0");
        }
        mac.update(part.as_bytes());
    }
    mac
}

/// The proof for a claim, in hex: what a client of this endpoint computes.
pub fn prove(secret: &str, claim: &Claim<'_>) -> String {
    hex::encode(mac(secret, claim).finalize().into_bytes())
}

/// HMAC-SHA1 of `message`: the password of the TURN REST API scheme.
///
/// # Panics
/// Never: an HMAC takes keys of any length.
pub fn turn_mac(secret: &str, message: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
    mac.update(message.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_accepted_once_and_only_for_what_it_claims() {
        let secret = SharedSecret::new(Some("s".to_owned()), Clock::manual(0));
        let nonce = secret.nonce().expect("nonce");
        let claim =
            Claim { nonce: &nonce, username: "a", password: "p", admin: false, user_type: None, mac: "" };
        let mac = prove("s", &claim);
        let admin = Claim { admin: true, mac: &mac, ..claim };
        assert_eq!(secret.verify(&admin).expect_err("not what was signed").status, 403);
        let again = Claim { mac: &mac, ..claim };
        assert_eq!(secret.verify(&again).expect_err("the nonce is spent").status, 400);
        let nonce = secret.nonce().expect("nonce");
        let claim = Claim { nonce: &nonce, ..claim };
        let mac = prove("s", &claim);
        assert!(secret.verify(&Claim { mac: &mac, ..claim }).is_ok());
    }

    #[test]
    fn the_hmac_is_synapses() {
        // printf 'n\0u\0p\0notadmin' | openssl dgst -sha1 -hmac secret
        let claim =
            Claim { nonce: "n", username: "u", password: "p", admin: false, user_type: None, mac: "" };
        assert_eq!(prove("secret", &claim), "0f2b4751fa14a68d6a6878c313b752580706c394");
    }
}
