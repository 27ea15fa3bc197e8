//! What a sidecar keeps of the rooms of its upstream homeserver: events that are yet to be
//! followed, how far it heard, and what is yet to be sent.
//!
//! Only rows, and never a copy of the rooms: an event goes when it was followed.

use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId, RoomId, UserId};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::value::RawValue;

use crate::{
    Batch, Cf, Direction, Full, Read, StorageError, StreamPosition,
    codec::{self, KeyParts, key},
};

/// An event that the upstream showed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Arrived {
    /// Its room.
    pub room_id: OwnedRoomId,
    /// Its id.
    pub event_id: OwnedEventId,
    /// The event as clients see it.
    pub event: Box<RawValue>,
}

/// How far the events of a room with a shared space are heard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomRow {
    /// By whose /sync.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reader: Option<OwnedUserId>,
    /// Whether all that it shows was taken in once, so that what is new suffices.
    #[serde(default)]
    pub whole: bool,
}

/// An event that is to be sent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Sending {
    /// What it is about: a later one about the same replaces it.
    pub subject: String,
    /// In whose name.
    pub sender: OwnedUserId,
    /// `type`.
    pub kind: String,
    /// `state_key` of a state event.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state_key: Option<String>,
    /// `content`.
    pub content: Box<RawValue>,
    /// The same at each attempt.
    pub transaction_id: String,
    /// When it was queued (ms since the epoch).
    pub since: u64,
}

/// Puts an event behind all that arrived before it.
pub fn put_arrived(batch: &mut Batch, position: StreamPosition, arrived: &Arrived) {
    codec::put(batch, Cf::UpstreamIntake, key().u64(position.0), arrived);
}

/// Events that arrived after `after` and not after `until`, in order, at most `limit`.
pub fn arrived(
    read: &impl Read,
    after: StreamPosition,
    until: StreamPosition,
    limit: usize,
) -> Result<Vec<(StreamPosition, Arrived)>, StorageError> {
    let from = key().u64(after.0.saturating_add(1)).finish();
    let rows = read.scan(Cf::UpstreamIntake, &[], Some(&from), Direction::Forward, limit)?;
    let mut found = Vec::with_capacity(rows.len());
    for (row, value) in rows {
        let position = StreamPosition(KeyParts::new(Cf::UpstreamIntake, &row).u64()?);
        if position > until {
            break;
        }
        found.push((position, codec::decode(Cf::UpstreamIntake, &value)?));
    }
    Ok(found)
}

/// Whether so much has arrived that was not followed.
pub fn is_full(read: &impl Read, full: Full) -> Result<bool, StorageError> {
    read.is_full(Cf::UpstreamIntake, &[], full)
}

/// The positions from `from` to `until`, both among them, at which events are, at most `limit`.
pub fn positions(
    read: &impl Read,
    from: StreamPosition,
    until: StreamPosition,
    limit: usize,
) -> Result<Vec<StreamPosition>, StorageError> {
    let from = key().u64(from.0).finish();
    let rows = read.scan(Cf::UpstreamIntake, &[], Some(&from), Direction::Forward, limit)?;
    let mut found = Vec::with_capacity(rows.len());
    for (row, _) in rows {
        let position = StreamPosition(KeyParts::new(Cf::UpstreamIntake, &row).u64()?);
        if position > until {
            break;
        }
        found.push(position);
    }
    Ok(found)
}

/// It was followed.
pub fn delete_arrived(batch: &mut Batch, position: StreamPosition) {
    batch.delete(Cf::UpstreamIntake, key().u64(position.0));
}

/// Ids of transactions that were taken last, oldest first.
pub fn transactions(read: &impl Read) -> Result<Vec<String>, StorageError> {
    Ok(meta(read, &["transactions"])?.unwrap_or_default())
}

/// Writes them.
pub fn put_transactions(batch: &mut Batch, ids: &[String]) {
    put_meta(batch, &["transactions"], &ids);
}

/// Where a reader's /sync goes on.
pub fn since(read: &impl Read, reader: &UserId) -> Result<Option<String>, StorageError> {
    meta(read, &["since", reader.as_str()])
}

/// Writes it.
pub fn put_since(batch: &mut Batch, reader: &UserId, since: &str) {
    put_meta(batch, &["since", reader.as_str()], since);
}

/// Forgets it: his next /sync begins anew.
pub fn delete_since(batch: &mut Batch, reader: &UserId) {
    batch.delete(Cf::UpstreamMeta, meta_key(&["since", reader.as_str()]));
}

/// Whether the upstream was seen to say which event another one replaces in state.
pub fn tells_replaced(read: &impl Read) -> Result<bool, StorageError> {
    Ok(meta(read, &["tells_replaced"])?.unwrap_or_default())
}

/// It was.
pub fn put_tells_replaced(batch: &mut Batch) {
    put_meta(batch, &["tells_replaced"], &true);
}

/// A room with a shared space.
pub fn room(read: &impl Read, room_id: &RoomId) -> Result<Option<RoomRow>, StorageError> {
    meta(read, &["room", room_id.as_str()])
}

/// Writes it.
pub fn put_room(batch: &mut Batch, room_id: &RoomId, row: &RoomRow) {
    put_meta(batch, &["room", room_id.as_str()], row);
}

/// Rooms with a shared space after `after`, in the order of their ids, at most `limit`.
pub fn rooms(
    read: &impl Read,
    after: Option<&RoomId>,
    limit: usize,
) -> Result<Vec<(OwnedRoomId, RoomRow)>, StorageError> {
    // The key after this room's own.
    let from = after.map(|room| [meta_key(&["room", room.as_str()]), vec![0]].concat());
    let rows =
        read.scan(Cf::UpstreamMeta, &meta_key(&["room"]), from.as_deref(), Direction::Forward, limit)?;
    let broken = |_| StorageError::BrokenKey { cf: Cf::UpstreamMeta.name() };
    rows.iter()
        .map(|(row, value)| {
            let mut parts = KeyParts::new(Cf::UpstreamMeta, row);
            parts.str()?;
            let room = RoomId::parse(parts.str()?).map_err(broken)?;
            Ok((room, codec::decode(Cf::UpstreamMeta, value)?))
        })
        .collect()
}

/// Queues an event to be sent behind all that the room has, and instead of what is queued
/// about the same.
pub fn put_sending(
    read: &impl Read,
    batch: &mut Batch,
    room_id: &RoomId,
    sending: &Sending,
) -> Result<(), StorageError> {
    let subject = ["subject", room_id.as_str(), &sending.subject];
    if let Some(replaced) = meta::<u64>(read, &subject)? {
        batch.delete(Cf::UpstreamOutbox, key().str(room_id).u64(replaced));
    }
    let order = batch.position().0;
    put_meta(batch, &subject, &order);
    codec::put(batch, Cf::UpstreamOutbox, key().str(room_id).u64(order), sending);
    Ok(())
}

/// What a room is to be sent next, with its place in the order.
pub fn next_sending(read: &impl Read, room_id: &RoomId) -> Result<Option<(u64, Sending)>, StorageError> {
    let rows = read.scan(Cf::UpstreamOutbox, key().str(room_id).as_ref(), None, Direction::Forward, 1)?;
    let Some((row, value)) = rows.first() else { return Ok(None) };
    let mut parts = KeyParts::new(Cf::UpstreamOutbox, row);
    parts.str()?;
    Ok(Some((parts.u64()?, codec::decode(Cf::UpstreamOutbox, value)?)))
}

/// How many events wait for a room, counted up to `limit`.
pub fn count_sending(read: &impl Read, room_id: &RoomId, limit: usize) -> Result<usize, StorageError> {
    let prefix = key().str(room_id).finish();
    read.count(Cf::UpstreamOutbox, &prefix, &prefix, limit)
}

/// The place of what is queued about a subject, if anything is.
pub fn queued_about(read: &impl Read, room_id: &RoomId, subject: &str) -> Result<Option<u64>, StorageError> {
    meta(read, &["subject", room_id.as_str(), subject])
}

/// It was sent, or is not to be sent.
pub fn delete_sending(
    read: &impl Read,
    batch: &mut Batch,
    room_id: &RoomId,
    (order, subject): (u64, &str),
) -> Result<(), StorageError> {
    batch.delete(Cf::UpstreamOutbox, key().str(room_id).u64(order));
    // Losing sight of one that is put at this moment costs a look more at what it replaces.
    let subject = ["subject", room_id.as_str(), subject];
    if meta::<u64>(read, &subject)? == Some(order) {
        batch.delete(Cf::UpstreamMeta, meta_key(&subject));
    }
    Ok(())
}

/// The first room after `after` that something is to be sent to.
pub fn next_room(read: &impl Read, after: Option<&RoomId>) -> Result<Option<OwnedRoomId>, StorageError> {
    let from = after.map(|room| key().str(room).u64(u64::MAX).bytes(&[0]).finish());
    let rows = read.scan(Cf::UpstreamOutbox, &[], from.as_deref(), Direction::Forward, 1)?;
    let Some((row, _)) = rows.first() else { return Ok(None) };
    let room = KeyParts::new(Cf::UpstreamOutbox, row).str()?;
    let broken = |_| StorageError::BrokenKey { cf: Cf::UpstreamOutbox.name() };
    Ok(Some(RoomId::parse(room).map_err(broken)?))
}

fn meta_key(name: &[&str]) -> Vec<u8> {
    name.iter().fold(key(), codec::Key::str).finish()
}

fn meta<T: DeserializeOwned>(read: &impl Read, name: &[&str]) -> Result<Option<T>, StorageError> {
    codec::get(read, Cf::UpstreamMeta, &meta_key(name))
}

fn put_meta<T: Serialize + ?Sized>(batch: &mut Batch, name: &[&str], value: &T) {
    codec::put(batch, Cf::UpstreamMeta, meta_key(name), value);
}

#[cfg(test)]
mod tests {
    use ruma::{owned_user_id, room_id};

    use super::*;
    use crate::{Database, Options};

    fn open() -> (tempfile::TempDir, Database) {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = Database::open(folder.path(), &Options::default()).expect("opens");
        (folder, database)
    }

    fn sending(subject: &str, n: u64) -> Sending {
        Sending {
            subject: subject.to_owned(),
            sender: owned_user_id!("@a:x"),
            kind: "t".to_owned(),
            state_key: None,
            content: RawValue::from_string("{}".to_owned()).expect("JSON"),
            transaction_id: n.to_string(),
            since: n,
        }
    }

    #[test]
    fn of_two_about_the_same_the_later_is_sent_and_in_order() {
        let (_folder, db) = open();
        let (room, other) = (room_id!("!r:x"), room_id!("!s:x"));
        for (subject, n) in [("face:a", 1), ("face:b", 2), ("face:a", 3)] {
            let mut batch = db.batch();
            put_sending(&db, &mut batch, room, &sending(subject, n)).expect("puts");
            db.commit_durable(batch).expect("commits");
        }
        let mut batch = db.batch();
        put_sending(&db, &mut batch, other, &sending("face:a", 9)).expect("puts");
        db.commit_durable(batch).expect("commits");
        assert_eq!(next_room(&db, None).expect("reads").as_deref(), Some(room));
        assert_eq!(next_room(&db, Some(room)).expect("reads").as_deref(), Some(other));
        assert_eq!(next_room(&db, Some(other)).expect("reads"), None);
        let mut sent = Vec::new();
        while let Some((order, row)) = next_sending(&db, room).expect("reads") {
            assert_eq!(queued_about(&db, room, &row.subject).expect("reads"), Some(order));
            let mut batch = db.batch();
            delete_sending(&db, &mut batch, room, (order, &row.subject)).expect("deletes");
            db.commit_durable(batch).expect("commits");
            assert_eq!(queued_about(&db, room, &row.subject).expect("reads"), None);
            sent.push(row.since);
        }
        assert_eq!(sent, [2, 3]);
        assert_eq!(count_sending(&db, other, 9).expect("counts"), 1);
    }

    #[test]
    fn rooms_come_in_pages() {
        let (_folder, db) = open();
        let mut batch = db.batch();
        for room in [room_id!("!a:x"), room_id!("!b:x"), room_id!("!c:x")] {
            put_room(&mut batch, room, &RoomRow { reader: None, whole: room.as_str() == "!b:x" });
        }
        put_since(&mut batch, &owned_user_id!("@a:x"), "s1");
        db.commit_durable(batch).expect("commits");
        let page = rooms(&db, None, 2).expect("reads");
        assert_eq!(
            page.iter().map(|(room, row)| (room.as_str(), row.whole)).collect::<Vec<_>>(),
            [("!a:x", false), ("!b:x", true)]
        );
        let rest = rooms(&db, Some(&page[1].0), 2).expect("reads");
        assert_eq!(rest.len(), 1);
        assert_eq!(since(&db, &owned_user_id!("@a:x")).expect("reads").as_deref(), Some("s1"));
    }
}
