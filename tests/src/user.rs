//! A person at an ordinary Matrix client: only calls of the specification.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    client::{Answer, Client, segment},
    result::{Doing, Failure, Result},
    server::Server,
    wait,
};

/// The type of a shared item's state event.
pub const ITEM: &str = "org.causeway.item";
/// The type of a shared space's declaration.
pub const SHARED_SPACE: &str = "org.causeway.shared_space";

/// A logged-in device.
#[derive(Debug)]
pub struct User {
    /// `@name:server`.
    pub id: String,
    /// The device.
    pub device: String,
    /// Its access token.
    pub token: String,
    client: Client,
    since: Mutex<Option<String>>,
    transactions: AtomicU64,
}

impl User {
    /// Makes an account (open registration, dummy stage) and logs in.
    pub async fn register(server: &Server, name: &str) -> Result<Self> {
        Self::register_with(server.client(), name).await
    }

    /// The same at any homeserver.
    pub async fn register_with(client: &Client, name: &str) -> Result<Self> {
        let mut body = json!({ "username": name, "password": password(name) });
        let path = "/_matrix/client/v3/register";
        let first = client.call(Method::POST, path, None, Some(&body)).await?;
        let answer = if first.status == 401 {
            body["auth"] = json!({ "type": "m.login.dummy", "session": first.body["session"] });
            client.call(Method::POST, path, None, Some(&body)).await?
        } else {
            first
        };
        Self::of(client, &answer.ok().doing(format!("registering {name}"))?)
    }

    /// Logs another device in.
    pub async fn log_in(server: &Server, name: &str) -> Result<Self> {
        let body = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": name },
            "password": password(name),
        });
        let answer =
            server.client().call(Method::POST, "/_matrix/client/v3/login", None, Some(&body)).await?;
        Self::of(server.client(), &answer.ok().doing(format!("logging in {name}"))?)
    }

    fn of(client: &Client, answer: &Value) -> Result<Self> {
        Ok(Self {
            id: text(answer, "user_id")?,
            device: text(answer, "device_id")?,
            token: text(answer, "access_token")?,
            client: client.clone(),
            since: Mutex::new(None),
            transactions: AtomicU64::new(0),
        })
    }

    /// The address of the homeserver, `http://host:port`.
    pub fn base(&self) -> String {
        self.client.base()
    }

    /// One request with this device's token; any status is an answer.
    pub async fn try_call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Answer> {
        self.client.call(method, path, Some(&self.token), body).await
    }

    /// One request that has to succeed.
    pub async fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value> {
        self.try_call(method.clone(), path, body).await?.ok().doing(format!("{method} {path}"))
    }

    /// Makes a room that others may join, in which all may write items.
    pub async fn create_room(&self, name: &str) -> Result<String> {
        let body = json!({
            "preset": "public_chat",
            "name": name,
            "power_level_content_override": { "events": { ITEM: 0 } },
            "initial_state": [{ "type": SHARED_SPACE, "state_key": "", "content": {} }],
        });
        text(&self.call(Method::POST, "/_matrix/client/v3/createRoom", Some(&body)).await?, "room_id")
    }

    /// Joins a room through `via`.
    pub async fn join(&self, room: &str, via: &str) -> Result<()> {
        let path = format!("/_matrix/client/v3/join/{}?via={1}&server_name={1}", segment(room), segment(via));
        self.call(Method::POST, &path, Some(&json!({}))).await.map(drop)
    }

    /// Sends a message event of any type; answers its id.
    pub async fn send(&self, room: &str, kind: &str, content: &Value) -> Result<String> {
        let transaction = self.transactions.fetch_add(1, Ordering::SeqCst);
        let path = format!(
            "/_matrix/client/v3/rooms/{}/send/{kind}/{}-{transaction}",
            segment(room),
            segment(&self.device)
        );
        text(&self.call(Method::PUT, &path, Some(content)).await?, "event_id")
    }

    /// Reacts to an event.
    pub async fn react(&self, room: &str, event: &str, key: &str) -> Result<String> {
        let relation = json!({ "rel_type": "m.annotation", "event_id": event, "key": key });
        self.send(room, "m.reaction", &json!({ "m.relates_to": relation })).await
    }

    /// Writes an item as any client does: by a state event.
    pub async fn put_item(&self, room: &str, key: &str, content: &Value) -> Result<String> {
        self.put_state(room, ITEM, key, content).await
    }

    /// Writes a state event.
    pub async fn put_state(&self, room: &str, kind: &str, key: &str, content: &Value) -> Result<String> {
        let path = state_path(room, kind, key);
        text(&self.call(Method::PUT, &path, Some(content)).await?, "event_id")
    }

    /// Reads a state event's content; none where there is none.
    pub async fn state(&self, room: &str, kind: &str, key: &str) -> Result<Option<Value>> {
        let answer = self.try_call(Method::GET, &state_path(room, kind, key), None).await?;
        if answer.status == 404 { Ok(None) } else { answer.ok().map(Some) }
    }

    /// One sync from where the last one ended, waiting at most `timeout_ms`.
    pub async fn sync(&self, timeout_ms: u64) -> Result<Value> {
        let since = self.since.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut path = format!("/_matrix/client/v3/sync?timeout={timeout_ms}");
        if let Some(since) = since {
            path.push_str("&since=");
            path.push_str(&segment(&since).to_string());
        }
        let answer = self.call(Method::GET, &path, None).await?;
        let next = text(&answer, "next_batch")?;
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
        Ok(answer)
    }

    /// Syncs until an event of the room's timeline pleases, and gives it.
    pub async fn sync_until(
        &self,
        room: &str,
        what: &str,
        pleases: impl Fn(&Value) -> bool,
    ) -> Result<Value> {
        wait::until(what, async || {
            let answer = self.sync(1_000).await?;
            Ok(timeline(&answer, room).into_iter().find(|event| pleases(event)))
        })
        .await
    }

    /// The room's last events, newest first.
    pub async fn messages(&self, room: &str, limit: usize) -> Result<Vec<Value>> {
        self.latest(room, limit, &json!({})).await
    }

    /// The last `m.room.message` events, latest first, however many other events lie between.
    pub async fn texts(&self, room: &str, limit: usize) -> Result<Vec<Value>> {
        self.latest(room, limit, &json!({ "types": ["m.room.message"] })).await
    }

    async fn latest(&self, room: &str, limit: usize, filter: &Value) -> Result<Vec<Value>> {
        let (room, filter) = (segment(room), filter.to_string());
        let path = format!(
            "/_matrix/client/v3/rooms/{room}/messages?dir=b&limit={limit}&filter={}",
            segment(&filter)
        );
        let answer = self.call(Method::GET, &path, None).await?;
        Ok(answer["chunk"].as_array().cloned().unwrap_or_default())
    }

    /// Uploads a file; answers its `mxc://` URL.
    pub async fn upload(&self, kind: &str, content: Vec<u8>) -> Result<String> {
        let answer = self.client.upload("/_matrix/media/v3/upload", &self.token, kind, content).await?;
        text(&answer, "content_uri")
    }

    /// Downloads a file: status and content.
    pub async fn download(&self, mxc: &str) -> Result<(u16, Vec<u8>)> {
        let media = mxc.trim_start_matches("mxc://");
        let path = format!("/_matrix/client/v1/media/download/{media}");
        self.client.download(&path, Some(&self.token)).await
    }
}

/// The password of every test account.
pub fn password(name: &str) -> String {
    format!("the password of {name}")
}

/// The events of a room's timeline in a sync answer, oldest first.
pub fn timeline(sync: &Value, room: &str) -> Vec<Value> {
    sync["rooms"]["join"][room]["timeline"]["events"].as_array().cloned().unwrap_or_default()
}

/// A field that has to be a string.
pub fn text(value: &Value, field: &str) -> Result<String> {
    value[field].as_str().map(str::to_owned).ok_or_else(|| Failure::new(format!("no {field} in {value}")))
}

/// Where a piece of room state is read and written.
pub fn state_path(room: &str, kind: &str, key: &str) -> String {
    format!("/_matrix/client/v3/rooms/{}/state/{}/{}", segment(room), segment(kind), segment(key))
}
