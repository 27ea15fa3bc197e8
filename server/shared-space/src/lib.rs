//! The shared space's rules, pure: changes, logs, vectors, items, conflicts.
//!
//! What it is: the types of `federation/PROTOCOL.md` sections 1–3 and 6 and the
//! decisions over them. Everything arrives as an argument (bytes, keys, time,
//! snapshots of what is held) and everything leaves as a value.
//!
//! What it is not: it has no clock, randomness, IO, lock, task or `async`; it
//! stores nothing and sends nothing.
//!
//! Invariants:
//! - Bytes from a peer never panic and are measured before memory is taken for
//!   what they describe.
//! - A header is kept exactly as it came (canonical JSON); its id is the
//!   SHA-256 of those bytes, so a field that this version does not know is
//!   neither lost nor able to break the id.
//! - Nothing here compares clocks. Time is data for display.
//! - A change supersedes only what it names.
//!
//! Where to start: [`Change`] (one write), [`ChangeLog`] (what is held and how
//! it hangs together), [`VersionVector`] (how that is told to a peer),
//! [`Item`] (what follows from the changes of one key).

pub mod canonical;
pub mod change;
pub mod change_log;
pub mod conflict;
pub mod fork;
pub mod header;
pub mod ids;
pub mod item;
pub mod item_key;
pub mod observed;
pub mod replica;
pub mod sibling;
pub mod stamp;
pub mod standing;
#[cfg(test)]
mod tests;
pub mod value;
pub mod version_vector;

pub use change::{Body, BuildError, Change, ChangeError, EntrySignature, NewChange, SignatureError};
pub use change_log::{
    ChangeLog, Entries, Link, MemoryEntries, Overlay, Placed, Range, ReplicaLog, Run, RunId,
};
pub use conflict::Conflict;
pub use fork::ForkProof;
pub use header::{Header, HeaderError, Kind};
pub use ids::{ChangeId, ConflictId, ValueHash};
pub use item::{Item, ItemFacts, Joined};
pub use item_key::{ItemKey, KeyError};
pub use observed::{Observed, ObservedFacts};
pub use replica::{Counter, Dot, ReplicaId};
pub use sibling::Sibling;
pub use stamp::{Stamp, StampError};
pub use standing::{Standing, VoidReason};
pub use value::{Value, ValueError};
pub use version_vector::{Point, VersionVector};
