//! Replicas, counters and dots: where a change stands in a log.
//!
//! A [`ReplicaId`] is one server's writing life in one room,
//! `server_name/incarnation`. A fork of a replica does not get a name of its
//! own: its branches are told apart by the ids of their tips (the reasons are
//! in [`crate::version_vector`]).

use std::{borrow::Borrow, fmt, num::NonZeroU64, str::FromStr, sync::Arc};

use ruma::ServerName;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Longest server name in bytes (a Matrix user id, which contains it, has 255).
pub const MAX_SERVER_NAME_BYTES: usize = 230;
/// Hexadecimal digits of an incarnation.
pub const INCARNATION_DIGITS: usize = 16;
/// Greatest counter, and greatest integer in any Matrix JSON: 2^53 − 1.
pub const MAX_COUNTER: u64 = (1 << 53) - 1;

/// One server's writing life in one room: `server_name/incarnation`.
///
/// Ordered as its text is, so that maps of replicas are canonical JSON.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReplicaId(Arc<str>);

/// The text is not `server_name/` and 16 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a replica id (server_name/16 hexadecimal digits)")]
pub struct ReplicaIdError;

impl ReplicaId {
    /// The replica of `server` in this incarnation (a random number, drawn by
    /// the caller at its first write to a room after each start).
    ///
    /// `None` if the server name is longer than [`MAX_SERVER_NAME_BYTES`].
    pub fn new(server: &ServerName, incarnation: u64) -> Option<Self> {
        (server.as_str().len() <= MAX_SERVER_NAME_BYTES)
            .then(|| Self(format!("{server}/{incarnation:016x}").into()))
    }

    /// The whole text, `server_name/incarnation`.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The server that writes as this replica.
    #[expect(clippy::missing_panics_doc, reason = "the name was checked when the id was made")]
    pub fn server(&self) -> &ServerName {
        self.server_text().try_into().expect("checked when the replica id was parsed")
    }

    /// The server's name as text.
    pub fn server_text(&self) -> &str {
        &self.0[..self.0.len() - INCARNATION_DIGITS - 1]
    }

    /// The incarnation's 16 hexadecimal digits.
    pub fn incarnation(&self) -> &str {
        &self.0[self.0.len() - INCARNATION_DIGITS..]
    }
}

impl FromStr for ReplicaId {
    type Err = ReplicaIdError;
    fn from_str(text: &str) -> Result<Self, ReplicaIdError> {
        let (server, incarnation) = text.rsplit_once('/').ok_or(ReplicaIdError)?;
        let hex = incarnation.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if server.len() > MAX_SERVER_NAME_BYTES || incarnation.len() != INCARNATION_DIGITS || !hex {
            return Err(ReplicaIdError);
        }
        <&ServerName>::try_from(server).map_err(|_| ReplicaIdError)?;
        Ok(Self(text.into()))
    }
}

impl Borrow<str> for ReplicaId {
    fn borrow(&self) -> &str {
        &self.0
    }
}
impl fmt::Display for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Debug for ReplicaId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl Serialize for ReplicaId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}
impl<'de> Deserialize<'de> for ReplicaId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = ReplicaId;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("server_name/16 hexadecimal digits")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<ReplicaId, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// A change's number in its replica's log: 1, 2, 3 … without gaps.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Counter(NonZeroU64);

impl Counter {
    /// The first counter of every log.
    pub const FIRST: Self = Self(NonZeroU64::MIN);

    /// The counter with this value; `None` outside 1 to [`MAX_COUNTER`].
    pub const fn new(value: u64) -> Option<Self> {
        match NonZeroU64::new(value) {
            Some(counter) if value <= MAX_COUNTER => Some(Self(counter)),
            _ => None,
        }
    }
    /// The number.
    pub const fn value(self) -> u64 {
        self.0.get()
    }
    /// The counter after this one; `None` after [`MAX_COUNTER`].
    pub const fn next(self) -> Option<Self> {
        Self::new(self.value() + 1)
    }
    /// The counter before this one; `None` before the first.
    pub const fn previous(self) -> Option<Self> {
        Self::new(self.value() - 1)
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Debug for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl<'de> Deserialize<'de> for Counter {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u64::deserialize(deserializer)?).ok_or_else(|| de::Error::custom("counter out of range"))
    }
}

/// A place in a log: replica and counter. In JSON `["server/incarnation", 42]`.
///
/// It places a change; the [`crate::ChangeId`] identifies it. Two signed
/// changes with one dot prove that the replica forked.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "(ReplicaId, Counter)", into = "(ReplicaId, Counter)")]
pub struct Dot {
    /// Whose log.
    pub replica: ReplicaId,
    /// The place in it.
    pub counter: Counter,
}

impl From<(ReplicaId, Counter)> for Dot {
    fn from((replica, counter): (ReplicaId, Counter)) -> Self {
        Self { replica, counter }
    }
}
impl From<Dot> for (ReplicaId, Counter) {
    fn from(dot: Dot) -> Self {
        (dot.replica, dot.counter)
    }
}
impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.replica, self.counter)
    }
}
impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replica_ids_are_strict() {
        let id: ReplicaId = "a.example:8448/00ff00ff00ff00ff".parse().expect("well formed");
        assert_eq!(id.server().as_str(), "a.example:8448");
        assert_eq!(id.incarnation(), "00ff00ff00ff00ff");
        assert_eq!(ReplicaId::new(id.server(), 0x00ff_00ff_00ff_00ff), Some(id));
        let long = format!("{}/00ff00ff00ff00ff", "a".repeat(231));
        for bad in [
            "",
            "a.example",
            "a.example/00FF00ff00ff00ff",
            "a.example/1",
            "/00ff00ff00ff00ff",
            "a b/00ff00ff00ff00ff",
            &long,
        ] {
            assert!(bad.parse::<ReplicaId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn dots_are_pairs_and_counters_are_bounded() {
        let dot: Dot = serde_json::from_str(r#"["a.example/00ff00ff00ff00ff",42]"#).expect("well formed");
        assert_eq!(serde_json::to_string(&dot).expect("serialises"), r#"["a.example/00ff00ff00ff00ff",42]"#);
        for bad in [
            r#"["a.example/00ff00ff00ff00ff",0]"#,
            r#"["a.example/00ff00ff00ff00ff",9007199254740992]"#,
            r#"["a.example/00ff00ff00ff00ff"]"#,
        ] {
            assert!(serde_json::from_str::<Dot>(bad).is_err(), "{bad}");
        }
        assert_eq!(Counter::new(MAX_COUNTER).expect("in range").next(), None);
        assert_eq!(Counter::FIRST.previous(), None);
    }
}
