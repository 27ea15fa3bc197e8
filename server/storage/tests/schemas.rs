//! Data folders of every earlier schema, written row by row as the programs of their time
//! did, are opened and are what they were; those of later programs are refused untouched.
//!
//! Whoever raises the schema adds what the one before it looks like to [`ADDED`] and
//! [`fixture`]: the last test fails until then.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use causeway_storage::{
    Cf, Database, Direction, OpenError, Options, Read as _, SCHEMA_VERSION, StreamPosition, accounts,
    device_lists, key_changes,
    outbox::{
        self,
        again::{self, Again},
        owed,
    },
    rooms,
};
use rocksdb::DB;
use ruma::{event_id, room_id, server_name, user_id};

/// Column families that came after a schema.
const ADDED: [(u32, &[&str]); 3] = [
    (
        1,
        &[
            "dehydrated_devices",
            "device_list_numbers",
            "one_time_key_order",
            "push_cursor",
            "push_queue",
            "received_messages",
            "registration_tokens",
            "remote_device_lists",
            "remote_memberships",
            "reports",
            "sliding_required",
            "stale_device_lists",
            "to_device_sources",
            "user_signatures",
        ],
    ),
    (
        2,
        &[
            "blocked_rooms",
            "key_changes_by_user",
            "oauth_clients",
            "oauth_sessions",
            "quarantined_contents",
            "shutdowns",
        ],
    ),
    (
        3,
        &[
            "appservice_progress",
            "appservice_queue",
            "appservice_transactions",
            "key_claims",
            "outbox_again",
            "outbox_again_due",
            "outbox_owed",
            "pending_media",
            "pending_media_by_user",
            "unanswered_events",
            "upstream_intake",
            "upstream_meta",
            "upstream_outbox",
        ],
    ),
];

const META: &str = r#"{"room_id":"!room:a.example","position":3}"#;
const ACCOUNT: &str = r#"{"password_hash":"$argon2id$","created_ts":7,"deactivated":false,"admin":true}"#;
const DESTINATION: &str = concat!(
    r#"{"failures":2,"retry_at_ms":7,"down_since_ms":6,"owed_rooms":["!room:a.example"],"owed_events":["$e","$gone"],"#,
    r#""owed_since_ms":5,"again":[{"room_id":"!room:a.example","event_id":"$a","tries":3,"at_ms":8}]}"#
);
const MEMBER: &str = r#"{"membership":"join","event_id":"$e","sender":"@bob:b.example","position":9}"#;

/// What a data folder of this schema held: families, keys and values.
fn fixture(schema: u32) -> Vec<(&'static str, Vec<u8>, Vec<u8>)> {
    let json = |text: &str| [b"\x01", text.as_bytes()].concat();
    let number = |number: u64| number.to_be_bytes().to_vec();
    let mut rows = vec![
        ("meta", b"schema".to_vec(), number(schema.into())),
        ("meta", b"positions".to_vec(), number(70_000)),
        ("accounts", b"@alice:a.example\xff".to_vec(), json(ACCOUNT)),
        ("room_members", b"!room:a.example\xff@bob:b.example\xff".to_vec(), json(MEMBER)),
        ("destinations", b"b.example\xff".to_vec(), json(DESTINATION)),
        ("event_meta", b"$e\xff".to_vec(), json(META)),
        ("key_changes", number(12), b"@alice:a.example".to_vec()),
        ("key_changes", number(13), b"@bob:b.example".to_vec()),
    ];
    if schema >= 2 {
        let stale = json(r#"{"failures":7,"retry_at_ms":0,"marks":0}"#);
        let key: &[u8] = if schema == 2 { b"@bob:b.example\xff" } else { b"b.example\xff@bob:b.example\xff" };
        rows.push(("remote_memberships", b"@bob:b.example\xff!room:a.example\xff".to_vec(), Vec::new()));
        rows.push(("stale_device_lists", key.to_vec(), stale));
    }
    if schema < 3 {
        rows.push(("key_changes", number(11), b"@bob:b.example".to_vec()));
    }
    rows
}

/// Writes the folder of this schema as its programs left it.
fn write(folder: &Path, schema: u32) {
    let later: Vec<&str> = ADDED
        .iter()
        .filter(|(after, _)| *after >= schema)
        .flat_map(|(_, names)| names.iter().copied())
        .collect();
    let families = Cf::ALL.iter().map(|cf| cf.name()).filter(|name| !later.contains(name));
    let mut options = rocksdb::Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    let rocks = DB::open_cf(&options, folder.join("db"), families).expect("made");
    for (family, key, value) in fixture(schema) {
        let family = rocks.cf_handle(family).expect("a family of that time");
        rocks.put_cf(&family, key, value).expect("put");
    }
    fs::write(folder.join("schema"), format!("{schema}\n")).expect("written");
}

/// What the fixtures come to in the present schema.
fn is_what_it_was(database: &Database, schema: u32) {
    let (alice, bob) = (user_id!("@alice:a.example"), user_id!("@bob:b.example"));
    let account = accounts::account(database, alice).expect("reads").expect("is there");
    assert!(account.admin && account.created_ts == 7, "{account:?}");
    let room_id = room_id!("!room:a.example");
    let member = rooms::member(database, room_id, bob).expect("reads").expect("is there");
    assert_eq!((member.position, member.forgotten), (StreamPosition(9), false));
    assert_eq!(rooms::remote_rooms(database, bob, 9).expect("reads"), [room_id]);
    let changes = key_changes::between(database, StreamPosition(0), StreamPosition(99), 9).expect("reads");
    let changes: Vec<_> = changes.iter().map(|change| (change.position.0, change.user_id.as_str())).collect();
    assert_eq!(changes, [(12, alice.as_str()), (13, bob.as_str())], "the last of each user");
    if schema >= 2 {
        let stale = device_lists::stale(database, bob).expect("reads").expect("is there");
        assert_eq!(stale.failures, 7);
    }
    let server = server_name!("b.example");
    let met = outbox::destination(database, server).expect("reads");
    assert_eq!((met.failures, met.retry_at_ms, met.down_since_ms, met.owed_since_ms), (2, 7, 6, 5));
    let owed = owed::owed(database, server, 5, 9).expect("reads");
    let left_by = owed.iter().map(|owed| owed.event_id.as_ref().map(|id| id.as_str())).collect::<Vec<_>>();
    assert_eq!(left_by, [Some("$e"), None], "what is gone can't be sent");
    assert!(owed.iter().all(|owed| owed.since_ms == 5 && owed.room_id == room_id));
    let (again, due) = (again::page(database, server, None, 9), again::due(database, server, 8, 9));
    let expected = Again { event_id: event_id!("$a").to_owned(), tries: 3, at_ms: 8 };
    assert_eq!(again.expect("reads"), [(room_id.to_owned(), expected)]);
    assert_eq!(due.expect("reads"), [(8, room_id.to_owned())]);
    // Positions go on where that program stopped.
    assert!(database.batch().position().0 > 70_000);
    let rows = database.scan(Cf::Meta, b"schema", None, Direction::Forward, 1).expect("reads");
    assert_eq!(rows[0].1, u64::from(SCHEMA_VERSION).to_be_bytes());
}

#[test]
fn data_of_every_earlier_schema_are_opened_and_opened_again() {
    for schema in 1..SCHEMA_VERSION {
        let folder = tempfile::tempdir().expect("temporary folder");
        write(folder.path(), schema);
        // What only looks must not migrate.
        let error = Database::open_read_only(folder.path(), &Options::default()).expect_err("old");
        assert!(error.to_string().contains("an earlier program wrote it"), "{error}");
        for _ in 0..2 {
            let database = Database::open(folder.path(), &Options::default()).expect("opens");
            is_what_it_was(&database, schema);
        }
        let now = fs::read_to_string(folder.path().join("schema")).expect("reads");
        assert_eq!(now.trim(), SCHEMA_VERSION.to_string(), "older programs are kept out");
    }
}

#[test]
fn a_migration_that_was_interrupted_is_done_again() {
    for schema in 1..SCHEMA_VERSION {
        let folder = tempfile::tempdir().expect("temporary folder");
        write(folder.path(), schema);
        drop(Database::open(folder.path(), &Options::default()).expect("opens"));
        // As if the program had died before it wrote that the steps are done.
        let names = Cf::ALL.iter().map(|cf| cf.name());
        let rocks = DB::open_cf(&rocksdb::Options::default(), folder.path().join("db"), names);
        let rocks = rocks.expect("opens");
        let meta = rocks.cf_handle("meta").expect("is there");
        rocks.put_cf(&meta, b"schema", u64::from(schema).to_be_bytes()).expect("put");
        drop(meta);
        drop(rocks);
        let database = Database::open(folder.path(), &Options::default()).expect("opens");
        is_what_it_was(&database, schema);
    }
}

/// A way to open a data folder.
type Opening = fn(&Path) -> Result<Database, OpenError>;

/// Every file below `folder` with its content.
fn contents(folder: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
    for entry in fs::read_dir(folder).expect("reads") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            contents(&path, found);
        } else if path.file_name().is_some_and(|name| name != "lock") {
            found.insert(path.clone(), fs::read(&path).expect("reads"));
        }
    }
}

#[test]
fn data_of_a_later_program_are_refused_and_not_touched() {
    let opened: [(&str, Opening); 2] = [
        ("open", |path| Database::open(path, &Options::default())),
        ("open_read_only", |path| Database::open_read_only(path, &Options::default())),
    ];
    for (how, open) in opened {
        let folder = tempfile::tempdir().expect("temporary folder");
        drop(Database::open(folder.path(), &Options::default()).expect("made"));
        let later = SCHEMA_VERSION + 1;
        fs::write(folder.path().join("schema"), format!("{later}\n")).expect("written");
        let mut before = BTreeMap::new();
        contents(folder.path(), &mut before);
        let error = open(folder.path()).expect_err("later");
        let told = error.to_string();
        assert!(matches!(error, OpenError::NewerSchema { .. }), "{how}: {error:?}");
        assert!(told.contains(&format!("schema {later}")) && !told.contains('\n'), "{told}");
        assert!(told.contains(&format!("only schema {SCHEMA_VERSION} and below")), "{told}");
        let mut after = BTreeMap::new();
        contents(folder.path(), &mut after);
        assert_eq!(before, after, "{how}");

        // One whose schema file was lost, with a family that nobody here knows.
        fs::write(folder.path().join("schema"), format!("{SCHEMA_VERSION}\n")).expect("written");
        let mut options = rocksdb::Options::default();
        options.create_missing_column_families(true);
        let names = Cf::ALL.iter().map(|cf| cf.name()).chain(["of_tomorrow"]);
        drop(DB::open_cf(&options, folder.path().join("db"), names).expect("opens"));
        let error = open(folder.path()).expect_err("later");
        assert!(error.to_string().contains("of_tomorrow"), "{how}: {error}");
    }
}

#[test]
fn every_earlier_schema_has_a_fixture() {
    let schemas: Vec<u32> = ADDED.iter().map(|(schema, _)| *schema).collect();
    assert_eq!(schemas, (1..SCHEMA_VERSION).collect::<Vec<_>>());
}
