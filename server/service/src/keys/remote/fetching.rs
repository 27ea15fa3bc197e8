//! Lists of other servers' users that are to be fetched, and what came of it.

use causeway_storage::{
    device_lists::{self as lists, RemoteList, Stale, Told},
    key_changes,
};
use ruma::{OwnedUserId, ServerName, UserId};
use serde_json::Value;

use super::{
    DEVICES_MAX, device, is_small, set_cross_signing, text,
    turns::{Turn, Turns},
};
use crate::{error::MatrixError, keys::Keys, notify::Topic};

/// Lists that are fetched at once, of all servers; see [`Turns`] for each.
const FETCHES_AT_ONCE: usize = 16;

/// Servers that are looked at for what is due, at once.
const SERVERS_LOOKED_AT_MAX: usize = 10_000;

/// When to look at the others, in milliseconds.
const LOOK_AGAIN_MS: u64 = 1_000;

/// Rows looked at for what is due, at once.
const PAGE: usize = 1_000;

/// What is to be done.
#[derive(Debug, Default)]
pub struct Due {
    /// Lists to fetch now.
    pub lists: Vec<(OwnedUserId, Stale)>,
    /// When the next one is due, milliseconds since the Unix epoch.
    pub next_at_ms: Option<u64>,
}

impl Due {
    fn not_before(&mut self, at_ms: u64) {
        self.next_at_ms = Some(self.next_at_ms.unwrap_or(u64::MAX).min(at_ms));
    }
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

    /// The lists to fetch now, whose turns then have begun.
    ///
    /// # Errors
    /// Storage.
    pub fn due_lists(&self, turns: &mut Turns) -> Result<Due, MatrixError> {
        let (mut due, now_ms) = (Due::default(), self.clock.now_ms());
        let mut free = FETCHES_AT_ONCE.saturating_sub(turns.busy());
        let mut after = turns.last.clone();
        let mut first = None;
        for looked_at in 0.. {
            if free == 0 {
                break;
            }
            if looked_at == SERVERS_LOOKED_AT_MAX {
                turns.last = after;
                due.not_before(now_ms.saturating_add(LOOK_AGAIN_MS));
                break;
            }
            let next = match lists::next_stale_server(&self.database, after.as_deref())? {
                None => lists::next_stale_server(&self.database, None)?,
                next => next,
            };
            let Some(server) = next.filter(|server| first.as_ref() != Some(server)) else { break };
            first.get_or_insert_with(|| server.clone());
            match turns.of_server(&server, now_ms) {
                Turn::Busy => {}
                Turn::At(at_ms) => due.not_before(at_ms),
                Turn::Now(most) => {
                    let begun = self.begin_of(&server, most.min(free), turns, &mut due)?;
                    if begun > 0 {
                        free -= begun;
                        turns.last = Some(server.clone());
                    }
                }
            }
            after = Some(server);
        }
        Ok(due)
    }

    /// Begins the turns of at most `most` lists of a server; of how many.
    fn begin_of(
        &self,
        server: &ServerName,
        most: usize,
        turns: &mut Turns,
        due: &mut Due,
    ) -> Result<usize, MatrixError> {
        let (mut begun, now_ms) = (0, self.clock.now_ms());
        let mut after: Option<OwnedUserId> = None;
        loop {
            let page = lists::stale_of(&self.database, server, after.as_deref(), PAGE)?;
            after = page.last().map(|(user_id, _)| user_id.clone());
            let is_last = page.len() < PAGE;
            for (user_id, stale) in page {
                let turn = match turns.of_user(&user_id, now_ms) {
                    Turn::Now(_) if stale.retry_at_ms > now_ms => Turn::At(stale.retry_at_ms),
                    turn => turn,
                };
                match turn {
                    Turn::Busy => {}
                    Turn::At(at_ms) => due.not_before(at_ms),
                    Turn::Now(_) if !self.rooms.shares_a_room(&user_id)? => self.forget_list(&user_id)?,
                    Turn::Now(_) => {
                        turns.begin(&user_id, now_ms);
                        due.lists.push((user_id, stale));
                        begun += 1;
                    }
                }
                if begun == most {
                    return Ok(begun);
                }
            }
            if is_last {
                return Ok(begun);
            }
        }
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
        let tell = now.told == Told::Owed || before.is_some_and(|before| text(&before) != text(&list));
        if tell {
            key_changes::put(&self.database, &mut batch, user_id, None)?;
        }
        if now.marks == asked.marks {
            lists::delete_stale(&mut batch, user_id);
        } else {
            let told = if tell { Told::First } else { now.told };
            lists::put_stale(&mut batch, user_id, &Stale { marks: now.marks, told, ..Stale::default() });
        }
        let commit = self.database.commit(batch)?;
        drop(sharing);
        drop(writing);
        self.database.wait_durable(commit)?;
        let mut topics = vec![Topic::DeviceLists];
        if tell {
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
        let writing = self.lock();
        let sharing = self.rooms.lock_sharing();
        let mut batch = self.database.batch();
        let known = lists::stale(&self.database, user_id)?;
        lists::delete_remote(&mut batch, user_id);
        if known.is_none_or(|known| known.told != Told::Owed) {
            let _unsynced = self.database.commit(batch)?;
            return Ok(());
        }
        // There were changes that nobody was told of, to spare them all but the last.
        let rooms = self.rooms.shared_rooms(user_id)?;
        key_changes::put(&self.database, &mut batch, user_id, None)?;
        let commit = self.database.commit(batch)?;
        drop(sharing);
        drop(writing);
        self.database.wait_durable(commit)?;
        self.notifier.notify(&rooms.into_iter().map(Topic::Room).collect::<Vec<_>>());
        Ok(())
    }
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
