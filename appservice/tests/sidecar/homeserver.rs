//! A homeserver with one room, as far as a sidecar's drivers ask for one: it keeps events, and
//! may hide them, lose its answers, or be down.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use axum::http::{Method, StatusCode};
use ruma::{OwnedRoomId, room_id};
use serde_json::{Value, json};
use url::Url;

use crate::stub::{Asked, Said, Stub, ok, refusal};

/// Events of a page of its history.
const PAGE: usize = 100;

/// What it keeps.
#[derive(Default)]
pub struct World {
    /// In the order in which they came.
    pub events: Vec<Value>,
    /// Who is joined.
    pub joined: BTreeSet<String>,
    /// Events that clients don't see.
    pub hidden: BTreeSet<String>,
    /// It answers 502.
    pub is_down: bool,
    /// So many of the next events are taken, and the answer is lost.
    pub lost: usize,
    /// Events of a /sync, at most.
    pub synced_max: Option<usize>,
    /// Where /sync may begin at the earliest.
    pub oldest_since: usize,
    transactions: BTreeMap<String, String>,
}

/// See the module.
#[derive(Clone)]
pub struct Homeserver {
    pub stub: Stub,
    world: Arc<Mutex<World>>,
}

/// Its room.
pub fn room() -> OwnedRoomId {
    room_id!("!r:a.example").to_owned()
}

impl Homeserver {
    /// Zoe and the service user are in the room.
    pub async fn start() -> Self {
        let (stub, world) = (Stub::start().await, Arc::new(Mutex::new(World::default())));
        let answering = Arc::clone(&world);
        stub.answers(move |asked| answer(&mut answering.lock().expect("not poisoned"), asked));
        let server = Self { stub, world };
        server.world().joined =
            ["@causeway:a.example", "@zoe:a.example"].map(str::to_owned).into_iter().collect();
        server
    }

    pub fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("not poisoned")
    }

    /// Somebody sends something; its id.
    pub fn send(&self, sender: &str, kind: &str, key: Option<&str>, content: &Value) -> String {
        self.world().put(sender, kind, key, content)
    }

    /// Somebody writes an item.
    pub fn item(&self, key: &str, n: u64) -> String {
        self.send("@zoe:a.example", "org.causeway.item", Some(key), &json!({ "n": n }))
    }

    /// An event as the server tells it.
    pub fn event(&self, id: &str) -> Value {
        self.world().event(id).expect("an event").clone()
    }

    /// How often it was asked so.
    pub fn asked(&self, method: &Method, part: &str) -> usize {
        let is_so = |asked: &&Asked| asked.method == *method && asked.target.contains(part);
        self.stub.asked().iter().filter(is_so).count()
    }
}

impl World {
    fn put(&mut self, sender: &str, kind: &str, key: Option<&str>, content: &Value) -> String {
        let id = format!("$e{}", self.events.len());
        let mut event = json!({
            "event_id": id, "room_id": room(), "sender": sender, "type": kind, "content": content,
            "origin_server_ts": 5, "unsigned": {},
        });
        if let Some(key) = key {
            event["state_key"] = key.into();
            if let Some(replaced) = self.state(kind, key) {
                event["unsigned"]["replaces_state"] = replaced["event_id"].clone();
            }
        }
        self.events.push(event);
        id
    }

    fn event(&self, id: &str) -> Option<&Value> {
        self.events.iter().find(|event| event["event_id"] == id)
    }

    fn state(&self, kind: &str, key: &str) -> Option<&Value> {
        self.events.iter().rev().find(|event| event["type"] == kind && event["state_key"] == key)
    }

    fn seen(&self, from: usize) -> Vec<Value> {
        let seen = self.events[from.min(self.events.len())..].iter();
        seen.filter(|event| !self.hidden.contains(event["event_id"].as_str().unwrap_or_default()))
            .cloned()
            .collect()
    }

    fn sync(&self, since: Option<usize>, wants_rooms: bool) -> Said {
        if since.is_some_and(|since| since < self.oldest_since) {
            return refusal(400, "M_UNKNOWN");
        }
        let mut events = self.seen(since.unwrap_or_default());
        let most = self.synced_max.unwrap_or(usize::MAX);
        let left_out = events.len().saturating_sub(most);
        let newer = events.split_off(left_out);
        let is_in = self.joined.contains("@causeway:a.example");
        let join = if newer.is_empty() || !is_in || !wants_rooms {
            json!({})
        } else {
            let timeline = json!({ "events": newer, "limited": left_out > 0 });
            json!({ room().as_str(): { "timeline": timeline } })
        };
        ok(&json!({ "next_batch": self.events.len().to_string(), "rooms": { "join": join } }))
    }

    fn messages_on(&self, from: usize) -> Said {
        let end = (from + PAGE).min(self.events.len());
        let mut chunk = self.seen(from);
        chunk.truncate(end - from.min(end));
        let mut page = json!({ "chunk": chunk });
        if end < self.events.len() {
            page["end"] = end.to_string().into();
        }
        ok(&page)
    }

    fn messages(&self, from: Option<usize>) -> Said {
        let end = from.unwrap_or(self.events.len());
        let begin = end.saturating_sub(PAGE);
        let mut chunk = self.seen(0);
        chunk.retain(|event| {
            let at = self.events.iter().position(|other| other["event_id"] == event["event_id"]);
            at.is_some_and(|at| (begin..end).contains(&at))
        });
        chunk.reverse();
        let mut page = json!({ "chunk": chunk });
        if begin > 0 {
            page["end"] = begin.to_string().into();
        }
        ok(&page)
    }
}

fn query(url: &Url, name: &str) -> Option<String> {
    url.query_pairs().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

fn answer(world: &mut World, asked: &Asked) -> Said {
    if world.is_down {
        return refusal(502, "M_UNKNOWN");
    }
    let url = Url::parse(&format!("http://x{}", asked.target)).expect("an address");
    let decoded: Vec<String> = url
        .path_segments()
        .expect("a path")
        .map(|part| percent_encoding::percent_decode_str(part).decode_utf8_lossy().into_owned())
        .collect();
    let path: Vec<&str> = decoded.iter().map(String::as_str).collect();
    let user = query(&url, "user_id").unwrap_or_else(|| "@_causeway_sidecar:a.example".to_owned());
    let number = |name: &str| query(&url, name).and_then(|text| text.parse().ok());
    match (&asked.method, &path[..]) {
        (_, ["_matrix", "client", "v3", "register"] | [.., "ping"]) => ok(&json!({})),
        (_, ["_matrix", "client", "versions"]) => ok(&json!({ "versions": ["v1.15"] })),
        (_, [.., "server_version"]) => ok(&json!({ "server_version": "1.163.2" })),
        (_, [.., "joined_rooms"]) => {
            ok(&json!({ "joined_rooms": if world.joined.contains(&user) { vec![room()] } else { vec![] } }))
        }
        (_, [.., "sync"]) => {
            let filter: Value =
                serde_json::from_str(&query(&url, "filter").unwrap_or_default()).unwrap_or_default();
            let wants_rooms = filter["room"]["rooms"] != json!([]);
            world.sync(number("since"), wants_rooms)
        }
        (_, [.., "joined_members"]) => {
            let joined: BTreeMap<&String, Value> =
                world.joined.iter().map(|user| (user, json!({}))).collect();
            ok(&json!({ "joined": joined }))
        }
        _ if !world.joined.contains(&user) => refusal(403, "M_FORBIDDEN"),
        (_, [.., "messages"]) if query(&url, "dir").as_deref() == Some("f") => {
            world.messages_on(number("from").unwrap_or_default())
        }
        (_, [.., "messages"]) => world.messages(number("from")),
        (_, [.., "event", id]) => match world.event(id) {
            Some(event) if !world.hidden.contains(*id) => ok(event),
            _ => refusal(404, "M_NOT_FOUND"),
        },
        (&Method::GET, [.., "state", kind, key]) => match world.state(kind, key) {
            Some(event) => ok(event),
            None => refusal(404, "M_NOT_FOUND"),
        },
        (&Method::PUT, [.., "state", kind, key]) => {
            let id = world.put(&user, kind, Some(key), &asked.json());
            world.sent(&id)
        }
        (&Method::PUT, [.., "send", kind, transaction]) => {
            let id = match world.transactions.get(*transaction) {
                Some(id) => id.clone(),
                None => world.put(&user, kind, None, &asked.json()),
            };
            world.transactions.insert((*transaction).to_owned(), id.clone());
            world.sent(&id)
        }
        _ => refusal(404, "M_UNRECOGNIZED"),
    }
}

impl World {
    fn sent(&mut self, id: &str) -> Said {
        if self.lost > 0 {
            self.lost -= 1;
            return Said::Now(StatusCode::BAD_GATEWAY, "lost".to_owned());
        }
        ok(&json!({ "event_id": id }))
    }
}
