//! What arrives at servers that fall silent in the middle of a transaction.

use std::sync::{Arc, Mutex};

use axum::{
    Router,
    extract::Request,
    middleware::{self, Next},
};
use http::Method;
use ruma::RoomVersionId;
use serde_json::json;

use crate::support::{Network, Shape};

/// The paths of the transactions that came.
type Seen = Arc<Mutex<Vec<String>>>;

/// A door that swallows the first transaction, as a cut link does.
fn swallows_the_first(seen: &Seen) -> Box<dyn FnOnce(Router) -> Router> {
    let seen = Arc::clone(seen);
    Box::new(move |router| {
        router.layer(middleware::from_fn(move |request: Request, next: Next| {
            let path = request.uri().path().to_owned();
            let mut first = false;
            if path.contains("/send/") {
                let mut seen = seen.lock().expect("unpoisoned");
                seen.push(path);
                first = seen.len() == 1;
            }
            async move {
                if first {
                    std::future::pending::<()>().await;
                }
                next.run(request).await
            }
        }))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_without_an_answer_is_sent_anew_when_its_destination_is_heard_from() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let seen = Seen::default();
    let a = network.start("a.test", folders[0].path());
    let shape = Shape { door: swallows_the_first(&seen), sends: false, ..Shape::default() };
    let b = network.start_as("b.test", folders[1].path(), shape);
    let (alice, bob) = (a.user("alice"), b.user("bob"));
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    b.join(&room, &bob, &a.name).await.expect("joins");
    let said = a.send(&room, &alice, "m.room.message", None, json!({"body": "hello"})).await;
    let heard = async {
        loop {
            let path = "/_matrix/federation/v1/query/profile?user_id=@nobody:a.test";
            b.state.client().request(&a.name, Method::GET, path, None).await.expect("answers");
        }
    };
    tokio::select! {
        () = b.has(&said) => {}
        () = heard => {}
    }
    let seen = seen.lock().expect("unpoisoned").clone();
    assert!(seen.len() >= 2 && seen[0] == seen[1], "the same transaction: {seen:?}");
    a.stop().await;
    b.stop().await;
}
