//! The storage contract: what survives a crash between any two writes, and what may be seen when.
//!
//! A crash is made by copying the data folder and cutting the log's copy at
//! every record boundary, and inside records: what power loss leaves when
//! nothing behind that point was synced.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use causeway_storage::{
    Cf, Database, Direction, OpenError, Options, Read, SCHEMA_VERSION, StreamPosition, codec,
};

const COMMITS: u64 = 24;

fn open(path: &Path) -> Database {
    let options = Options { cache_bytes: 1 << 20, ..Options::default() };
    Database::open(path, &options).expect("the data folder opens")
}

/// Two rows in different column families and one position, which must all be there or none.
fn commit_numbered(database: &Database, number: u64, durable: bool) {
    let mut batch = database.batch();
    batch.put(Cf::Accounts, number.to_be_bytes(), b"a row");
    let position = batch.position();
    batch.put(Cf::Media, number.to_be_bytes(), position.0.to_be_bytes());
    if durable {
        database.commit_durable(batch).expect("commit");
    } else {
        let _unsynced = database.commit(batch).expect("commit");
    }
}

fn log_file(folder: &Path) -> PathBuf {
    let logs = fs::read_dir(folder.join("db")).expect("database folder");
    let mut logs: Vec<PathBuf> = logs
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    logs.sort();
    logs.pop().expect("a log")
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("create");
    for entry in fs::read_dir(from).expect("read") {
        let entry = entry.expect("entry");
        if entry.file_type().expect("type").is_dir() {
            copy_folder(&entry.path(), &to.join(entry.file_name()));
        } else {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("copy");
        }
    }
}

/// Where records end: a header of checksum (4), length (2, little-endian) and
/// type (1), in blocks of 32 KiB; the log of this test fits into one block.
fn record_ends(log: &[u8]) -> Vec<usize> {
    let mut ends = vec![0];
    let mut at = 0;
    while at + 7 <= log.len() {
        let length = usize::from(u16::from_le_bytes([log[at + 4], log[at + 5]]));
        // Type 5 and above are the recyclable format with a longer header, and metadata records.
        let header = if (5..=8).contains(&log[at + 6]) { 11 } else { 7 };
        at += header + length;
        ends.push(at);
    }
    assert_eq!(at, log.len(), "the log was understood to its end");
    ends
}

#[test]
fn a_crash_at_any_point_keeps_a_prefix_of_whole_commits_and_everything_synced() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let original = folder.path().join("original");
    let database = open(&original);
    let log = log_file(&original);
    let mut synced = Vec::new();
    for number in 0..COMMITS {
        let durable = number % 4 == 3;
        commit_numbered(&database, number, durable);
        if durable {
            synced.push((number, fs::metadata(&log).expect("log").len()));
        }
    }
    let copied = folder.path().join("copied");
    copy_folder(&original, &copied);
    drop(database);
    let whole = fs::read(log_file(&copied)).expect("log");
    let ends = record_ends(&whole);
    assert!(ends.len() > usize::try_from(COMMITS).expect("small"));
    let mut survivors_before = 0;
    for (index, end) in ends.iter().enumerate() {
        let inside = ends.get(index + 1).map_or(*end, |next| end + (next - end) / 2);
        for cut in [*end, inside] {
            let crashed = folder.path().join(format!("crashed-{cut}"));
            copy_folder(&copied, &crashed);
            let file = fs::File::options().write(true).open(log_file(&crashed)).expect("log");
            file.set_len(cut as u64).expect("cut");
            let survivors = check_prefix(&open(&crashed));
            for (number, length) in &synced {
                assert!(
                    cut as u64 <= *length || survivors > *number,
                    "synced commit {number} lost at cut {cut}"
                );
            }
            assert!(survivors >= survivors_before, "a longer log keeps no less");
            survivors_before = survivors;
            fs::remove_dir_all(&crashed).expect("remove");
        }
    }
    assert_eq!(survivors_before, COMMITS, "the whole log keeps everything");
}

/// Checks that commits `0..n` are there whole and no other, that no position
/// will be handed out twice, and that writing goes on; returns `n`.
fn check_prefix(database: &Database) -> u64 {
    let first = database.scan(Cf::Accounts, b"", None, Direction::Forward, 1000).expect("scan");
    let second = database.scan(Cf::Media, b"", None, Direction::Forward, 1000).expect("scan");
    let numbers: Vec<u64> =
        first.iter().map(|(key, _)| codec::decode_u64(Cf::Accounts, key).expect("number")).collect();
    assert_eq!(numbers, (0..first.len() as u64).collect::<Vec<_>>(), "a prefix");
    assert!(first.iter().map(|(key, _)| key).eq(second.iter().map(|(key, _)| key)), "all or nothing");
    let mut batch = database.batch();
    let position = batch.position();
    for (_, used) in &second {
        assert!(
            codec::decode_u64(Cf::Media, used).expect("number") < position.0,
            "a position is never handed out twice"
        );
    }
    batch.put(Cf::Devices, b"after", b"the crash");
    database.commit_durable(batch).expect("writing goes on");
    first.len() as u64
}

#[test]
fn visible_stays_below_what_is_in_flight_or_not_durable() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let database = open(folder.path());
    let start = database.visible();
    let mut early = database.batch();
    let first = early.position();
    let mut dropped = database.batch();
    let second = dropped.position();
    assert!(start < first && first < second);
    assert_eq!(database.visible(), start);
    drop(dropped);
    assert_eq!(database.visible(), start, "a lower one is still in flight");
    early.put(Cf::Accounts, b"k", b"v");
    let commit = database.commit(early).expect("commit");
    assert_eq!(commit.position(), first);
    assert_eq!(database.get(Cf::Accounts, b"k").expect("read"), Some(b"v".to_vec()), "readable at once");
    assert_eq!(database.visible(), start, "but not visible in streams before it is durable");
    database.wait_durable(commit).expect("sync");
    assert_eq!(database.visible(), second, "a dropped position is a gap");
}

#[test]
fn a_barrier_makes_what_was_never_waited_for_visible() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let database = open(folder.path());
    let mut batch = database.batch();
    let position = batch.position();
    batch.put(Cf::Accounts, b"k", b"v");
    let _forgotten = database.commit(batch).expect("commit");
    assert!(database.visible() < position);
    database.barrier().expect("barrier");
    assert_eq!(database.visible(), position);
}

#[test]
fn concurrent_commits_are_all_there_and_visible_is_never_ahead() {
    const WRITERS: u64 = 8;
    const EACH: u64 = 50;
    let folder = tempfile::tempdir().expect("temporary folder");
    let database = open(folder.path());
    let done = Arc::new(AtomicBool::new(false));
    // Before anybody writes: the watcher may begin later.
    let start = database.visible();
    let watcher = {
        let (database, done) = (database.clone(), Arc::clone(&done));
        thread::spawn(move || {
            let mut last = StreamPosition::default();
            while !done.load(Ordering::SeqCst) {
                let visible = database.visible();
                assert!(visible >= last, "visible never goes back");
                last = visible;
                // Every position up to it has been written (none is dropped in this test).
                let rows =
                    database.scan(Cf::KeyChanges, b"", None, Direction::Forward, 10_000).expect("scan");
                let held =
                    rows.iter().filter(|(key, _)| key.as_slice() <= visible.0.to_be_bytes().as_slice());
                assert_eq!(held.count() as u64, visible.0 - start.0, "visible ran ahead of the writes");
            }
        })
    };
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let database = database.clone();
            thread::spawn(move || {
                for _ in 0..EACH {
                    let mut batch = database.batch();
                    let position = batch.position();
                    batch.put(Cf::KeyChanges, position.0.to_be_bytes(), b"@u:x");
                    let position = database.commit_durable(batch).expect("commit");
                    assert!(database.visible() >= position, "a durable commit is visible to its writer");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().expect("writer");
    }
    done.store(true, Ordering::SeqCst);
    watcher.join().expect("watcher");
    let rows = database.scan(Cf::KeyChanges, b"", None, Direction::Forward, 10_000).expect("scan");
    assert_eq!(rows.len() as u64, WRITERS * EACH);
}

#[test]
fn positions_go_on_above_all_earlier_ones_after_a_restart() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let mut highest = StreamPosition::default();
    for _ in 0..3 {
        let database = open(folder.path());
        let mut batch = database.batch();
        let position = batch.position();
        assert!(position > highest);
        highest = position;
        batch.put(Cf::Accounts, b"k", b"v");
        database.commit_durable(batch).expect("commit");
    }
}

#[test]
fn scans_keep_to_their_prefix_in_both_directions() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let database = open(folder.path());
    let mut batch = database.batch();
    for (user, number) in [("a", 1), ("a", 2), ("a", 3), ("ab", 1), ("b", 1)] {
        batch.put(Cf::ToDevice, codec::key().str(user).u64(number), b"v");
    }
    database.commit_durable(batch).expect("commit");
    let scan = |read: &dyn Read, from: Option<u64>, direction, limit| -> Vec<u64> {
        let prefix = codec::key().str("a");
        let from = from.map(|from| prefix.clone().u64(from).finish());
        let rows = read.scan(Cf::ToDevice, prefix.as_ref(), from.as_deref(), direction, limit).expect("scan");
        rows.iter().map(|(key, _)| codec::decode_u64(Cf::ToDevice, &key[2..]).expect("number")).collect()
    };
    let snapshot = database.snapshot();
    let mut batch = database.batch();
    batch.delete_prefix(Cf::ToDevice, codec::key().str("a"));
    database.commit_durable(batch).expect("commit");
    assert_eq!(scan(&snapshot, None, Direction::Forward, 9), [1, 2, 3]);
    assert_eq!(scan(&snapshot, Some(2), Direction::Forward, 1), [2]);
    assert_eq!(scan(&snapshot, None, Direction::Backward, 2), [3, 2]);
    assert_eq!(scan(&snapshot, Some(9), Direction::Backward, 9), [3, 2, 1]);
    assert!(scan(&database, None, Direction::Forward, 9).is_empty());
    let left = database.scan(Cf::ToDevice, b"", None, Direction::Forward, 9).expect("scan");
    assert_eq!(left.len(), 2, "the neighbours are untouched");
}

#[test]
fn what_cannot_be_opened_is_refused_with_one_line_and_not_touched() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    let database = open(&data);
    let refused = |path: &Path| Database::open(path, &Options::default()).expect_err("refused");
    assert!(matches!(refused(&data), OpenError::InUse { .. }));
    drop(database);

    let newer = format!("{}\n", SCHEMA_VERSION + 1);
    fs::write(data.join("schema"), &newer).expect("write");
    let error = refused(&data);
    assert!(matches!(error, OpenError::NewerSchema { .. }));
    assert!(!error.to_string().contains('\n'));
    assert_eq!(fs::read_to_string(data.join("schema")).expect("read"), newer);

    fs::remove_file(data.join("schema")).expect("remove");
    assert!(matches!(refused(&data), OpenError::Unreadable { .. }));
    fs::write(data.join("schema"), "rubbish").expect("write");
    assert!(matches!(refused(&data), OpenError::Unreadable { .. }));
    fs::write(data.join("schema"), format!("{SCHEMA_VERSION}\n")).expect("write");
    drop(open(&data));

    let file = folder.path().join("a file");
    fs::write(&file, "x").expect("write");
    assert!(matches!(refused(&file), OpenError::Unreadable { .. }));
}

#[test]
fn a_data_folder_can_be_moved() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (before, after) = (folder.path().join("before"), folder.path().join("after"));
    let database = open(&before);
    commit_numbered(&database, 1, true);
    drop(database);
    fs::rename(&before, &after).expect("move");
    assert!(open(&after).get(Cf::Accounts, &1u64.to_be_bytes()).expect("read").is_some());
    assert!(!before.exists());
}
