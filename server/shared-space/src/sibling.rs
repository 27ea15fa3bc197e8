//! A sibling: a live change of an item, as the item keeps it.
//!
//! It holds what display, conflicts and the next author's `supersedes` need of
//! the header, so that none of them has to fetch it.

use std::cmp::Reverse;

use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

use crate::{
    header::{Header, Kind},
    ids::{ChangeId, ValueHash},
    replica::Counter,
};

/// A live change of an item.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sibling {
    /// The item id ([`Header::item_id`]): what others supersede it by.
    pub id: ChangeId,
    /// The entry that it is; of several adoptions the one with the least id.
    pub entry: ChangeId,
    /// Who wrote it.
    pub author: OwnedUserId,
    /// When its server says it was written, in ms since 1970. For display.
    pub origin_server_ts: u64,
    /// The hash of its value; `None` for a delete.
    pub value_hash: Option<ValueHash>,
    /// The length of the chain of predecessors that it claims. For display.
    pub depth: Counter,
    /// The item ids that it supersedes, ascending.
    pub supersedes: Vec<ChangeId>,
}

impl Sibling {
    /// What `header` is in its item; `None` for a redaction, which is no sibling.
    pub fn of(header: &Header) -> Option<Self> {
        (header.kind() != Kind::Redact).then(|| Self {
            id: header.item_id(),
            entry: header.id(),
            author: header.author().to_owned(),
            origin_server_ts: header.origin_server_ts(),
            value_hash: header.value_hash(),
            depth: header.depth(),
            supersedes: header.supersedes().to_vec(),
        })
    }
    /// True if it is a delete.
    pub fn is_tombstone(&self) -> bool {
        self.value_hash.is_none()
    }
    /// True if it is an event without stamp, entered by a server that saw it.
    pub fn is_adoption(&self) -> bool {
        self.id != self.entry
    }
    /// Puts before deletes, longer chain of predecessors first, then id.
    pub(crate) fn display_order(&self) -> (bool, Reverse<Counter>, ChangeId) {
        (self.is_tombstone(), Reverse(self.depth), self.id)
    }

    /// Takes in another adoption of the same event.
    pub(crate) fn unite(&mut self, other: &Self) {
        if other.entry < self.entry {
            let supersedes = std::mem::take(&mut self.supersedes);
            let depth = self.depth;
            *self = Self { depth, supersedes, ..other.clone() };
        }
        self.depth = self.depth.max(other.depth);
        self.supersedes.extend(&other.supersedes);
        self.supersedes.sort_unstable();
        self.supersedes.dedup();
    }
}
