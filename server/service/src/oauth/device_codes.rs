//! Device codes: a program without a browser waits until its user has typed a short code
//! on a page elsewhere (RFC 8628).
//!
//! In memory only, as they live for a quarter of an hour. What a user types is short, so
//! looking for it counts against the limits of logging in; who guessed one could only
//! log somebody else's program in as himself.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Consent, OAuthError, scope::Scope};
use crate::{
    clock::Clock,
    secrets::{self, USER_CODE_GROUP_CHARS},
};

/// How long one may be typed, in milliseconds.
pub const LIFETIME_MS: u64 = 15 * 60 * 1000;
/// How long a client has to wait before it asks again, in milliseconds.
pub const INTERVAL_MS: u64 = 5_000;
/// The longest that it is told to wait.
const INTERVAL_MS_MAX: u64 = 60_000;
/// How long it is told that its code has expired, in milliseconds after that.
const REMEMBERED_MS: u64 = 15 * 60 * 1000;
/// Codes at once; the oldest give way. The fewer there are, the harder one is guessed.
const CODES_MAX: usize = 2_000;

/// What a program asks for.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The program.
    pub client_id: String,
    /// What it is called.
    pub display_name: String,
    /// What it wants.
    pub scope: Scope,
    /// From where it asks.
    pub address: Option<IpAddr>,
}

struct Pending {
    asked: Asked,
    /// Hash of what the user types.
    user_code: [u8; 32],
    until_ms: u64,
    interval_ms: u64,
    polled_ms: Option<u64>,
    decision: Decision,
}

enum Decision {
    None,
    Allowed(Box<Consent>),
    Refused,
}

/// See the module.
pub struct DeviceCodes {
    clock: Clock,
    /// By hash of the code that the program has.
    codes: Mutex<HashMap<[u8; 32], Pending>>,
}

impl DeviceCodes {
    /// None yet.
    pub fn new(clock: Clock) -> Self {
        Self { clock, codes: Mutex::default() }
    }

    /// A code for the program, and one for its user.
    pub fn begin(&self, asked: Asked) -> (String, String) {
        let (device_code, user_code) = (secrets::token(), secrets::user_code());
        let now_ms = self.clock.now_ms();
        let mut codes = self.lock();
        if codes.len() >= CODES_MAX {
            codes.retain(|_, pending| pending.until_ms > now_ms);
        }
        if codes.len() >= CODES_MAX {
            let oldest = codes.iter().min_by_key(|(_, pending)| pending.until_ms).map(|(hash, _)| *hash);
            oldest.and_then(|oldest| codes.remove(&oldest));
        }
        let pending = Pending {
            asked,
            user_code: secrets::hash(&user_code),
            until_ms: now_ms.saturating_add(LIFETIME_MS),
            interval_ms: INTERVAL_MS,
            polled_ms: None,
            decision: Decision::None,
        };
        codes.insert(secrets::hash(&device_code), pending);
        (device_code, user_code)
    }

    /// What the program asks for whose user types this, if nobody has decided yet.
    pub fn look(&self, user_code: &str) -> Option<Asked> {
        self.undecided(&mut self.lock(), user_code).map(|pending| pending.asked.clone())
    }

    /// Decides: `None` refuses. Whether there was anything to decide.
    pub fn decide(&self, user_code: &str, consent: Option<Consent>) -> bool {
        let decision = consent.map_or(Decision::Refused, |consent| Decision::Allowed(Box::new(consent)));
        self.undecided(&mut self.lock(), user_code).map(|pending| pending.decision = decision).is_some()
    }

    /// What was decided for a program, which gets to know it once.
    ///
    /// # Errors
    /// `authorization_pending`, `slow_down`, `access_denied`, `expired_token`, or
    /// `invalid_grant` for a code that is unknown or another client's.
    pub fn poll(&self, device_code: &str, client_id: &str) -> Result<Consent, OAuthError> {
        let unknown = || OAuthError::invalid_grant("This code is unknown");
        let (hash, now_ms) = (secrets::hash(device_code), self.clock.now_ms());
        let mut codes = self.lock();
        codes.retain(|_, pending| pending.until_ms.saturating_add(REMEMBERED_MS) > now_ms);
        let pending = codes.get_mut(&hash).filter(|pending| pending.asked.client_id == client_id);
        let pending = pending.ok_or_else(unknown)?;
        if pending.until_ms <= now_ms {
            return Err(OAuthError::new("expired_token", "The user did not decide in time"));
        }
        if matches!(pending.decision, Decision::None) {
            let earliest_ms =
                pending.polled_ms.map(|polled_ms| polled_ms.saturating_add(pending.interval_ms));
            pending.polled_ms = Some(now_ms);
            if earliest_ms.is_some_and(|earliest_ms| now_ms < earliest_ms) {
                pending.interval_ms = (pending.interval_ms + INTERVAL_MS).min(INTERVAL_MS_MAX);
                return Err(OAuthError::new("slow_down", "Ask less often, by five seconds"));
            }
            return Err(OAuthError::new("authorization_pending", "The user has not decided yet"));
        }
        match codes.remove(&hash).map(|pending| pending.decision) {
            Some(Decision::Allowed(consent)) => Ok(*consent),
            _ => Err(OAuthError::new("access_denied", "The user did not consent")),
        }
    }

    fn undecided<'a>(
        &self,
        codes: &'a mut HashMap<[u8; 32], Pending>,
        user_code: &str,
    ) -> Option<&'a mut Pending> {
        let (hash, now_ms) = (secrets::hash(&canonical(user_code)?), self.clock.now_ms());
        codes.values_mut().find(|pending| {
            pending.user_code == hash
                && pending.until_ms > now_ms
                && matches!(pending.decision, Decision::None)
        })
    }

    /// A map is whole between statements, so a panic elsewhere is no reason to stop.
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], Pending>> {
        self.codes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A code however it was typed, as programs show it; none if there is anything else in
/// it, by which a page that shows it could be made to say more.
pub fn canonical(user_code: &str) -> Option<String> {
    let mut code = String::new();
    for (place, char) in user_code.chars().filter(|char| !matches!(char, ' ' | '-')).enumerate() {
        if !char.is_ascii_alphanumeric() {
            return None;
        }
        if place > 0 && place % USER_CODE_GROUP_CHARS == 0 {
            code.push('-');
        }
        code.push(char.to_ascii_uppercase());
    }
    Some(code)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::credential::Credential;

    fn asked() -> Asked {
        let scope = Scope::parse("urn:matrix:client:api:* urn:matrix:client:device:D").expect("a scope");
        Asked { client_id: "c".to_owned(), display_name: "TV".to_owned(), scope, address: None }
    }

    fn consent() -> Consent {
        Consent {
            client_id: "c".to_owned(),
            display_name: "TV".to_owned(),
            user_id: ruma::user_id!("@a:x").to_owned(),
            credential: Credential::of("hash".to_owned()),
            scope: asked().scope,
        }
    }

    #[test]
    fn a_program_waits_for_its_user_and_not_too_impatiently() {
        let clock = Clock::manual(0);
        let codes = DeviceCodes::new(clock.clone());
        let (device_code, user_code) = codes.begin(asked());
        let poll = || codes.poll(&device_code, "c").map_err(|error| error.code);
        assert_eq!(poll().expect_err("early"), "authorization_pending");
        assert_eq!(poll().expect_err("at once"), "slow_down");
        clock.advance(Duration::from_millis(INTERVAL_MS));
        assert_eq!(poll().expect_err("the interval is longer now"), "slow_down");
        clock.advance(Duration::from_millis(3 * INTERVAL_MS));
        assert_eq!(poll().expect_err("early"), "authorization_pending");
        assert_eq!(codes.poll(&device_code, "other").expect_err("another's").code, "invalid_grant");
        let sloppy = user_code.to_lowercase().replace('-', " ");
        assert_eq!(codes.look(&sloppy).expect("found").display_name, "TV");
        assert!(codes.look(&format!("{user_code}!")).is_none(), "more than a code");
        assert_eq!(canonical(&sloppy), Some(user_code.clone()));
        assert!(codes.decide(&sloppy, Some(consent())));
        assert!(!codes.decide(&user_code, None) && codes.look(&user_code).is_none(), "decided");
        assert_eq!(poll().expect("granted").user_id, "@a:x");
        assert_eq!(poll().expect_err("once"), "invalid_grant");
    }

    #[test]
    fn it_learns_that_he_refused_or_did_not_come() {
        let clock = Clock::manual(0);
        let codes = DeviceCodes::new(clock.clone());
        let (refused, user_code) = codes.begin(asked());
        assert!(codes.decide(&user_code, None));
        assert_eq!(codes.poll(&refused, "c").expect_err("refused").code, "access_denied");
        let (late, user_code) = codes.begin(asked());
        clock.advance(Duration::from_millis(LIFETIME_MS));
        assert!(codes.look(&user_code).is_none() && !codes.decide(&user_code, Some(consent())));
        assert_eq!(codes.poll(&late, "c").expect_err("late").code, "expired_token");
        clock.advance(Duration::from_millis(REMEMBERED_MS));
        assert_eq!(codes.poll(&late, "c").expect_err("forgotten").code, "invalid_grant");
    }

    #[test]
    fn the_oldest_give_way() {
        let codes = DeviceCodes::new(Clock::manual(0));
        for _ in 0..CODES_MAX + 5 {
            codes.begin(asked());
        }
        assert_eq!(codes.lock().len(), CODES_MAX);
    }
}
