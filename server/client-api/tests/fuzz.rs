//! Nonsense on every route: whatever is sent, the answer is no 500, and an error is
//! one in Matrix's form.
//!
//! Requests are made by chance from a seed out of what the server knows (users, rooms,
//! events) and of what it can't: paths, queries, bodies of the fields that the
//! specification names with values of any kind. Fields that an answer says are missing are
//! in the next requests to the same route; who asks may confirm it by his password, and on
//! the routes of administrators is one. `CAUSEWAY_FUZZ_SEED` and
//! `CAUSEWAY_FUZZ_ROUNDS` choose another seed and more requests for each route.

mod common;

use std::{collections::BTreeSet, fmt::Write as _, time::Duration};

use axum::body::Body;
use causeway_service::settings::OAuthSettings;
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
    device_data next_batch include scope thread_id lazy_load_members senders types client_id redirect_uri redirect_uris client_uri client_name grant_type grant_types \
    response_type response_types response_mode state code code_challenge code_challenge_method \
    code_verifier refresh_token device_code user_code csrf action password new_password nonce mac \
    admin deactivated locked block purge purge_up_to_ts uses_allowed expiry_time logout_devices width \
    height method animated timeout_ms allow_remote filename";

/// What stands for something, beside what there is in the room.
const WORDS: &str = "\
    @alice:example.org @bob:example.org #plans:example.org DEV !x $x @x #x !x:elsewhere.org \
    @x:elsewhere.org / .. % null 0 -1 18446744073709551616 true m.room.message m.room.member \
    m.room.power_levels m.room.create m.room.encryption m.room.redaction m.space.child \
    org.causeway.item org.causeway.shared_space m.login.dummy m.login.token m.thread m.annotation \
    m.replace m.read m.read.private * join leave b f m.megolm_backup.v1.curve25519-aes-sha2 \
    signed_curve25519:AAAA ed25519:DEV plans/a s1_1 t1-1_1 global underride override content room \
    mxc://example.org/x 1 https://example.com/cb https://example.com/ code S256 authorization_code \
    refresh_token urn:ietf:params:oauth:grant-type:device_code urn:matrix:client:api:* scale crop";

/// What requests are made of.
struct Maker {
    dice: StdRng,
    /// Names of what there is, and of what can't be.
    words: Vec<String>,
    /// Fields that the route has been found to need.
    needed: BTreeSet<String>,
    /// Who asks.
    name: String,
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

    /// What the field of this name may hold, mostly.
    fn value_of(&mut self, field: &str) -> Value {
        if self.dice.random_bool(0.3) {
            return self.value(2);
        }
        match field {
            name if name.ends_with("_id") || name.contains("user") => json!(self.fitting(name)),
            name if name.ends_with('s') || name == "content" || name == "data" => self.object(2),
            _ => json!(self.word()),
        }
    }

    /// An object that has what the route needs, and perhaps the asker's password.
    fn knowing(&mut self) -> Value {
        let mut object = self.object(4);
        for field in self.needed.clone() {
            object[&field] = self.value_of(&field);
        }
        if self.dice.random_bool(0.5) {
            object["auth"] = json!({ "type": "m.login.password", "password": "pw",
                "identifier": { "type": "m.id.user", "user": self.name } });
        }
        object
    }

    /// The same as a form.
    fn form(&mut self) -> String {
        let mut form = String::new();
        for (name, value) in self.knowing().as_object().into_iter().flatten() {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            write!(form, "{name}={}&", encoded(&value)).expect("a String takes all");
        }
        form
    }

    /// Learns from an error which field is missing.
    fn learn(&mut self, said: &str) {
        for part in said.split("missing field `").skip(1) {
            let name = part.split('`').next().unwrap_or_default();
            self.needed.insert(name.trim_end_matches('\\').to_owned());
        }
    }

    fn body(&mut self) -> Vec<u8> {
        match self.dice.random_range(0..20) {
            0 => Vec::new(),
            1 => (0..self.dice.random_range(1..40)).map(|_| self.dice.random()).collect(),
            2 => b"{\"a\":".repeat(400),
            3 => self.value(4).to_string().into_bytes(),
            4..8 => self.object(4).to_string().into_bytes(),
            _ => self.knowing().to_string().into_bytes(),
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
    let server = server_with(|settings| {
        let base = "https://example.org".parse().expect("an address");
        settings.oauth = Some(OAuthSettings { base });
        settings.guests = true;
        settings.media.allow_legacy_download = true;
        settings.registration_shared_secret = Some("secret".to_owned());
        settings.turn.uris = vec!["turn:example.org".to_owned()];
        settings.turn.secret = Some("secret".to_owned());
    });
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
async fn member(server: &Server, room: &str, name: &str) -> String {
    let token = server.register(name).await;
    server.post(&format!("/_matrix/client/v3/join/{}", encoded(room)), &token, json!({})).await;
    token
}

/// Whether only administrators are answered.
fn is_for_administrators(template: &str) -> bool {
    ["/admin/", "/_causeway/", "/lock/", "/suspend/", "/whois/"].iter().any(|part| template.contains(part))
}

/// Whether an error is one in the form of its API.
fn is_proper(template: &str, answer: &common::Answer) -> bool {
    let error: Value = serde_json::from_slice(&answer.bytes).unwrap_or_default();
    let errcode = error["errcode"].as_str().unwrap_or_default();
    // The first answer of an authentication in stages has none.
    let in_stages = answer.status == 401 && error["flows"].is_array();
    // OAuth has its own errors, and pages for users.
    let kind = answer.head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let is_page = kind.is_some_and(|kind| kind.starts_with("text/html"));
    let of_oauth = template.starts_with("/_matrix/oauth/") && (is_page || error["error"].is_string());
    in_stages || of_oauth || errcode.starts_with("M_") || errcode.starts_with("ORG.")
}

#[tokio::test(flavor = "multi_thread")]
async fn nonsense_on_every_route_gets_an_error_of_its_api_and_never_a_500() {
    let chosen = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seed = chosen("CAUSEWAY_FUZZ_SEED").unwrap_or(SEED);
    let rounds =
        chosen("CAUSEWAY_FUZZ_ROUNDS").map_or(ROUNDS, |rounds| u32::try_from(rounds).unwrap_or(ROUNDS));
    // What administrators do leaves little for others.
    let (servers, words) = ([furnished().await, furnished().await], Vec::new());
    let (needed, name) = (BTreeSet::new(), String::new());
    let mut maker = Maker { dice: StdRng::seed_from_u64(seed), words, needed, name };
    let routes = causeway_client_api::paths();
    for part in ["/media/v3/upload", "/v1/media/download/{server}/{media}", "/oauth/token", "/admin/"] {
        assert!(routes.iter().any(|(_, path)| path.contains(part)), "{part} is not known");
    }
    assert!(routes.len() > 230, "only {} routes are known", routes.len());
    let (mut answered, mut succeeded) = (0, BTreeSet::new());
    for (number, (method, template)) in routes.iter().enumerate() {
        let rules = is_for_administrators(template);
        let (server, words) = &servers[usize::from(rules)];
        (maker.words, maker.needed, maker.name) = (words.clone(), BTreeSet::new(), format!("member{number}"));
        let token = member(server, &words[0], &maker.name).await;
        if rules {
            let user_id = format!("@{}:example.org", maker.name).try_into().expect("a user id");
            let user_id: ruma::OwnedUserId = user_id;
            server.services.accounts.set_admin(&user_id, true).expect("is stored");
        }
        for _ in 0..rounds {
            let (uri, mut body) = (maker.uri(template), maker.body());
            if template.starts_with("/_matrix/oauth/") && maker.dice.random_bool(0.8) {
                body = maker.form().into_bytes();
            }
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
            maker.learn(&said);
            let request = format!("seed {seed}: {method} {uri}\n{shown}\n{} {said}", answer.status);
            // 502 to 504 say that another server can't be asked.
            assert!(answer.status != StatusCode::INTERNAL_SERVER_ERROR, "{request}");
            if answer.status.as_u16() >= 400 {
                assert!(is_proper(template, &answer), "{request}");
            } else {
                succeeded.insert(number);
            }
        }
    }
    assert!(answered > routes.len(), "most requests are answered: {answered}");
    // Else only the doors are tried, and nothing behind them.
    assert!(succeeded.len() * 3 > routes.len(), "{} of {}", succeeded.len(), routes.len());
}
