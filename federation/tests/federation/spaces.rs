//! What other servers are told of spaces.

use causeway_service::{
    remote::RemoteRequest,
    rooms::{CreateRoom, Preset},
};
use http::{Method, StatusCode};
use ruma::{OwnedRoomId, RoomVersionId, UserId};
use serde_json::{Map, Value, json};

use crate::support::{Network, Server};

async fn room(server: &Server, user: &UserId, preset: Preset, is_space: bool) -> OwnedRoomId {
    let user = user.to_owned();
    server
        .run(move |services| {
            let mut content = Map::new();
            if is_space {
                content.insert("type".to_owned(), "m.space".into());
            }
            let request = CreateRoom { preset, creation_content: content, ..CreateRoom::default() };
            services.rooms.create(&user, &request).expect("is created").room_id
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn servers_are_told_of_rooms_that_their_users_can_get_into() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let space = room(&a, &alice, Preset::PublicChat, true).await;
    let open = room(&a, &alice, Preset::PublicChat, false).await;
    let secret = room(&a, &alice, Preset::PrivateChat, true).await;
    let club = a.create_room(&alice, RoomVersionId::V12).await;
    let restricted = room(&a, &alice, Preset::PrivateChat, false).await;
    let allow = json!([{ "type": "m.room_membership", "room_id": club }]);
    let rule = json!({ "join_rule": "restricted", "allow": allow });
    a.send(&restricted, &alice, "m.room.join_rules", Some(""), rule).await;
    for (at, child) in [&open, &secret, &restricted].into_iter().enumerate() {
        let content = json!({ "via": ["a.test"], "suggested": *child == open, "order": at.to_string() });
        a.send(&space, &alice, "m.space.child", Some(child.as_str()), content).await;
    }
    a.send(&space, &alice, "m.space.child", Some("!elsewhere:c.test"), json!({ "via": ["c.test"] })).await;

    let path = |room: &OwnedRoomId| format!("/_matrix/federation/v1/hierarchy/{room}");
    let ask = async |room: &OwnedRoomId, query: &str| {
        let path = format!("{}{query}", path(room));
        let (status, body) =
            b.state.client().request(&a.name, Method::GET, &path, None).await.expect("answers");
        (status, serde_json::from_slice::<Value>(&body).expect("JSON"))
    };
    let (status, said) = ask(&space, "").await;
    assert_eq!(status, StatusCode::OK);
    let ids = |said: &Value| {
        let children = said["children"].as_array().expect("a list").iter();
        children.map(|child| child["room_id"].as_str().expect("an id").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(ids(&said), [open.as_str()]);
    assert_eq!(said["inaccessible_children"], json!([secret, restricted]));
    assert_eq!(said["room"]["children_state"].as_array().map(Vec::len), Some(4));
    assert_eq!(ids(&ask(&space, "?suggested_only=true").await.1), [open.as_str()]);
    assert_eq!(ask(&secret, "").await.0, StatusCode::NOT_FOUND);

    b.join(&club, &bob, &a.name).await.expect("joins");
    assert_eq!(ids(&ask(&space, "").await.1), [open.as_str(), restricted.as_str()]);
    let (room_id, via) = (space.clone(), vec![a.name.clone()]);
    let request = |reply| RemoteRequest::Space { room_id, via, suggested_only: false, reply };
    let said = b.services.remote.request(request).await.expect("is told");
    assert_eq!((said.children.len(), said.room.children_state.len()), (2, 4));

    let acl = json!({ "allow": ["a.test"], "deny": [] });
    a.send(&open, &alice, "m.room.server_acl", Some(""), acl).await;
    assert_eq!(ask(&open, "").await.0, StatusCode::NOT_FOUND);
    a.stop().await;
    b.stop().await;
}
