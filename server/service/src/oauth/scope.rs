//! What a client may be granted: the whole client-server API, as one device that it
//! names (client-server API, "Scope"). There is no smaller grant yet.

use ruma::OwnedDeviceId;

use super::OAuthError;
use crate::devices::DEVICE_ID_BYTES_MAX;

/// Bytes of a requested scope.
const SCOPE_BYTES_MAX: usize = 1_024;

const API: &[&str] = &["urn:matrix:client:api:*", "urn:matrix:org.matrix.msc2967.client:api:*"];
const DEVICE: &[&str] = &["urn:matrix:client:device:", "urn:matrix:org.matrix.msc2967.client:device:"];

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// The device to log in to.
    pub device_id: OwnedDeviceId,
    /// What is granted, in the words of the request; those that mean nothing here are left out.
    pub granted: String,
}

impl Scope {
    /// Reads the scope of a request.
    ///
    /// # Errors
    /// `invalid_scope` unless it asks for the API and names one device.
    pub fn parse(asked: &str) -> Result<Self, OAuthError> {
        let invalid = |why: &str| OAuthError::new("invalid_scope", why);
        let allowed = |byte: u8| byte == b' ' || (byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
        if asked.len() > SCOPE_BYTES_MAX || !asked.bytes().all(allowed) {
            return Err(invalid("The scope is too long or has characters that no scope has"));
        }
        let known = |token: &&str| API.contains(token) || device(token).is_some();
        let granted: Vec<&str> = asked.split(' ').filter(known).collect();
        if !granted.iter().any(|token| API.contains(token)) {
            return Err(invalid("The scope must include urn:matrix:client:api:*"));
        }
        let mut devices: Vec<&str> = granted.iter().filter_map(|token| device(token)).collect();
        devices.dedup();
        match devices.as_slice() {
            [one] if (1..=DEVICE_ID_BYTES_MAX).contains(&one.len()) => {
                Ok(Self { device_id: (*one).into(), granted: granted.join(" ") })
            }
            _ => Err(invalid("The scope must name exactly one device, urn:matrix:client:device:ID")),
        }
    }
}

fn device(token: &str) -> Option<&str> {
    DEVICE.iter().find_map(|prefix| token.strip_prefix(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_asks_for_the_api_as_one_device() {
        let scope =
            Scope::parse("openid urn:matrix:client:api:* urn:matrix:client:device:ABC").expect("fine");
        assert_eq!(scope.device_id, "ABC");
        assert_eq!(scope.granted, "urn:matrix:client:api:* urn:matrix:client:device:ABC");
        let older =
            "urn:matrix:org.matrix.msc2967.client:api:* urn:matrix:org.matrix.msc2967.client:device:ABC";
        assert_eq!(Scope::parse(older).expect("fine").granted, older);
        let both = format!("{older} {}", scope.granted);
        assert_eq!(Scope::parse(&both).expect("fine").device_id, "ABC");
        for wrong in [
            "",
            "openid",
            "urn:matrix:client:api:*",
            "urn:matrix:client:device:ABC",
            "urn:matrix:client:api:* urn:matrix:client:device:",
            "urn:matrix:client:api:* urn:matrix:client:device:A urn:matrix:client:device:B",
            "urn:matrix:client:api:* urn:matrix:client:device:A\"",
            "urn:matrix:client:api:* urn:matrix:client:device:Ä",
            "urn:matrix:client:api:*\nurn:matrix:client:device:A",
        ] {
            assert_eq!(Scope::parse(wrong).expect_err(wrong).code, "invalid_scope", "{wrong}");
        }
        let long = format!("urn:matrix:client:api:* urn:matrix:client:device:{}", "x".repeat(256));
        assert!(Scope::parse(&long).is_err());
    }
}
