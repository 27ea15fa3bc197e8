//! 4: what destinations are owed, and what is to be sent to them again, has rows by room; it was
//! in the destinations' own rows.

use ruma::{OwnedEventId, OwnedRoomId};
use serde::Deserialize;

use super::BATCH_ROWS;
use crate::{
    Cf, Database, Direction, Read as _, StorageError, codec,
    codec::KeyParts,
    outbox::{
        self, Destination,
        again::{self, Again},
        owed::{self, Owed},
    },
    rooms,
};

/// What was in a destination's row.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Before {
    owed_rooms: Vec<OwnedRoomId>,
    owed_events: Vec<OwnedEventId>,
    owed_since_ms: u64,
    again: Vec<BeforeAgain>,
}

#[derive(Deserialize)]
struct BeforeAgain {
    room_id: OwnedRoomId,
    #[serde(flatten)]
    again: Again,
}

pub(super) fn by_room(database: &Database) -> Result<(), StorageError> {
    let mut from: Option<Vec<u8>> = None;
    loop {
        let rows = database.scan(Cf::Destinations, b"", from.as_deref(), Direction::Forward, BATCH_ROWS)?;
        for (row, value) in &rows {
            split(database, row, value)?;
        }
        match rows.last() {
            Some((last, _)) if rows.len() == BATCH_ROWS => from = Some([last.as_slice(), &[0]].concat()),
            _ => return Ok(()),
        }
    }
}

/// In one batch, so that a row is either as it was or done.
fn split(database: &Database, row: &[u8], value: &[u8]) -> Result<(), StorageError> {
    let before: Before = codec::decode(Cf::Destinations, value)?;
    if before.owed_rooms.is_empty() && before.owed_events.is_empty() && before.again.is_empty() {
        return Ok(());
    }
    let name = KeyParts::new(Cf::Destinations, row).str()?;
    let broken = |_| StorageError::BrokenKey { cf: Cf::Destinations.name() };
    let server = ruma::ServerName::parse(name).map_err(broken)?;
    let (since_ms, mut batch) = (before.owed_since_ms, database.batch());
    for room_id in before.owed_rooms {
        owed::put(&mut batch, &server, &Owed { since_ms, room_id, event_id: None });
    }
    for event_id in before.owed_events {
        // One that is not here can't be sent.
        if let Some(meta) = rooms::event_meta(database, &event_id)? {
            let (room_id, event_id) = (meta.room_id, Some(event_id));
            owed::put(&mut batch, &server, &Owed { since_ms, room_id, event_id });
        }
    }
    for BeforeAgain { room_id, again } in &before.again {
        again::put(&mut batch, &server, room_id, None, Some(again));
    }
    let met: Destination = codec::decode(Cf::Destinations, value)?;
    outbox::put_destination(&mut batch, &server, &met);
    database.commit_durable(batch).map(drop)
}
