//! What the replicator reads of a room's change logs.
//!
//! Not here: any writing. The shell applies entries and reports what became of
//! them; the next [`Snapshot`] shows the result. A snapshot is one consistent
//! view, and everything in it is durable: what it shows may be told to a peer at
//! once.

use causeway_shared_space::{Change, ChangeLog, Entries, Range};
use serde_json::value::RawValue;

/// A consistent, durable view of one room's entries.
///
/// `causeway-service` implements it over storage, the simulation in memory.
pub trait Snapshot: Entries {
    /// The shape of the logs, as of this view.
    fn log(&self) -> &ChangeLog;

    /// The first entries of a range, in order: at most `limit`, and no more once
    /// their JSON has passed `bytes` (one is returned however large). The header
    /// always; the value where the change is a sibling of its item, or where it is
    /// still at hand.
    fn read(&self, range: &Range, limit: usize, bytes: usize) -> Result<Vec<Change>, Self::Error>;

    /// The stored verify keys of a server, as the signed JSON that it published
    /// or that a peer relayed; nothing when none are stored.
    fn keys(&self, server: &str) -> Result<Vec<Box<RawValue>>, Self::Error>;
}
