//! Data that were put back from a backup are told to be old.
//!
//! Whoever puts them back leaves the file `restored` in the data folder. At the
//! next opening everything is undone that would be wrong if it were taken up where
//! the backup stopped, because others have seen what came after it:
//!
//! - stream positions go on far above all that were handed out since: a client that
//!   comes with a token of the lost time is told of everything new, and other servers
//!   see device lists with numbers that they have not seen;
//! - one-time keys are forgotten: they may have been given away since, and one that is
//!   given to two breaks the encryption of both; devices upload new ones;
//! - device lists of other servers' users are fetched anew.
//!
//! Dots of shared spaces need nothing: every start of a process writes as a new
//! replica (PROTOCOL §4). While the file `restoring` is there, the folder is not
//! opened: it is not whole.
//!
//! Invariant: the file goes when all of this is durable; all of it may be done twice.

use std::{fs, io, path::Path};

use rocksdb::WriteOptions;
use ruma::UserId;

use crate::{
    Cf, Database, Direction, Read as _, StorageError,
    codec::{self, KeyParts},
    device_lists,
    open::Rocks,
};

/// In a data folder that came from a backup and was not opened since.
pub const RESTORED_FILE: &str = "restored";

/// Row of `Meta`: no position above this was handed out in the past.
pub(crate) const CEILING: &[u8] = b"positions";

/// More than any server hands out between a backup and its restore; even so,
/// positions stay within 2^53 for a hundred thousand restores.
const POSITIONS_SKIPPED: u64 = 1 << 36;

/// Rows of one batch.
const BATCH_ROWS: usize = 10_000;

/// Whether the folder came from a backup and was not opened since.
pub fn is_restored(folder: &Path) -> bool {
    folder.join(RESTORED_FILE).exists()
}

/// Skips positions, before any is handed out: the new ceiling.
pub(crate) fn skip_positions(rocks: &Rocks, ceiling: u64) -> Result<u64, String> {
    let meta = rocks.cf_handle(Cf::Meta.name()).ok_or("no meta rows")?;
    let skipped = ceiling.saturating_add(POSITIONS_SKIPPED);
    let mut options = WriteOptions::default();
    options.set_sync(true);
    rocks.put_cf_opt(meta, CEILING, skipped.to_be_bytes(), &options).map_err(rocksdb::Error::into_string)?;
    Ok(skipped)
}

/// Everything else, once the database has its present schema.
pub(crate) fn settle(database: &Database) -> Result<(), StorageError> {
    let told = fs::read_to_string(database.folder().join(RESTORED_FILE)).unwrap_or_default();
    tracing::warn!(
        backup = told.trim(),
        "these data were restored from a backup: what came after it is lost here"
    );
    for cf in [Cf::OneTimeKeys, Cf::OneTimeKeyOrder] {
        clear(database, cf)?;
    }
    fetch_lists_anew(database)?;
    let gone = fs::remove_file(database.folder().join(RESTORED_FILE));
    match gone {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(StorageError::Checkpoint(format!("the file {RESTORED_FILE} can't be removed: {error}")))
        }
        _ => Ok(()),
    }
}

fn clear(database: &Database, cf: Cf) -> Result<(), StorageError> {
    loop {
        let rows = database.scan(cf, b"", None, Direction::Forward, BATCH_ROWS)?;
        let mut batch = database.batch();
        for (key, _) in &rows {
            batch.delete(cf, key);
        }
        database.commit_durable(batch)?;
        if rows.len() < BATCH_ROWS {
            return Ok(());
        }
    }
}

fn fetch_lists_anew(database: &Database) -> Result<(), StorageError> {
    let mut from: Option<Vec<u8>> = None;
    loop {
        let rows =
            database.scan(Cf::RemoteDeviceLists, b"", from.as_deref(), Direction::Forward, BATCH_ROWS)?;
        for (row, _) in &rows {
            let user_id = KeyParts::new(Cf::RemoteDeviceLists, row).str()?;
            if let Ok(user_id) = UserId::parse(user_id) {
                // One by one: each has a position, and one batch must not hold many for long.
                let mut batch = database.batch();
                device_lists::mark(database, &mut batch, &user_id)?;
                let _unsynced = database.commit(batch)?;
            }
        }
        database.barrier()?;
        match rows.last() {
            Some((last, _)) if rows.len() == BATCH_ROWS => from = Some([last.as_slice(), &[0]].concat()),
            _ => return Ok(()),
        }
    }
}

/// The ceiling of positions as it was written.
pub(crate) fn ceiling(rocks: &Rocks) -> Result<u64, String> {
    let meta = rocks.cf_handle(Cf::Meta.name()).ok_or("no meta rows")?;
    match rocks.get_cf(meta, CEILING).map_err(rocksdb::Error::into_string)? {
        None => Ok(0),
        Some(bytes) => codec::decode_u64(Cf::Meta, &bytes).map_err(|error| error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};

    use super::*;
    use crate::{Options, RESTORING_FILE, keys};

    #[test]
    fn restored_data_begin_above_what_was_handed_out_and_give_no_key_twice() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let open = || Database::open(folder.path(), &Options::default());
        let (alice, bob) = (user_id!("@a:x"), user_id!("@b:y"));
        let database = open().expect("opens");
        let mut batch = database.batch();
        let raw = serde_json::value::to_raw_value(&1).expect("JSON");
        let before = batch.position();
        let device = (alice, device_id!("DEV"));
        keys::put_one_time_key(&mut batch, device, "signed_curve25519", "A", before, &raw);
        device_lists::put_remote(&mut batch, bob, &device_lists::RemoteList::default());
        database.commit_durable(batch).expect("commit");
        drop(database);

        fs::write(folder.path().join(RESTORING_FILE), "").expect("writes");
        let refused = open().expect_err("not whole").to_string();
        assert!(refused.contains("restore again"), "{refused}");
        fs::rename(folder.path().join(RESTORING_FILE), folder.path().join(RESTORED_FILE)).expect("renames");

        let database = open().expect("opens");
        assert!(!is_restored(folder.path()), "noticed once");
        let position = database.batch().position();
        assert!(position.0 > before.0 + POSITIONS_SKIPPED, "{position}");
        for cf in [Cf::OneTimeKeys, Cf::OneTimeKeyOrder] {
            let rows = database.scan(cf, b"", None, Direction::Forward, 9).expect("reads");
            assert!(rows.is_empty(), "{}", cf.name());
        }
        assert!(device_lists::stale(&database, bob).expect("reads").is_some());
        drop(database);
        let again = open().expect("opens").batch().position();
        assert!(again.0 < position.0 + POSITIONS_SKIPPED, "only once: {again}");
    }
}
