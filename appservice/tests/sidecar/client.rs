//! Requests over a connection: what goes out, what is taken of answers, and when it ends.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use causeway_appservice::sidecar::{
    client::{Call, Speaker, UpstreamError},
    requests::DEVICE,
};
use ruma::{event_id, room_id, user_id};
use serde_json::{json, value::to_raw_value};

use crate::stub::{Said, Stub, TOKEN, ok, refusal};

const USER: &str = "user_id=%40causeway%3Aa.example";

#[tokio::test]
async fn what_is_asked_is_asked_in_somebodys_name() {
    let stub = Stub::start().await;
    stub.answers(|_| ok(&json!({"event_id": "$e"})));
    let (client, room) = (stub.client(), room_id!("!r:a.example"));
    let service = user_id!("@causeway:a.example");
    let content = to_raw_value(&json!({"v": 1})).expect("JSON");
    let sent = client.put_state(room, ("org.causeway.item", "a/b?c"), &content, Speaker::User(service)).await;
    assert_eq!(sent.expect("is sent"), event_id!("$e"));
    let device = Speaker::Device(service, DEVICE.into());
    client.send(room, ("m.room.message", "t/1"), &content, device).await.expect("is sent");
    client.state_event(room, ("m.room.create", ""), Speaker::Service).await.expect("is asked");
    let call = Call::new(Method::GET, "/_matrix/client/v3/x?ts=1", Speaker::Token("client"));
    client.ask(call).await.expect("is asked");
    client.versions().await.expect_err("says no versions");

    let asked = stub.asked();
    let targets: Vec<&str> = asked.iter().map(|asked| &*asked.target).collect();
    let room = "/_matrix/client/v3/rooms/%21r%3Aa.example";
    assert_eq!(
        targets,
        [
            format!("{room}/state/org.causeway.item/a%2Fb%3Fc?{USER}"),
            format!("{room}/send/m.room.message/t%2F1?{USER}&device_id=CAUSEWAY"),
            format!("{room}/state/m.room.create/?format=event"),
            "/_matrix/client/v3/x?ts=1".to_owned(),
            "/_matrix/client/versions".to_owned(),
        ]
    );
    let tokens: Vec<Option<&str>> = asked.iter().map(|asked| asked.token()).collect();
    assert_eq!(tokens, [Some(TOKEN), Some(TOKEN), Some(TOKEN), Some("client"), None]);
    assert_eq!((&asked[0].method, asked[0].json()), (&Method::PUT, json!({"v": 1})));
}

#[tokio::test]
async fn a_path_that_would_be_another_one_is_not_asked_for() {
    let stub = Stub::start().await;
    for path in ["/_matrix/client/v3/rooms/r/state/t/..", "/a/%2e%2e/b", "/a/./b", "/a#b", "a", "/a b"] {
        let asked = stub.client().ask(Call::new(Method::GET, path, Speaker::Service)).await;
        assert!(matches!(asked, Err(UpstreamError::Path)), "{path}: {asked:?}");
    }
    assert!(stub.asked().is_empty());
}

#[tokio::test]
async fn what_is_not_there_is_told_from_an_upstream_that_can_not() {
    let stub = Stub::start().await;
    let (client, room, event) = (stub.client(), room_id!("!r:a.example"), event_id!("$e"));
    stub.answers(|_| refusal(404, "M_NOT_FOUND"));
    assert!(client.event(room, event, Speaker::Service).await.expect("answers").is_none());
    for (status, errcode) in [(404, "M_UNRECOGNIZED"), (403, "M_FORBIDDEN")] {
        stub.answers(move |_| refusal(status, errcode));
        let refused = client.event(room, event, Speaker::Service).await.expect_err("refuses");
        assert_eq!(refused.refusal().expect("a refusal").errcode, errcode);
    }
}

#[tokio::test]
async fn an_answer_is_bounded_in_bytes_and_time() {
    let stub = Stub::start().await;
    let call = || Call { answer_bytes_max: 5, ..Call::new(Method::GET, "/x", Speaker::Service) };
    stub.answers(|_| Said::Now(StatusCode::OK, "12345".to_owned()));
    assert_eq!(stub.client().ask(call()).await.expect("fits").body, "12345");
    stub.answers(|_| Said::Now(StatusCode::OK, "123456".to_owned()));
    assert!(matches!(stub.client().ask(call()).await, Err(UpstreamError::TooLarge)));
    stub.answers(|_| Said::Later);
    let call = Call { patience: Duration::from_millis(50), ..call() };
    let late = stub.client().ask(call).await.expect_err("never answers");
    assert!(matches!(late, UpstreamError::Timeout) && late.is_unknown());
}

#[tokio::test]
async fn members_are_counted_by_their_servers_alone() {
    let stub = Stub::start().await;
    let profile = json!({"display_name": "x"});
    let joined = json!({"@a:a.example": profile, "@b:b.example:8448": profile, "@c:a.example": profile,
        "nobody": profile});
    stub.answers(move |_| ok(&json!({"joined": joined})));
    let servers = stub.client().joined_servers(room_id!("!r:a.example"), Speaker::Service).await;
    let servers: Vec<String> =
        servers.expect("answers").iter().map(|server| server.as_str().to_owned()).collect();
    assert_eq!(servers, ["a.example", "b.example:8448"]);
}

#[tokio::test]
async fn the_service_user_is_made_once_and_has_his_device() {
    let stub = Stub::start().await;
    let user = user_id!("@causeway:a.example");
    stub.answers(|_| ok(&json!({"user_id": "@causeway:a.example"})));
    stub.client().make_user(user).await.expect("is made");
    let asked = stub.asked();
    assert_eq!(asked[0].json()["username"], "causeway");
    assert_eq!((asked.len(), asked[0].json()["device_id"].as_str()), (1, Some(DEVICE)));

    // He is there, without the device.
    stub.answers(|asked| match &*asked.target {
        "/_matrix/client/v3/register" => refusal(400, "M_USER_IN_USE"),
        "/_matrix/client/v3/login" => ok(&json!({})),
        _ => refusal(404, "M_NOT_FOUND"),
    });
    stub.client().make_user(user).await.expect("logs in");
    let asked = stub.asked();
    assert_eq!(asked[2].target, format!("/_matrix/client/v3/devices/{DEVICE}?{USER}"));
    let login = asked[3].json();
    assert_eq!((&*asked[3].target, &login["identifier"]["user"]), ("/_matrix/client/v3/login", &json!(user)));
    stub.answers(|_| refusal(400, "M_EXCLUSIVE"));
    let refused = stub.client().make_user(user).await.expect_err("belongs to another service");
    assert_eq!(refused.refusal().expect("a refusal").errcode, "M_EXCLUSIVE");
}
