//! From what an author has been given to what his change supersedes.
//!
//! An API caller shows a token. An ordinary client shows nothing: what its
//! device was given follows from the syncs that it acknowledged ([`super::given`]),
//! and from what it wrote itself.

use causeway_shared_space::{ChangeId, Header, ItemKey, Observed, ObservedFacts, VersionVector};
use causeway_storage::{
    Database, StorageError,
    rooms as room_rows,
    shared_space::{devices, entries, items::ItemRow, notices},
};
use ruma::{DeviceId, RoomId, ServerName, UserId};

use super::{ITEM_TYPE, SharedSpace, error::SpaceError, given, lock, stored};

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
        let stretches = devices::device(&self.db, user, device)?.given;
        let left_out = devices::left_out(&self.db, user, device, room)?;
        for sibling in row.item.siblings() {
            let faces = row.local.get(&sibling.id).map_or(&[][..], |local| &local.faces);
            for face in faces {
                let Some(position) = self.stream_position(&face.event_id)? else { continue };
                let in_state = |at: u64| self.was_state_at(room, key, at, &face.event_id).unwrap_or(false);
                if given::was_given(&stretches, &left_out, position, in_state) {
                    observed.give(sibling.id);
                }
            }
        }
        for (event_id, notice) in notices::notices_of(&self.db, room, key.as_str(), NOTICES_MAX)? {
            let Some(position) = self.stream_position(&event_id)? else { continue };
            if given::was_given(&stretches, &left_out, position, |_| false) {
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

    /// Whether an event was the item's in the state that was current at a position.
    fn was_state_at(
        &self,
        room: &RoomId,
        key: &ItemKey,
        at: u64,
        event_id: &ruma::EventId,
    ) -> Result<bool, SpaceError> {
        let at = i64::try_from(at).unwrap_or(i64::MAX);
        let Some(row) = room_rows::position_before(&self.db, room, at)? else { return Ok(false) };
        Ok(self.rooms.state_at_root(&row.current, ITEM_TYPE, key.as_str())?.as_deref() == Some(event_id))
    }

    /// Facts for [`Observed::supersedes`].
    pub(super) fn observed_facts<'a>(&'a self, room: &'a RoomId) -> Facts<'a> {
        let elsewhere = lock(&self.elsewhere).get(room).cloned().unwrap_or_default();
        Facts { db: &self.db, room, own: self.server_name(), elsewhere }
    }
}

/// What is known of the changes that an author was given.
pub struct Facts<'a> {
    db: &'a Database,
    room: &'a RoomId,
    own: &'a ServerName,
    elsewhere: VersionVector,
}

impl Facts<'_> {
    /// Whether a second server is known to hold it: its origin, or one that said so.
    fn is_replicated(&self, header: &Header) -> bool {
        let dot = header.dot();
        header.server() != self.own
            || self.elsewhere.points(&dot.replica).iter().any(|point| {
                point.counter >= dot.counter && point.floor.is_none_or(|floor| floor <= dot.counter)
            })
    }
}

impl ObservedFacts for Facts<'_> {
    type Error = StorageError;

    fn observed(&self, id: &ChangeId) -> Result<Option<(Vec<ChangeId>, bool)>, StorageError> {
        let Some(row) = entries::entry(self.db, self.room, id)? else { return Ok(None) };
        let Some((header, _)) = stored::parts(&row) else { return Ok(None) };
        Ok(Some((header.supersedes().to_vec(), self.is_replicated(&header))))
    }
}
