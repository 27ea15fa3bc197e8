//! From what an author has been given to what his change supersedes.
//!
//! An API caller shows a token. An ordinary client shows nothing: what its
//! device was given follows from the syncs that it acknowledged
//! ([`crate::sync::given`]),
//! and from what it wrote itself.

use std::collections::HashMap;

use causeway_room::state_tree::NodeId;
use causeway_shared_space::{ChangeId, Counter, Dot, ItemKey, Observed, ObservedFacts, ReplicaId, Sibling};
use causeway_storage::{
    Database, StorageError,
    rooms as room_rows,
    shared_space::{entries, items::ItemRow, notices},
};
use ruma::{DeviceId, RoomId, ServerName, UserId};

use super::{ITEM_TYPE, SharedSpace, error::SpaceError, lock, stored};
use crate::sync;

/// Notices about one item that are looked at for what a device was told.
const NOTICES_MAX: usize = 16;

/// How a device is named in local rows.
pub fn device_name(user: &UserId, device: &DeviceId) -> String {
    format!("{user}|{device}")
}

/// Live changes of an item that this very device wrote.
pub fn own_writes(row: &ItemRow, device: Option<&str>) -> Observed {
    let own = row.local.iter().filter(|(_, local)| device.is_some() && local.device.as_deref() == device);
    own.map(|(id, _)| *id).collect()
}

impl SharedSpace {
    /// Live changes of an item that a device was given by /sync, or wrote.
    pub(super) fn observed_by_device(
        &self,
        room: &RoomId,
        key: &ItemKey,
        row: &ItemRow,
        user: &UserId,
        device: &DeviceId,
    ) -> Result<Observed, SpaceError> {
        let mut observed = own_writes(row, Some(&device_name(user, device)));
        let Some(given) = sync::given(&self.db, user, device, room)? else { return Ok(observed) };
        let in_state = match given.state.as_deref().and_then(parse_root) {
            Some(root) => self.rooms.state_at(&root, ITEM_TYPE, key.as_str())?,
            None => None,
        };
        let in_state = in_state.as_ref().map(|event| event.event_id());
        let was_given = |position: Option<u64>| {
            position.is_some_and(|position| given.after < position && position <= given.up_to)
        };
        for sibling in row.item.siblings() {
            for face in row.local.get(&sibling.id).map_or(&[][..], |local| &local.faces) {
                if in_state == Some(&*face.event_id) || was_given(self.stream_position(&face.event_id)?) {
                    observed.give(sibling.id);
                }
            }
        }
        for (event_id, notice) in notices::notices_of(&self.db, room, key.as_str(), NOTICES_MAX)? {
            if was_given(self.stream_position(&event_id)?) {
                let live = notice.siblings.iter().filter(|id| row.item.sibling(id).is_some());
                live.for_each(|id| observed.give(*id));
            }
        }
        Ok(observed)
    }

    /// Where an event stands in this server's stream; `None` for history.
    fn stream_position(&self, event_id: &ruma::EventId) -> Result<Option<u64>, StorageError> {
        let meta = room_rows::event_meta(&self.db, event_id)?;
        Ok(meta.and_then(|meta| meta.position).and_then(|position| u64::try_from(position).ok()))
    }

    /// Facts for [`Observed::supersedes`].
    pub(super) fn observed_facts<'a>(&'a self, room: &'a RoomId) -> Facts<'a> {
        let elsewhere = lock(&self.elsewhere).get(room).cloned().unwrap_or_default();
        Facts { db: &self.db, room, own: self.server_name(), elsewhere }
    }
}

/// A state's root as the progress of a device names it.
fn parse_root(text: &str) -> Option<NodeId> {
    let mut root = [0; 32];
    hex::decode_to_slice(text, &mut root).ok().map(|()| NodeId(root))
}

/// What is known of the changes that an author was given.
pub struct Facts<'a> {
    db: &'a Database,
    room: &'a RoomId,
    own: &'a ServerName,
    elsewhere: HashMap<ReplicaId, Counter>,
}

impl Facts<'_> {
    /// Whether a second server is known to hold it: its origin, or one that said so.
    fn is_replicated(&self, dot: &Dot) -> bool {
        dot.replica.server_text() != self.own.as_str()
            || self.elsewhere.get(&dot.replica).is_some_and(|counter| *counter >= dot.counter)
    }

    /// What a caller who is shown these siblings is to give back: their ids and,
    /// before them, what those name that only this server is known to hold.
    pub(super) fn shown(&self, siblings: &[Sibling]) -> Result<Observed, StorageError> {
        let mut carried = Observed::new();
        for sibling in siblings.iter().filter(|sibling| !sibling.supersedes.is_empty()) {
            let link = entries::link(self.db, self.room, &sibling.entry)?;
            if link.is_some_and(|link| !self.is_replicated(&link.dot)) {
                sibling.supersedes.iter().for_each(|id| carried.give(*id));
            }
        }
        siblings.iter().for_each(|sibling| carried.give(sibling.id));
        Ok(carried)
    }
}

impl ObservedFacts for Facts<'_> {
    type Error = StorageError;

    fn observed(&self, id: &ChangeId) -> Result<Option<(Vec<ChangeId>, bool)>, StorageError> {
        let Some(row) = entries::entry(self.db, self.room, id)? else { return Ok(None) };
        let Some((header, _)) = stored::parts(&row) else { return Ok(None) };
        Ok(Some((header.supersedes().to_vec(), self.is_replicated(header.dot()))))
    }
}
