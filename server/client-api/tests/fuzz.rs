//! Nonsense on every route: whatever is sent, the answer is no 500, and an error is
//! one in Matrix's form.
//!
//! Requests are made by chance from a seed out of what the server knows (users, rooms,
//! events) and of what it can't: paths, queries, bodies of the fields that the
//! specification names with values of any kind. `CAUSEWAY_FUZZ_SEED` and
//! `CAUSEWAY_FUZZ_ROUNDS` choose another seed and more requests for each route.

mod common;

use std::{fmt::Write as _, time::Duration};

use axum::body::Body;
use http::{Method, Request, StatusCode, header};
use rand::{RngExt as _, SeedableRng, rngs::StdRng};
use serde_json::{Map, Value, json};

use common::{Server, server_with};

/// Requests for each method and path.
const ROUNDS: u32 = 12;
const SEED: u64 = 20_261_123;
/// A long poll that goes on for so long is good enough.
const PATIENCE: Duration = Duration::from_millis(300);

/// Fields that requests have.
const FIELDS: &str = "\
    room_id user_id event_id type content state_key membership reason filter rooms timeline limit \
    device_keys one_time_keys fallback_keys signatures auth identifier user session device_id keys \
    algorithm algorithms messages lists ranges room_subscriptions required_state timeline_limit \
    extensions to_device e2ee account_data receipts typing enabled filters since pos timeout \
    conn_id search_categories room_events search_term order_by event_context groupings preset \
    invite initial_state power_level_content_override creation_content room_version name topic \
    visibility new_version writes value token key on_conflict after msgtype body m.relates_to \
    rel_type m.mentions user_ids users events users_default ban displayname avatar_url presence \
    status_msg actions conditions pattern pushers app_id pushkey kind data url lang append \
    master_key self_signing_key usage auth_data version sessions first_message_index \
    forwarded_count is_verified session_data order included_in_spaces m.fully_read m.read dir from \
    to at not_membership generic_search_term max_depth suggested_only ts access_token via server \
    format allow join_rule alias alt_aliases m.federate redacts initial_device_display_name \
    device_data next_batch include scope thread_id lazy_load_members senders types";

/// What stands for something, beside what there is in the room.
const WORDS: &str = "\
    @alice:example.org @bob:example.org #plans:example.org DEV !x $x @x #x !x:elsewhere.org \
    @x:elsewhere.org / .. % null 0 -1 18446744073709551616 true m.room.message m.room.member \
    m.room.power_levels m.room.create m.room.encryption m.room.redaction m.space.child \
    org.causeway.item org.causeway.shared_space m.login.dummy m.login.token m.thread m.annotation \
    m.replace m.read m.read.private * join leave b f m.megolm_backup.v1.curve25519-aes-sha2 \
    signed_curve25519:AAAA ed25519:DEV plans/a s1_1 t1-1_1 global underride override content room \
    mxc://example.org/x 1";

/// What requests are made of.
struct Maker {
    dice: StdRng,
    /// Names of what there is, and of what can't be.
    words: Vec<String>,
}

impl Maker {
    fn field(&mut self) -> &'static str {
        let fields: Vec<&str> = FIELDS.split_whitespace().collect();
        fields[self.dice.random_range(0..fields.len())]
    }

    fn word(&mut self) -> String {
        self.words[self.dice.random_range(0..self.words.len())].clone()
    }

    /// A word that can stand for a parameter of this name.
    fn fitting(&mut self, parameter: &str) -> String {
        let starts: &[&str] = match parameter {
            name if name.contains("room") => &["!"],
            name if name.contains("user") => &["@"],
            name if name.contains("event_id") => &["$"],
            name if name.contains("alias") => &["#"],
            name if name.contains("event_type") || name.contains("{type}") => &["m.", "org."],
            _ => return self.word(),
        };
        let fit: Vec<usize> = (0..self.words.len())
            .filter(|at| starts.iter().any(|start| self.words[*at].starts_with(start)))
            .collect();
        // The first of a kind is the one that there is.
        let at = if self.dice.random_bool(0.7) { 0 } else { self.dice.random_range(0..fit.len()) };
        self.words[fit[at]].clone()
    }

    fn value(&mut self, depth: u32) -> Value {
        match self.dice.random_range(0..if depth == 0 { 7 } else { 11 }) {
            0 => Value::Null,
            1 => json!(self.dice.random_bool(0.5)),
            2 => json!(self.dice.random_range(-3..200)),
            3 => json!([i64::MAX, i64::MIN, 1 << 53, -(1 << 53)][self.dice.random_range(0..4)]),
            4 => json!(1.5),
            5 | 6 => json!(self.word()),
            7 | 8 => (0..self.dice.random_range(0..4)).map(|_| self.value(depth - 1)).collect(),
            _ => self.object(depth - 1),
        }
    }

    fn object(&mut self, depth: u32) -> Value {
        let mut object = Map::new();
        for _ in 0..self.dice.random_range(0..6) {
            let name = if self.dice.random_bool(0.8) { self.field().to_owned() } else { self.word() };
            let value = self.value(depth);
            object.insert(name, value);
        }
        Value::Object(object)
    }

    fn body(&mut self) -> Vec<u8> {
        match self.dice.random_range(0..20) {
            0 => Vec::new(),
            1 => (0..self.dice.random_range(1..40)).map(|_| self.dice.random()).collect(),
            2 => b"{\"a\":".repeat(400),
            3 => self.value(4).to_string().into_bytes(),
            _ => self.object(4).to_string().into_bytes(),
        }
    }

    /// The path with something for each parameter, and perhaps a query.
    fn uri(&mut self, template: &str) -> String {
        let mut uri = String::new();
        for segment in template.split('/').skip(1) {
            uri.push('/');
            if segment.starts_with('{') {
                let word = if self.dice.random_bool(0.8) { self.fitting(segment) } else { self.word() };
                uri.push_str(&encoded(&word));
            } else {
                uri.push_str(segment);
            }
        }
        for at in 0..self.dice.random_range(0..4) {
            let (name, value) = (self.field(), self.value(1));
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let mark = if at == 0 { '?' } else { '&' };
            write!(uri, "{mark}{name}={}", encoded(&value)).expect("a String takes all");
        }
        uri
    }
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |mut all, byte| {
        write!(all, "%{byte:02X}").expect("a String takes all");
        all
    })
}

/// A server with something to find, and what it is called.
async fn furnished() -> (Server, Vec<String>) {
    let server = server_with(|_| ());
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let body = json!({ "preset": "public_chat", "room_alias_name": "plans", "invite": ["@bob:example.org"],
        "initial_state": [{ "type": "org.causeway.shared_space", "state_key": "", "content": {} }] });
    let room = server.post("/_matrix/client/v3/createRoom", &alice, body).await.ok()["room_id"].clone();
    let room = room.as_str().expect("a room").to_owned();
    server.post(&format!("/_matrix/client/v3/join/{}", encoded(&room)), &bob, json!({})).await.ok();
    let send = format!("/_matrix/client/v3/rooms/{}/send/m.room.message/one", encoded(&room));
    let event = server.put(&send, &alice, json!({ "msgtype": "m.text", "body": "hello" })).await.ok();
    let event = event["event_id"].as_str().expect("an event").to_owned();
    let long = "x".repeat(300);
    let odd = [&*room, &*event, &*long, "", " ", "\u{0}", "\u{1F4A5}"];
    let words = odd.into_iter().chain(WORDS.split_whitespace()).map(str::to_owned).collect();
    (server, words)
}

/// A member of the room whose token nothing has revoked yet.
async fn member(server: &Server, room: &str, number: u32) -> String {
    let token = server.register(&format!("member{number}")).await;
    server.post(&format!("/_matrix/client/v3/join/{}", encoded(room)), &token, json!({})).await;
    token
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_on_every_route_gets_an_error_of_matrix_and_never_a_500() {
    let chosen = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = chosen("CAUSEWAY_FUZZ_SEED").unwrap_or(SEED);
    let rounds =
        chosen("CAUSEWAY_FUZZ_ROUNDS").map_or(ROUNDS, |rounds| u32::try_from(rounds).unwrap_or(ROUNDS));
    let (server, words) = furnished().await;
    let room = words[0].clone();
    let mut maker = Maker { dice: StdRng::seed_from_u64(seed), words };
    let routes = causeway_client_api::paths();
    assert!(routes.len() > 200, "only {} routes are known", routes.len());
    let mut answered = 0;
    for (number, (method, template)) in (0_u32..).zip(&routes) {
        let token = member(&server, &room, number).await;
        for _ in 0..rounds {
            let (uri, body) = (maker.uri(template), maker.body());
            let mut request = Request::builder().method(method).uri(&uri);
            match maker.dice.random_range(0..10) {
                0 => {}
                1 => request = request.header(header::AUTHORIZATION, "Bearer nonsense"),
                _ => request = request.header(header::AUTHORIZATION, format!("Bearer {token}")),
            }
            let sent = if method == Method::GET { Vec::new() } else { body };
            let shown = String::from_utf8_lossy(&sent).into_owned();
            let request = request.body(Body::from(sent)).expect("a request");
            let Ok(answer) = tokio::time::timeout(PATIENCE, server.send(request)).await else { continue };
            answered += 1;
            let said = String::from_utf8_lossy(&answer.bytes).into_owned();
            let request = format!("seed {seed}: {method} {uri}\n{shown}\n{} {said}", answer.status);
            // 502 to 504 say that another server can't be asked.
            assert!(answer.status != StatusCode::INTERNAL_SERVER_ERROR, "{request}");
            if answer.status.as_u16() >= 400 {
                let error: Value = serde_json::from_slice(&answer.bytes).unwrap_or_default();
                let errcode = error["errcode"].as_str().unwrap_or_default();
                // The first answer of an authentication in stages has none.
                let in_stages = answer.status == 401 && error["flows"].is_array();
                assert!(in_stages || errcode.starts_with("M_") || errcode.starts_with("ORG."), "{request}");
            }
        }
    }
    assert!(answered > routes.len(), "most requests are answered: {answered}");
}
