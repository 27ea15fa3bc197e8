//! Whom a user ignores (client-server API, "Ignoring Users").
//!
//! Not here: what is left out because of it; each reader does that where it
//! shows events.

use std::collections::{BTreeMap, BTreeSet};

use causeway_storage::{Read, StorageError, account_data};
use ruma::UserId;
use serde::Deserialize;

/// The users that `user_id` ignores; a list that can't be read is empty.
pub fn ignored_users(read: &impl Read, user_id: &UserId) -> Result<BTreeSet<String>, StorageError> {
    #[derive(Deserialize)]
    struct Ignored {
        #[serde(default)]
        ignored_users: BTreeMap<String, serde_json::Value>,
    }
    let content = account_data::get(read, user_id, None, "m.ignored_user_list")?;
    let ignored = content.and_then(|(_, content)| serde_json::from_str::<Ignored>(content.get()).ok());
    let mut ignored: BTreeSet<String> =
        ignored.map(|ignored| ignored.ignored_users.into_keys().collect()).unwrap_or_default();
    // Nobody gets rid of himself.
    ignored.remove(user_id.as_str());
    Ok(ignored)
}
