//! Version vectors: what a server holds, told to a peer.
//!
//! # The encoding, and why
//! Entries hang on one another by `previous`: within a replica entry *n* names
//! entry *n* − 1, and the first entry of an incarnation names the last one that
//! its server held of its earlier life. So the logs are trees by hash, as
//! commits are, and a vector is the list of their *tips*:
//!
//! ```json
//! { "a.example/5f3c9a1e00d1b2c3": [[42, "<id>"]],
//!   "b.example/00000000000000aa": [[7, "<id>"], [9, "<id>", 8]] }
//! ```
//!
//! - A point `[counter, id]` says: *I hold this entry and everything before it*,
//!   back through earlier incarnations to the server's very first entry. An
//!   incarnation whose last entry is the `previous` of another one's first needs
//!   no point of its own: it is implied. So a vector has one point per server in
//!   the ordinary case, however often the servers were started.
//! - A point `[counter, id, floor]` is an *island*, entries whose chain has a
//!   hole: *I hold this entry and those before it in this replica down to the
//!   counter `floor`, and not the one below* (or, with floor 1, not the earlier
//!   incarnation's entry that it names).
//! - A fork is two points of one replica. Nothing else is needed: branches have
//!   no names, because a server that holds one branch only can't know that it is
//!   a branch. A plain counter would say "7" on both sides of a fork and hide it
//!   from exactly the two servers that have to find it out.
//!
//! Because a point carries an id, a claim can only be right or unknown, never
//! mistaken: a server that holds the id knows all that the point implies (the
//! hashes fix it), and a server that does not hold it lacks at least one entry.
//! Hence the three questions of replication are decided exactly:
//! *do I lack something of yours?* — some point of yours is not held as it says
//! ([`crate::ChangeLog::lacking`]); *what do I send you?* — all that is not
//! implied by those of your points that I hold ([`crate::ChangeLog::after`]);
//! *are we equal?* — equal vectors, hence equal [`VersionVector::digest`]s.
//!
//! One case needs more than one point: the asker is on another branch than the
//! answerer, so the answerer knows none of his points. The asker sees that (the
//! answerer's point is at or below his own counter and he does not hold it) and
//! adds a *locator* to his next question: his entries at distances 1, 2, 4, 8 …
//! from his tip ([`crate::ChangeLog::locator`]). At most twice the length of the
//! branch is sent again, once. A point that implies another is allowed for this.
//!
//! What it is not: causal context. A vector serves replication and never decides
//! what supersedes what.
//!
//! Invariants: points of a replica are sorted and distinct; at most
//! [`MAX_POINTS`] in all; equal sets of held entries give equal vectors.

use std::{
    collections::{BTreeMap, btree_map},
    fmt,
};

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, SeqAccess, Visitor},
    ser::SerializeTuple as _,
};
use sha2::{Digest as _, Sha256};

use crate::{
    ids::ChangeId,
    replica::{Counter, ReplicaId},
};

/// Most points in a vector. Reading stops with an error at the first one above.
pub const MAX_POINTS: usize = 2_000;
/// Most points of one replica in a vector.
pub const MAX_POINTS_PER_REPLICA: usize = 256;

/// A place in a tree of entries, and how much below it is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Point {
    /// The entry's counter.
    pub counter: Counter,
    /// The entry.
    pub id: ChangeId,
    /// `None`: everything before it. `Some`: down to this counter only.
    pub floor: Option<Counter>,
}

/// What a server holds of a room's logs: their tips.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VersionVector {
    replicas: BTreeMap<ReplicaId, Vec<Point>>,
}

impl VersionVector {
    /// Nothing held.
    pub fn new() -> Self {
        Self::default()
    }
    /// True if nothing is held.
    pub fn is_empty(&self) -> bool {
        self.replicas.is_empty()
    }
    /// The number of points.
    pub fn len(&self) -> usize {
        self.replicas.values().map(Vec::len).sum()
    }
    /// The points of one replica.
    pub fn points(&self, replica: &ReplicaId) -> &[Point] {
        self.replicas.get(replica).map_or(&[], Vec::as_slice)
    }
    /// All points in order.
    pub fn iter(&self) -> impl Iterator<Item = (&ReplicaId, &Point)> {
        self.replicas.iter().flat_map(|(replica, points)| points.iter().map(move |point| (replica, point)))
    }
    /// Adds a point; false if it was there.
    pub fn insert(&mut self, replica: &ReplicaId, point: Point) -> bool {
        let points = match self.replicas.get_mut(replica) {
            Some(points) => points,
            None => self.replicas.entry(replica.clone()).or_default(),
        };
        match points.binary_search(&point) {
            Ok(_) => false,
            Err(index) => {
                points.insert(index, point);
                true
            }
        }
    }
    /// Takes a point away; false if it was not there.
    pub fn remove(&mut self, replica: &ReplicaId, point: &Point) -> bool {
        let btree_map::Entry::Occupied(mut entry) = self.replicas.entry(replica.clone()) else {
            return false;
        };
        let Ok(index) = entry.get().binary_search(point) else { return false };
        entry.get_mut().remove(index);
        if entry.get().is_empty() {
            entry.remove();
        }
        true
    }
    /// True if this very point is listed (not: implied).
    pub fn has(&self, replica: &ReplicaId, point: &Point) -> bool {
        self.points(replica).binary_search(point).is_ok()
    }
    /// All claims of both. Points that another one implies stay; see
    /// [`crate::ChangeLog::reduce`] for taking them away.
    pub fn join(&mut self, other: &Self) {
        for (replica, point) in other.iter() {
            self.insert(replica, *point);
        }
    }
    /// The points of `self` that are not listed in `other`: what a peer that
    /// has shown `other` need be told.
    #[must_use]
    pub fn except(&self, other: &Self) -> Self {
        let mut rest = Self::new();
        for (replica, point) in self.iter().filter(|(replica, point)| !other.has(replica, point)) {
            rest.insert(replica, *point);
        }
        rest
    }
    /// The SHA-256 of the canonical JSON: equal exactly for equal holdings.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.to_json().as_bytes()).into()
    }
    /// The canonical JSON.
    #[expect(clippy::missing_panics_doc, reason = "string keys and plain numbers always serialise")]
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("string keys and plain numbers serialise")
    }
    /// Reads a vector from hostile JSON, refusing more than [`MAX_POINTS`].
    pub fn from_json(text: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(text)
    }
}

impl Serialize for VersionVector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(&self.replicas)
    }
}

impl<'de> Deserialize<'de> for VersionVector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(VectorVisitor)
    }
}

struct VectorVisitor;

impl<'de> Visitor<'de> for VectorVisitor {
    type Value = VersionVector;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a map from replicas to lists of points")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<VersionVector, A::Error> {
        let mut vector = VersionVector::new();
        let mut total = 0;
        while let Some((replica, Points(mut points))) = map.next_entry::<ReplicaId, Points>()? {
            total += points.len();
            if total > MAX_POINTS {
                return Err(de::Error::custom("too many points in a version vector"));
            }
            points.sort_unstable();
            points.dedup();
            if points.is_empty() || vector.replicas.insert(replica, points).is_some() {
                return Err(de::Error::custom("a replica without points or named twice"));
            }
        }
        Ok(vector)
    }
}

struct Points(Vec<Point>);

impl<'de> Deserialize<'de> for Points {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct List;
        impl<'de> Visitor<'de> for List {
            type Value = Points;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of points")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Points, A::Error> {
                let mut points = Vec::new();
                while let Some(point) = sequence.next_element()? {
                    if points.len() == MAX_POINTS_PER_REPLICA {
                        return Err(de::Error::custom("too many points of one replica"));
                    }
                    points.push(point);
                }
                Ok(Points(points))
            }
        }
        deserializer.deserialize_seq(List)
    }
}

impl Serialize for Point {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut tuple = serializer.serialize_tuple(if self.floor.is_some() { 3 } else { 2 })?;
        tuple.serialize_element(&self.counter)?;
        tuple.serialize_element(&self.id)?;
        if let Some(floor) = &self.floor {
            tuple.serialize_element(floor)?;
        }
        tuple.end()
    }
}

impl<'de> Deserialize<'de> for Point {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Parts;
        impl<'de> Visitor<'de> for Parts {
            type Value = Point;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("[counter, id] or [counter, id, floor]")
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut parts: A) -> Result<Point, A::Error> {
                let short = || de::Error::custom("a point without counter or id");
                let counter = parts.next_element::<Counter>()?.ok_or_else(short)?;
                let id = parts.next_element()?.ok_or_else(short)?;
                let floor = parts.next_element::<Counter>()?;
                if floor.is_some_and(|floor| floor > counter)
                    || parts.next_element::<de::IgnoredAny>()?.is_some()
                {
                    return Err(de::Error::custom("a floor above its point, or more than three parts"));
                }
                Ok(Point { counter, id, floor })
            }
        }
        deserializer.deserialize_seq(Parts)
    }
}
