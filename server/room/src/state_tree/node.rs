//! A node of the state tree and its bytes.
//!
//! Format, version 1, integers big-endian: byte 1; then `0` and the entries of
//! a bucket (count u16; per entry the lengths u16 of type, state key and event
//! id, then the three), or `1` and the children of a branch (bitmap u16 of the
//! nibbles that have a child; per child its id and the number u32 of entries
//! below it). A node's id is the SHA-256 of these bytes.

use std::sync::Arc;

use ruma::OwnedEventId;
use sha2::{Digest, Sha256};

use super::{NodeId, StateKey};

/// A bucket with more entries than this is a branch.
pub const BUCKET_MAX: usize = 16;
/// Children of a branch: one per value of four bits.
pub const FANOUT: usize = 16;
const VERSION: u8 = 1;
const BUCKET: u8 = 0;
const BRANCH: u8 = 1;

/// One piece of state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Type and state key.
    pub key: StateKey,
    /// The event that holds it.
    pub event_id: OwnedEventId,
}

/// A subtree: its node's id and the number of entries in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Child {
    /// The node.
    pub id: NodeId,
    /// Entries below it.
    pub count: u32,
}

/// A node: few entries, or sixteen subtrees by the next four bits of the key's hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// At most [`BUCKET_MAX`] entries, sorted by key.
    Bucket(Vec<Entry>),
    /// More than [`BUCKET_MAX`] entries.
    Branch(Box<[Option<Child>; FANOUT]>),
}

/// A stored node that can't be read: damaged, or of a newer version.
#[derive(Debug, thiserror::Error)]
#[error("a node of a room's state is damaged")]
pub struct DamagedNode;

impl Node {
    /// Entries in and below it.
    pub fn count(&self) -> usize {
        match self {
            Self::Bucket(entries) => entries.len(),
            Self::Branch(children) => children.iter().flatten().map(|child| child.count as usize).sum(),
        }
    }

    /// About what it takes in memory, in bytes.
    pub fn memory_bytes(&self) -> usize {
        match self {
            Self::Bucket(entries) => {
                let texts = |entry: &Entry| {
                    entry.key.kind.len() + entry.key.key.len() + entry.event_id.as_str().len()
                };
                entries.iter().map(|entry| size_of::<Entry>() + texts(entry)).sum()
            }
            Self::Branch(children) => size_of_val(&**children),
        }
    }

    /// Its bytes.
    ///
    /// # Panics
    /// Never: what is in an event is at most 255 bytes long.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        let length = |length: usize| {
            u16::try_from(length).expect("ids, types and state keys are at most 255 bytes").to_be_bytes()
        };
        match self {
            Self::Bucket(entries) => {
                bytes.push(BUCKET);
                bytes.extend(length(entries.len()));
                for entry in entries {
                    let parts =
                        [entry.key.kind.as_bytes(), entry.key.key.as_bytes(), entry.event_id.as_bytes()];
                    for part in parts {
                        bytes.extend(length(part.len()));
                    }
                    for part in parts {
                        bytes.extend(part);
                    }
                }
            }
            Self::Branch(children) => {
                bytes.push(BRANCH);
                let bitmap = children
                    .iter()
                    .enumerate()
                    .fold(0_u16, |map, (i, child)| map | (u16::from(child.is_some()) << i));
                bytes.extend(bitmap.to_be_bytes());
                for child in children.iter().flatten() {
                    bytes.extend(child.id.0);
                    bytes.extend(child.count.to_be_bytes());
                }
            }
        }
        bytes
    }

    /// Reads a node's bytes.
    ///
    /// # Errors
    /// When they are not a node's.
    pub fn decode(bytes: &[u8]) -> Result<Self, DamagedNode> {
        let mut reader = Reader(bytes);
        if reader.byte()? != VERSION {
            return Err(DamagedNode);
        }
        let node = match reader.byte()? {
            BUCKET => Self::Bucket(reader.entries()?),
            BRANCH => Self::Branch(reader.children()?),
            _ => return Err(DamagedNode),
        };
        if reader.0.is_empty() { Ok(node) } else { Err(DamagedNode) }
    }

    /// The node with its id.
    pub fn identified(self) -> (NodeId, Arc<Self>) {
        let id = NodeId(Sha256::digest(self.encode()).into());
        (id, Arc::new(self))
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], DamagedNode> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(DamagedNode)?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8, DamagedNode> {
        Ok(self.take(1)?[0])
    }

    fn length(&mut self) -> Result<usize, DamagedNode> {
        let bytes = self.take(2)?;
        Ok(usize::from(u16::from_be_bytes([bytes[0], bytes[1]])))
    }

    fn text(&mut self, length: usize) -> Result<String, DamagedNode> {
        String::from_utf8(self.take(length)?.to_vec()).map_err(|_| DamagedNode)
    }

    fn entries(&mut self) -> Result<Vec<Entry>, DamagedNode> {
        let count = self.length()?;
        let mut entries = Vec::with_capacity(count.min(BUCKET_MAX));
        for _ in 0..count {
            let lengths = [self.length()?, self.length()?, self.length()?];
            let (kind, key) = (self.text(lengths[0])?, self.text(lengths[1])?);
            let event_id = OwnedEventId::try_from(self.text(lengths[2])?).map_err(|_| DamagedNode)?;
            entries.push(Entry { key: StateKey { kind, key }, event_id });
        }
        Ok(entries)
    }

    fn children(&mut self) -> Result<Box<[Option<Child>; FANOUT]>, DamagedNode> {
        let bitmap = self.length()?;
        let mut children = Box::new([None; FANOUT]);
        for (nibble, child) in children.iter_mut().enumerate() {
            if bitmap & (1 << nibble) != 0 {
                let id = NodeId(self.take(32)?.try_into().map_err(|_| DamagedNode)?);
                let count = self.take(4)?.try_into().map_err(|_| DamagedNode)?;
                *child = Some(Child { id, count: u32::from_be_bytes(count) });
            }
        }
        Ok(children)
    }
}
