//! How long a request is remembered for its retry under the same transaction id.
//!
//! The rows bear no time of their own: that of the event that was sent serves for
//! it. Requests that sent none (to-device messages) are remembered for ever.

use std::time::Duration;

use causeway_storage::{Database, StorageError, rooms, transactions as rows};
use ruma::EventId;
use serde::Deserialize;

/// How long a device may repeat a request.
const KEPT: Duration = Duration::from_hours(7 * 24);
/// Rows looked at in one step.
const PAGE: usize = 1_000;

/// Forgets what is too old; says how many rows that were.
///
/// # Errors
/// Storage failed; it is gone on with the next time.
pub fn forget(database: &Database, now_ms: u64) -> Result<usize, StorageError> {
    let before_ms = now_ms.saturating_sub(u64::try_from(KEPT.as_millis()).unwrap_or(u64::MAX));
    let mut forgotten = 0;
    let mut from = None;
    loop {
        let page = rows::answers(database, from.as_deref(), PAGE)?;
        let mut batch = database.batch();
        for (key, answer) in &page.rows {
            if made_ms(database, answer)?.is_some_and(|made_ms| made_ms < before_ms) {
                rows::delete_answer(&mut batch, key);
                forgotten += 1;
            }
        }
        let _unsynced = database.commit(batch)?;
        from = page.next;
        if from.is_none() {
            break;
        }
    }
    loop {
        let page = rows::origins(database, from.as_deref(), PAGE)?;
        let mut batch = database.batch();
        for (key, event_id) in &page.rows {
            if made_ms(database, event_id)?.is_some_and(|made_ms| made_ms < before_ms) {
                rows::delete_origin(&mut batch, key);
                forgotten += 1;
            }
        }
        let _unsynced = database.commit(batch)?;
        from = page.next;
        if from.is_none() {
            return Ok(forgotten);
        }
    }
}

/// When a request was made, by the event that it sent; long ago if that is gone.
fn made_ms(database: &Database, event_id: &str) -> Result<Option<u64>, StorageError> {
    #[derive(Deserialize)]
    struct Made {
        origin_server_ts: u64,
    }
    let Ok(event_id) = <&EventId>::try_from(event_id) else { return Ok(None) };
    let raw = rooms::pdu_raw(database, event_id)?;
    let made = raw.and_then(|raw| serde_json::from_str::<Made>(raw.get()).ok());
    Ok(Some(made.map_or(0, |made| made.origin_server_ts)))
}

#[cfg(test)]
mod tests {
    use causeway_storage::Options;
    use ruma::{device_id, owned_server_name, user_id};

    use super::*;
    use crate::{
        Services,
        clock::Clock,
        remote::RemoteHandle,
        rooms::{CreateRoom, TransactionKey},
        settings::Settings,
    };

    #[test]
    fn a_request_is_remembered_for_a_week_by_the_event_that_it_sent() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(folder.path(), &Options::default()).expect("opens");
        let settings = Settings::for_tests(owned_server_name!("a.example"));
        let clock = Clock::manual(1_700_000_000_000);
        let services = Services::open(database, settings, clock, RemoteHandle::channel().0).expect("opens");
        let (alice, device) = (user_id!("@alice:a.example"), device_id!("ONE"));
        let room = services.rooms.create(alice, &CreateRoom::default()).expect("a room").room_id;
        let key = TransactionKey::new(alice, device, "once".into(), "send".to_owned());
        let send = || {
            let event = causeway_room::NewEvent::new(
                "m.room.message",
                alice.to_owned(),
                None,
                serde_json::json!({ "body": "hello" }),
            );
            services.rooms.send(&room, event.expect("an event"), Some(&key)).expect("sent")
        };
        let database = &services.database;
        let mut batch = database.batch();
        rows::put_answer(&mut batch, alice, device, "other", "sendToDevice", "");
        database.commit_durable(batch).expect("commits");
        let first = send();
        services.clock.advance(KEPT);
        assert_eq!(forget(database, services.clock.now_ms()).expect("forgets"), 0);
        assert_eq!(send(), first, "it may be repeated to the last moment");
        services.clock.advance(Duration::from_millis(1));
        assert_eq!(forget(database, services.clock.now_ms()).expect("forgets"), 2);
        assert_eq!(rows::origin(database, &first).expect("reads"), None);
        assert_ne!(send(), first, "it is a request of its own now");
    }
}
