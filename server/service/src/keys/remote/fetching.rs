//! Lists of other servers' users that are to be fetched, and what came of it.

use causeway_storage::device_lists::{self as lists, RemoteList, Stale};
use causeway_storage::keys as rows;
use ruma::{OwnedUserId, UserId};
use serde_json::{Value, value::RawValue};

use super::{DEVICES_MAX, device, is_small, set_cross_signing};
use crate::{error::MatrixError, keys::Keys, notify::Topic};

/// Lists that are fetched at once.
pub const FETCHES_AT_ONCE: usize = 8;

/// Rows looked at for what is due, at once.
const PAGE: usize = 1_000;

/// What is to be done.
#[derive(Debug, Default)]
pub struct Due {
    /// Lists to fetch now, at most as many as were asked for.
    pub lists: Vec<(OwnedUserId, Stale)>,
    /// When the next one is due, milliseconds since the Unix epoch.
    pub next_at_ms: Option<u64>,
}

impl Keys {
    /// Marks lists as to be fetched, unless they are marked already.
    pub(super) fn mark_stale(&self, users: &[OwnedUserId]) -> Result<(), MatrixError> {
        let writing = self.lock();
        let sharing = self.rooms.lock_sharing();
        let mut batch = self.database.batch();
        for user_id in users {
            if lists::stale(&self.database, user_id)?.is_none() {
                lists::mark(&self.database, &mut batch, user_id)?;
            }
        }
        if !batch.is_empty() {
            // Unsynced: what is lost is noticed at the next question.
            let _unsynced = self.database.commit(batch)?;
            drop(sharing);
            drop(writing);
            self.notifier.notify([&Topic::DeviceLists]);
        }
        Ok(())
    }

    /// At most `limit` lists to fetch now, none of `busy`.
    ///
    /// # Errors
    /// Storage.
    pub fn due_lists(&self, limit: usize, busy: &[OwnedUserId]) -> Result<Due, MatrixError> {
        let (mut due, now_ms) = (Due::default(), self.clock.now_ms());
        let mut after: Option<OwnedUserId> = None;
        while due.lists.len() < limit {
            let page = lists::all_stale(&self.database, after.as_deref(), PAGE)?;
            after = page.last().map(|(user_id, _)| user_id.clone());
            let is_last = page.len() < PAGE;
            for (user_id, stale) in page.into_iter().filter(|(user_id, _)| !busy.contains(user_id)) {
                if stale.retry_at_ms > now_ms {
                    due.next_at_ms = Some(due.next_at_ms.unwrap_or(u64::MAX).min(stale.retry_at_ms));
                } else if !self.rooms.shares_a_room(&user_id)? {
                    self.forget_list(&user_id)?;
                } else if due.lists.len() < limit {
                    due.lists.push((user_id, stale));
                }
            }
            if is_last {
                break;
            }
        }
        Ok(due)
    }

    /// Keeps what `user/devices` answered, unless the list changed meanwhile
    /// (then it is fetched again) or is not to be held any more.
    ///
    /// # Errors
    /// 502 for an answer that makes no sense.
    pub fn list_fetched(&self, user_id: &UserId, asked: Stale, answer: &Value) -> Result<(), MatrixError> {
        let list = parse(user_id, answer)
            .ok_or_else(|| MatrixError::new(502, "M_UNKNOWN", "The other server's answer makes no sense"))?;
        let rooms = self.rooms.shared_rooms(user_id)?;
        if rooms.is_empty() || !is_small(&list) {
            return self.forget_list(user_id);
        }
        let writing = self.lock();
        let sharing = self.rooms.lock_sharing();
        let Some(now) = lists::stale(&self.database, user_id)? else { return Ok(()) };
        let mut batch = self.database.batch();
        let before = lists::remote(&self.database, user_id)?;
        lists::put_remote(&mut batch, user_id, &list);
        if now.marks == asked.marks {
            lists::delete_stale(&mut batch, user_id);
        } else {
            lists::put_stale(&mut batch, user_id, &Stale { marks: now.marks, ..Stale::default() });
        }
        let differs = before.is_some_and(|before| text(&before) != text(&list));
        if differs {
            let position = batch.position();
            rows::put_key_change(&mut batch, position, user_id, None);
        }
        let commit = self.database.commit(batch)?;
        drop(sharing);
        drop(writing);
        self.database.wait_durable(commit)?;
        let mut topics = vec![Topic::DeviceLists];
        if differs {
            topics.extend(rooms.into_iter().map(Topic::Room));
        }
        self.notifier.notify(&topics);
        Ok(())
    }

    /// Notes that a list could not be fetched, and when to try again.
    ///
    /// # Errors
    /// Storage.
    pub fn list_not_fetched(
        &self,
        user_id: &UserId,
        failures: u32,
        retry_at_ms: u64,
    ) -> Result<(), MatrixError> {
        let _writing = self.lock();
        let _sharing = self.rooms.lock_sharing();
        let Some(now) = lists::stale(&self.database, user_id)? else { return Ok(()) };
        let mut batch = self.database.batch();
        lists::put_stale(&mut batch, user_id, &Stale { failures, retry_at_ms, ..now });
        let _unsynced = self.database.commit(batch)?;
        Ok(())
    }

    /// Forgets a user's list: no room is shared, or its server has none.
    ///
    /// # Errors
    /// Storage.
    pub fn forget_list(&self, user_id: &UserId) -> Result<(), MatrixError> {
        let _writing = self.lock();
        let _sharing = self.rooms.lock_sharing();
        let mut batch = self.database.batch();
        lists::delete_remote(&mut batch, user_id);
        let _unsynced = self.database.commit(batch)?;
        Ok(())
    }
}

/// The keys of a list, without its number.
fn text(list: &RemoteList) -> (Vec<(&str, &str)>, Option<&str>, Option<&str>) {
    let devices = list.devices.iter().map(|(device_id, keys)| (device_id.as_str(), keys.get())).collect();
    (devices, list.master.as_deref().map(RawValue::get), list.self_signing.as_deref().map(RawValue::get))
}

/// An answer to `user/devices`.
fn parse(user_id: &UserId, answer: &Value) -> Option<RemoteList> {
    if answer["user_id"].as_str() != Some(user_id.as_str()) {
        return None;
    }
    let mut list = RemoteList { stream_id: answer["stream_id"].as_u64()?, ..RemoteList::default() };
    for one in answer["devices"].as_array()?.iter().take(DEVICES_MAX) {
        let Some(device_id) = one["device_id"].as_str() else { continue };
        if let Some(keys) = device(user_id, device_id, &one["keys"], one["device_display_name"].as_str()) {
            list.devices.insert(device_id.to_owned(), keys);
        }
    }
    set_cross_signing(user_id, &mut list, answer.get("master_key"), answer.get("self_signing_key"));
    Some(list)
}
