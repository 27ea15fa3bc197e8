//! Proof that a replica forked: two entries, both signed by it, with one dot.
//!
//! The proof stands on its own: anyone with the server's key can check it. It
//! says that the server's disk was cloned, its backup put back unnoticed, or its
//! key used by someone else. Nothing is frozen by it; both branches are held.

use crate::{change::Change, replica::Dot};

/// Two entries with one dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForkProof {
    entries: [Change; 2],
}

impl ForkProof {
    /// The proof that two entries make, if they do: same room, same dot,
    /// different ids. Their signatures are the caller's to verify.
    pub fn new(one: &Change, other: &Change) -> Option<Self> {
        let (a, b) = (one.header(), other.header());
        if a.room_id() != b.room_id() || a.dot() != b.dot() || a.id() == b.id() {
            return None;
        }
        // Sorted, so that all servers that see the same two keep the same proof.
        let (first, second) = if a.id() < b.id() { (one, other) } else { (other, one) };
        Some(Self { entries: [first.without_value(), second.without_value()] })
    }
    /// The place that was given out twice.
    pub fn dot(&self) -> &Dot {
        self.entries[0].header().dot()
    }
    /// The two entries without values, in the order of their ids.
    pub fn entries(&self) -> &[Change; 2] {
        &self.entries
    }
    /// The JSON, `[entry, entry]`.
    pub fn to_json(&self) -> String {
        format!("[{},{}]", self.entries[0].to_json(), self.entries[1].to_json())
    }
}
