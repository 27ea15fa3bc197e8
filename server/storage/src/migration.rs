//! The schema's version and the way from one to the next.
//!
//! To change what is stored in a way that an older program can't read: raise
//! [`SCHEMA_VERSION`], add a [`Step`] to [`STEPS`] and a data folder of the old
//! version to the upgrade tests. A step writes its changes in batches of its
//! own and must be repeatable: it is run again if it was interrupted. Its
//! version is recorded, durably, when it has returned.

mod owed;

use std::path::Path;

use ruma::{RoomId, UserId, events::room::member::MembershipState};

use crate::{
    Cf, Database, Direction, OpenError, Read as _, StorageError, StreamPosition, codec,
    codec::KeyParts,
    device_lists::{self, Stale},
    key_changes,
    rooms::{Member, put_remote_membership},
};

/// The newest schema that this program reads and the one that it writes.
pub const SCHEMA_VERSION: u32 = 4;

/// Row of `Meta`: the last step that is complete, as a number of eight bytes.
const SCHEMA: &[u8] = b"schema";

/// Brings a database from the version before `to` to `to`.
struct Step {
    to: u32,
    run: fn(&Database) -> Result<(), StorageError>,
}

/// All steps, ascending.
const STEPS: &[Step] = &[
    Step { to: 2, run: index_remote_members },
    Step { to: 3, run: order_device_lists },
    Step { to: 4, run: owed::by_room },
];

/// Rows of one batch of a step.
const BATCH_ROWS: usize = 10_000;

/// 2: the joined users of other servers are listed by user as well.
fn index_remote_members(database: &Database) -> Result<(), StorageError> {
    let mut from: Option<Vec<u8>> = None;
    loop {
        let rows = database.scan(Cf::RoomMembers, b"", from.as_deref(), Direction::Forward, BATCH_ROWS)?;
        let mut batch = database.batch();
        for (row, value) in &rows {
            let mut parts = KeyParts::new(Cf::RoomMembers, row);
            let (room_id, user_id) = (parts.str()?, parts.str()?);
            let (Ok(room_id), Ok(user_id)) = (RoomId::parse(room_id), UserId::parse(user_id)) else {
                continue;
            };
            let member: Member = codec::decode(Cf::RoomMembers, value)?;
            // Local users have rows of their own, and these are not looked at.
            if member.membership == MembershipState::Join {
                put_remote_membership(&mut batch, &user_id, &room_id, true);
            }
        }
        database.commit_durable(batch)?;
        match rows.last() {
            Some((last, _)) if rows.len() == BATCH_ROWS => from = Some([last.as_slice(), &[0]].concat()),
            _ => return Ok(()),
        }
    }
}

/// 3: of each user the last change of keys is kept only, and lists that are to be
/// fetched are by server.
fn order_device_lists(database: &Database) -> Result<(), StorageError> {
    let mut since = StreamPosition(0);
    loop {
        let changes = key_changes::between(database, since, StreamPosition(u64::MAX), BATCH_ROWS)?;
        for change in &changes {
            // One by one, since each looks for those before. Durable with the step.
            let mut batch = database.batch();
            key_changes::collapse(database, &mut batch, change)?;
            let _unsynced = database.commit(batch)?;
        }
        match changes.last() {
            Some(last) if changes.len() == BATCH_ROWS => since = last.position,
            _ => break,
        }
    }
    // Server names, by which the new rows begin, never begin like a user id.
    loop {
        let rows = database.scan(Cf::StaleDeviceLists, b"@", None, Direction::Forward, BATCH_ROWS)?;
        let mut batch = database.batch();
        for (row, value) in &rows {
            if let Ok(user_id) = UserId::parse(KeyParts::new(Cf::StaleDeviceLists, row).str()?) {
                let stale: Stale = codec::decode(Cf::StaleDeviceLists, value)?;
                device_lists::put_stale(&mut batch, &user_id, &stale);
            }
            batch.delete(Cf::StaleDeviceLists, row);
        }
        database.commit_durable(batch)?;
        if rows.len() < BATCH_ROWS {
            return Ok(());
        }
    }
}

pub(crate) struct Failure {
    to: u32,
    source: StorageError,
}

impl Failure {
    pub(crate) fn at(self, path: &Path) -> OpenError {
        OpenError::Migration { path: path.to_owned(), to: self.to, source: self.source }
    }
}

/// Runs the steps that are missing; a new database needs none.
pub(crate) fn run(database: &Database) -> Result<(), Failure> {
    run_steps(database, STEPS, SCHEMA_VERSION)
}

fn run_steps(database: &Database, steps: &[Step], newest: u32) -> Result<(), Failure> {
    let failed = |to| move |source| Failure { to, source };
    let recorded = database.get(Cf::Meta, SCHEMA).map_err(failed(newest))?;
    let at = match recorded {
        None => u64::from(newest),
        Some(ref bytes) => codec::decode_u64(Cf::Meta, bytes).map_err(failed(newest))?,
    };
    if recorded.is_none() {
        record(database, newest).map_err(failed(newest))?;
    }
    for step in steps.iter().filter(|step| u64::from(step.to) > at) {
        tracing::info!(to = step.to, "migrating the database");
        (step.run)(database).and_then(|()| record(database, step.to)).map_err(failed(step.to))?;
    }
    Ok(())
}

fn record(database: &Database, version: u32) -> Result<(), StorageError> {
    let mut batch = database.batch();
    batch.put(Cf::Meta, SCHEMA, u64::from(version).to_be_bytes());
    database.commit_durable(batch).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Options;

    #[test]
    fn remote_members_are_indexed() {
        use crate::rooms::{put_member, remote_rooms};
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = Database::open(folder.path(), &Options::default()).expect("open");
        let room_id = ruma::room_id!("!room:a.example");
        let users = [ruma::user_id!("@joined:b.example"), ruma::user_id!("@left:b.example")];
        let mut batch = database.batch();
        for (user_id, membership) in users.iter().zip([MembershipState::Join, MembershipState::Leave]) {
            let member = Member {
                membership,
                event_id: ruma::owned_event_id!("$event"),
                sender: (*user_id).to_owned(),
                position: crate::StreamPosition(1),
                displayname: None,
                avatar_url: None,
                joined_since: None,
                forgotten: false,
            };
            put_member(&mut batch, room_id, user_id, Some(&member));
        }
        batch.put(Cf::Meta, SCHEMA, 1_u64.to_be_bytes());
        database.commit_durable(batch).expect("writes");
        assert!(run(&database).is_ok());
        assert_eq!(remote_rooms(&database, users[0], 9).expect("reads"), [room_id]);
        assert!(remote_rooms(&database, users[1], 9).expect("reads").is_empty());
    }

    #[test]
    fn changes_of_keys_are_collapsed_and_stale_lists_sorted_by_server() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = Database::open(folder.path(), &Options::default()).expect("open");
        let (bob, carol) = (ruma::user_id!("@bob:b.example"), ruma::user_id!("@carol:a.example"));
        let mut batch = database.batch();
        let [_, of_carol, last] = [bob, carol, bob].map(|user_id| {
            let position = batch.position();
            batch.put(Cf::KeyChanges, position.0.to_be_bytes(), user_id.as_bytes());
            position
        });
        let stale = Stale { failures: 7, ..Stale::default() };
        codec::put(&mut batch, Cf::StaleDeviceLists, codec::key().str(bob), &stale);
        batch.put(Cf::Meta, SCHEMA, 2_u64.to_be_bytes());
        database.commit_durable(batch).expect("writes");
        assert!(run(&database).is_ok());
        let changes = key_changes::between(&database, StreamPosition(0), last, 9).expect("reads");
        let left: Vec<_> = changes.iter().map(|change| (change.position, change.user_id.as_str())).collect();
        assert_eq!(left, [(of_carol, carol.as_str()), (last, bob.as_str())]);
        let mut batch = database.batch();
        key_changes::put(&database, &mut batch, bob, None).expect("reads");
        database.commit_durable(batch).expect("writes");
        let changes = key_changes::between(&database, StreamPosition(0), database.visible(), 9);
        assert_eq!(changes.expect("reads").len(), 2, "they are listed by user now");
        let server = device_lists::next_stale_server(&database, None).expect("reads").expect("is there");
        assert_eq!(server, "b.example");
        let of = device_lists::stale_of(&database, &server, None, 9).expect("reads");
        assert_eq!(of, [(bob.to_owned(), stale)]);
        assert_eq!(device_lists::next_stale_server(&database, Some(&server)).expect("reads"), None);
    }

    #[test]
    fn steps_run_once_and_in_order() {
        fn second(database: &Database) -> Result<(), StorageError> {
            let mut batch = database.batch();
            batch.put(Cf::Meta, b"trace", b"2");
            database.commit_durable(batch).map(|_| ())
        }
        fn third(database: &Database) -> Result<(), StorageError> {
            let mut trace = database.get(Cf::Meta, b"trace")?.unwrap_or_default();
            trace.push(b'3');
            let mut batch = database.batch();
            batch.put(Cf::Meta, b"trace", trace);
            database.commit_durable(batch).map(|_| ())
        }
        let (next, newest) = (SCHEMA_VERSION + 1, SCHEMA_VERSION + 2);
        let steps = [Step { to: next, run: second }, Step { to: newest, run: third }];
        let folder = tempfile::tempdir().expect("temporary folder");
        let database = Database::open(folder.path(), &Options::default()).expect("open");
        for _ in 0..2 {
            assert!(run_steps(&database, &steps, newest).is_ok());
            assert_eq!(database.get(Cf::Meta, b"trace").expect("read"), Some(b"23".to_vec()));
        }
    }
}
