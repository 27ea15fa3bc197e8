//! Events whose past was never sent: the events in between are fetched, and
//! where they are too many, the state.

use causeway_storage::outbox as rows;
use ruma::{RoomVersionId, server_name};
use serde_json::json;

use crate::support::{Network, Server};

/// Takes everything for `b.test` out of the outbox, as if it had been lost.
async fn lose_what_waits(server: &Server) {
    server
        .run(|services| {
            let (database, to) = (&services.database, server_name!("b.test"));
            let all =
                rows::rows(database, to, causeway_storage::StreamPosition(0), usize::MAX).expect("reads");
            let mut batch = database.batch();
            for row in all {
                rows::delete(&mut batch, to, row.position);
            }
            let _commit = database.commit_durable(batch).expect("commits");
        })
        .await;
}

async fn gap_of(lost: usize) {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start_with("a.test", folders[0].path(), false);
    let b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    let topic = a.send(&room, &alice, "m.room.topic", Some(""), json!({"topic": "lost"})).await;
    for n in 0..lost {
        a.send(&room, &alice, "m.room.message", None, json!({"body": n.to_string()})).await;
    }
    lose_what_waits(&a).await;
    a.stop().await;
    let a = network.start("a.test", folders[0].path());
    let late = a.send(&room, &alice, "m.room.message", None, json!({"body": "late"})).await;
    b.has(&late).await;
    let room_id = room.clone();
    let state = b.run(move |services| services.rooms.state_event(&room_id, "m.room.topic", "")).await;
    assert_eq!(state.expect("reads").expect("is set").event_id(), topic);
    let answer = b.send(&room, &bob, "m.room.message", None, json!({"body": "got it"})).await;
    a.has(&answer).await;
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_small_gap_is_filled_with_the_events_in_between() {
    gap_of(20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wide_gap_is_bridged_by_the_state_behind_it() {
    gap_of(300).await;
}
