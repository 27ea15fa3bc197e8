//! The items of a room that is replaced by another go along.
//!
//! Written in the name of whoever upgrades the room, with all live values: what
//! was in conflict stays so. The history stays behind. Not here: the rest of the
//! upgrade ([`crate::upgrade`]).

use causeway_shared_space::{ItemKey, Value};
use causeway_storage::shared_space::{entries, items};
use ruma::{RoomId, UserId};

use super::{
    SharedSpace,
    error::SpaceError,
    write::{OnConflict, Write, Writer},
};

/// Items looked at, and values written, at once.
const AT_ONCE: usize = 100;

impl SharedSpace {
    /// Copies the live items of one room to another. Durable when it returns.
    ///
    /// Returns how many values were copied. Those that are not at hand are not.
    ///
    /// # Errors
    /// The user may not write there, or storage failed: some may be copied then.
    pub fn copy_items(&self, user: &UserId, from: &RoomId, to: &RoomId) -> Result<usize, SpaceError> {
        // What the new room declares counts.
        self.follow()?;
        let (mut copied, mut after) = (0, None::<String>);
        loop {
            let page = items::items(&self.db, from, "", after.as_deref(), AT_ONCE)?;
            let Some((last, _)) = page.last() else { return Ok(copied) };
            after = Some(last.clone());
            let mut writes = Vec::new();
            for (key, row) in page.iter().filter(|(_, row)| !row.item.is_deleted()) {
                for sibling in row.item.siblings() {
                    let held = entries::value(&self.db, from, &sibling.entry)?;
                    let value = held.and_then(|text| Value::parse(&text).ok());
                    if value.is_none() && !sibling.is_tombstone() {
                        continue;
                    }
                    let (key, token) = (ItemKey::new(key)?, None);
                    writes.push(Ok(Write { key, value, token, on_conflict: OnConflict::Keep }));
                }
            }
            // Without a device no write is taken to have seen another.
            let writer = Writer { user, device: None, idempotency_key: None };
            for writes in writes.chunks(AT_ONCE) {
                self.put_batch(writer, to, writes)?;
            }
            copied += writes.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{ALICE, Fixture, item};
    use crate::rooms::CreateRoom;

    #[test]
    fn all_live_values_are_copied_and_a_conflict_stays_one() {
        let fixture = Fixture::new();
        for n in 0..super::AT_ONCE + 5 {
            fixture.put("ONE", &format!("k{n:03}"), &json!({"n": n}), None).expect("written");
        }
        fixture.put("TWO", "k007", &json!({"n": 0}), None).expect("written");
        fixture.write("ONE", "k008", None, None, super::OnConflict::Keep, None).expect("deleted");
        let services = &fixture.services;
        let new = services.rooms.create(*ALICE, &CreateRoom::default()).expect("a room").room_id;
        let copied = services.shared_space.copy_items(*ALICE, &fixture.room, &new).expect("copied");
        assert_eq!(copied, super::AT_ONCE + 5);
        let get = |key: &str| services.shared_space.get(*ALICE, &new, &item(key));
        assert_eq!(get("k104").expect("an item")["siblings"][0]["value"], json!({"n": 104}));
        assert_eq!(get("k007").expect("an item")["conflict"], true);
        assert!(get("k008").is_err(), "it was deleted");
    }
}
