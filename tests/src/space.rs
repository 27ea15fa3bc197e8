//! A developer's view: the shared space's own HTTP API.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    client::{Answer, segment},
    result::Result,
    user::User,
};

/// Items in one page of a listing.
const PAGE: usize = 1_000;

/// One value of an item, as the API tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sibling {
    /// The change.
    pub id: String,
    /// Who wrote it.
    pub author: String,
    /// What, if it can be shown.
    pub value: Option<Value>,
    /// Why it can't: `deleted`, `redacted` or `missing`.
    pub instead: Option<&'static str>,
}

/// An item, as the API tells it.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its name in the room.
    pub key: String,
    /// Its values; more than one of different value are a conflict.
    pub siblings: Vec<Sibling>,
    /// The server's own word on that.
    pub conflict: bool,
    /// What a later write supersedes.
    pub token: String,
}

impl Item {
    /// Of what the API answers.
    pub fn of(value: &Value) -> Self {
        let word = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let siblings = value["siblings"].as_array().into_iter().flatten().map(|one| Sibling {
            id: word(one, "id"),
            author: word(one, "author"),
            value: one.get("value").filter(|value| !value.is_null()).cloned(),
            instead: ["deleted", "redacted", "missing"].into_iter().find(|why| one[why] == true),
        });
        Self {
            key: word(value, "key"),
            siblings: siblings.collect(),
            conflict: value["conflict"] == true,
            token: word(value, "token"),
        }
    }

    /// The ids of its siblings, sorted: equal on two servers that agree.
    pub fn ids(&self) -> Vec<String> {
        let mut ids: Vec<String> = self.siblings.iter().map(|sibling| sibling.id.clone()).collect();
        ids.sort();
        ids
    }

    /// The one value that all siblings agree on.
    pub fn value(&self) -> Option<&Value> {
        let value = self.siblings.first()?.value.as_ref()?;
        self.siblings.iter().all(|sibling| sibling.value.as_ref() == Some(value)).then_some(value)
    }
}

fn base(room: &str) -> String {
    format!("/_matrix/client/unstable/org.causeway/rooms/{}", segment(room))
}

/// Where items are written through the API.
pub fn items_path(room: &str) -> String {
    format!("{}/items", base(room))
}

impl User {
    /// Reads an item; none where there is none.
    pub async fn item(&self, room: &str, key: &str) -> Result<Option<Item>> {
        let path = format!("{}/items/{}", base(room), segment(key));
        let answer = self.try_call(Method::GET, &path, None).await?;
        if answer.status == 404 {
            return Ok(None);
        }
        Ok(Some(Item::of(&answer.ok()?)).filter(|item| !item.siblings.is_empty()))
    }

    /// Reads all items, page by page, in order of their keys.
    pub async fn items(&self, room: &str) -> Result<Vec<Item>> {
        let mut items = Vec::new();
        let mut from: Option<String> = None;
        loop {
            let mut path = format!("{}/items?limit={PAGE}", base(room));
            if let Some(from) = &from {
                path.push_str("&from=");
                path.push_str(&segment(from).to_string());
            }
            let page = self.call(Method::GET, &path, None).await?;
            items.extend(page["items"].as_array().into_iter().flatten().map(Item::of));
            match page["next"].as_str().or(page["next_batch"].as_str()) {
                Some(next) => from = Some(next.to_owned()),
                None => return Ok(items),
            }
        }
    }

    /// Writes an item through the API; any status is an answer.
    pub async fn try_write(&self, room: &str, key: &str, body: &Value) -> Result<Answer> {
        let path = format!("{}/items/{}", base(room), segment(key));
        self.try_call(Method::PUT, &path, Some(body)).await
    }

    /// Writes many items in one synced batch: `[{"key", "value"|"delete", "token"?}]`.
    pub async fn write_batch(&self, room: &str, writes: &[Value]) -> Result<Value> {
        self.call(Method::POST, &items_path(room), Some(&json!({ "writes": writes }))).await
    }

    /// What is new in the room's space since `after` (a version vector).
    pub async fn changes(&self, room: &str, after: &Value, timeout_ms: u64) -> Result<Value> {
        let path = format!("{}/changes", base(room));
        self.call(Method::POST, &path, Some(&json!({ "after": after, "timeout": timeout_ms }))).await
    }

    /// The room's vector, peers, forks and islands.
    pub async fn space_status(&self, room: &str) -> Result<Value> {
        self.call(Method::GET, &format!("{}/status", base(room)), None).await
    }
}
