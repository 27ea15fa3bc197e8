//! A change's header: everything that is hashed and signed.
//!
//! Invariants: the raw text is canonical JSON, kept to the byte as it came
//! (unknown members too); the id is its SHA-256; the parsed fields say what
//! the text says. A header that breaks a bound does not exist as a value.

use std::{borrow::Cow, fmt, sync::Arc};

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, ServerName, UserId};
use serde::{Deserialize, Serialize};

use crate::{
    canonical::{self, CanonicalError},
    ids::{ChangeId, ValueHash},
    item_key::{ItemKey, KeyError},
    replica::{Counter, Dot, MAX_COUNTER},
};

/// Largest header in bytes.
pub const MAX_HEADER_BYTES: usize = 16 * 1024;
/// Most ids that a change may supersede or redact.
pub const MAX_SUPERSEDES: usize = 32;
/// Most events that may be named in `authorized_by`.
pub const MAX_AUTHORIZED_BY: usize = 10;

/// What a change does to its item.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Gives it a value.
    Put,
    /// Takes its value away; the change is then a tombstone among the siblings.
    Delete,
    /// Erases the values of the changes named in `redacts`. It is no sibling
    /// and supersedes nothing: what was erased keeps its place, without value.
    Redact,
}

/// A checked header. Cheap to clone.
#[derive(Clone)]
pub struct Header(Arc<Inner>);

struct Inner {
    raw: Box<str>,
    id: ChangeId,
    fields: Fields,
}

/// The members that this version knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fields {
    pub room_id: OwnedRoomId,
    pub key: ItemKey,
    pub kind: Kind,
    pub dot: Dot,
    pub previous: Option<ChangeId>,
    pub supersedes: Vec<ChangeId>,
    pub redacts: Vec<ChangeId>,
    pub depth: Counter,
    pub author: OwnedUserId,
    pub origin_server_ts: u64,
    pub value_hash: Option<ValueHash>,
    pub authorized_by: Vec<OwnedEventId>,
    pub adopts: Option<OwnedEventId>,
    pub restores: Option<ChangeId>,
}

/// Why a text is no header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// More than [`MAX_HEADER_BYTES`].
    #[error("the header is larger than 16 KiB")]
    TooLarge,
    /// Not JSON, or nothing that canonical JSON can say.
    #[error("the header has no canonical JSON")]
    NotCanonical(#[source] CanonicalError),
    /// A member is missing or has the wrong form.
    #[error("the header is malformed: {0}")]
    Malformed(String),
    /// The key breaks a rule.
    #[error("the header's key is not allowed")]
    Key(#[source] KeyError),
    /// A list is longer than its bound.
    #[error("too many entries in {0}")]
    TooMany(&'static str),
    /// `supersedes` or `redacts` is not strictly ascending.
    #[error("{0} is not sorted or repeats an id")]
    NotSorted(&'static str),
    /// Members that don't go together (a put without a value's hash, …).
    #[error("{0}")]
    Contradiction(&'static str),
    /// A timestamp outside 0 to 2^53 − 1.
    #[error("origin_server_ts is out of range")]
    Timestamp,
}

/// The header as JSON has it. Borrowed where the text has no escape.
#[derive(Deserialize)]
struct Wire<'a> {
    #[serde(borrow)]
    room_id: Cow<'a, str>,
    #[serde(borrow)]
    key: Cow<'a, str>,
    kind: Kind,
    dot: Dot,
    previous: Option<ChangeId>,
    #[serde(default)]
    supersedes: Vec<ChangeId>,
    #[serde(default)]
    redacts: Vec<ChangeId>,
    depth: Counter,
    #[serde(borrow)]
    author: Cow<'a, str>,
    origin_server_ts: u64,
    value_sha256: Option<ValueHash>,
    #[serde(borrow, default)]
    authorized_by: Vec<Cow<'a, str>>,
    #[serde(borrow)]
    adopts: Option<Cow<'a, str>>,
    restores: Option<ChangeId>,
}

impl Header {
    /// Reads a header from JSON text.
    ///
    /// Text that is not canonical is made so; the id is over the canonical form.
    pub fn parse(text: &[u8]) -> Result<Self, HeaderError> {
        if text.len() > MAX_HEADER_BYTES {
            return Err(HeaderError::TooLarge);
        }
        let raw = canonical::canonicalize(text).map_err(HeaderError::NotCanonical)?;
        if raw.len() > MAX_HEADER_BYTES {
            return Err(HeaderError::TooLarge);
        }
        let wire = serde_json::from_str::<Wire<'_>>(&raw)
            .map_err(|error| HeaderError::Malformed(error.to_string()))?;
        let fields = Fields::from_wire(wire)?;
        fields.check()?;
        Ok(Self(Arc::new(Inner { id: ChangeId::of(raw.as_bytes()), raw: raw.into(), fields })))
    }

    /// Writes and checks a header of our own.
    pub(crate) fn build(fields: Fields) -> Result<Self, HeaderError> {
        fields.check()?;
        let raw = fields.write();
        if raw.len() > MAX_HEADER_BYTES {
            return Err(HeaderError::TooLarge);
        }
        Ok(Self(Arc::new(Inner { id: ChangeId::of(raw.as_bytes()), raw: raw.into(), fields })))
    }

    /// The canonical JSON: what is hashed, signed, stored and sent.
    pub fn as_str(&self) -> &str {
        &self.0.raw
    }
    /// The SHA-256 of [`Self::as_str`].
    pub fn id(&self) -> ChangeId {
        self.0.id
    }
    /// The id by which the change is a sibling of its item and by which others
    /// supersede it: the SHA-256 of the adopted event's id for an adoption (so
    /// that two adoptions of one event are one change), else [`Self::id`].
    pub fn item_id(&self) -> ChangeId {
        self.adopts().map_or(self.0.id, adopted_item_id)
    }
    /// The room.
    pub fn room_id(&self) -> &RoomId {
        &self.0.fields.room_id
    }
    /// The item.
    pub fn key(&self) -> &ItemKey {
        &self.0.fields.key
    }
    /// What the change does.
    pub fn kind(&self) -> Kind {
        self.0.fields.kind
    }
    /// Its place in its replica's log.
    pub fn dot(&self) -> &Dot {
        &self.0.fields.dot
    }
    /// The entry before it in the log: for counter 1 the last entry that the
    /// server held of its own earlier replicas, if any.
    pub fn previous(&self) -> Option<ChangeId> {
        self.0.fields.previous
    }
    /// The item ids that it supersedes, ascending, at most [`MAX_SUPERSEDES`].
    pub fn supersedes(&self) -> &[ChangeId] {
        &self.0.fields.supersedes
    }
    /// The item ids whose values it erases, ascending. Empty unless a redaction.
    pub fn redacts(&self) -> &[ChangeId] {
        &self.0.fields.redacts
    }
    /// One more than the greatest depth among what it supersedes: orders the
    /// display, decides nothing.
    pub fn depth(&self) -> Counter {
        self.0.fields.depth
    }
    /// Who wrote it.
    pub fn author(&self) -> &UserId {
        &self.0.fields.author
    }
    /// When the author's server says it was written, in ms since 1970. For display.
    pub fn origin_server_ts(&self) -> u64 {
        self.0.fields.origin_server_ts
    }
    /// The hash of the value; `None` unless it is a put.
    pub fn value_hash(&self) -> Option<ValueHash> {
        self.0.fields.value_hash
    }
    /// The events that show the author's right to write.
    pub fn authorized_by(&self) -> &[OwnedEventId] {
        &self.0.fields.authorized_by
    }
    /// The unstamped room event whose write this is, entered by a server that saw it.
    pub fn adopts(&self) -> Option<&EventId> {
        self.0.fields.adopts.as_deref()
    }
    /// The earlier change whose value this put brings back.
    pub fn restores(&self) -> Option<ChangeId> {
        self.0.fields.restores
    }
    /// The server whose log this entry is in, which signed it.
    pub fn server(&self) -> &ServerName {
        self.dot().replica.server()
    }
}

/// The item id of the change that `event_id` is, whoever adopts it.
pub fn adopted_item_id(event_id: &EventId) -> ChangeId {
    ChangeId::of(event_id.as_bytes())
}

impl Fields {
    fn from_wire(wire: Wire<'_>) -> Result<Self, HeaderError> {
        let malformed = |what: &str| HeaderError::Malformed(what.to_owned());
        if wire.authorized_by.len() > MAX_AUTHORIZED_BY {
            return Err(HeaderError::TooMany("authorized_by"));
        }
        let event = |id: Cow<'_, str>| OwnedEventId::try_from(&*id).map_err(|_| malformed("an event id"));
        Ok(Self {
            room_id: OwnedRoomId::try_from(&*wire.room_id).map_err(|_| malformed("room_id"))?,
            key: ItemKey::new(&wire.key).map_err(HeaderError::Key)?,
            kind: wire.kind,
            dot: wire.dot,
            previous: wire.previous,
            supersedes: wire.supersedes,
            redacts: wire.redacts,
            depth: wire.depth,
            author: OwnedUserId::try_from(&*wire.author).map_err(|_| malformed("author"))?,
            origin_server_ts: wire.origin_server_ts,
            value_hash: wire.value_sha256,
            authorized_by: wire.authorized_by.into_iter().map(event).collect::<Result<_, _>>()?,
            adopts: wire.adopts.map(event).transpose()?,
            restores: wire.restores,
        })
    }

    fn check(&self) -> Result<(), HeaderError> {
        for (list, name) in [(&self.supersedes, "supersedes"), (&self.redacts, "redacts")] {
            if list.len() > MAX_SUPERSEDES {
                return Err(HeaderError::TooMany(name));
            }
            if !list.is_sorted_by(|a, b| a < b) {
                return Err(HeaderError::NotSorted(name));
            }
        }
        if self.authorized_by.len() > MAX_AUTHORIZED_BY {
            return Err(HeaderError::TooMany("authorized_by"));
        }
        if self.origin_server_ts > MAX_COUNTER {
            return Err(HeaderError::Timestamp);
        }
        let put = self.kind == Kind::Put;
        let redact = self.kind == Kind::Redact;
        if put != self.value_hash.is_some() {
            return Err(HeaderError::Contradiction("value_sha256 goes with put and only with put"));
        }
        if redact == self.redacts.is_empty() || (redact && !self.supersedes.is_empty()) {
            return Err(HeaderError::Contradiction(
                "redact has redacts and no supersedes, others the reverse",
            ));
        }
        if redact && self.adopts.is_some() || !put && self.restores.is_some() {
            return Err(HeaderError::Contradiction("a redact adopts nothing; only a put restores"));
        }
        if self.dot.counter > Counter::FIRST && self.previous.is_none() {
            return Err(HeaderError::Contradiction("only a first entry has no previous"));
        }
        Ok(())
    }

    /// Canonical JSON: the members in the order of their names.
    fn write(&self) -> String {
        let mut out = Members::new();
        if let Some(event_id) = &self.adopts {
            out.string("adopts", event_id.as_str());
        }
        out.string("author", self.author.as_str());
        out.list("authorized_by", self.authorized_by.iter().map(|id| id.as_str()));
        out.raw("depth", self.depth);
        out.raw("dot", format_args!("[\"{}\",{}]", self.dot.replica, self.dot.counter));
        out.string("key", self.key.as_str());
        let kind = match self.kind {
            Kind::Put => "put",
            Kind::Delete => "delete",
            Kind::Redact => "redact",
        };
        out.string("kind", kind);
        out.raw("origin_server_ts", self.origin_server_ts);
        match self.previous {
            Some(id) => out.raw("previous", format_args!("\"{id}\"")),
            None => out.raw("previous", "null"),
        }
        if self.kind == Kind::Redact {
            out.ids("redacts", &self.redacts);
        }
        if let Some(id) = self.restores {
            out.raw("restores", format_args!("\"{id}\""));
        }
        out.string("room_id", self.room_id.as_str());
        if self.kind != Kind::Redact {
            out.ids("supersedes", &self.supersedes);
        }
        if let Some(hash) = self.value_hash {
            out.raw("value_sha256", format_args!("\"{hash}\""));
        }
        out.finish()
    }
}

/// Writes the members of an object, given in canonical order.
pub(crate) struct Members(String);

impl Members {
    pub fn new() -> Self {
        Self(String::with_capacity(640))
    }
    pub fn raw(&mut self, name: &str, value: impl fmt::Display) {
        use fmt::Write as _;
        let comma = if self.0.is_empty() { '{' } else { ',' };
        write!(self.0, "{comma}\"{name}\":{value}").expect("writing to a String does not fail");
    }
    pub fn string(&mut self, name: &str, text: &str) {
        self.raw(name, "");
        canonical::write_string(&mut self.0, text).expect("writing to a String does not fail");
    }
    pub fn list<'a>(&mut self, name: &str, texts: impl Iterator<Item = &'a str>) {
        self.raw(name, "[");
        for (index, text) in texts.enumerate() {
            if index > 0 {
                self.0.push(',');
            }
            canonical::write_string(&mut self.0, text).expect("writing to a String does not fail");
        }
        self.0.push(']');
    }
    pub fn ids(&mut self, name: &str, ids: &[ChangeId]) {
        use fmt::Write as _;
        self.raw(name, "[");
        for (index, id) in ids.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(self.0, "{comma}\"{id}\"").expect("writing to a String does not fail");
        }
        self.0.push(']');
    }
    pub fn finish(mut self) -> String {
        if self.0.is_empty() {
            self.0.push('{');
        }
        self.0.push('}');
        self.0
    }
}

impl PartialEq for Header {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}
impl Eq for Header {}
impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Header").field("id", &self.0.id).field("fields", &self.0.fields).finish()
    }
}
