//! What a held entry counts for.
//!
//! An entry is *held* once its signature was verified: counted in the log and
//! relayed. It is *effective* if the events that it names show its author's
//! right to write, *void* if they show that there was none (no effect on any
//! item), and *unproven* as long as one of those events is not at hand (no effect
//! yet; judged again when it comes). So one bad entry never blocks a log. The
//! judgement needs the room's events and is made by the service; the reasons are
//! closed here because they are stored and shown.
//!
//! Invariant: void and effective follow from the entry and from immutable
//! events that it names, so every server that can judge judges alike.

use serde::{Deserialize, Serialize};

/// What a held entry counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    /// The rules of the room allowed it.
    Effective,
    /// The rules of the room did not allow it: without effect.
    Void(VoidReason),
    /// An event that it names, or what an adopted one overwrote, is not at hand: without effect for now.
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
    /// True if the entry takes part in its item.
    pub const fn is_effective(self) -> bool {
        matches!(self, Self::Effective)
    }
}
