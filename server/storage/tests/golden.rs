//! The bytes of stored rows, as they lie in data folders of schema 4. A change
//! that breaks one of these needs a migration, not a new expectation.

use causeway_shared_space::ChangeId;
use causeway_storage::{
    Batch, Cf, Database, Direction, Options, Read, StorageError, StreamPosition,
    accounts::{self, Account},
    codec,
    devices::{self, AccessToken, Device, RefreshToken},
    media::{self, Media},
    oauth::{self, OAuthClient},
    outbox::{
        self, Destination, InFlight,
        again::{self, Again},
        owed::{self, Owed},
    },
    pending_media::{self, Pending},
    rooms::{self, EventMeta, Room},
    shared_space::{
        items,
        notices::{self, ConflictRow, NoticeRow},
        pasts::{self, PastRow},
        queues::{self, OutcomeRow, Queue, QueueRow},
    },
    sync_progress::{self, GivenRoom, Progress, StateRead},
    upstream::{self, Arrived, RoomRow, Sending},
};
use ruma::{OwnedDeviceId, ServerName, device_id, event_id, room_id, server_name, user_id};
use serde::de::DeserializeOwned;

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
        login: None,
        oauth: None,
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
    let session = devices::OAuthSession { client_id: "c".into(), scope: "s".into(), spent: vec![[2; 32]] };
    let device = Device { oauth: Some(session), access_tokens: Vec::new(), ..device };
    let hash = ["2"; 32].join(",");
    check(
        Cf::Devices,
        b"@a:x\xffDEV\xff",
        &format!(
            r#"{{"display_name":null,"last_seen_ts":8,"last_seen_ip":"::1","access_tokens":[],"refresh_tokens":[],"oauth":{{"client_id":"c","scope":"s","spent":[[{hash}]]}}}}"#
        ),
        |database| devices::device(database, alice, &device_id),
        |batch| devices::put_device(batch, alice, &device_id, &device),
        &device,
    );
}

#[test]
fn oauth_clients() {
    let client = OAuthClient {
        client_uri: "https://x/".into(),
        client_name: Some("App".into()),
        redirect_uris: vec!["https://x/cb".into()],
        grant_types: vec!["authorization_code".into()],
        registered_ts: 9,
        ..OAuthClient::default()
    };
    check(
        Cf::OAuthClients,
        b"id\xff",
        r#"{"client_uri":"https://x/","client_name":"App","redirect_uris":["https://x/cb"],"grant_types":["authorization_code"],"native":false,"registered_ts":9}"#,
        |database| oauth::client(database, "id"),
        |batch| oauth::put_client(batch, "id", &client),
        &client,
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
    let row = Pending { user_id: user_id!("@a:x").to_owned(), expires_ts: 6 };
    check(
        Cf::PendingMedia,
        b"id\xff",
        r#"{"user_id":"@a:x","expires_ts":6}"#,
        |database| pending_media::pending(database, "id"),
        |batch| pending_media::put(batch, "id", &row),
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
    assert_eq!(database.get(Cf::Meta, b"schema").expect("read"), Some(4u64.to_be_bytes().to_vec()));
    assert_eq!(std::fs::read_to_string(folder.path().join("schema")).expect("file"), "4\n");
}

/// The row that `bytes` are is written as just these bytes again.
fn stays<T: DeserializeOwned>(cf: Cf, key: &[u8], bytes: &str, write: impl Fn(&mut Batch, &T)) {
    let row: T = serde_json::from_str(bytes).expect("the golden bytes can be read");
    let folder = tempfile::tempdir().expect("temporary folder");
    let database = Database::open(folder.path(), &Options::default()).expect("open");
    let mut batch = database.batch();
    write(&mut batch, &row);
    database.commit_durable(batch).expect("commit");
    let rows = database.scan(cf, b"", None, Direction::Forward, 2).expect("scan");
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].0, key, "the key of {}", cf.name());
    assert_eq!(String::from_utf8_lossy(&rows[0].1), format!("\u{1}{bytes}"), "the value of {}", cf.name());
}

/// A change id of one digit, as text.
fn id(digit: char) -> String {
    digit.to_string().repeat(64)
}

/// The same as its bytes.
fn id_bytes(digit: char) -> ChangeId {
    id(digit).parse().expect("a change id")
}

#[test]
fn items_and_what_is_remembered_of_them() {
    let (room, a, b, c) = (room_id!("!r:x"), id('a'), id('b'), id('c'));
    let sibling = format!(
        r#"{{"id":"{a}","entry":"{b}","author":"@a:x","origin_server_ts":5,"value_hash":"{c}","depth":2,"supersedes":["{c}"]}}"#
    );
    let row = format!(
        concat!(
            r#"{{"item":{{"siblings":[{sibling}],"missing":["{c}"]}},"#,
            r#""local":{{"{a}":{{"device":"@a:x|DEV","faces":[{{"event_id":"$f"}}],"projected_again":1}}}},"#,
            r#""past":[{{"id":"{b}","device":"@a:x|DEV","faces":[{{"event_id":"$e"}}]}}],"missing_since":7}}"#
        ),
        sibling = sibling,
        a = a,
        b = b,
        c = c
    );
    stays(Cf::SpaceItems, b"!r:x\xffplan", &row, |batch, row| items::put_item(batch, room, "plan", row));
    let folder = tempfile::tempdir().expect("temporary folder");
    let database = Database::open(folder.path(), &Options::default()).expect("open");
    let mut batch = database.batch();
    notices::put_change_of_event(&mut batch, room, event_id!("$e"), &id_bytes('a'));
    items::put_successor(&mut batch, room, "plan", &id_bytes('a'), &id_bytes('b'));
    database.commit_durable(batch).expect("commit");
    let only = |cf| database.scan(cf, b"", None, Direction::Forward, 2).expect("scan");
    assert_eq!(only(Cf::SpaceEvents), [(b"!r:x\xff$e\xff".to_vec(), vec![0xaa; 32])]);
    let named = [&b"!r:x\xffplan\xff"[..], &[0xaa; 32], &[0xbb; 32]].concat();
    assert_eq!(only(Cf::SpaceSuccessors), [(named, Vec::new())]);
}

#[test]
fn what_is_known_of_adopted_events() {
    let write = |batch: &mut Batch, row: &PastRow| {
        pasts::put_past(batch, room_id!("!r:x"), event_id!("$e"), row);
    };
    for row in [
        r#"{"shown":"$f"}"#,
        r#""nothing""#,
        r#""untold""#,
        r#"{"asked":{"vain":2,"since_ms":5,"next_ms":7}}"#,
    ] {
        stays(Cf::SpacePasts, b"!r:x\xff$e\xff", row, write);
    }
}

#[test]
fn conflicts_and_notices() {
    let (room, a, b) = (room_id!("!r:x"), id('a'), id('b'));
    let row = format!(r#"{{"id":"{a}","siblings":["{a}","{b}"],"since":5,"notice":"$n"}}"#);
    stays(Cf::SpaceConflicts, b"!r:x\xffplan\xff", &row, |batch, row: &ConflictRow| {
        notices::put_conflict(batch, room, "plan", row);
    });
    let one = format!(
        r#"{{"conflict":"{a}","key":"plan","siblings":["{a}","{b}"],"sender":"@a:x","outcome":"settled"}}"#
    );
    let write = |batch: &mut Batch, row: &NoticeRow| notices::put_notice(batch, room, event_id!("$n"), row);
    stays(Cf::SpaceNotices, b"!r:x\xff$n\xff", &one, write);
    let several = format!(
        r#"{{"conflict":"{a}","key":"plan","siblings":["{b}"],"sender":"@a:x","authors":["@a:x","@b:x"]}}"#
    );
    let key = [&b"!r:x\xff$n\xff"[..], a.as_bytes(), b"\xff"].concat();
    stays(Cf::SpaceNotices, &key, &several, write);
}

#[test]
fn queues_and_remembered_outcomes() {
    let room = room_id!("!r:x");
    let names = [
        (Queue::Projection, &b"projection"[..]),
        (Queue::Adoption, b"adoption"),
        (Queue::Notice, b"notice"),
        (Queue::Media, b"media"),
        (Queue::Value, b"value"),
        (Queue::Copy, b"copy"),
    ];
    for (queue, name) in names {
        let key = [name, b"\xff!r:x\xffplan\xff"].concat();
        let row = r#"{"due":5,"attempts":2,"detail":{"more":1}}"#;
        stays(Cf::SpaceQueues, &key, row, |batch, row: &QueueRow| {
            queues::put(batch, queue, room, "plan", row);
        });
    }
    let row = r#"{"at":5,"request":"ab","status":200,"body":{"id":"x"}}"#;
    stays(Cf::SpaceOutcomes, b"@a:x|DEV\xffkey\xff", row, |batch, row: &OutcomeRow| {
        queues::put_outcome(batch, "@a:x|DEV", "key", row);
    });
}

#[test]
fn what_waits_for_other_servers() {
    let to = server_name!("b:8448");
    let position = |bytes: &[u8]| [&b"b:8448\xff"[..], bytes].concat();
    let key = position(&[0, 0, 0, 0, 0, 0, 0, 9]);
    stays(Cf::Outbox, &key, r#"{"pdu":"$e"}"#, |batch, row: &outbox::Entry| match row {
        outbox::Entry::Pdu(event) => outbox::push_pdu(batch, to, StreamPosition(9), event),
        outbox::Entry::Edu(_) => panic!("an event was written"),
    });
    let edu = r#"{"edu":{"edu_type":"m.x","content":{}}}"#;
    stays(Cf::Outbox, &key, edu, |batch, row: &outbox::Entry| match row {
        outbox::Entry::Edu(edu) => outbox::push_edu(batch, to, StreamPosition(9), edu.clone()),
        outbox::Entry::Pdu(_) => panic!("an ephemeral unit was written"),
    });
    let row = r#"{"transaction_id":"t","origin_server_ts":5,"last":9}"#;
    stays(Cf::OutboxInFlight, b"b:8448\xff", row, |batch, row: &InFlight| {
        outbox::put_in_flight(batch, to, row);
    });
    let row = r#"{"failures":2,"retry_at_ms":7,"down_since_ms":6,"owed_since_ms":5}"#;
    stays(Cf::Destinations, b"b:8448\xff", row, |batch, row: &Destination| {
        outbox::put_destination(batch, to, row);
    });
    let row = r#"{"event_id":"$a","tries":3,"at_ms":8}"#;
    stays(Cf::OutboxAgain, b"b:8448\xff!r:x\xff", row, |batch, row: &Again| {
        again::put(batch, to, room_id!("!r:x"), None, Some(row));
    });
}

#[test]
fn what_other_servers_are_owed_and_when_they_are_sent_something_again() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let database = Database::open(folder.path(), &Options::default()).expect("opens");
    let (to, room_id) = (server_name!("b:8448"), room_id!("!r:x"));
    let event_id = Some(event_id!("$e").to_owned());
    let owed = [event_id, None].map(|id| Owed { since_ms: 9, room_id: room_id.to_owned(), event_id: id });
    let again = Again { event_id: event_id!("$a").to_owned(), tries: 3, at_ms: 8 };
    let mut batch = database.batch();
    for one in &owed {
        owed::put(&mut batch, to, one);
    }
    again::put(&mut batch, to, room_id, None, Some(&again));
    database.commit_durable(batch).expect("writes");
    let keys = |cf| {
        let rows = database.scan(cf, b"", None, Direction::Forward, 9).expect("reads");
        rows.into_iter().map(|(key, _)| key).collect::<Vec<_>>()
    };
    let begun = b"b:8448\xff\0\0\0\0\0\0\0\x09!r:x\xff";
    assert_eq!(keys(Cf::OutboxOwed), [[begun, &b"$e\xff"[..]].concat(), [begun, &b"\xff"[..]].concat()]);
    assert_eq!(keys(Cf::OutboxAgainDue), [b"b:8448\xff\0\0\0\0\0\0\0\x08!r:x\xff"]);
    assert_eq!(owed::owed(&database, to, 9, 9).expect("reads"), owed);
    assert!(owed::owed(&database, to, 8, 9).expect("reads").is_empty());
    assert_eq!(again::due(&database, to, 8, 9).expect("reads"), [(8, room_id.to_owned())]);
    assert!(again::due(&database, to, 7, 9).expect("reads").is_empty());
    assert_eq!(again::page(&database, to, None, 9).expect("reads"), [(room_id.to_owned(), again)]);
    let next = |after| owed::next_destination(&database, after).expect("reads");
    assert_eq!((next(None).as_deref(), next(Some(to))), (Some(to), None));
}

#[test]
fn what_a_sidecar_hears_and_sends() {
    let (room, key) = (room_id!("!r:x"), [0, 0, 0, 0, 0, 0, 0, 9]);
    let row = r#"{"room_id":"!r:x","event_id":"$e","event":{"type":"m.x"}}"#;
    stays(Cf::UpstreamIntake, &key, row, |batch, row: &Arrived| {
        upstream::put_arrived(batch, StreamPosition(9), row);
    });
    let row = r#"{"reader":"@a:x","whole":true}"#;
    stays(Cf::UpstreamMeta, b"room\xff!r:x\xff", row, |batch, row: &RoomRow| {
        upstream::put_room(batch, room, row);
    });
    let sending = concat!(
        r#"{"subject":"face:k","sender":"@a:x","kind":"m.x","state_key":"k","content":{"n":1},"#,
        r#""transaction_id":"t","since":5}"#
    );
    let row: Sending = serde_json::from_str(sending).expect("a row");
    assert_eq!(serde_json::to_string(&row).expect("JSON"), sending);
}

#[test]
fn rooms_and_what_is_made_of_events() {
    let root = format!("\"{}\"", "07".repeat(32));
    let row = format!(
        concat!(
            r#"{{"version":"12","create":"$c","heads":[{{"event_id":"$h","depth":3,"state":{root}}}],"#,
            r#""state":{root},"history_floor":-4}}"#
        ),
        root = root
    );
    stays(Cf::Rooms, b"!r:x\xff", &row, |batch, row: &Room| rooms::put_room(batch, room_id!("!r:x"), row));
    let meta = format!(
        concat!(
            r#"{{"room_id":"!r:x","position":-3,"edge":5,"rejected":"why","soft_failed":true,"outlier":true,"#,
            r#""gap_before":true,"state_before":{root},"state_after":{root}}}"#
        ),
        root = root
    );
    let raw = serde_json::value::to_raw_value(&1).expect("JSON");
    stays(Cf::EventMeta, b"$e\xff", &meta, |batch, row: &EventMeta| {
        rooms::put_event(batch, event_id!("$e"), &raw, row);
    });
}

#[test]
fn how_far_devices_are() {
    let (user, device, room) = (user_id!("@a:x"), device_id!("DEV"), room_id!("!r:x"));
    let given = r#"{"generation":2,"state":"ab","from":7}"#;
    let row = format!(
        concat!(
            r#"{{"acknowledged":9,"generation":2,"lineage":[1,2],"floor":3,"#,
            r#""pending":[{{"generation":3,"floor":4,"rooms":[["!r:x",{given}]]}}]}}"#
        ),
        given = given
    );
    stays(Cf::SyncProgress, b"@a:x\xffDEV\xff", &row, |batch, row: &Progress| {
        sync_progress::put_progress(batch, user, device, row);
    });
    stays(Cf::SyncGiven, b"@a:x\xffDEV\xff!r:x\xff", given, |batch, row: &GivenRoom| {
        sync_progress::put_given_room(batch, user, device, room, Some(row));
    });
    let row = r#"{"root":"ab","items":[["plan","$e"]]}"#;
    stays(Cf::SyncRead, b"@a:x\xffDEV\xff!r:x\xff", row, |batch, row: &StateRead| {
        sync_progress::put_state_read(batch, user, device, room, row);
    });
}

#[test]
fn events_that_are_tried_again() {
    let (room, origin) = (room_id!("!r:x"), server_name!("b.example"));
    let event = serde_json::value::RawValue::from_string(r#"{"type":"x"}"#.to_owned()).expect("JSON");
    let kept = rooms::Unanswered { event, tries: 3 };
    check(
        Cf::UnansweredEvents,
        b"!r:x\xffb.example\xff",
        r#"{"event":{"type":"x"},"tries":3}"#,
        |database| {
            let all = rooms::all_unanswered(database, None, 9)?;
            let shown = |(room, origin, kept): (_, _, rooms::Unanswered)| {
                (room, origin, kept.event.get().to_owned(), kept.tries)
            };
            Ok(all.into_iter().next().map(shown))
        },
        |batch| rooms::put_unanswered(batch, room, origin, &kept),
        &(room.to_owned(), origin.to_owned(), r#"{"type":"x"}"#.to_owned(), 3),
    );
}
