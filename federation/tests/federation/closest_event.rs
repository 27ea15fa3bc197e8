//! The event closest to a time, as other servers are told it.

use causeway_service::remote::RemoteRequest;
use http::{Method, StatusCode};
use ruma::RoomVersionId;
use serde_json::{Value, json};

use crate::support::Network;

#[tokio::test(flavor = "multi_thread")]
async fn servers_in_the_room_are_told_of_what_their_users_may_see() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    let joined = json!({ "history_visibility": "joined" });
    a.send(&room, &alice, "m.room.history_visibility", Some(""), joined).await;
    let hidden = a.send(&room, &alice, "m.room.message", None, json!({ "body": "before bob" })).await;
    let ask = async |query: &str| {
        let path = format!("/_matrix/federation/v1/timestamp_to_event/{room}?{query}");
        let (status, body) =
            b.state.client().request(&a.name, Method::GET, &path, None).await.expect("answers");
        (status, serde_json::from_slice::<Value>(&body).expect("JSON"))
    };
    assert_eq!(ask("ts=0&dir=f").await.0, StatusCode::FORBIDDEN);
    b.join(&room, &bob, &a.name).await.expect("joins");
    let seen = a.send(&room, &alice, "m.room.message", None, json!({ "body": "with bob" })).await;
    let sent = a.run(move |services| services.rooms.event(&hidden).expect("reads").expect("is there")).await;
    let (status, found) = ask(&format!("ts={}&dir=f", sent.origin_server_ts())).await;
    assert_eq!(status, StatusCode::OK);
    assert_ne!(found["event_id"], sent.event_id().as_str());
    let (_, found) = ask(&format!("ts={}&dir=b", u64::MAX >> 12)).await;
    assert_eq!(found["event_id"], seen.as_str());
    assert!(found["origin_server_ts"].is_u64());
    assert_eq!(ask(&format!("ts={}&dir=f", u64::MAX >> 12)).await.0, StatusCode::NOT_FOUND);
    assert_eq!(ask("ts=0&dir=x").await.0, StatusCode::BAD_REQUEST);
    let room_id = room.clone();
    let request = |reply| RemoteRequest::ClosestEvent { room_id, ts: u64::MAX >> 12, forward: false, reply };
    assert_eq!(b.services.remote.request(request).await.expect("is told"), seen);
    a.stop().await;
    b.stop().await;
}
