//! The three messages and their JSON (`federation/PROTOCOL.md` §5).
//!
//! Decoding is where a peer's bytes become values: every list is bounded while
//! it is read, a change that is not well-formed is set aside with its reason and
//! does not take the others with it, unknown keys are ignored. Encoding writes a
//! change's header exactly as it was received.

use std::{borrow::Cow, collections::BTreeSet};

use causeway_shared_space::{Change, VersionVector};
use ruma::OwnedServerName;
use serde::{Deserialize, Serialize, de::Error};
use serde_json::value::{RawValue, to_raw_value};

use crate::{
    digest::Digest,
    limits::{
        MAX_ADVERTISE_BYTES, MAX_DELTA_BODY_BYTES, MAX_DELTA_BYTES, MAX_DELTA_ENTRIES, MAX_KEYS,
        MAX_PULL_BODY_BYTES, MAX_RIDING_ENTRIES, MAX_SCOPE,
    },
    list::List,
};

/// What peers say to each other about one room.
#[derive(Clone, Debug)]
pub enum Message {
    /// "This is what I hold": content of an `org.causeway.version_vector` EDU.
    Advertise(Advertise),
    /// "Give me what I lack": body of `POST …/rooms/{roomId}/changes`.
    Pull(Pull),
    /// The answer to a pull.
    Delta(Delta),
}

/// What a server holds, as far as the receiver is not known to hold it too.
#[derive(Clone, Debug, Default)]
pub struct Advertise {
    /// Its points; of a replica that is named, all of them.
    pub vector: VersionVector,
    /// No replica is left out.
    pub full: bool,
    /// Of the whole vector.
    pub digest: Digest,
    /// Small entries that ride along.
    pub changes: Vec<Change>,
    /// Entries that were not well-formed, with the reason (decoding only).
    pub broken: Vec<String>,
}

/// A request for the entries above a vector. Stateless: the answer depends on
/// this and on what is held, nothing else.
#[derive(Clone, Debug, Default)]
pub struct Pull {
    /// What the asker holds.
    pub after: VersionVector,
    /// Further points that it holds, by which the answering server may find out
    /// where the two part: a locator, and the ends of what was sent before.
    pub also: VersionVector,
    /// Only entries of these servers, of which the asker found something lacking
    /// that it was not sent; empty: of all servers, but of none of which the asker
    /// names a point that is not held here.
    pub servers: BTreeSet<OwnedServerName>,
    /// Entries to pass over: those that were sent before and not taken.
    pub skip: u32,
    /// Most entries wanted.
    pub limit: u32,
    /// Most bytes of entries wanted.
    pub bytes: u32,
}

/// Entries, and what the answering server holds.
#[derive(Clone, Debug, Default)]
pub struct Delta {
    /// Entries that the asker lacks, each after those that it hangs on.
    pub changes: Vec<Change>,
    /// What the answering server holds.
    pub vector: VersionVector,
    /// Verify keys of the entries' origins, as signed JSON.
    pub keys: Vec<Box<RawValue>>,
    /// There is more.
    pub next: bool,
    /// Entries that were not well-formed, with the reason (decoding only).
    pub broken: Vec<String>,
}

/// Why bytes are no message. Never more than the peer's mistake is worth: the
/// shell logs it and answers `M_BAD_JSON` or `M_TOO_LARGE`.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Refused before it was read.
    #[error("{what} of {bytes} bytes, more than {most}")]
    TooLarge {
        /// Which message.
        what: &'static str,
        /// Its size.
        bytes: usize,
        /// The bound.
        most: usize,
    },
    /// Not JSON, a field of the wrong type, or a list past its bound.
    #[error("{what} that can't be read")]
    Json {
        /// Which message.
        what: &'static str,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
}

#[derive(Serialize, Deserialize)]
struct AdvertiseWire<'a> {
    room_id: Cow<'a, str>,
    #[serde(default)]
    vector: Cow<'a, VersionVector>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    full: bool,
    #[serde(default)]
    digest: Digest,
    #[serde(default, skip_serializing_if = "List::is_empty")]
    changes: List<Box<RawValue>, MAX_RIDING_ENTRIES>,
}

#[derive(Serialize, Deserialize)]
struct PullWire<'a> {
    #[serde(default)]
    after: Cow<'a, VersionVector>,
    #[serde(default, skip_serializing_if = "nothing")]
    also: Cow<'a, VersionVector>,
    #[serde(default, skip_serializing_if = "List::is_empty")]
    servers: List<OwnedServerName, MAX_SCOPE>,
    #[serde(default, skip_serializing_if = "is_zero")]
    skip: u32,
    #[serde(default = "default_limit")]
    limit: u32,
    #[serde(default = "default_bytes")]
    bytes: u32,
}

#[derive(Serialize, Deserialize)]
struct DeltaWire<'a> {
    #[serde(default)]
    changes: List<Box<RawValue>, MAX_DELTA_ENTRIES>,
    #[serde(default)]
    vector: Cow<'a, VersionVector>,
    #[serde(default, skip_serializing_if = "List::is_empty")]
    keys: List<Box<RawValue>, MAX_KEYS>,
    #[serde(default)]
    next: bool,
}

fn nothing(vector: &VersionVector) -> bool {
    vector.is_empty()
}

fn default_limit() -> u32 {
    u32::try_from(MAX_DELTA_ENTRIES).unwrap_or(u32::MAX)
}

fn default_bytes() -> u32 {
    u32::try_from(MAX_DELTA_BYTES).unwrap_or(u32::MAX)
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde asks for")]
fn is_zero(n: &u32) -> bool {
    *n == 0
}

impl Advertise {
    /// The EDU's content.
    ///
    /// # Errors
    /// None in practice: all parts are JSON already.
    pub fn to_content(&self, room_id: &str) -> Result<Box<RawValue>, serde_json::Error> {
        to_raw_value(&AdvertiseWire {
            room_id: room_id.into(),
            vector: Cow::Borrowed(&self.vector),
            full: self.full,
            digest: self.digest,
            changes: List(raw(&self.changes)?),
        })
    }

    /// Reads an EDU's content: the room and the message.
    pub fn from_content(content: &[u8]) -> Result<(String, Self), DecodeError> {
        let wire: AdvertiseWire<'_> = decode("an advertisement", content, MAX_ADVERTISE_BYTES)?;
        let mut broken = Vec::new();
        let changes = parse(&wire.changes.0, &mut broken);
        let vector = wire.vector.into_owned();
        let message = Self { vector, full: wire.full, digest: wire.digest, changes, broken };
        Ok((wire.room_id.into_owned(), message))
    }
}

impl Pull {
    /// The request's body.
    ///
    /// # Errors
    /// None in practice: all parts are JSON already.
    pub fn to_body(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&PullWire {
            after: Cow::Borrowed(&self.after),
            also: Cow::Borrowed(&self.also),
            servers: List(self.servers.iter().cloned().collect()),
            skip: self.skip,
            limit: self.limit,
            bytes: self.bytes,
        })
    }

    /// Reads a request's body.
    pub fn from_body(body: &[u8]) -> Result<Self, DecodeError> {
        let wire: PullWire<'_> = decode("a pull", body, MAX_PULL_BODY_BYTES)?;
        Ok(Self {
            after: wire.after.into_owned(),
            also: wire.also.into_owned(),
            servers: wire.servers.0.into_iter().collect(),
            skip: wire.skip,
            limit: wire.limit,
            bytes: wire.bytes,
        })
    }
}

/// Enough for what stands around a delta's entries in most rooms.
const VECTOR_BYTES_USUAL: usize = 4_096;

impl Delta {
    /// The response's body, not yet compressed.
    ///
    /// # Errors
    /// None in practice: all parts are JSON already.
    pub fn to_body(&self) -> Result<Vec<u8>, serde_json::Error> {
        let changes = raw(&self.changes)?;
        // Some MiB: not to be moved about while they grow.
        let length: usize = changes.iter().chain(&self.keys).map(|text| text.get().len() + 1).sum();
        let mut body = Vec::with_capacity(length + VECTOR_BYTES_USUAL);
        let vector = Cow::Borrowed(&self.vector);
        let keys = List(self.keys.clone());
        serde_json::to_writer(
            &mut body,
            &DeltaWire { changes: List(changes), vector, keys, next: self.next },
        )?;
        Ok(body)
    }

    /// Reads a response's body, after decompression (which must be bounded by
    /// [`MAX_DELTA_BODY_BYTES`] too).
    pub fn from_body(body: &[u8]) -> Result<Self, DecodeError> {
        let wire: DeltaWire<'_> = decode("a delta", body, MAX_DELTA_BODY_BYTES)?;
        let mut broken = Vec::new();
        let changes = parse(&wire.changes.0, &mut broken);
        Ok(Self { changes, vector: wire.vector.into_owned(), keys: wire.keys.0, next: wire.next, broken })
    }
}

fn decode<'a, T: Deserialize<'a>>(
    what: &'static str,
    bytes: &'a [u8],
    most: usize,
) -> Result<T, DecodeError> {
    if bytes.len() > most {
        return Err(DecodeError::TooLarge { what, bytes: bytes.len(), most });
    }
    // Serde would read the fields from an array, too.
    let object = bytes.trim_ascii_start().first() == Some(&b'{');
    let read = if object { serde_json::from_slice(bytes) } else { Err(Error::custom("not an object")) };
    read.map_err(|source| DecodeError::Json { what, source })
}

fn raw(changes: &[Change]) -> Result<Vec<Box<RawValue>>, serde_json::Error> {
    changes.iter().map(|change| RawValue::from_string(change.to_json())).collect()
}

fn parse(raw: &[Box<RawValue>], broken: &mut Vec<String>) -> Vec<Change> {
    let mut changes = Vec::with_capacity(raw.len());
    for entry in raw {
        match Change::parse(entry.get().as_bytes()) {
            Ok(change) => changes.push(change),
            Err(error) => broken.push(error.to_string()),
        }
    }
    changes
}
