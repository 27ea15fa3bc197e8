//! Endpoint tests of a room that makes its writers wait: nobody else does.

mod common;

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use causeway_service::rooms::{RoomError, turns_of_a_room};
use common::server;
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use ruma::RoomId;
use serde_json::{Value, json};
use tokio::{runtime::Builder, task::yield_now, time::timeout};

const V3: &str = "/_matrix/client/v3";

#[test]
fn a_room_that_waits_leaves_threads_to_others() {
    let threads = turns_of_a_room() + 1;
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(threads).build();
    runtime.expect("a runtime").block_on(async {
        let server = server();
        let token = server.register("alice").await;
        let body = || json!({ "msgtype": "m.text", "body": "hello" });
        let [slow, other] = [server.room(&token, json!({})).await, server.room(&token, json!({})).await];
        let ((holding, is_held), (release, released)) = (mpsc::channel(), mpsc::channel::<()>());
        let (services, room) = (Arc::clone(&server.services), RoomId::parse(&slow).expect("a room id"));
        let holder = std::thread::spawn(move || {
            services.rooms.write(&room, |_writer| {
                holding.send(()).expect("is waited for");
                released.recv().expect("is let go");
                Ok::<_, RoomError>(())
            })
        });
        is_held.recv().expect("is held");

        let (server, token, slow) = (&server, &token, &slow);
        let mut waiting: FuturesUnordered<_> = (0..3 * threads)
            .map(|n| async move {
                match n % 3 {
                    0 => {
                        let path = format!("{V3}/rooms/{slow}/send/m.room.message/{n}");
                        server.put(&path, token, body()).await
                    }
                    1 => {
                        let path = format!("{V3}/rooms/{slow}/state/m.room.topic");
                        server.put(&path, token, json!({ "topic": n.to_string() })).await
                    }
                    _ => {
                        let (path, user) =
                            (format!("{V3}/rooms/{slow}/invite"), format!("@user{n}:else.where"));
                        server.post(&path, token, json!({ "user_id": user })).await
                    }
                }
            })
            .collect();
        for _ in 0..100 {
            assert!(waiting.next().now_or_never().is_none(), "nobody writes to a room that is held");
            yield_now().await;
        }
        let path = format!("{V3}/rooms/{other}/send/m.room.message/quick");
        let quick = timeout(Duration::from_mins(1), server.put(&path, token, body())).await;
        quick.expect("is not kept waiting").ok();

        release.send(()).expect("is waited for");
        holder.join().expect("ended").expect("written");
        let mut sent = 0;
        while let Some(answer) = waiting.next().await {
            sent += usize::from(answer.json().get("event_id").is_some_and(Value::is_string));
        }
        assert_eq!(sent, 2 * threads, "all but the invites, which need another server");
    });
}
