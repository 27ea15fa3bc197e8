//! What a known entry counts for.
//!
//! An entry may be *unproven* (its signature could not be checked yet: parked,
//! not in the log, asked again), *void* (held, counted and relayed, without
//! effect on any item) or *effective*. The judgement needs the room's events
//! and is made by the service; the reasons are closed here because they are
//! stored and shown.
//!
//! Invariant: void and effective follow from the entry and from immutable
//! events that it names, so every server that can judge judges alike.

use serde::{Deserialize, Serialize};

/// What a known entry counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// Held, and the rules of the room allowed it.
    Effective,
    /// Held and relayed, without effect.
    Void(VoidReason),
    /// Not held: no key of the origin is known that proves or refutes it.
    Unproven,
}

/// Why an entry has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VoidReason {
    /// The author belongs to another server than the replica, and the change adopts nothing.
    ForeignAuthor,
    /// `authorized_by` does not show the author joined.
    NotJoined,
    /// `authorized_by` does not show that the author may send item events.
    NotAllowed,
    /// `authorized_by` names events that are not of this room or not of the needed kind.
    BadAuthorization,
    /// The adopted event says something else than the entry.
    AdoptionMismatch,
    /// A redaction by someone who may not redact what it names.
    RedactionNotAllowed,
}

impl Standing {
    /// True if the entry is in the log (counted in vectors and relayed).
    pub const fn is_held(self) -> bool {
        matches!(self, Self::Effective | Self::Void(_))
    }
    /// True if the entry takes part in its item.
    pub const fn is_effective(self) -> bool {
        matches!(self, Self::Effective)
    }
}
