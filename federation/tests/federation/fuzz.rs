//! Nonsense on every route, signed: whatever is sent, the answer is no 500, and an
//! error is one in Matrix's form.
//!
//! Requests are made by chance from a seed. `CAUSEWAY_FUZZ_SEED` and
//! `CAUSEWAY_FUZZ_ROUNDS` choose another seed and more requests for each route.

use std::fmt::Write as _;

use http::{Method, StatusCode};
use rand::{RngExt as _, SeedableRng, rngs::StdRng};
use ruma::RoomVersionId;
use serde_json::{Map, Value, json};

use crate::support::Network;

/// Requests for each method and path.
const ROUNDS: u64 = 12;
const SEED: u64 = 20_261_123;

/// What is served, below `/_matrix/`.
const ROUTES: &[(Method, &str)] = &[
    (Method::PUT, "federation/v1/send/{txn}"),
    (Method::PUT, "federation/v1/invite/{room}/{event}"),
    (Method::PUT, "federation/v2/invite/{room}/{event}"),
    (Method::GET, "federation/v1/make_join/{room}/{user}"),
    (Method::GET, "federation/v1/make_leave/{room}/{user}"),
    (Method::GET, "federation/v1/make_knock/{room}/{user}"),
    (Method::PUT, "federation/v1/send_join/{room}/{event}"),
    (Method::PUT, "federation/v2/send_join/{room}/{event}"),
    (Method::PUT, "federation/v1/send_leave/{room}/{event}"),
    (Method::PUT, "federation/v2/send_leave/{room}/{event}"),
    (Method::PUT, "federation/v1/send_knock/{room}/{event}"),
    (Method::GET, "federation/v1/user/devices/{user}"),
    (Method::POST, "federation/v1/user/keys/query"),
    (Method::POST, "federation/v1/user/keys/claim"),
    (Method::GET, "federation/v1/backfill/{room}"),
    (Method::POST, "federation/v1/get_missing_events/{room}"),
    (Method::GET, "federation/v1/hierarchy/{room}"),
    (Method::GET, "federation/v1/state/{room}"),
    (Method::GET, "federation/v1/state_ids/{room}"),
    (Method::GET, "federation/v1/event/{event}"),
    (Method::GET, "federation/v1/event_auth/{room}/{event}"),
    (Method::GET, "federation/v1/timestamp_to_event/{room}"),
    (Method::GET, "federation/v1/query/profile"),
    (Method::GET, "federation/v1/query/directory"),
    (Method::GET, "federation/v1/publicRooms"),
    (Method::POST, "federation/v1/publicRooms"),
    (Method::GET, "federation/v1/openid/userinfo"),
    (Method::GET, "federation/v1/version"),
    (Method::GET, "federation/v1/media/download/{media}"),
    (Method::GET, "federation/v1/media/thumbnail/{media}"),
    (Method::GET, "federation/unstable/org.causeway/versions"),
    (Method::POST, "federation/unstable/org.causeway/rooms/{room}/changes"),
    (Method::POST, "federation/unstable/org.causeway/rooms/{room}/values"),
    (Method::POST, "federation/unstable/org.causeway/rooms/{room}/adopted"),
    (Method::PUT, "federation/unstable/org.causeway/send/{txn}"),
    (Method::GET, "federation/unstable/org.causeway/media/{server}/{media}"),
    (Method::GET, "key/v2/server/{key}"),
    (Method::POST, "key/v2/query"),
    (Method::GET, "key/v2/query/{server}"),
    (Method::GET, "key/v2/query/{server}/{key}"),
];

/// Fields that requests have.
const FIELDS: &str = "\
    pdus edus edu_type content origin origin_server_ts destination room_id room_version event type \
    state_key sender prev_events auth_events depth hashes sha256 signatures unsigned redacts \
    membership invite_room_state knock_room_state members_omitted user_id user_ids device_keys \
    one_time_keys earliest_events latest_events limit min_depth event_id v ver ts dir field \
    room_alias since third_party_instance_id include_all_networks filter generic_search_term \
    suggested_only access_token width height method timeout_ms server_keys \
    minimum_valid_until_ts after also servers skip bytes vector full digest changes ids values \
    events header value signature keys next allow_remote";

/// What stands for something, beside what there is in the room. No `..`: clients resolve it.
const WORDS: &str = "\
    !x:a.test !x:elsewhere.test $x @x:a.test @x:elsewhere.test #x:a.test m.test elsewhere.test 12 11 \
    1 m.room.member m.room.create m.room.message join leave invite knock f b ed25519:1 org.causeway.item \
    org.causeway.version_vector m.typing m.receipt m.presence m.direct_to_device m.device_list_update \
    m.signing_key_update / % null -1 18446744073709551616";

struct Maker {
    dice: StdRng,
    words: Vec<String>,
}

impl Maker {
    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.dice.random_range(0..of.len())]
    }

    fn field(&mut self) -> &'static str {
        let fields: Vec<&str> = FIELDS.split_whitespace().collect();
        self.one(&fields)
    }

    fn word(&mut self) -> String {
        self.words[self.dice.random_range(0..self.words.len())].clone()
    }

    /// The word for a parameter: mostly the one that there is, which is the first that fits.
    fn fitting(&mut self, parameter: &str) -> String {
        let start = match parameter {
            "{room}" => "!",
            "{event}" => "$",
            "{user}" => "@",
            "{server}" => "m.test",
            _ => return self.word(),
        };
        let fits = self.words.iter().find(|word| word.starts_with(start)).cloned();
        match fits {
            Some(word) if self.dice.random_bool(0.7) => word,
            _ => self.word(),
        }
    }

    fn value(&mut self, depth: u32) -> Value {
        match self.dice.random_range(0..if depth == 0 { 6 } else { 10 }) {
            0 => Value::Null,
            1 => json!(self.dice.random_bool(0.5)),
            2 => json!(self.dice.random_range(-3..200)),
            3 => json!(1_i64 << 53).as_i64().map_or(Value::Null, |most| json!(most - 1)),
            4 | 5 => json!(self.word()),
            6 | 7 => (0..self.dice.random_range(0..4)).map(|_| self.value(depth - 1)).collect(),
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

    fn body(&mut self) -> Value {
        if self.dice.random_bool(0.1) { self.value(4) } else { self.object(5) }
    }

    /// The path with something for each parameter, and perhaps a query.
    fn uri(&mut self, template: &str) -> String {
        let mut uri = String::from("/_matrix");
        for segment in template.split('/') {
            if !segment.starts_with('{') {
                write!(uri, "/{segment}").expect("a String takes all");
                continue;
            }
            // Without anything it would be another path.
            let word = Some(self.fitting(segment)).filter(|word| !word.is_empty());
            write!(uri, "/{}", encoded(word.as_deref().unwrap_or("x"))).expect("a String takes all");
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

fn chosen(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_nonsense_on_every_route_gets_an_error_of_matrix_and_never_a_500() {
    let (seed, rounds) =
        (chosen("CAUSEWAY_FUZZ_SEED").unwrap_or(SEED), chosen("CAUSEWAY_FUZZ_ROUNDS").unwrap_or(ROUNDS));
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "m.test"]);
    let a = network.start("a.test", folders[0].path());
    let m = network.start("m.test", folders[1].path());
    let (alice, mallory) = (a.user("alice"), m.user("mallory"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    m.join(&room, &mallory, &a.name).await.expect("joins");
    let said = a.send(&room, &alice, "m.room.message", None, json!({ "body": "x" })).await;
    let long = "x".repeat(300);
    let names = [room.as_str(), said.as_str(), mallory.as_str(), alice.as_str(), &long, "", " ", "\u{0}"];
    let words = names.into_iter().chain(WORDS.split_whitespace()).map(str::to_owned).collect();
    let mut maker = Maker { dice: StdRng::seed_from_u64(seed), words };
    let mut served = 0;
    for (method, template) in ROUTES {
        for _ in 0..rounds {
            let (uri, body) = (maker.uri(template), maker.body());
            let body = (method != Method::GET).then_some(body);
            let shown = format!("seed {seed}: {method} {uri}\n{body:?}");
            let answer = m.state.client().request(&a.name, method.clone(), &uri, body.as_ref()).await;
            let (status, answer) = answer.unwrap_or_else(|error| panic!("{shown}\n{error:?}"));
            let shown = format!("{shown}\n{status} {}", String::from_utf8_lossy(&answer));
            // 502 to 504 say that another server can't be asked.
            assert!(status != StatusCode::INTERNAL_SERVER_ERROR, "{shown}");
            if status.as_u16() >= 400 {
                let error: Value = serde_json::from_slice(&answer).unwrap_or_default();
                assert!(error["errcode"].as_str().is_some_and(|code| code.starts_with("M_")), "{shown}");
                assert_ne!(error["errcode"], "M_UNAUTHORIZED", "it is signed: {shown}");
                assert_ne!(error["errcode"], "M_UNRECOGNIZED", "it is served: {shown}");
            }
            served += u64::from(status.is_success());
        }
    }
    assert!(served > 20, "some find what there is: {served}");
    // It still serves.
    let said = a.send(&room, &alice, "m.room.message", None, json!({ "body": "y" })).await;
    m.has(&said).await;
    a.stop().await;
    m.stop().await;
}
