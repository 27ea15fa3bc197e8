//! Answering a pull: a stateless range read.
//!
//! The answer depends on the pull and on what is held, so any holder can answer
//! the next page of a pull that another one began. It is the same for a server
//! and for a client that long-polls for changes.

use std::collections::BTreeSet;

use causeway_shared_space::{Counter, Range, VersionVector, change_log::Scope, version_vector::MAX_POINTS};

use crate::{
    limits::{MAX_DELTA_BYTES, MAX_DELTA_ENTRIES, MAX_KEYS},
    message::{Delta, Pull},
    snapshot::Snapshot,
};

/// What `own` (a server's name; its keys are left out, since whoever asks it has
/// them) answers to a pull.
pub fn answer<S: Snapshot>(own: &str, pull: &Pull, at: &S) -> Result<Delta, S::Error> {
    let limit =
        usize::try_from(pull.limit).map_or(MAX_DELTA_ENTRIES, |limit| limit.clamp(1, MAX_DELTA_ENTRIES));
    let bytes = usize::try_from(pull.bytes).map_or(MAX_DELTA_BYTES, |bytes| bytes.clamp(1, MAX_DELTA_BYTES));
    let mut theirs = pull.after.clone();
    theirs.join(&pull.also);
    let scope = if pull.servers.is_empty() { Scope::All } else { Scope::Servers(&pull.servers) };
    let ranges = at.log().after(&theirs, scope, at)?;
    let delta = page(ranges, u64::from(pull.skip), limit, bytes, at)?;
    let origins: BTreeSet<&str> =
        delta.changes.iter().map(|change| change.server().as_str()).filter(|origin| *origin != own).collect();
    let mut keys = Vec::new();
    for origin in origins {
        keys.extend(at.keys(origin)?);
    }
    keys.truncate(MAX_KEYS);
    Ok(Delta { keys, ..delta })
}

/// The entries of the ranges, without the first `skip`.
pub(crate) fn page<S: Snapshot>(
    ranges: Vec<Range>,
    mut skip: u64,
    limit: usize,
    bytes: usize,
    at: &S,
) -> Result<Delta, S::Error> {
    let mut delta = Delta { vector: capped(at.log().vector()), ..Delta::default() };
    let mut bytes_left = bytes;
    for mut range in ranges {
        let length = length(&range);
        if skip >= length {
            skip -= length;
            continue;
        }
        range.from = above(&range, skip);
        skip = 0;
        loop {
            if delta.changes.len() == limit || bytes_left == 0 {
                delta.next = true;
                return Ok(delta);
            }
            let entries = at.read(&range, limit - delta.changes.len(), bytes_left)?;
            let Some(last) = entries.last().map(|change| change.header().dot().counter) else { break };
            for change in entries {
                bytes_left = bytes_left.saturating_sub(size(&change));
                delta.changes.push(change);
            }
            match last.next() {
                Some(next) if last >= range.from && next <= range.to => range.from = next,
                _ => break,
            }
        }
    }
    Ok(delta)
}

/// About the bytes of an entry's JSON.
pub(crate) fn size(change: &causeway_shared_space::Change) -> usize {
    /// Names, signature and key id around the header and the value.
    const AROUND: usize = 150;
    change.header().as_str().len() + change.value().map_or(0, |value| value.as_str().len()) + AROUND
}

/// Entries of a range.
pub(crate) fn length(range: &Range) -> u64 {
    (range.to.value() + 1).saturating_sub(range.from.value())
}

fn above(range: &Range, skip: u64) -> Counter {
    Counter::new(range.from.value() + skip).unwrap_or(range.to)
}

/// As much of a vector as one message may hold. What is cut off is sent again or
/// asked for again; nothing is lost by it.
pub(crate) fn capped(vector: VersionVector) -> VersionVector {
    if vector.len() <= MAX_POINTS {
        return vector;
    }
    let mut short = VersionVector::new();
    for (replica, point) in vector.iter().take(MAX_POINTS) {
        short.insert(replica, *point);
    }
    short
}
