//! What `causeway verify` finds: nothing in whole data, and each kind of damage by a line that names it.

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use axum::body::Body;
use causeway_service::verify::{Report, verify};
use causeway_storage::{Batch, Cf, Database, Direction, Options, Read as _};
use common::{Server, server};
use http::{Request, header};
use ruma::server_name;
use serde_json::{Value, json};
use tempfile::TempDir;

const V3: &str = "/_matrix/client/v3";

/// Rooms, messages, state, a redaction, a shared space with a conflict, and a file.
async fn lived() -> (TempDir, PathBuf) {
    let server = server();
    let alice = server.register("alice").await;
    let bob = server.register("bob").await;
    let wish = json!({ "preset": "public_chat", "initial_state": [
        { "type": "org.causeway.shared_space", "state_key": "", "content": {} },
    ] });
    let room = server.post(&format!("{V3}/createRoom"), &alice, wish).await.ok();
    let room = room["room_id"].as_str().expect("an id").to_owned();
    server.post(&format!("{V3}/join/{room}"), &bob, json!({})).await.ok();
    let message = json!({ "msgtype": "m.text", "body": "hello" });
    server.put(&format!("{V3}/rooms/{room}/send/m.room.message/1"), &alice, message.clone()).await.ok();
    let sent = server.put(&format!("{V3}/rooms/{room}/send/m.room.message/2"), &alice, message).await.ok();
    let redacted = sent["event_id"].as_str().expect("an id");
    server.put(&format!("{V3}/rooms/{room}/redact/{redacted}/3"), &alice, json!({})).await.ok();
    let items = format!("/_matrix/client/unstable/org.causeway/rooms/{room}/items");
    for number in 0..3 {
        for token in [&alice, &bob] {
            // Neither was shown the other's: a conflict.
            let write = json!({ "value": { "number": number, "by": token } });
            server.put(&format!("{items}/plan%2F{number}"), token, write).await.ok();
        }
    }
    upload(&server, &alice).await;
    let folder = tempfile::tempdir().expect("temporary folder");
    let data = folder.path().join("data");
    server.services.database.checkpoint(&data).expect("frozen");
    copy(&server.services.database.folder().join("media"), &data.join("media"));
    (folder, data)
}

async fn upload(server: &Server, token: &str) {
    let request = Request::post("/_matrix/media/v3/upload")
        .header(header::AUTHORIZATION, format!("Bearer {token}"))
        .header(header::CONTENT_TYPE, "text/plain");
    server.send(request.body(Body::from("a file")).expect("request")).await.ok();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("reads") {
        let entry = entry.expect("entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("copied");
        }
    }
}

fn look(data: &Path) -> Report {
    let database = Database::open_read_only(data, &Options::default()).expect("opens");
    verify(&database, server_name!("example.org"))
}

type Row = (Vec<u8>, Vec<u8>);

/// What is done to one row: its new value, or none.
fn after_change(
    data: &Path,
    cf: Cf,
    which: &dyn Fn(&Row) -> bool,
    change: &dyn Fn(&Row) -> Option<Vec<u8>>,
) -> Report {
    let folder = tempfile::tempdir().expect("temporary folder");
    copy(data, folder.path());
    let database = Database::open(folder.path(), &Options::default()).expect("opens");
    let rows = database.scan(cf, b"", None, Direction::Forward, 10_000).expect("reads");
    let row = rows.into_iter().find(|row| which(row)).expect("there is such a row");
    let mut batch: Batch = database.batch();
    match change(&row) {
        Some(value) => batch.put(cf, &row.0, value),
        None => batch.delete(cf, &row.0),
    }
    database.commit_durable(batch).expect("commit");
    drop(database);
    look(folder.path())
}

fn has(text: &str) -> impl Fn(&Row) -> bool + '_ {
    move |(_, value)| String::from_utf8_lossy(value).contains(text)
}

fn replaced(from: &'static str, to: &'static str) -> impl Fn(&Row) -> Option<Vec<u8>> {
    move |(_, value)| {
        let text = String::from_utf8(value.clone()).expect("text");
        assert!(text.contains(from), "{text}");
        Some(text.replacen(from, to, 1).into_bytes())
    }
}

/// Changes the first character of what follows `mark`.
fn altered_after(mark: &'static str) -> impl Fn(&Row) -> Option<Vec<u8>> {
    move |(_, value)| {
        let mut bytes = value.clone();
        let at = bytes.windows(mark.len()).position(|window| window == mark.as_bytes()).expect("the mark");
        let byte = &mut bytes[at + mark.len()];
        *byte = if *byte == b'a' { b'b' } else { b'a' };
        Some(bytes)
    }
}

/// The event with another signature of its server.
fn signed_otherwise((_, value): &Row) -> Vec<u8> {
    let mut event: Value = serde_json::from_slice(value).expect("JSON");
    let signature =
        event["signatures"]["example.org"].as_object_mut().and_then(|all| all.values_mut().next());
    let signature = signature.expect("signed");
    let text = signature.as_str().expect("text");
    let first = if text.starts_with('a') { "b" } else { "a" };
    *signature = format!("{first}{}", &text[1..]).into();
    event.to_string().into_bytes()
}

fn finds(report: &Report, wanted: &str) {
    assert!(report.damages.iter().any(|line| line.contains(wanted)), "no {wanted:?} in {report:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whole_data_are_found_whole() {
    let (_folder, data) = lived().await;
    let report = look(&data);
    assert_eq!(report.damages, Vec::<String>::new());
    for what in [
        "rows",
        "events",
        "signatures of events",
        "nodes of states",
        "rooms",
        "changes",
        "items",
        "signatures of changes",
        "change logs",
        "files",
        "contents of files",
    ] {
        assert!(report.checked.get(what).is_some_and(|count| *count > 0), "{what}: {report:?}");
    }
    assert_eq!(report.checked["items"], 3);
    // Nothing was written: it is still what a server opens.
    drop(Database::open(&data, &Options::default()).expect("opens"));
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_events_and_states_are_found() {
    let (_folder, data) = lived().await;
    let gone = |_: &Row| None;
    let any = |_: &Row| true;
    let message = has("\"body\":\"hello\"");
    finds(&after_change(&data, Cf::Pdus, &message, &replaced("hello", "hellp")), "its content was altered");
    finds(
        &after_change(&data, Cf::Pdus, &message, &replaced("\"depth\":", "\"depth\":1")),
        "its id is not its hash",
    );
    finds(
        &after_change(&data, Cf::Pdus, &message, &|row| Some(signed_otherwise(row))),
        "the signature of example.org is not valid",
    );
    finds(&after_change(&data, Cf::Pdus, &message, &gone), "the event itself is missing");
    finds(&after_change(&data, Cf::EventMeta, &any, &gone), "it is not known what became of it");
    finds(&after_change(&data, Cf::StateNodes, &any, &altered_after("m.room.")), "its name is not its hash");
    finds(&after_change(&data, Cf::StateNodes, &any, &gone), "lacks node");
    finds(&after_change(&data, Cf::CurrentState, &any, &gone), "of its state is not indexed");
    finds(&after_change(&data, Cf::RoomMembers, &any, &gone), "is not listed by");
    finds(
        &after_change(&data, Cf::JoinedServers, &any, &|_| Some(7_u64.to_be_bytes().to_vec())),
        "joined members by server",
    );
    finds(
        &after_change(&data, Cf::Timeline, &any, &|(_, value)| Some([&value[..32], b"$other"].concat())),
        "the timeline of",
    );
    finds(&after_change(&data, Cf::EventStream, &any, &|_| Some(b"$other".to_vec())), "the stream at");
    finds(&after_change(&data, Cf::ServerKeys, &any, &gone), "own signing key");
    finds(&after_change(&data, Cf::Rooms, &any, &gone), "its room is not known");
}

#[tokio::test(flavor = "multi_thread")]
async fn altered_spaces_files_and_rows_are_found() {
    let (_folder, data) = lived().await;
    let gone = |_: &Row| None;
    let any = |_: &Row| true;
    finds(
        &after_change(&data, Cf::SpaceEntries, &any, &replaced("\"depth\":1", "\"depth\":2")),
        "its id is not its hash",
    );
    finds(&after_change(&data, Cf::SpaceEntries, &any, &gone), "is missing");
    finds(&after_change(&data, Cf::SpaceIds, &any, &gone), "where it hangs is missing");
    finds(&after_change(&data, Cf::SpaceLogs, &any, &gone), "is missing");
    finds(
        &after_change(&data, Cf::SpaceLogs, &any, &replaced("\"to\":6", "\"to\":7")),
        "is missing in its chain",
    );
    finds(
        &after_change(&data, Cf::SpaceLogs, &any, &replaced("\"from\":1", "\"from\":2")),
        "another entry than it says",
    );
    finds(
        &after_change(&data, Cf::SpaceValues, &any, &replaced("number", "numbes")),
        "its value was altered",
    );
    finds(&after_change(&data, Cf::SpaceItems, &any, &gone), "are not the 2 that follow");
    finds(&after_change(&data, Cf::Accounts, &any, &|_| Some(b"\x01{".to_vec())), "of accounts");
    finds(&after_change(&data, Cf::Media, &any, &|_| Some(b"\x07{}".to_vec())), "of media");

    let content = walk(&data.join("media")).pop().expect("a content");
    fs::write(&content, "b file").expect("altered");
    finds(&look(&data), "its content was altered");
    fs::remove_file(&content).expect("removed");
    finds(&look(&data), "is missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_a_table_is_found() {
    let (_folder, data) = lived().await;
    let largest = walk(&data.join("db"))
        .into_iter()
        .filter(|path| path.extension().is_some_and(|kind| kind == "sst"))
        .max_by_key(|path| fs::metadata(path).expect("is there").len());
    let table = largest.expect("a table");
    let mut bytes = fs::read(&table).expect("reads");
    bytes[100] ^= 1;
    fs::write(&table, bytes).expect("damaged");
    finds(&look(&data), "orruption");
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("reads").map(|entry| entry.expect("entry").path());
    entries.flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}
