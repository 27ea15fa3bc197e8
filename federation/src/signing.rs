//! Request authentication (server-server API, "Request Authentication"): the
//! `X-Matrix` header, made and checked over the **raw** URI.
//!
//! Pure. Which keys a server has is the business of [`crate::keys`].
//! Invariant: what is signed and checked is the text that is on the wire; no
//! percent-decoding, no normalising, no re-encoding in between.

use std::collections::BTreeMap;

use http::HeaderValue;
use ruma::{
    OwnedServerName, ServerName, SigningKeyAlgorithm,
    serde::Base64,
    signatures::{Ed25519KeyPair, KeyPair, verify_canonical_json_bytes},
};

use crate::canonical::{OtherNumbers, canonicalise};

/// Longest `Authorization` header that is looked at, in bytes.
pub const AUTHORIZATION_BYTES_MAX: usize = 4096;

/// Public keys by key id (`ed25519:…`).
pub type PublicKeys = BTreeMap<String, Base64>;

/// The part of a request that is signed.
#[derive(Clone, Copy, Debug)]
pub struct SignedRequest<'a> {
    /// HTTP method, upper case.
    pub method: &'a str,
    /// Path and query as on the wire.
    pub uri: &'a str,
    /// Who asks.
    pub origin: &'a ServerName,
    /// Who is asked.
    pub destination: &'a ServerName,
    /// The JSON body as on the wire; empty for none.
    pub body: &'a [u8],
}

/// Why a signature can't be made or is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    /// The header is not an `X-Matrix` one, or parts are missing or doubled.
    #[error("malformed X-Matrix authorization header")]
    Header,
    /// What the header calls a server is no server name.
    #[error("a server name in the X-Matrix authorization header is none")]
    ServerName,
    /// The body is not JSON that can be put into canonical form.
    #[error("the body is not canonical JSON")]
    Body(#[source] serde_json::Error),
    /// The header names another destination.
    #[error("the request is meant for another server")]
    Destination,
    /// The key that it is signed with is not among the origin's.
    #[error("signed with unknown key {0}")]
    UnknownKey(String),
    /// The signature does not fit.
    #[error("the signature is wrong")]
    Signature,
}

/// What an `X-Matrix` header says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authorization {
    /// Who says to have sent the request. Not to be believed before [`verify`].
    pub origin: OwnedServerName,
    /// Whom it is for; old servers leave it out.
    pub destination: Option<OwnedServerName>,
    /// Key id.
    pub key: String,
    /// Signature, base64.
    pub signature: String,
}

impl Authorization {
    /// Parses the header: any case and spacing, values quoted or not, unknown
    /// parameters ignored.
    pub fn parse(header: &[u8]) -> Result<Self, SigningError> {
        let header = std::str::from_utf8(header).map_err(|_| SigningError::Header)?;
        if header.len() > AUTHORIZATION_BYTES_MAX {
            return Err(SigningError::Header);
        }
        let header = header.trim_start();
        let (scheme, rest) = header.split_once([' ', '\t']).ok_or(SigningError::Header)?;
        if !scheme.eq_ignore_ascii_case("X-Matrix") {
            return Err(SigningError::Header);
        }
        let mut values: [Option<String>; 4] = Default::default();
        for (name, value) in parameters(rest)? {
            let known = ["origin", "destination", "key", "sig"];
            if let Some(slot) = known.iter().position(|known| name.eq_ignore_ascii_case(known))
                && values[slot].replace(value).is_some()
            {
                return Err(SigningError::Header);
            }
        }
        let [origin, destination, key, signature] = values;
        let server = |name: String| OwnedServerName::try_from(name).map_err(|_| SigningError::ServerName);
        Ok(Self {
            origin: server(origin.ok_or(SigningError::Header)?)?,
            destination: destination.map(server).transpose()?,
            key: key.ok_or(SigningError::Header)?,
            signature: signature.ok_or(SigningError::Header)?,
        })
    }
}

/// Splits `name=value, name="value"` into pairs.
fn parameters(mut rest: &str) -> Result<Vec<(&str, String)>, SigningError> {
    let mut pairs = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        if rest.is_empty() {
            return Ok(pairs);
        }
        let (name, after) = rest.split_once('=').ok_or(SigningError::Header)?;
        let after = after.trim_start_matches([' ', '\t']);
        let value;
        (value, rest) = if let Some(quoted) = after.strip_prefix('"') {
            quoted_value(quoted)?
        } else {
            let end = after.find([',', ' ', '\t']).unwrap_or(after.len());
            (after[..end].to_owned(), &after[end..])
        };
        pairs.push((name.trim(), value));
    }
}

/// The value up to the closing quote, unescaped, and what follows it.
fn quoted_value(quoted: &str) -> Result<(String, &str), SigningError> {
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next().ok_or(SigningError::Header)?.1),
            c => value.push(c),
        }
    }
    Err(SigningError::Header)
}

/// The value of the `Authorization` header for `request`.
pub fn sign(request: &SignedRequest<'_>, key_pair: &Ed25519KeyPair) -> Result<HeaderValue, SigningError> {
    let signature = key_pair.sign(&signed_bytes(request)?);
    let header = format!(
        "X-Matrix origin=\"{}\",destination=\"{}\",key=\"{}\",sig=\"{}\"",
        request.origin,
        request.destination,
        signature.id(),
        signature.base64()
    );
    HeaderValue::from_str(&header).map_err(|_| SigningError::Header)
}

/// Checks that `request` was signed as `authorization` says, with one of `keys`.
pub fn verify(
    request: &SignedRequest<'_>,
    authorization: &Authorization,
    keys: &PublicKeys,
) -> Result<(), SigningError> {
    if authorization.destination.as_deref().is_some_and(|named| named != request.destination) {
        return Err(SigningError::Destination);
    }
    let unknown = || SigningError::UnknownKey(authorization.key.clone());
    let key = keys.get(&authorization.key).ok_or_else(unknown)?;
    let signature = Base64::<ruma::serde::base64::Standard>::parse(&authorization.signature)
        .map_err(|_| SigningError::Signature)?;
    let signed = received_bytes(request)?;
    verify_canonical_json_bytes(&SigningKeyAlgorithm::Ed25519, key.as_bytes(), signature.as_bytes(), &signed)
        .map_err(|_| SigningError::Signature)
}

/// The canonical JSON that the signature of a request of this server covers.
fn signed_bytes(request: &SignedRequest<'_>) -> Result<Vec<u8>, SigningError> {
    envelope(request, OtherNumbers::Refuse)
}

/// What the signature of another server's request covers. It may have put
/// numbers in the body that canonical JSON lacks: see [`crate::canonical`].
fn received_bytes(request: &SignedRequest<'_>) -> Result<Vec<u8>, SigningError> {
    envelope(request, OtherNumbers::Keep)
}

/// The object that is signed, with the body in canonical form in its place.
fn envelope(request: &SignedRequest<'_>, numbers: OtherNumbers) -> Result<Vec<u8>, SigningError> {
    let text = |text: &str| serde_json::to_string(text).map_err(SigningError::Body);
    let mut signed = String::from("{");
    if !request.body.is_empty() {
        signed.push_str("\"content\":");
        canonicalise(request.body, numbers, &mut signed).map_err(SigningError::Body)?;
        signed.push(',');
    }
    let (destination, origin) = (text(request.destination.as_str())?, text(request.origin.as_str())?);
    let (method, uri) = (text(request.method)?, text(request.uri)?);
    let rest = ["\"destination\":", &destination, ",\"method\":", &method, ",\"origin\":", &origin];
    signed.extend(rest);
    signed.extend([",\"uri\":", &uri, "}"]);
    Ok(signed.into_bytes())
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    fn key_pair() -> Ed25519KeyPair {
        Ed25519KeyPair::from_der(&Ed25519KeyPair::generate(), "1".to_owned()).expect("just made")
    }

    fn keys(pair: &Ed25519KeyPair) -> PublicKeys {
        PublicKeys::from([("ed25519:1".to_owned(), Base64::new(pair.public_key().to_vec()))])
    }

    fn request(uri: &'static str, body: &'static [u8]) -> SignedRequest<'static> {
        let (origin, destination) = (server_name!("a.example:8448"), server_name!("b.example"));
        SignedRequest { method: "PUT", uri, origin, destination, body }
    }

    #[test]
    fn what_is_signed_verifies_and_nothing_else() {
        let pair = key_pair();
        let good = request("/_matrix/x/%24a%2Fb?q=%20", br#"{"b":1,"a":[true,null,"\u00e9"]}"#);
        let header = sign(&good, &pair).expect("signs");
        let authorization = Authorization::parse(header.as_bytes()).expect("parses");
        verify(&good, &authorization, &keys(&pair)).expect("verifies");
        // Another order and spacing of the same JSON is the same request.
        let same = SignedRequest { body: "{\"a\":[ true,null,\"é\"],\"b\":1}".as_bytes(), ..good };
        verify(&same, &authorization, &keys(&pair)).expect("verifies");

        for bad in [
            SignedRequest { uri: "/_matrix/x/$a%2Fb?q=%20", ..good },
            SignedRequest { uri: "/_matrix/x/%24a%2fb?q=%20", ..good },
            SignedRequest { body: br#"{"b":2,"a":[true,null,"\u00e9"]}"#, ..good },
            SignedRequest { body: b"", ..good },
            SignedRequest { method: "POST", ..good },
            SignedRequest { origin: server_name!("c.example"), ..good },
        ] {
            let refused = verify(&bad, &authorization, &keys(&pair));
            assert!(matches!(refused, Err(SigningError::Signature)), "{bad:?}");
        }
        let elsewhere = SignedRequest { destination: server_name!("c.example"), ..good };
        assert!(matches!(verify(&elsewhere, &authorization, &keys(&pair)), Err(SigningError::Destination)));
        let other = key_pair();
        assert!(matches!(verify(&good, &authorization, &keys(&other)), Err(SigningError::Signature)));
        assert!(matches!(
            verify(&good, &authorization, &PublicKeys::new()),
            Err(SigningError::UnknownKey(key)) if key == "ed25519:1"
        ));
    }

    #[test]
    fn headers_are_read_in_every_form_that_is_met() {
        let expected = Authorization {
            origin: server_name!("a.example:8448").to_owned(),
            destination: Some(server_name!("b.example").to_owned()),
            key: "ed25519:1".to_owned(),
            signature: "ABC+/=".to_owned(),
        };
        for header in [
            r#"X-Matrix origin="a.example:8448",destination="b.example",key="ed25519:1",sig="ABC+/=""#,
            r"X-Matrix origin=a.example:8448,destination=b.example,key=ed25519:1,sig=ABC+/=",
            "x-matrix  Origin = \"a.example:8448\" ,\tDESTINATION= b.example , unknown=\"x,y=z\", key=\"ed255\\19:1\", sig=\"ABC+/=\",",
        ] {
            assert_eq!(Authorization::parse(header.as_bytes()).expect(header), expected);
        }
        let without = Authorization::parse(br#"X-Matrix origin=a.example,key="ed25519:1",sig="ABC""#);
        assert_eq!(without.expect("destination is optional").destination, None);
    }

    #[test]
    fn broken_headers_are_refused() {
        for header in [
            "",
            "X-Matrix",
            "Bearer abc",
            "X-Matrix origin=a.example",
            "X-Matrix origin=a.example,origin=b.example,key=\"ed25519:1\",sig=\"A\"",
            "X-Matrix origin=\"a.example,key=ed25519:1,sig=A",
            "X-Matrix origin=\"not a name\",key=\"ed25519:1\",sig=\"A\"",
            "X-Matrix origin",
        ] {
            assert!(Authorization::parse(header.as_bytes()).is_err(), "{header}");
        }
        let long = format!("X-Matrix origin=a.example,key=k,sig={}", "A".repeat(AUTHORIZATION_BYTES_MAX));
        assert!(Authorization::parse(long.as_bytes()).is_err());
        assert!(Authorization::parse(b"X-Matrix \xff").is_err());
    }

    /// Made with Synapse's own libraries (`signedjson`, `canonicaljson`) and the
    /// key whose seed is 32 bytes of value 7; the body is as Synapse sends it.
    #[test]
    fn what_synapse_signs_verifies_with_whatever_numbers_are_in_it() {
        const BODY: &str = r#"{"edus":[{"content":{"push":[{"big":1e+22,"last_active_ago":12.5,"long":1180591620717411303424,"neg":-0.0,"tiny":1e-05,"user_id":"@é:a","whole":3.0}]},"edu_type":"m.presence"}],"origin":"a.example:8448","origin_server_ts":1,"pdus":[]}"#;
        let key = "6kpsY+KcUgq+9VB7Ey7F+ZVHdq6+vnuSQh7qaRRG0iw=";
        let key = Base64::parse(key).expect("base64");
        let keys = PublicKeys::from([("ed25519:1".to_owned(), key)]);
        let authorization = Authorization {
            origin: server_name!("a.example:8448").to_owned(),
            destination: Some(server_name!("b.example").to_owned()),
            key: "ed25519:1".to_owned(),
            signature:
                "gHTOT7BeEYRH5RqU0OYXIV5zh7tW90m4HRFqaDvqX6LrUt99rIwGc+uDSVyu1O/HM1fMKVLJDtn+u5oPGezdAA"
                    .to_owned(),
        };
        let sent = request("/_matrix/federation/v1/send/1", BODY.as_bytes());
        verify(&sent, &authorization, &keys).expect("verifies");
        let other = BODY.replace("12.5", "12.6");
        let other = SignedRequest { body: other.as_bytes(), ..sent };
        assert!(matches!(verify(&other, &authorization, &keys), Err(SigningError::Signature)));
    }

    #[test]
    fn a_body_that_is_not_json_is_refused() {
        assert!(matches!(sign(&request("/", b"{"), &key_pair()), Err(SigningError::Body(_))));
        assert!(matches!(sign(&request("/", br#"{"a":1.5}"#), &key_pair()), Err(SigningError::Body(_))));
    }
}
