//! A change: a header, the origin's signature over it, and (outside, so that
//! the header can be verified without it) the value of a put.
//!
//! On the wire and in the store an entry is
//! `{"header": {…}, "signature": ["ed25519:1", "<unpadded base64>"], "value": {…}}`,
//! `value` being absent for deletes and wherever only the header is wanted.
//!
//! Invariants: a value that is present has the hash that the header names; a
//! signature is 64 bytes under a key id of the algorithm `ed25519`. That it is
//! *valid* is not an invariant: [`Change::verify`] says so, given a key.
//!
//! What is signed is the header's text itself. No other JSON object that a
//! Matrix server signs (event, request, key, device) has the members of a
//! header at its top level, so one cannot be passed off as the other.

use std::{fmt, sync::Arc};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use ruma::{
    OwnedEventId, OwnedRoomId, OwnedUserId, ServerName, SigningKeyAlgorithm,
    signatures::{Ed25519KeyPair, KeyPair, verify_canonical_json_bytes},
};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    header::{Fields, Header, HeaderError, Kind, MAX_HEADER_BYTES, Members},
    ids::ChangeId,
    item_key::ItemKey,
    replica::{Counter, Dot},
    value::{MAX_VALUE_BYTES, Value, ValueError},
};

/// Largest entry in bytes of JSON: header, value, signature and names.
pub const MAX_ENTRY_BYTES: usize = MAX_HEADER_BYTES + MAX_VALUE_BYTES + 1024;
/// Longest signing key id in bytes.
pub const MAX_KEY_ID_BYTES: usize = 255;
const SIGNATURE_BYTES: usize = 64;

/// The origin's signature over a header.
#[derive(Clone, PartialEq, Eq)]
pub struct EntrySignature {
    key_id: Arc<str>,
    signature: [u8; SIGNATURE_BYTES],
}

/// A change. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    header: Header,
    signature: EntrySignature,
    value: Option<Value>,
}

/// What a new change does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    /// Gives the item this value.
    Put(Value),
    /// Deletes the item.
    Delete,
    /// Erases the values of these changes (item ids).
    Redact(Vec<ChangeId>),
}

/// All that goes into a change of our own. Lists are sorted by [`Change::build`].
#[derive(Debug, Clone)]
pub struct NewChange {
    /// The room.
    pub room_id: OwnedRoomId,
    /// The item.
    pub key: ItemKey,
    /// What it does.
    pub body: Body,
    /// Its place: [`crate::ChangeLog::next`].
    pub dot: Dot,
    /// The entry before it: [`crate::ChangeLog::next`].
    pub previous: Option<ChangeId>,
    /// What the author had been given: [`crate::Observed::supersedes`].
    pub supersedes: Vec<ChangeId>,
    /// [`crate::Item::next_depth`].
    pub depth: Counter,
    /// Who writes.
    pub author: OwnedUserId,
    /// When, in ms since 1970.
    pub origin_server_ts: u64,
    /// The events that show the author's right to write.
    pub authorized_by: Vec<OwnedEventId>,
    /// The unstamped event that this entry adopts.
    pub adopts: Option<OwnedEventId>,
    /// The earlier change whose value this put brings back.
    pub restores: Option<ChangeId>,
}

/// Why a change of our own can't be built.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the change can't be built")]
pub struct BuildError(#[source] pub HeaderError);

/// Why bytes are no change.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// More than [`MAX_ENTRY_BYTES`].
    #[error("the entry is too large")]
    TooLarge,
    /// Not the JSON of an entry.
    #[error("the entry is malformed: {0}")]
    Malformed(String),
    /// The header breaks a rule.
    #[error("the entry's header is refused")]
    Header(#[source] HeaderError),
    /// The signature has no valid form.
    #[error("the entry's signature is malformed")]
    Signature,
    /// The value breaks a rule.
    #[error("the entry's value is refused")]
    Value(#[source] ValueError),
    /// The value is not the one that the header names.
    #[error("the entry's value has another hash than its header says")]
    ValueHash,
}

/// The signature does not belong to the signed text under the given key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature is not valid")]
pub struct SignatureError;

impl EntrySignature {
    /// A signature from its two texts.
    pub fn new(key_id: &str, base64: &str) -> Result<Self, SignatureError> {
        let version = key_id.strip_prefix("ed25519:").filter(|version| !version.is_empty());
        let printable = key_id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\');
        // 64 bytes are 86 digits: measured before they are decoded.
        if version.is_none() || !printable || key_id.len() > MAX_KEY_ID_BYTES || base64.len() != 86 {
            return Err(SignatureError);
        }
        let bytes = STANDARD_NO_PAD.decode(base64).map_err(|_| SignatureError)?;
        let signature = bytes.try_into().map_err(|_| SignatureError)?;
        Ok(Self { key_id: key_id.into(), signature })
    }

    pub(crate) fn sign(text: &str, key: &Ed25519KeyPair) -> Self {
        let signature = key.sign(text.as_bytes());
        let bytes = signature.as_bytes().try_into().expect("an Ed25519 signature has 64 bytes");
        Self { key_id: signature.id().into(), signature: bytes }
    }

    pub(crate) fn verify(&self, text: &str, public_key: &[u8]) -> Result<(), SignatureError> {
        verify_canonical_json_bytes(
            &SigningKeyAlgorithm::Ed25519,
            public_key,
            &self.signature,
            text.as_bytes(),
        )
        .map_err(|_| SignatureError)
    }

    /// The id of the key, `ed25519:` and a version.
    pub fn key_id(&self) -> &str {
        &self.key_id
    }

    /// The JSON form, `["ed25519:1","<unpadded base64>"]`.
    pub fn to_json(&self) -> String {
        format!("[\"{}\",\"{}\"]", self.key_id, STANDARD_NO_PAD.encode(self.signature))
    }
}

impl fmt::Debug for EntrySignature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_json())
    }
}

impl<'de> Deserialize<'de> for EntrySignature {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (key_id, base64) =
            <(std::borrow::Cow<'de, str>, std::borrow::Cow<'de, str>)>::deserialize(deserializer)?;
        Self::new(&key_id, &base64).map_err(serde::de::Error::custom)
    }
}

#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    header: &'a RawValue,
    #[serde(borrow)]
    signature: &'a RawValue,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
}

impl Change {
    /// Puts a header together, signs it, and joins the value to it.
    pub fn build(new: NewChange, key: &Ed25519KeyPair) -> Result<Self, BuildError> {
        let (kind, value, mut redacts) = match new.body {
            Body::Put(value) => (Kind::Put, Some(value), Vec::new()),
            Body::Delete => (Kind::Delete, None, Vec::new()),
            Body::Redact(ids) => (Kind::Redact, None, ids),
        };
        let mut supersedes = new.supersedes;
        for ids in [&mut supersedes, &mut redacts] {
            ids.sort_unstable();
            ids.dedup();
        }
        let header = Header::build(Fields {
            room_id: new.room_id,
            key: new.key,
            kind,
            dot: new.dot,
            previous: new.previous,
            supersedes,
            redacts,
            depth: new.depth,
            author: new.author,
            origin_server_ts: new.origin_server_ts,
            value_hash: value.as_ref().map(Value::hash),
            authorized_by: new.authorized_by,
            adopts: new.adopts,
            restores: new.restores,
        })
        .map_err(BuildError)?;
        let signature = EntrySignature::sign(header.as_str(), key);
        Ok(Self { header, signature, value })
    }

    /// Reads an entry from hostile bytes. The signature is not verified here.
    pub fn parse(text: &[u8]) -> Result<Self, ChangeError> {
        if text.len() > MAX_ENTRY_BYTES {
            return Err(ChangeError::TooLarge);
        }
        let malformed = |error: serde_json::Error| ChangeError::Malformed(error.to_string());
        let wire = serde_json::from_slice::<Wire<'_>>(text).map_err(malformed)?;
        let header = Header::parse(wire.header.get().as_bytes()).map_err(ChangeError::Header)?;
        let signature = serde_json::from_str(wire.signature.get()).map_err(|_| ChangeError::Signature)?;
        let value = wire.value.map(|raw| Value::parse(raw.get().as_bytes())).transpose();
        Self::from_parts(header, signature, value.map_err(ChangeError::Value)?)
    }

    /// A change from a header, a signature and perhaps the value, each already
    /// checked: only the value's hash remains to be compared.
    pub fn from_parts(
        header: Header,
        signature: EntrySignature,
        value: Option<Value>,
    ) -> Result<Self, ChangeError> {
        match &value {
            Some(value) if Some(value.hash()) != header.value_hash() => Err(ChangeError::ValueHash),
            _ => Ok(Self { header, signature, value }),
        }
    }

    /// Proves that the key wrote the header.
    ///
    /// `public_key` is the 32 raw bytes of the key that the origin server
    /// ([`Header::server`]) published under [`EntrySignature::key_id`].
    pub fn verify(&self, public_key: &[u8]) -> Result<(), SignatureError> {
        self.signature.verify(self.header.as_str(), public_key)
    }

    /// The JSON of the entry, with its value if it has one.
    pub fn to_json(&self) -> String {
        self.write(self.value.as_ref())
    }

    /// The JSON of the entry without its value.
    pub fn to_json_without_value(&self) -> String {
        self.write(None)
    }

    fn write(&self, value: Option<&Value>) -> String {
        let mut out = Members::new();
        out.raw("header", self.header.as_str());
        out.raw("signature", self.signature.to_json());
        if let Some(value) = value {
            out.raw("value", value.as_str());
        }
        out.finish()
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }
    /// The id: the SHA-256 of the header.
    pub fn id(&self) -> ChangeId {
        self.header.id()
    }
    /// The origin's signature.
    pub fn signature(&self) -> &EntrySignature {
        &self.signature
    }
    /// The value, if this is a put whose value is at hand.
    pub fn value(&self) -> Option<&Value> {
        self.value.as_ref()
    }
    /// The server that signed it.
    pub fn server(&self) -> &ServerName {
        self.header.server()
    }
    /// The same change without its value.
    #[must_use]
    pub fn without_value(&self) -> Self {
        Self { value: None, ..self.clone() }
    }
}
