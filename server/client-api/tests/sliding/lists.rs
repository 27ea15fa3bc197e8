//! Lists: order, ranges, filters, and rooms that come and go.

use serde_json::json;

use crate::{V3, bodies, common::server, rooms, window};

#[tokio::test]
async fn a_window_shows_the_latest_rooms_and_grows() {
    let server = server();
    let alice = server.register("alice").await;
    let a = server.public_room(&alice, "a").await;
    let b = server.public_room(&alice, "b").await;
    let c = server.public_room(&alice, "c").await;
    let first = server.sliding(&alice, None, &window(0, 1)).await;
    assert_eq!(first["lists"]["all"]["count"], 3);
    assert_eq!(rooms(&first), [&c]);
    let shown = &first["rooms"][&c];
    assert_eq!(
        (&shown["initial"], &shown["name"], &shown["membership"]),
        (&json!(true), &json!("c"), &json!("join"))
    );
    assert_eq!(
        (&shown["joined_count"], &shown["invited_count"], &shown["num_live"]),
        (&json!(1), &json!(0), &json!(0))
    );
    assert_eq!(
        (&shown["lists"], &shown["is_dm"], &shown["limited"]),
        (&json!(["all"]), &json!(false), &json!(true))
    );

    let second = server.sliding(&alice, Some(&first), &window(1, 1)).await;
    assert_eq!(rooms(&second), [&b]);
    // What happens outside of the window brings a room into it.
    server.say(&alice, &a, "up").await;
    let third = server.sliding(&alice, Some(&second), &window(1, 1)).await;
    assert_eq!(rooms(&third), [&a]);
    assert_eq!(third["rooms"][&a]["initial"], true);
    assert_eq!(third["rooms"][&a]["num_live"], 1, "one of its events is new");
    assert!(third["rooms"][&a]["bump_stamp"].as_u64() > second["rooms"][&b]["bump_stamp"].as_u64());
}

#[tokio::test]
async fn a_room_that_comes_back_lacks_nothing() {
    let server = server();
    let alice = server.register("alice").await;
    let a = server.public_room(&alice, "a").await;
    let b = server.public_room(&alice, "b").await;
    let both = server.sliding(&alice, None, &window(1, 10)).await;
    // Only the last room is looked at while both go on.
    let narrow = server.sliding(&alice, Some(&both), &window(0, 10)).await;
    server.say(&alice, &a, "one").await;
    server.say(&alice, &b, "two").await;
    let narrow = server.sliding(&alice, Some(&narrow), &window(0, 10)).await;
    assert_eq!(rooms(&narrow), [&b]);
    server.say(&alice, &b, "three").await;
    let narrow = server.sliding(&alice, Some(&narrow), &window(0, 10)).await;
    let wide = server.sliding(&alice, Some(&narrow), &window(1, 10)).await;
    assert_eq!(rooms(&wide), [&a]);
    assert_eq!(bodies(&wide["rooms"][&a]), ["one"]);
    assert_eq!(wide["rooms"][&a].get("initial"), None, "it continues");
    let quiet = server.sliding(&alice, Some(&wide), &window(1, 10)).await;
    assert_eq!(quiet["rooms"], json!({}));
}

#[tokio::test]
async fn filters_choose_rooms() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let plain = server.public_room(&alice, "plain").await;
    let direct = server.public_room(&alice, "direct").await;
    let space = server.room(&alice, json!({ "creation_content": { "type": "m.space" } })).await;
    let secret = server.public_room(&alice, "secret").await;
    let encryption = json!({ "algorithm": "m.megolm.v1.aes-sha2" });
    server.set_state(&alice, &secret, "m.room.encryption", "", encryption).await;
    server.set_state(&alice, &space, "m.space.child", &plain, json!({ "via": ["example.org"] })).await;
    server.set_state(&alice, &space, "m.space.child", &secret, json!({})).await;
    let invited = server.room(&bob, json!({ "invite": ["@alice:example.org"] })).await;
    let data = format!("{V3}/user/@alice:example.org/account_data/m.direct");
    server.put(&data, &alice, json!({ "@bob:example.org": [direct] })).await.ok();
    let tag = format!("{V3}/user/@alice:example.org/rooms/{plain}/account_data/m.tag");
    server.put(&tag, &alice, json!({ "tags": { "m.favourite": {} } })).await.ok();

    for (filters, mut expected) in [
        (json!({}), vec![&plain, &direct, &space, &secret, &invited]),
        (json!({ "is_dm": true }), vec![&direct]),
        (json!({ "is_dm": false, "is_invite": false }), vec![&plain, &space, &secret]),
        (json!({ "is_encrypted": true }), vec![&secret]),
        (json!({ "is_encrypted": false }), vec![&plain, &direct, &space, &invited]),
        (json!({ "is_invite": true }), vec![&invited]),
        (json!({ "is_invited": true }), vec![&invited]),
        (json!({ "room_types": ["m.space"] }), vec![&space]),
        (json!({ "room_types": [null], "is_invite": false }), vec![&plain, &direct, &secret]),
        (json!({ "not_room_types": ["m.space"] }), vec![&plain, &direct, &secret, &invited]),
        (json!({ "room_types": ["m.space"], "not_room_types": ["m.space"] }), vec![]),
        (json!({ "tags": ["m.favourite"] }), vec![&plain]),
        (json!({ "not_tags": ["m.favourite"], "is_dm": false, "is_invite": false }), vec![&space, &secret]),
        (json!({ "spaces": [space] }), vec![&plain]),
        (json!({ "spaces": ["!nowhere:example.org"] }), vec![]),
    ] {
        let list =
            json!({ "ranges": [[0, 99]], "timeline_limit": 1, "required_state": [], "filters": filters });
        let told = server.sliding(&alice, None, &json!({ "lists": { "l": list } })).await;
        expected.sort();
        assert_eq!(rooms(&told), expected, "{filters}");
        assert_eq!(told["lists"]["l"]["count"], expected.len(), "{filters}");
    }
}

#[tokio::test]
async fn invites_come_stripped_and_leaving_is_told_once() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let start = server.sliding(&bob, None, &window(9, 5)).await;
    let body = json!({ "name": "Plans", "invite": ["@bob:example.org"] });
    let room = server.room(&alice, body).await;
    server.say(&alice, &room, "unseen").await;
    let invited = server.sliding(&bob, Some(&start), &window(9, 5)).await;
    let shown = &invited["rooms"][&room];
    let types: Vec<_> =
        shown["invite_state"].as_array().expect("state").iter().map(|event| &event["type"]).collect();
    assert!(types.contains(&&json!("m.room.name")) && types.contains(&&json!("m.room.member")), "{shown}");
    assert!(shown.get("timeline").is_none() && shown.get("required_state").is_none(), "{shown}");
    assert_eq!(shown["membership"], "invite");
    let quiet = server.sliding(&bob, Some(&invited), &window(9, 5)).await;
    assert_eq!(quiet["rooms"], json!({}));

    server.join(&bob, &room).await;
    let joined = server.sliding(&bob, Some(&quiet), &window(9, 5)).await;
    assert_eq!(joined["rooms"][&room]["initial"], true);
    assert_eq!(joined["rooms"][&room]["membership"], "join");

    server.say(&alice, &room, "before").await;
    server.post(&format!("{V3}/rooms/{room}/leave"), &bob, json!({})).await.ok();
    server.say(&alice, &room, "after").await;
    let left = server.sliding(&bob, Some(&joined), &window(9, 5)).await;
    assert_eq!(bodies(&left["rooms"][&room]), ["before"]);
    assert_eq!(left["rooms"][&room]["membership"], "leave");
    let later = server.sliding(&bob, Some(&left), &window(9, 5)).await;
    assert_eq!((&later["rooms"], &later["lists"]["all"]["count"]), (&json!({}), &json!(0)));
    let afresh = server.sliding(&bob, None, &window(9, 5)).await;
    assert_eq!(afresh["rooms"], json!({}), "who left knows it");

    // Rejoining begins anew; being put out is told even to a new connection.
    server
        .post(&format!("{V3}/rooms/{room}/invite"), &alice, json!({ "user_id": "@bob:example.org" }))
        .await
        .ok();
    let again = server.sliding(&bob, Some(&later), &window(9, 5)).await;
    assert!(again["rooms"][&room]["invite_state"].is_array());
    server.join(&bob, &room).await;
    let rejoined = server.sliding(&bob, Some(&again), &window(9, 5)).await;
    assert_eq!(rejoined["rooms"][&room]["initial"], true);
    server
        .post(&format!("{V3}/rooms/{room}/kick"), &alice, json!({ "user_id": "@bob:example.org" }))
        .await
        .ok();
    server.say(&alice, &room, "secret").await;
    for pos in [Some(&rejoined), None] {
        let kicked = server.sliding(&bob, pos, &window(9, 5)).await;
        assert_eq!(kicked["rooms"][&room]["membership"], "leave");
        assert!(!kicked.to_string().contains("secret"), "{kicked}");
    }
}

#[tokio::test]
async fn a_declined_invite_and_an_ignored_one() {
    let server = server();
    let (alice, bob) = (server.register("alice").await, server.register("bob").await);
    let room = server.room(&alice, json!({ "invite": ["@bob:example.org"] })).await;
    let invited = server.sliding(&bob, None, &window(9, 5)).await;
    assert_eq!(rooms(&invited), [&room]);
    server.post(&format!("{V3}/rooms/{room}/leave"), &bob, json!({})).await.ok();
    let declined = server.sliding(&bob, Some(&invited), &window(9, 5)).await;
    let shown = &declined["rooms"][&room];
    assert_eq!(shown["membership"], "leave");
    assert_eq!(shown["timeline"].as_array().map(Vec::len), Some(1), "{shown}");
    let quiet = server.sliding(&bob, Some(&declined), &window(9, 5)).await;
    assert_eq!(quiet["rooms"], json!({}));

    let ignored = json!({ "ignored_users": { "@alice:example.org": {} } });
    let path = format!("{V3}/user/@bob:example.org/account_data/m.ignored_user_list");
    server.put(&path, &bob, ignored).await.ok();
    server.room(&alice, json!({ "invite": ["@bob:example.org"] })).await;
    let quiet = server.sliding(&bob, Some(&quiet), &window(9, 5)).await;
    assert_eq!((&quiet["rooms"], &quiet["lists"]["all"]["count"]), (&json!({}), &json!(0)));
}
