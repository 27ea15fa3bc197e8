//! Servers that ask for a room's state again and again, and do not read it.

use std::time::Duration;

use causeway_federation::client::{Coming, Request, STATE_BYTES_MAX, escape};
use http::Method;
use ruma::{OwnedEventId, RoomId, RoomVersionId, ServerName};
use serde_json::json;

use crate::support::{Network, PATIENCE, Server};

/// Pieces of state, each near the largest: more than what connections keep.
const PIECES: usize = 400;

/// The state before an event, of which nothing is read yet.
async fn ask(from: &Server, to: &ServerName, room: &RoomId, event_id: &OwnedEventId) -> Coming {
    let path = format!("/_matrix/federation/v1/state/{}?event_id={}", escape(room), escape(event_id));
    let mut request = Request::new(to, Method::GET, &path);
    request.response_bytes_max = STATE_BYTES_MAX;
    request.timeout = Some(Duration::from_mins(10));
    from.state.client().stream_ok(request).await.expect("answers")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_large_answers_gets_few_and_others_get_theirs() {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test", "m.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let m = network.start("m.test", folders[2].path());
    let (alice, bob, mallory) = (a.user("alice"), b.user("bob"), m.user("mallory"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    m.join(&room, &mallory, &a.name).await.expect("joins");
    let filling = "x".repeat(60_000);
    let mut last = None;
    for n in 0..PIECES {
        let key = n.to_string();
        last = Some(a.send(&room, &alice, "org.example.piece", Some(&key), json!({"of": filling})).await);
    }
    let last = last.expect("some were sent");
    let first = ask(&m, &a.name, &room, &last).await;
    let _second = ask(&m, &a.name, &room, &last).await;
    let mut third = Box::pin(ask(&m, &a.name, &room, &last));
    let others = async {
        for _ in 0..3 {
            let mut coming = ask(&b, &a.name, &room, &last).await;
            let mut bytes = 0;
            while let Some(piece) = coming.piece().await.expect("is whole") {
                bytes += piece.len();
            }
            assert!(bytes > PIECES * filling.len());
        }
        a.send(&room, &alice, "m.room.message", None, json!({"body": "I am served"})).await;
    };
    tokio::select! {
        _ = &mut third => panic!("it has more than its part"),
        () = others => {}
    }
    drop(first);
    tokio::time::timeout(PATIENCE, third).await.expect("has its turn when another ends");
    for server in [a, b, m] {
        server.stop().await;
    }
}
