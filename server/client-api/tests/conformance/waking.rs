//! What ends a long poll, of /sync and of simplified sliding sync alike: all that the one who
//! waits is told of, and nothing that is not his.
//!
//! Bob waits, while requests of others and of his other device are made one after the other.
//! That something ends no poll is seen by what does end it: a message that is sent
//! afterwards, with which nothing else may come.

use std::{collections::BTreeSet, time::Duration};

use serde_json::{Value, json};

use super::{V3, bodies, files::device_keys, id, list};
use crate::common::{Server, server};

const SLIDING: &str = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
/// A request: whose, how, where, with what.
type Act<'a> = (&'a str, &'a str, String, Value);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Sync,
    Sliding,
}

impl Kind {
    /// Asks from a place, or from the beginning.
    async fn ask(self, server: &Server, token: &str, after: Option<&Value>, timeout_ms: u64) -> Value {
        match self {
            Self::Sync => {
                let since = after.map_or_else(String::new, |answer| {
                    format!("since={}&", answer["next_batch"].as_str().expect("a token"))
                });
                server.get(&format!("{V3}/sync?{since}timeout={timeout_ms}"), token).await.ok()
            }
            Self::Sliding => {
                let pos = after.map_or_else(String::new, |answer| {
                    format!("pos={}&", answer["pos"].as_str().expect("a position"))
                });
                let on = json!({ "enabled": true });
                let body = json!({
                    "lists": { "all": { "ranges": [[0, 9]], "timeline_limit": 5, "required_state": [["*", "*"]] } },
                    "extensions": { "to_device": on, "e2ee": on, "account_data": on, "receipts": on, "typing": on },
                });
                server.post(&format!("{SLIDING}?{pos}timeout={timeout_ms}"), token, body).await.ok()
            }
        }
    }

    /// What an answer tells of, by sections. Both have what is of a room in `rooms`.
    fn told(self, answer: &Value) -> BTreeSet<&'static str> {
        let places: &[(&str, &[&str])] = match self {
            Self::Sync => &[
                ("rooms", &["/rooms/join", "/rooms/invite", "/rooms/knock", "/rooms/leave"]),
                ("account_data", &["/account_data/events"]),
                ("to_device", &["/to_device/events"]),
                ("presence", &["/presence/events"]),
                ("devices", &["/device_lists/changed", "/device_lists/left"]),
            ],
            Self::Sliding => &[
                ("rooms", &["/rooms", "/extensions/receipts/rooms", "/extensions/typing/rooms"]),
                ("rooms", &["/extensions/account_data/rooms"]),
                ("account_data", &["/extensions/account_data/global"]),
                ("to_device", &["/extensions/to_device/events"]),
                ("devices", &["/extensions/e2ee/device_lists/changed", "/extensions/e2ee/device_lists/left"]),
            ],
        };
        let is_full = |value: &Value| {
            value.as_array().is_some_and(|all| !all.is_empty())
                || value.as_object().is_some_and(|all| !all.is_empty())
        };
        let holds = |paths: &&[&str]| paths.iter().any(|path| answer.pointer(path).is_some_and(is_full));
        places.iter().filter(|(_, paths)| holds(paths)).map(|(section, _)| *section).collect()
    }
}

/// Who there is: Alice and Bob are in one room, Alice and Carol in another. Bob waits with two
/// devices, with one for each kind of sync, and has a tablet.
struct People {
    server: Server,
    alice: String,
    waiting: [(Kind, String); 2],
    tablet: String,
    carol: String,
    room: String,
    other: String,
    said: String,
}

impl People {
    async fn meet() -> Self {
        let server = server();
        let (alice, bob) = (server.register("alice").await, server.register("bob").await);
        let (carol, tablet) = (server.register("carol").await, server.login("bob", "TAB").await);
        let waiting = [(Kind::Sync, bob.clone()), (Kind::Sliding, server.login("bob", "PHONE").await)];
        let (room, other) = (server.shared(&[&alice, &bob]).await, server.shared(&[&alice, &carol]).await);
        let said = server.say(&alice, &room, "first").await;
        Self { server, alice, waiting, tablet, carol, room, other, said }
    }

    /// What Bob's devices are told that wait while these requests are made.
    async fn told_during(&self, acts: &[Act<'_>]) -> [(Kind, Value); 2] {
        let [(first, phone), (second, desk)] = &self.waiting;
        let begin = async |kind: Kind, token: &str| {
            let start = kind.ask(&self.server, token, None, 0).await;
            kind.ask(&self.server, token, Some(&start), 0).await
        };
        let starts = (begin(*first, phone).await, begin(*second, desk).await);
        let happens = async {
            for (by, method, path, body) in acts {
                let done = self.server.ask(method, path, Some(by), Some(body.clone())).await;
                assert!(done.status.is_success(), "{method} {path}: {}", done.json());
                // Time for a poll to end that has no reason to.
                for _ in 0..4 {
                    self.server.get(&format!("{V3}/account/whoami"), by).await.ok();
                }
            }
        };
        let polls = async {
            tokio::join!(
                first.ask(&self.server, phone, Some(&starts.0), 60_000),
                second.ask(&self.server, desk, Some(&starts.1), 60_000),
                happens
            )
        };
        let woken = tokio::time::timeout(Duration::from_secs(20), polls).await;
        let told = woken.unwrap_or_else(|_| panic!("somebody was not woken by {:?}", acts.last()));
        [(*first, told.0), (*second, told.1)]
    }
}

fn message(room: &str, text: &str) -> (String, Value) {
    let path = format!("{V3}/rooms/{room}/send/m.room.message/{text}");
    (path, json!({ "msgtype": "m.text", "body": text }))
}

#[tokio::test]
async fn a_long_poll_ends_for_all_that_concerns_whoever_waits() {
    let all = People::meet().await;
    let People { alice, tablet, carol, room, said, .. } = &all;
    let (bob, his) = (id("bob"), format!("{V3}/user/{}", id("bob")));
    let of = |what: &str| format!("{V3}/rooms/{room}/{what}");
    let (say, words) = message(room, "hello");
    let reaction = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": said, "key": "x" } });
    let typing = json!({ "typing": true, "timeout": 30_000 });
    let to_bob = json!({ "messages": { &bob: { "*": { "n": 1 } } } });
    let x = || json!({ "x": 1 });
    let acts: Vec<(&str, &str, &str, String, Value)> = vec![
        ("rooms", alice, "PUT", say, words),
        ("rooms", alice, "PUT", of("send/m.reaction/1"), reaction),
        ("rooms", alice, "PUT", of("state/m.room.topic"), json!({ "topic": "t" })),
        ("rooms", alice, "PUT", of(&format!("typing/{}", id("alice"))), typing),
        ("rooms", alice, "POST", of(&format!("receipt/m.read/{said}")), json!({})),
        ("rooms", tablet, "POST", of(&format!("receipt/m.read.private/{said}")), json!({})),
        ("rooms", tablet, "POST", of("read_markers"), json!({ "m.fully_read": said })),
        ("rooms", tablet, "PUT", format!("{his}/rooms/{room}/tags/u.x"), json!({})),
        ("rooms", tablet, "PUT", format!("{his}/rooms/{room}/account_data/org.test"), x()),
        ("account_data", tablet, "PUT", format!("{his}/account_data/org.test"), x()),
        (
            "account_data",
            tablet,
            "PUT",
            format!("{V3}/pushrules/global/room/{room}"),
            json!({ "actions": [] }),
        ),
        ("rooms", alice, "PUT", of(&format!("redact/{said}/1")), json!({})),
        (
            "rooms",
            alice,
            "PUT",
            format!("{V3}/profile/{}/displayname", id("alice")),
            json!({ "displayname": "A" }),
        ),
        ("rooms", carol, "POST", of("join"), json!({})),
        ("rooms", carol, "POST", of("leave"), json!({})),
        ("rooms", alice, "POST", format!("{V3}/createRoom"), json!({ "invite": [bob] })),
        ("rooms", alice, "POST", of("kick"), json!({ "user_id": id("bob") })),
        ("rooms", tablet, "POST", of("join"), json!({})),
        ("rooms", tablet, "POST", of("leave"), json!({})),
        // Comes again until it is acknowledged, so it is the last.
        ("to_device", alice, "PUT", format!("{V3}/sendToDevice/m.test/1"), to_bob),
    ];
    for (section, by, method, path, body) in acts {
        for (kind, answer) in all.told_during(&[(by, method, path.clone(), body)]).await {
            assert!(kind.told(&answer).contains(section), "{kind:?}: {method} {path}: {answer}");
        }
    }
}

#[tokio::test]
async fn a_long_poll_ends_when_keys_of_the_device_are_given_away() {
    let all = People::meet().await;
    let keys = json!({
        "one_time_keys": { "signed_curve25519:A": { "key": "1" }, "signed_curve25519:B": { "key": "2" } },
        "fallback_keys": { "signed_curve25519:F": { "key": "3", "fallback": true } },
    });
    for (_, token) in &all.waiting {
        all.server.post(&format!("{V3}/keys/upload"), token, keys.clone()).await.ok();
    }
    let claim = || -> Act<'_> {
        let of_both = json!({ "DEV": "signed_curve25519", "PHONE": "signed_curve25519" });
        let body = json!({ "one_time_keys": { id("bob"): of_both } });
        (&all.alice, "POST", format!("{V3}/keys/claim"), body)
    };
    let counts = |kind: Kind, answer: &Value| {
        let of = if kind == Kind::Sync { answer } else { &answer["extensions"]["e2ee"] };
        let count = of["device_one_time_keys_count"]["signed_curve25519"].as_u64();
        (count.expect("a count"), list(&of["device_unused_fallback_key_types"]).len())
    };
    for left in [(1, 1), (0, 1), (0, 0)] {
        for (kind, answer) in all.told_during(&[claim()]).await {
            assert_eq!(counts(kind, &answer), left, "{kind:?}: {answer}");
            assert_eq!(kind.told(&answer), BTreeSet::new(), "{kind:?}: {answer}");
        }
    }
    // The fallback key is given again and again, which is no news.
    let (path, body) = message(&all.room, "after");
    for (kind, answer) in all.told_during(&[claim(), (&all.alice, "PUT", path, body)]).await {
        assert_eq!(kind.told(&answer), BTreeSet::from(["rooms"]), "{kind:?}: {answer}");
    }
}

#[tokio::test]
async fn a_long_poll_ends_when_devices_change_and_that_of_sync_when_presence_does() {
    let all = People::meet().await;
    let keys = json!({ "device_keys": device_keys("alice", "DEV") });
    for (method, path, body) in
        [("POST", "keys/upload", keys), ("PUT", "devices/DEV", json!({ "display_name": "Desk" }))]
    {
        let act = (&*all.alice, method, format!("{V3}/{path}"), body);
        for (kind, answer) in all.told_during(&[act]).await {
            assert_eq!(kind.told(&answer), BTreeSet::from(["devices"]), "{kind:?}: {path}: {answer}");
        }
    }
    // Sliding sync knows no presence.
    let (kind, token) = &all.waiting[0];
    let start = kind.ask(&all.server, token, None, 0).await;
    let start = kind.ask(&all.server, token, Some(&start), 0).await;
    let status = format!("{V3}/presence/{}/status", id("alice"));
    let away = all.server.put(&status, &all.alice, json!({ "presence": "unavailable" }));
    let both = async { tokio::join!(kind.ask(&all.server, token, Some(&start), 60_000), away) };
    let woken = tokio::time::timeout(Duration::from_secs(20), both).await;
    let (answer, _) = woken.expect("presence ends the poll");
    assert_eq!(kind.told(&answer), BTreeSet::from(["presence"]), "{answer}");
}

#[tokio::test]
async fn a_long_poll_goes_on_for_all_that_concerns_others() {
    let all = People::meet().await;
    let People { alice, tablet, carol, room, other, said, .. } = &all;
    let (hers, his) = (format!("{V3}/user/{}", id("alice")), format!("{V3}/user/{}", id("bob")));
    let (theirs, of) = (format!("{V3}/rooms/{other}"), format!("{V3}/rooms/{room}"));
    let (say, words) = message(other, "hello");
    let typing = json!({ "typing": true, "timeout": 30_000 });
    let to = |user: &str, device: &str| json!({ "messages": { id(user): { device: { "n": 1 } } } });
    let key = json!({ "one_time_keys": { "signed_curve25519:A": { "key": "1" } } });
    let x = || json!({ "x": 1 });
    let backup = json!({ "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": {} });
    let pusher = json!({ "app_id": "a", "app_display_name": "a", "device_display_name": "d", "kind": "http",
        "lang": "en", "pushkey": "k", "data": { "url": "https://push.example.org/_matrix/push/v1/notify" } });
    let acts: Vec<Act<'_>> = vec![
        (carol, "PUT", say, words),
        (alice, "PUT", format!("{theirs}/state/m.room.topic"), json!({ "topic": "t" })),
        (carol, "PUT", format!("{theirs}/typing/{}", id("carol")), typing),
        (carol, "PUT", format!("{V3}/profile/{}/displayname", id("carol")), json!({ "displayname": "C" })),
        (carol, "PUT", format!("{V3}/presence/{}/status", id("carol")), json!({ "presence": "online" })),
        (alice, "POST", format!("{V3}/createRoom"), json!({ "invite": [id("carol")] })),
        (alice, "PUT", format!("{hers}/account_data/org.test"), x()),
        (alice, "PUT", format!("{hers}/rooms/{room}/account_data/org.test"), x()),
        (alice, "PUT", format!("{hers}/rooms/{room}/tags/u.x"), json!({})),
        (alice, "POST", format!("{of}/receipt/m.read.private/{said}"), json!({})),
        (alice, "POST", format!("{of}/read_markers"), json!({ "m.fully_read": said })),
        (alice, "PUT", format!("{V3}/pushrules/global/room/{room}"), json!({ "actions": [] })),
        (alice, "PUT", format!("{V3}/sendToDevice/m.test/1"), to("carol", "*")),
        (alice, "PUT", format!("{V3}/sendToDevice/m.test/2"), to("bob", "TAB")),
        (tablet, "POST", format!("{his}/filter"), json!({})),
        (tablet, "POST", format!("{V3}/keys/upload"), key),
        (
            alice,
            "POST",
            format!("{V3}/keys/claim"),
            json!({ "one_time_keys": { id("bob"): { "TAB": "signed_curve25519" } } }),
        ),
        (tablet, "POST", format!("{V3}/room_keys/version"), backup),
        (tablet, "POST", format!("{V3}/pushers/set"), pusher),
        (tablet, "PUT", format!("{V3}/devices/TAB"), json!({ "display_name": "Tablet" })),
        (carol, "POST", format!("{theirs}/leave"), json!({})),
    ];
    for (number, act) in acts.into_iter().enumerate() {
        let text = format!("after{number}");
        let shown = format!("{} {}", act.1, act.2);
        let (path, body) = message(room, &text);
        for (kind, answer) in all.told_during(&[act, (alice, "PUT", path, body)]).await {
            assert_eq!(kind.told(&answer), BTreeSet::from(["rooms"]), "{kind:?}: {shown}: {answer}");
            let events = match kind {
                Kind::Sync => &answer["rooms"]["join"][room]["timeline"]["events"],
                Kind::Sliding => &answer["rooms"][room]["timeline"],
            };
            assert_eq!(bodies(events), [text.as_str()], "{kind:?}: {shown}: {answer}");
            assert_eq!(list(events).len(), 1, "{kind:?}: {shown}: {answer}");
        }
    }
}
