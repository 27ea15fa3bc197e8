//! Authorization codes: what a user consented to, until the client fetches it (RFC
//! 6749, section 4.1; RFC 7636).
//!
//! In memory only, as they live for two minutes; by hash. Each is used once, by
//! whoever else knows the verifier of its challenge. One that is shown again with that
//! has been seen by somebody else: what it opened is closed, or will be as soon as it is
//! open.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{OwnedDeviceId, OwnedUserId};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{Consent, OAuthError};
use crate::{clock::Clock, secrets};

/// How long one is valid, in milliseconds.
const LIFETIME_MS: u64 = 2 * 60 * 1000;
/// Codes at once; the oldest give way.
const CODES_MAX: usize = 10_000;

/// What a code opens.
#[derive(Clone, Debug)]
pub struct Grant {
    /// What the user consented to.
    pub consent: Consent,
    /// The redirect URI of the request, as written.
    pub redirect_uri: String,
    /// SHA-256 of the verifier, as base64url.
    pub challenge: String,
}

/// Why a code opens nothing.
#[derive(Debug)]
pub enum Refused {
    /// It is unknown, expired, or the client's or verifier's is another.
    Unknown(OAuthError),
    /// It was used before, for this device.
    Again(OwnedUserId, OwnedDeviceId),
}

struct Code {
    until_ms: u64,
    grant: Grant,
    state: Use,
}

/// What has become of a code.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Waiting,
    Used,
    /// Used again.
    Burnt,
}

/// See the module.
pub struct Codes {
    clock: Clock,
    /// By hash.
    codes: Mutex<HashMap<[u8; 32], Code>>,
}

impl Codes {
    /// None yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, codes: Mutex::default() }
    }

    /// A code for what a user consented to just now.
    pub fn issue(&self, grant: Grant) -> String {
        let (code, now_ms) = (secrets::token(), self.clock.now_ms());
        let mut codes = self.lock();
        if codes.len() >= CODES_MAX {
            codes.retain(|_, code| code.until_ms > now_ms);
        }
        if codes.len() >= CODES_MAX {
            let oldest = codes.iter().min_by_key(|(_, code)| code.until_ms).map(|(hash, _)| *hash);
            oldest.and_then(|oldest| codes.remove(&oldest));
        }
        let until_ms = now_ms.saturating_add(LIFETIME_MS);
        codes.insert(secrets::hash(&code), Code { until_ms, grant, state: Use::Waiting });
        code
    }

    /// What `code` opens. It is used up by that, whether or not the rest is right.
    ///
    /// # Errors
    /// See [`Refused`].
    pub fn redeem(
        &self,
        code: &str,
        client_id: &str,
        redirect_uri: &str,
        verifier: &str,
    ) -> Result<Consent, Refused> {
        let unknown = |why: &str| Refused::Unknown(OAuthError::invalid_grant(why));
        let hash = secrets::hash(code);
        let mut codes = self.lock();
        let now_ms = self.clock.now_ms();
        let code = codes.get_mut(&hash).filter(|code| code.until_ms > now_ms);
        let code = code.ok_or_else(|| unknown("This code is unknown"))?;
        if let Err(why) = code.grant.check(client_id, redirect_uri, verifier) {
            // Who knows a code but not its verifier must not close what it opened.
            if code.state == Use::Waiting {
                codes.remove(&hash);
            }
            return Err(unknown(why));
        }
        let consent = &code.grant.consent;
        match code.state {
            Use::Waiting => {
                code.state = Use::Used;
                Ok(consent.clone())
            }
            Use::Used => {
                code.state = Use::Burnt;
                Err(Refused::Again(consent.user_id.clone(), consent.scope.device_id.clone()))
            }
            Use::Burnt => Err(unknown("This code was used before")),
        }
    }

    /// Whether a code was redeemed again: who was first asks when its session is made,
    /// which the second could not close before.
    pub fn is_burnt(&self, code: &str) -> bool {
        self.lock().get(&secrets::hash(code)).is_some_and(|code| code.state == Use::Burnt)
    }

    /// A map is whole between statements, so a panic elsewhere is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Code>> {
        self.codes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Grant {
    fn check(&self, client_id: &str, redirect_uri: &str, verifier: &str) -> Result<(), &'static str> {
        if self.consent.client_id != client_id || self.redirect_uri != redirect_uri {
            return Err("This code is another client's or redirect URI's");
        }
        if !proves(verifier, &self.challenge) {
            return Err("This is not the verifier of the code's challenge");
        }
        Ok(())
    }
}

/// Whether `challenge` is one that a verifier can prove.
pub fn is_challenge(challenge: &str) -> bool {
    URL_SAFE_NO_PAD.decode(challenge).is_ok_and(|hash| hash.len() == 32)
}

fn proves(verifier: &str, challenge: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let hash = URL_SAFE_NO_PAD.encode(Sha256::digest(verifier));
    (43..=128).contains(&verifier.len())
        && verifier.bytes().all(allowed)
        && bool::from(hash.as_bytes().ct_eq(challenge.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{credential::Credential, oauth::scope::Scope};

    // RFC 7636, appendix B.
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    fn grant() -> Grant {
        let scope = Scope::parse("urn:matrix:client:api:* urn:matrix:client:device:D").expect("a scope");
        let consent = Consent {
            client_id: "c".to_owned(),
            display_name: "App".to_owned(),
            user_id: ruma::user_id!("@a:x").to_owned(),
            credential: Credential::of("hash".to_owned()),
            scope,
        };
        Grant { consent, redirect_uri: "https://x/".to_owned(), challenge: CHALLENGE.to_owned() }
    }

    #[test]
    fn a_code_opens_once_what_was_consented_to() {
        let codes = Codes::new(Clock::manual(0));
        let code = codes.issue(grant());
        assert_eq!(codes.redeem(&code, "c", "https://x/", VERIFIER).expect("granted").scope.device_id, "D");
        let wrong = codes.redeem(&code, "c", "https://x/", CHALLENGE);
        assert!(matches!(wrong, Err(Refused::Unknown(_))) && !codes.is_burnt(&code), "not its verifier");
        let again = codes.redeem(&code, "c", "https://x/", VERIFIER);
        assert!(matches!(again, Err(Refused::Again(_, device_id)) if device_id == "D"));
        assert!(codes.is_burnt(&code));
        let unknown = codes.redeem(&code, "c", "https://x/", VERIFIER);
        assert!(matches!(unknown, Err(Refused::Unknown(_))));
    }

    #[test]
    fn whoever_gets_anything_wrong_has_used_it_up() {
        let clock = Clock::manual(0);
        let codes = Codes::new(clock.clone());
        let other = VERIFIER.replace('d', "e");
        for (client, uri, verifier) in [
            ("d", "https://x/", VERIFIER),
            ("c", "https://x/y", VERIFIER),
            ("c", "https://x/", &other),
            ("c", "https://x/", ""),
            ("c", "https://x/", CHALLENGE),
        ] {
            let code = codes.issue(grant());
            assert!(matches!(codes.redeem(&code, client, uri, verifier), Err(Refused::Unknown(_))));
            assert!(codes.redeem(&code, "c", "https://x/", VERIFIER).is_err());
        }
        let code = codes.issue(grant());
        clock.advance(Duration::from_millis(LIFETIME_MS));
        assert!(codes.redeem(&code, "c", "https://x/", VERIFIER).is_err(), "late");
    }

    #[test]
    fn a_challenge_is_a_sha256() {
        assert!(is_challenge(CHALLENGE) && !is_challenge("") && !is_challenge("AAAA"));
        assert!(!is_challenge(&"A".repeat(44)) && !is_challenge(&"!".repeat(43)));
    }
}
