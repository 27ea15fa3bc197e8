//! Push notifications: what a gateway is told, again until it has it, and never
//! at a denied address.

use std::sync::{Arc, Mutex, PoisonError};

use axum::{Json, Router, routing::post};
use causeway_federation::{FederationClient, Settings, settings::Overrides};
use causeway_service::{Services, clock::Clock, pushers::GATEWAY_PATH};
use http::StatusCode;
use ruma::{OwnedUserId, RoomVersionId, device_id, server_name};
use rustls::RootCertStore;
use serde_json::{Value, json};

use crate::support::{Network, Shape};

/// What a gateway was told, and the push keys that it rejects.
#[derive(Clone, Default)]
struct Gateway {
    told: Arc<Mutex<Vec<Value>>>,
}

impl Gateway {
    fn told(&self) -> Vec<Value> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fails the first time, and rejects the push key `gone`.
    fn answer(&self, body: Value) -> (StatusCode, Json<Value>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = told.is_empty();
        let is_gone = body["notification"]["devices"][0]["pushkey"] == "gone";
        told.push(body);
        if is_first {
            return (StatusCode::BAD_GATEWAY, Json(json!({})));
        }
        (StatusCode::OK, Json(json!({ "rejected": if is_gone { vec!["gone"] } else { vec![] } })))
    }

    fn shape(&self) -> Shape {
        let gateway = self.clone();
        let answer = move |Json(body): Json<Value>| {
            let gateway = gateway.clone();
            async move { gateway.answer(body) }
        };
        let door = |router: Router| router.route(GATEWAY_PATH, post(answer));
        Shape { door: Box::new(door), ..Shape::default() }
    }
}

fn set_pusher(services: &Services, user: &OwnedUserId, port: u16, push_key: &str, format: Option<&str>) {
    let mut pusher = json!({
        "app_id": "org.test", "pushkey": push_key, "kind": "http", "app_display_name": "App",
        "device_display_name": "Phone", "lang": "en",
        "data": { "url": format!("https://push.test:{port}{GATEWAY_PATH}"), "brand": "x" },
    });
    if let Some(format) = format {
        pusher["data"]["format"] = format.into();
    }
    services.account_data.set_pusher(user, device_id!("DEV"), &pusher).expect("is set");
}

fn text(body: &str, mentioned: Option<&OwnedUserId>) -> Value {
    let mentioned: Vec<_> = mentioned.into_iter().collect();
    json!({ "msgtype": "m.text", "body": body, "m.mentions": { "user_ids": mentioned } })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_told_of_what_the_rules_want_until_it_has_it() {
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let mut network = Network::of(&["a.test", "push.test"]);
    let port = network.port("push.test");
    let gateway = Gateway::default();
    let push = network.start_as("push.test", folders[1].path(), gateway.shape());
    let a = network.start("a.test", folders[0].path());
    let (alice, bob) = (a.register("alice").await, a.register("bob").await);
    let room = a.create_room(&alice, RoomVersionId::V11).await;
    let (joined, user) = (room.clone(), bob.clone());
    a.run(move |services| {
        services.rooms.join(&joined, &user, serde_json::Map::new()).expect("joins");
        services.pushes.follow().expect("follows");
    })
    .await;
    let user = bob.clone();
    a.run(move |services| {
        set_pusher(services, &user, port, "key", Some("event_id_only"));
        set_pusher(services, &user, port, "gone", None);
    })
    .await;

    a.send(&room, &alice, "m.room.message", None, json!({ "msgtype": "m.notice", "body": "silent" })).await;
    a.send(&room, &bob, "m.room.message", None, text("own", None)).await;
    let event_id = a.send(&room, &alice, "m.room.message", None, text("hi", Some(&bob))).await;
    let of = |told: &[Value], push_key: &str| -> Vec<Value> {
        let is_of = |told: &&Value| told["devices"][0]["pushkey"] == push_key;
        told.iter().map(|told| &told["notification"]).filter(is_of).cloned().collect()
    };
    a.until("both have been told, and nothing waits", {
        let gateway = gateway.clone();
        move |services| gateway.told().len() >= 3 && services.pushes.waiting(10).expect("reads").is_empty()
    })
    .await;
    let told = gateway.told();
    assert_eq!(told.len(), 3, "one of them again, the silent ones never: {told:?}");
    let plain = of(&told, "key");
    let plain = plain.last().expect("was told");
    assert_eq!(
        *plain,
        json!({
            "event_id": event_id, "room_id": room, "prio": "high", "counts": { "unread": 1 },
            "devices": [{ "app_id": "org.test", "pushkey": "key",
                "data": { "format": "event_id_only", "brand": "x" } }],
        })
    );
    let full = of(&told, "gone");
    let full = full.last().expect("was told");
    assert_eq!((&full["content"]["body"], &full["sender"]), (&json!("hi"), &json!(alice)));
    assert_eq!(full["devices"][0]["tweaks"]["highlight"], true);
    assert_eq!(full["devices"][0]["data"].get("url"), None);

    // The rejected one is gone; the other hears of the next.
    let (user, held) = (bob.clone(), bob.clone());
    a.until("the rejected pusher is gone", move |services| {
        services.account_data.pushers(&user).expect("reads").len() == 1
    })
    .await;
    a.send(&room, &alice, "m.room.message", None, text("more", None)).await;
    let again = gateway.clone();
    a.until("the next is told", move |_| again.told().len() == 4).await;
    assert_eq!(of(&gateway.told(), "gone").len(), full_count(&told, "gone"));
    let pushers = a.run(move |services| services.account_data.pushers(&held).expect("reads")).await;
    assert_eq!(
        pushers[0].as_object().map(|pusher| pusher.contains_key("org.causeway.device_id")),
        Some(false)
    );
    a.stop().await;
    push.stop().await;
}

fn full_count(told: &[Value], push_key: &str) -> usize {
    told.iter().filter(|told| told["notification"]["devices"][0]["pushkey"] == push_key).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_told_the_new_number_when_something_is_read() {
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let mut network = Network::of(&["a.test", "push.test"]);
    let port = network.port("push.test");
    let gateway = Gateway::default();
    let push = network.start_as("push.test", folders[1].path(), gateway.shape());
    let a = network.start("a.test", folders[0].path());
    let (alice, bob) = (a.register("alice").await, a.register("bob").await);
    let room = a.create_room(&alice, RoomVersionId::V11).await;
    let (joined, user) = (room.clone(), bob.clone());
    a.run(move |services| {
        services.rooms.join(&joined, &user, serde_json::Map::new()).expect("joins");
        services.pushes.follow().expect("follows");
        set_pusher(services, &user, port, "key", Some("event_id_only"));
    })
    .await;
    let first = a.send(&room, &alice, "m.room.message", None, text("one", None)).await;
    let second = a.send(&room, &alice, "m.room.message", None, text("two", None)).await;
    let counts = {
        let gateway = gateway.clone();
        move || -> Vec<Value> {
            let told = gateway.told();
            // The first is told twice, as the gateway fails then.
            told.iter().skip(1).map(|told| told["notification"]["counts"]["unread"].clone()).collect()
        }
    };
    let seen = counts.clone();
    a.until("both are told", move |_| seen().len() == 2).await;
    // Many receipts, one number; the same number again is no news.
    let (user, place) = (bob.clone(), room.clone());
    a.run(move |services| {
        let read = |kind, thread, event| services.receipts.set(&place, &user, kind, thread, event);
        read("m.read", "main", &first).expect("is set");
        read("m.read", "main", &second).expect("is set");
    })
    .await;
    let seen = counts.clone();
    a.until("the number is told", move |_| seen().len() == 3).await;
    let told = gateway.told().pop().expect("was told");
    assert_eq!(
        told["notification"],
        json!({ "prio": "low", "counts": { "unread": 0 }, "devices": [{ "app_id": "org.test",
            "pushkey": "key", "data": { "format": "event_id_only", "brand": "x" } }] })
    );
    let own = a.send(&room, &bob, "m.room.message", None, text("own", None)).await;
    let (user, place) = (bob.clone(), room.clone());
    a.run(move |services| services.receipts.set(&place, &user, "m.read", "", &own).expect("is set")).await;
    a.until("nothing waits", |services| {
        services.pushes.next_ms().is_none() && services.pushes.waiting(9).expect("reads").is_empty()
    })
    .await;
    a.send(&room, &alice, "m.room.message", None, text("three", None)).await;
    let seen = counts.clone();
    a.until("the next is told", move |_| seen().len() == 4).await;
    assert_eq!(counts()[2..], [json!(0), json!(1)], "and nothing between");
    a.stop().await;
    push.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_gateway_is_asked_at_a_denied_address() {
    let folders = [tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder")];
    let mut network = Network::of(&["a.test", "push.test"]);
    let port = network.port("push.test");
    let a = network.start("a.test", folders[0].path());
    let gateway = Gateway::default();
    let push = network.start_as("push.test", folders[1].path(), gateway.shape());
    let loopback = vec!["127.0.0.0/8".parse().expect("a net")];
    let settings = Settings {
        overrides: Overrides {
            hosts: [("push.test".to_owned(), vec!["127.0.0.1".parse().expect("an address")])].into(),
            ..Overrides::default()
        },
        resolve_names: false,
        denied_addresses: loopback,
        ..Settings::new(server_name!("a.test").to_owned(), Arc::new(RootCertStore::empty()))
    };
    let client = FederationClient::new(&settings, Arc::clone(&a.services.server_keys), Clock::System);
    let client = client.expect("a client");
    for host in ["push.test", "127.0.0.1", "127.1", "2130706433", "[::ffff:127.0.0.1]"] {
        let url = format!("https://{host}:{port}{GATEWAY_PATH}");
        client.notify_gateway(&url, &json!({})).await.expect_err(host);
    }
    assert_eq!(gateway.told(), Vec::<Value>::new());
    // It holds the keys, and with them the folder.
    drop(client);
    a.stop().await;
    push.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_is_told_of_an_invite_to_a_room_elsewhere() {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test", "push.test"]);
    let port = network.port("push.test");
    let gateway = Gateway::default();
    let push = network.start_as("push.test", folders[2].path(), gateway.shape());
    let (a, b) = (network.start("a.test", folders[0].path()), network.start("b.test", folders[1].path()));
    let (bob, alice) = (a.register("bob").await, b.register("alice").await);
    let user = bob.clone();
    a.run(move |services| {
        set_pusher(services, &user, port, "key", None);
        services.pushes.follow().expect("follows");
    })
    .await;
    let room = b.create_room(&alice, RoomVersionId::V12).await;
    b.send(&room, &alice, "m.room.name", Some(""), json!({ "name": "The garden" })).await;
    crate::requests::invite(&b, &room, &alice, &bob).await;
    let told = gateway.clone();
    a.until("the gateway has it, at the second time", move |_| told.told().len() == 2).await;
    let told = gateway.told()[1]["notification"].clone();
    let shown = (&told["type"], &told["content"]["membership"], &told["sender"], &told["user_is_target"]);
    assert_eq!(shown, (&json!("m.room.member"), &json!("invite"), &json!(alice), &json!(true)), "{told}");
    assert_eq!((&told["room_id"], &told["room_name"]), (&json!(room), &json!("The garden")));
    a.stop().await;
    b.stop().await;
    push.stop().await;
}
