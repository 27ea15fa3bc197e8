//! Conflicts: an item with two or more siblings of different value.
//!
//! A conflict is derived from its item and never stored as a second truth. Its
//! id is the same on every server that knows the same siblings. Siblings of
//! equal value (two people wrote the same) are no conflict.

use ruma::ServerName;
use sha2::{Digest as _, Sha256};

use crate::{
    header::Members,
    ids::{ChangeId, ConflictId},
    item_key::ItemKey,
    sibling::Sibling,
};

/// An item in conflict, as its siblings show it.
#[derive(Debug, Clone, Copy)]
pub struct Conflict<'a> {
    /// The item.
    pub key: &'a ItemKey,
    /// What names this very conflict.
    pub id: ConflictId,
    /// All siblings in display order.
    pub siblings: &'a [Sibling],
}

impl<'a> Conflict<'a> {
    /// The conflict among `siblings` (in display order), if there is one.
    pub(crate) fn among(key: &'a ItemKey, siblings: &'a [Sibling]) -> Option<Self> {
        let (first, rest) = siblings.split_first()?;
        rest.iter().any(|sibling| sibling.value_hash != first.value_hash).then(|| Self {
            key,
            id: conflict_id(siblings.iter().map(|sibling| sibling.id)),
            siblings,
        })
    }

    /// The servers that speak for this conflict, in the order in which they
    /// step in: the home of the author of the last sibling first, then the
    /// others up the list, each once.
    pub fn speakers(&self) -> Vec<&'a ServerName> {
        let mut servers: Vec<&ServerName> = Vec::new();
        for sibling in self.siblings.iter().rev() {
            let server = sibling.author.server_name();
            if !servers.contains(&server) {
                servers.push(server);
            }
        }
        servers
    }
}

/// The SHA-256 of the sorted ids, each 32 bytes, one after the other.
pub fn conflict_id(siblings: impl Iterator<Item = ChangeId>) -> ConflictId {
    let mut ids: Vec<ChangeId> = siblings.collect();
    ids.sort_unstable();
    let mut hash = Sha256::new();
    for id in &ids {
        hash.update(id.as_bytes());
    }
    ConflictId::from_bytes(hash.finalize().into())
}

/// The list that notices and faces carry, canonical JSON:
/// `[{"author", "id", "origin_server_ts"}]`.
pub fn list_json(siblings: &[Sibling]) -> String {
    let mut out = String::from("[");
    for (index, sibling) in siblings.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        let mut members = Members::new();
        members.string("author", sibling.author.as_str());
        members.raw("id", format_args!("\"{}\"", sibling.id));
        members.raw("origin_server_ts", sibling.origin_server_ts);
        out.push_str(&members.finish());
    }
    out.push(']');
    out
}
