//! Deleting a room with everything that hangs on it.
//!
//! Invariant: run before anything is read or kept in memory of the room, so at a
//! start only. What is interrupted is begun again and deletes the rest.
//!
//! Pieces of state (`state_nodes`) are shared among rooms and stay.

use ruma::RoomId;

use crate::{
    Cf, Database, Direction, Read, StorageError,
    codec::{self, KeyParts, key},
    rooms::EventMeta,
};

/// Rows looked at, and deleted at most, in one step.
const PAGE: usize = 10_000;

/// Column families whose keys begin with a room's id.
const BY_ROOM: &[Cf] = &[
    Cf::CurrentState,
    Cf::Timeline,
    Cf::MissingEvents,
    Cf::UnansweredEvents,
    Cf::RoomMembers,
    Cf::JoinedServers,
    Cf::Threads,
    Cf::ThreadOrder,
    Cf::ThreadUsers,
    Cf::EventTimes,
    Cf::Words,
    Cf::PublishedRooms,
    Cf::RoomAliases,
    Cf::Receipts,
    Cf::ReceiptChanges,
    Cf::SpaceEntries,
    Cf::SpaceIds,
    Cf::SpaceLogs,
    Cf::SpaceForks,
    Cf::SpaceValues,
    Cf::SpaceUsage,
    Cf::SpaceUnproven,
    Cf::SpaceItems,
    Cf::SpaceSuccessors,
    Cf::SpaceAdoptions,
    Cf::SpaceHistory,
    Cf::SpaceConflicts,
    Cf::SpaceNotices,
    Cf::SpaceItemNotices,
    Cf::SpaceEvents,
    Cf::SpacePasts,
];

/// A part of a key.
#[derive(Clone, Copy)]
enum Part {
    Text,
    Number,
}

/// Column families that name the room after other parts.
const NAMED_LATER: &[(Cf, &[Part])] = &[
    (Cf::Memberships, &[Part::Text]),
    (Cf::RemoteMemberships, &[Part::Text]),
    (Cf::InviteState, &[Part::Text]),
    (Cf::AccountData, &[Part::Text]),
    (Cf::AccountDataChanges, &[Part::Text, Part::Number]),
    (Cf::EventStream, &[Part::Number]),
    (Cf::SyncGiven, &[Part::Text, Part::Text]),
    (Cf::SyncRead, &[Part::Text, Part::Text]),
    (Cf::SlidingRooms, &[Part::Text, Part::Text, Part::Text]),
    (Cf::SpaceQueues, &[Part::Text]),
];

/// Deletes the room; the number of its events.
///
/// # Errors
/// The database failed; some of it may be gone.
pub fn purge(database: &Database, room_id: &RoomId) -> Result<usize, StorageError> {
    // Without its own row nothing else makes a room of the rest.
    let mut batch = database.batch();
    batch.delete(Cf::Rooms, key().str(room_id));
    for cf in BY_ROOM {
        batch.delete_prefix(*cf, key().str(room_id));
    }
    let _synced_by_the_last = database.commit(batch)?;
    for (cf, before) in NAMED_LATER {
        delete_where(database, *cf, |row, _| names(*cf, before, row, room_id), |_, _| ())?;
    }
    let mut events = 0;
    let is_of_room =
        |_: &[u8], value: &[u8]| Ok(codec::decode::<EventMeta>(Cf::EventMeta, value)?.room_id == room_id);
    delete_where(database, Cf::EventMeta, is_of_room, |batch, row| {
        events += 1;
        for cf in [Cf::Pdus, Cf::Redactions, Cf::EventOrigins] {
            batch.delete(cf, row);
        }
        batch.delete_prefix(Cf::Relations, row);
        batch.delete_prefix(Cf::PendingRedactions, row);
    })?;
    database.barrier()?;
    Ok(events)
}

fn names(cf: Cf, before: &[Part], row: &[u8], room_id: &RoomId) -> Result<bool, StorageError> {
    let mut parts = KeyParts::new(cf, row);
    for part in before {
        match part {
            Part::Text => parts.str().map(|_| ())?,
            Part::Number => parts.u64().map(|_| ())?,
        }
    }
    Ok(parts.str()? == room_id.as_str())
}

/// Goes over a whole column family.
pub(super) fn delete_where(
    database: &Database,
    cf: Cf,
    mut is_doomed: impl FnMut(&[u8], &[u8]) -> Result<bool, StorageError>,
    mut with: impl FnMut(&mut crate::Batch, &[u8]),
) -> Result<(), StorageError> {
    let mut from: Option<Vec<u8>> = None;
    loop {
        let rows = database.scan(cf, b"", from.as_deref(), Direction::Forward, PAGE)?;
        let mut batch = database.batch();
        for (row, value) in &rows {
            if is_doomed(row, value)? {
                batch.delete(cf, row);
                with(&mut batch, row);
            }
        }
        if !batch.is_empty() {
            let _synced_by_the_last = database.commit(batch)?;
        }
        let Some((last, _)) = rows.last() else { return Ok(()) };
        let mut next = last.clone();
        next.push(0);
        from = Some(next);
    }
}
