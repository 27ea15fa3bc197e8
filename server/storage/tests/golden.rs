//! The bytes of stored rows, as they lie in data folders of schema 1. A change
//! that breaks one of these needs a migration, not a new expectation.

use causeway_storage::{
    Cf, Database, Direction, Options, Read, StorageError,
    accounts::{self, Account},
    codec,
    devices::{self, AccessToken, Device, RefreshToken},
    media::{self, Media},
};
use ruma::{OwnedDeviceId, ServerName, user_id};

fn check<T: PartialEq + std::fmt::Debug>(
    cf: Cf,
    key: &[u8],
    bytes: &str,
    read: impl Fn(&Database) -> Result<Option<T>, StorageError>,
    write: impl Fn(&mut causeway_storage::Batch),
    expected: &T,
) {
    let folder = tempfile::tempdir().expect("temporary folder");
    let database = Database::open(folder.path(), &Options::default()).expect("open");
    let mut batch = database.batch();
    write(&mut batch);
    database.commit_durable(batch).expect("commit");
    let rows = database.scan(cf, b"", None, Direction::Forward, 2).expect("scan");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].0, key, "the key of {}", cf.name());
    assert_eq!(String::from_utf8_lossy(&rows[0].1), format!("\u{1}{bytes}"), "the value of {}", cf.name());
    assert_eq!(read(&database).expect("read").as_ref(), Some(expected));
}

#[test]
fn accounts_and_devices() {
    let alice = user_id!("@a:x");
    let account = Account {
        password_hash: Some("$argon2id$".into()),
        created_ts: 7,
        admin: true,
        ..Account::default()
    };
    check(
        Cf::Accounts,
        b"@a:x\xff",
        r#"{"password_hash":"$argon2id$","created_ts":7,"deactivated":false,"admin":true}"#,
        |database| accounts::account(database, alice),
        |batch| accounts::put_account(batch, alice, &account),
        &account,
    );
    let device_id = OwnedDeviceId::from("DEV");
    let device = Device {
        display_name: None,
        last_seen_ts: 8,
        last_seen_ip: Some("::1".into()),
        access_tokens: vec![[1; 32]],
        refresh_tokens: Vec::new(),
    };
    let hash = ["1"; 32].join(",");
    check(
        Cf::Devices,
        b"@a:x\xffDEV\xff",
        &format!(
            r#"{{"display_name":null,"last_seen_ts":8,"last_seen_ip":"::1","access_tokens":[[{hash}]],"refresh_tokens":[]}}"#
        ),
        |database| devices::device(database, alice, &device_id),
        |batch| devices::put_device(batch, alice, &device_id, &device),
        &device,
    );
}

#[test]
fn tokens() {
    let alice = user_id!("@a:x");
    let access = AccessToken {
        user_id: alice.to_owned(),
        device_id: "DEV".into(),
        expires_ts: Some(9),
        replaces: Vec::new(),
    };
    check(
        Cf::AccessTokens,
        &[2; 32],
        r#"{"user_id":"@a:x","device_id":"DEV","expires_ts":9,"replaces":[]}"#,
        |database| devices::access_token(database, &[2; 32]),
        |batch| devices::put_access_token(batch, &[2; 32], &access),
        &access,
    );
    let refresh = RefreshToken { user_id: alice.to_owned(), device_id: "DEV".into() };
    check(
        Cf::RefreshTokens,
        &[3; 32],
        r#"{"user_id":"@a:x","device_id":"DEV"}"#,
        |database| devices::refresh_token(database, &[3; 32]),
        |batch| devices::put_refresh_token(batch, &[3; 32], &refresh),
        &refresh,
    );
}

#[test]
fn media_rows_and_positions() {
    let server = <&ServerName>::try_from("x:8448").expect("name");
    let row = Media {
        sha256: "ab".into(),
        bytes: 3,
        content_type: Some("text/plain".into()),
        filename: None,
        uploader: Some(user_id!("@a:x").to_owned()),
        created_ts: 5,
    };
    check(
        Cf::Media,
        b"x:8448\xffid\xff",
        r#"{"sha256":"ab","bytes":3,"content_type":"text/plain","filename":null,"uploader":"@a:x","created_ts":5}"#,
        |database| media::media(database, server, "id"),
        |batch| media::put_media(batch, server, "id", &row),
        &row,
    );
    let folder = tempfile::tempdir().expect("temporary folder");
    let database = Database::open(folder.path(), &Options::default()).expect("open");
    let mut batch = database.batch();
    let position = batch.position();
    batch.put(Cf::KeyChanges, codec::key().u64(position.0), "@a:x");
    database.commit_durable(batch).expect("commit");
    let ceiling = database.get(Cf::Meta, b"positions").expect("read").expect("a ceiling");
    assert_eq!(ceiling, (position.0 + (1 << 16)).to_be_bytes());
    assert_eq!(database.get(Cf::Meta, b"schema").expect("read"), Some(2u64.to_be_bytes().to_vec()));
    assert_eq!(std::fs::read_to_string(folder.path().join("schema")).expect("file"), "2\n");
}
