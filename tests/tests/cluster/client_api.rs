//! What bad input gets, through the real server.

use causeway_tests::{
    client::segment,
    cluster::Cluster,
    result::{Result, ensure},
    user::{ITEM, User},
};
use reqwest::Method;
use serde_json::{Value, json};

/// Method, path, whether the token is shown, body, and the wanted status and code.
type Case = (Method, String, bool, Option<Value>, u16, &'static str);

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_get_the_errors_of_the_specification() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let client = cluster[0].client();
    let alice = User::register(&cluster[0], "alice").await?;
    let room = alice.create_room("Errors").await?;
    let rooms = format!("/_matrix/client/v3/rooms/{}", segment(&room));
    let cases: Vec<Case> = vec![
        (Method::GET, "/_matrix/client/v3/nothing".into(), true, None, 404, "M_UNRECOGNIZED"),
        (Method::DELETE, "/_matrix/client/versions".into(), false, None, 405, "M_UNRECOGNIZED"),
        (Method::GET, "/_matrix/client/v3/account/whoami".into(), false, None, 401, "M_MISSING_TOKEN"),
        (Method::PUT, format!("{rooms}/state/{ITEM}/k"), true, Some(json!([])), 400, "M_BAD_JSON"),
        (Method::GET, format!("{rooms}/state/{ITEM}/none"), true, None, 404, "M_NOT_FOUND"),
        (
            Method::PUT,
            format!("{rooms}/state/{ITEM}/big"),
            true,
            Some(json!({ "text": "x".repeat(70_000) })),
            413,
            "M_TOO_LARGE",
        ),
    ];
    for (method, path, with_token, body, status, errcode) in cases {
        let token = with_token.then_some(alice.token.as_str());
        let answer = client.call(method.clone(), &path, token, body.as_ref()).await?;
        ensure((answer.status, answer.errcode()) == (status, errcode), || {
            format!("{method} {path}: wanted {status} {errcode}, got {answer:?}")
        })?;
    }
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn items_past_their_bounds_are_refused_and_leave_nothing() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let alice = User::register(&cluster[0], "alice").await?;
    let room = alice.create_room("Bounds").await?;
    let long = "k".repeat(256);
    for (key, body, status, errcode) in [
        (long.as_str(), json!({ "value": { "a": 1 } }), 400, "M_INVALID_PARAM"),
        ("@reserved", json!({ "value": { "a": 1 } }), 400, "M_INVALID_PARAM"),
        ("control\u{1}", json!({ "value": { "a": 1 } }), 400, "M_INVALID_PARAM"),
        ("float", json!({ "value": { "a": 1.5 } }), 400, "M_BAD_JSON"),
        ("empty", json!({ "value": {} }), 400, "M_BAD_JSON"),
        ("big", json!({ "value": { "a": "x".repeat(49 << 10) } }), 413, "M_TOO_LARGE"),
        ("huge", json!({ "value": { "a": "x".repeat(400 << 10) } }), 413, "M_TOO_LARGE"),
        ("stamp", json!({ "value": { "org.causeway.change": {} } }), 400, "M_BAD_JSON"),
        ("token", json!({ "value": { "a": 1 }, "token": "none" }), 400, "M_INVALID_PARAM"),
    ] {
        let answer = alice.try_write(&room, key, &body).await?;
        ensure((answer.status, answer.errcode()) == (status, errcode), || format!("{key}: {answer:?}"))?;
    }
    assert!(alice.items(&room).await?.is_empty());
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn compare_and_swap_refuses_what_did_not_see_the_last_write() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let alice = User::register(&cluster[0], "alice").await?;
    let room = alice.create_room("Swap").await?;
    alice.try_write(&room, "counter", &json!({ "value": { "n": 1 } })).await?.ok()?;
    let seen = alice.item(&room, "counter").await?.map(|item| item.token).unwrap_or_default();
    let swap = |n: u64| json!({ "value": { "n": n }, "token": seen, "on_conflict": "reject" });
    alice.try_write(&room, "counter", &swap(2)).await?.ok()?;
    let refused = alice.try_write(&room, "counter", &swap(3)).await?;
    assert_eq!(refused.status, 409, "{refused:?}");
    assert_eq!(refused.errcode(), "ORG.CAUSEWAY.CONFLICT");
    assert_eq!(refused.body["siblings"][0]["value"], json!({ "n": 2 }), "{refused:?}");
    let item = alice.item(&room, "counter").await?;
    assert_eq!(item.as_ref().and_then(|item| item.value()), Some(&json!({ "n": 2 })));
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_the_banned_neither_read_nor_write() -> Result<()> {
    let cluster = Cluster::start(1).await?;
    let alice = User::register(&cluster[0], "alice").await?;
    let mallory = User::register(&cluster[0], "mallory").await?;
    let room = alice.create_room("Closed").await?;
    alice.put_item(&room, "plan", &json!({ "text": "ours" })).await?;
    let write = json!({ "value": { "text": "mine" } });
    assert_eq!(mallory.try_write(&room, "plan", &write).await?.status, 403, "a stranger wrote");
    let ban = format!("/_matrix/client/v3/rooms/{}/ban", segment(&room));
    mallory.join(&room, &cluster[0].name).await?;
    mallory.try_write(&room, "other", &write).await?.ok()?;
    alice.call(Method::POST, &ban, Some(&json!({ "user_id": mallory.id }))).await?;
    assert_eq!(mallory.try_write(&room, "plan", &write).await?.status, 403, "a banned member wrote");
    let item = alice.item(&room, "plan").await?;
    assert_eq!(item.as_ref().and_then(|item| item.value()), Some(&json!({ "text": "ours" })));
    cluster.finish().await
}
