//! How long a request is remembered for its retry under the same transaction id.
//!
//! Of a request that sent an event, the event's time serves; what sent none
//! (messages to devices) has its own time for an answer ([`made_now`]). Rows from
//! before that have neither: their time begins when they are first looked at.

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
            if answer.is_empty() {
                rows::replace_answer(&mut batch, key, &made_now(now_ms));
            } else if made_ms(database, answer)?.is_some_and(|made_ms| made_ms < before_ms) {
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

/// The answer to a request that sent no event: when it was made.
pub fn made_now(now_ms: u64) -> String {
    now_ms.to_string()
}

/// When a request was made, by its answer or the event that it sent; long ago if that is gone.
fn made_ms(database: &Database, event_id: &str) -> Result<Option<u64>, StorageError> {
    #[derive(Deserialize)]
    struct Made {
        origin_server_ts: u64,
    }
    if let Ok(made_ms) = event_id.parse() {
        return Ok(Some(made_ms));
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
    fn what_sent_no_event_is_forgotten_by_its_own_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(folder.path(), &Options::default()).expect("opens");
        let (alice, device) = (user_id!("@alice:a.example"), device_id!("ONE"));
        let made_ms = 1_700_000_000_000;
        let kept_ms = u64::try_from(KEPT.as_millis()).expect("fits");
        let mut batch = database.batch();
        rows::put_answer(&mut batch, alice, device, "new", "sendToDevice", &made_now(made_ms));
        rows::put_answer(&mut batch, alice, device, "from before", "sendToDevice", "");
        database.commit_durable(batch).expect("commits");
        let is_kept =
            |id: &str| rows::answer(&database, alice, device, id, "sendToDevice").expect("reads").is_some();
        for now_ms in [made_ms + 1, made_ms + kept_ms] {
            assert_eq!(forget(&database, now_ms).expect("forgets"), 0);
            assert!(is_kept("new") && is_kept("from before"));
        }
        assert_eq!(forget(&database, made_ms + kept_ms + 1).expect("forgets"), 1);
        assert!(!is_kept("new") && is_kept("from before"), "its week began later");
        assert_eq!(forget(&database, made_ms + kept_ms + 2).expect("forgets"), 1);
        assert!(!is_kept("from before"));
    }

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
