//! The account data in an answer: what changed, grouped by room.

use std::collections::BTreeMap;

use causeway_storage::{
    Cf, Direction, Read, StorageError,
    codec::{KeyParts, key},
};
use ruma::{UserId, push::Ruleset};
use serde_json::{json, value::RawValue};

use super::response::{RawEvent, raw_event};
use crate::push_rules::PUSH_RULES;

/// Pieces read at once. How many a user may have bounds how many there are.
const PAGE: usize = 1_000;

/// A piece of account data.
#[derive(Debug)]
pub struct Piece {
    /// Its type.
    pub kind: String,
    /// When it changed.
    pub position: u64,
    /// As an event.
    pub event: RawEvent,
}

/// Account data by room id; the empty id is for what belongs to no room.
pub type ByRoom = BTreeMap<String, Vec<Piece>>;

/// What changed in `(since, until]`: all of it, since the answer's position says so. For a
/// device that has nothing (`None`) the push rules are in it also if the user has left
/// them as they were. Not so for one that has been told all up to position 0, which is
/// where a new server is until something happens.
pub fn changed(
    read: &impl Read,
    user_id: &UserId,
    since: Option<u64>,
    until: u64,
) -> Result<ByRoom, StorageError> {
    let mut by_room = stored(read, user_id, since.unwrap_or(0), until)?;
    if since.is_none() && content(read, user_id, "", PUSH_RULES)?.is_none() {
        let content = json!({ "global": Ruleset::server_default(user_id) });
        let event = raw_event(&json!({ "type": PUSH_RULES, "content": content }));
        let piece = Piece { kind: PUSH_RULES.to_owned(), position: 1, event };
        by_room.entry(String::new()).or_default().push(piece);
    }
    Ok(by_room)
}

fn stored(read: &impl Read, user_id: &UserId, since: u64, until: u64) -> Result<ByRoom, StorageError> {
    let prefix = key().str(user_id);
    let mut from = prefix.clone().u64(since.saturating_add(1)).finish();
    let mut by_room = ByRoom::new();
    loop {
        let rows =
            read.scan(Cf::AccountDataChanges, prefix.as_ref(), Some(&from), Direction::Forward, PAGE)?;
        let is_last = rows.len() < PAGE;
        for (row, kind) in rows {
            let mut parts = KeyParts::new(Cf::AccountDataChanges, &row);
            parts.str()?;
            let position = parts.u64()?;
            if position > until {
                return Ok(by_room);
            }
            let room_id = parts.str()?;
            let broken = |_| StorageError::BrokenKey { cf: Cf::AccountDataChanges.name() };
            let kind = std::str::from_utf8(&kind).map_err(broken)?;
            if let Some(content) = content(read, user_id, room_id, kind)? {
                let event = raw_event(&json!({ "type": kind, "content": content }));
                let piece = Piece { kind: kind.to_owned(), position, event };
                by_room.entry(room_id.to_owned()).or_default().push(piece);
            }
            from = row;
        }
        if is_last {
            return Ok(by_room);
        }
        from.push(0);
    }
}

/// One piece, without a room when `room_id` is empty.
pub fn content(
    read: &impl Read,
    user_id: &UserId,
    room_id: &str,
    kind: &str,
) -> Result<Option<Box<RawValue>>, StorageError> {
    let row = read.get(Cf::AccountData, key().str(user_id).str(room_id).str(kind).as_ref())?;
    let Some((_, json)) = row.as_deref().and_then(|row| row.split_first_chunk::<8>()) else {
        return Ok(None);
    };
    let broken = |source| StorageError::BrokenValue { cf: Cf::AccountData.name(), source };
    serde_json::from_slice(json).map(Some).map_err(broken)
}

#[cfg(test)]
mod tests {
    use causeway_storage::{Database, Options, account_data};
    use ruma::user_id;

    use super::*;

    #[test]
    fn however_much_changed_nothing_is_left_out() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = Database::open(folder.path(), &Options::default()).expect("opens");
        let (alice, count) = (user_id!("@alice:a.example"), 10_001);
        let mut batch = database.batch();
        let content = RawValue::from_string("{}".to_owned()).expect("JSON");
        for n in 0..count {
            account_data::put(&mut batch, alice, None, &format!("org.t{n}"), &content, None);
        }
        database.commit_durable(batch).expect("commits");
        let until = database.visible().0;
        let all = changed(&database, alice, None, until).expect("reads").remove("").expect("is there");
        assert_eq!(all.len(), count + 1, "and the push rules");
        assert_eq!(all[count].kind, PUSH_RULES);
        let (middle, last) = (all[4_000].position, all[count - 1].position);
        let some =
            changed(&database, alice, Some(middle), last - 1).expect("reads").remove("").expect("is there");
        assert_eq!(some.len(), count - 4_002);
    }
}
