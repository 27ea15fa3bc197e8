//! Servers that take long or can't be reached, and who waits for them.

use std::time::Duration;

use causeway_service::{
    error::MatrixError, keys::remote::Asked, remote::RemoteRequest, summary::SpaceForServer,
};
use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};
use ruma::{OwnedServerName, OwnedUserId, RoomVersionId, ServerName, UserId, owned_server_name};
use serde_json::{Value, json};

use crate::support::{Network, Server};

/// A server that takes connections and says nothing.
fn silent() -> OwnedServerName {
    owned_server_name!("silent.test")
}

async fn keys(from: &Server, asker: &UserId, at: &ServerName) -> Result<Value, MatrixError> {
    let asked = Asked::from([(UserId::parse(format!("@carol:{at}")).expect("an id"), Vec::new())]);
    let (asker, server, timeout) = (asker.to_owned(), at.to_owned(), Duration::from_secs(10));
    let request = |reply| RemoteRequest::UserKeys { asker, server, asked, timeout, reply };
    from.services.remote.request(request).await
}

async fn space(from: &Server, n: usize) -> Result<SpaceForServer, MatrixError> {
    let room_id = format!("!space{n}:silent.test").try_into().expect("a room id");
    let via = vec![silent()];
    let request = |reply| RemoteRequest::Space { room_id, via, suggested_only: false, reply };
    from.services.remote.request(request).await
}

async fn profile(from: &Server, user_id: &OwnedUserId) -> Result<Value, MatrixError> {
    let user_id = user_id.clone();
    from.services.remote.request(|reply| RemoteRequest::Profile { user_id, reply }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_silent_servers_keeps_nobody_from_others() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test", "silent.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let bob = b.register("bob").await;
    let mut waiting = FuturesUnordered::new();
    for n in 0..100 {
        let asker = a.user(&format!("user{}", n % 10));
        let a = &a;
        waiting.push(async move { keys(a, &asker, &silent()).await.map(drop) }.boxed());
        waiting.push(async move { space(a, n).await.map(drop) }.boxed());
    }
    // Who has no place is told so at once; whoever is served waits for long.
    let late = async {
        while let Some(ended) = waiting.next().await {
            if ended.as_ref().is_err_and(|error| error.status != 503) {
                return ended;
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = late => panic!("the others were waited for: {ended:?}"),
        found = profile(&a, &bob) => drop(found.expect("answers")),
    }
    drop(waiting);
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_user_has_a_part_of_the_turns_and_gives_up_those_not_waited_for() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test", "silent.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let (alice, other) = (a.user("alice"), a.user("other"));
    let mut waiting: FuturesUnordered<_> =
        (0..17).map(|_| keys(&a, &alice, "silent.test".try_into().expect("a name"))).collect();
    let refused = waiting.next().await.expect("there are some").expect_err("one has no place");
    assert_eq!(refused.status, 503);
    assert_eq!(keys(&a, &alice, &b.name).await.expect_err("no more either").status, 503);
    keys(&a, &other, &b.name).await.expect("somebody else has");
    drop(waiting);
    let again = async { while keys(&a, &alice, &b.name).await.is_err() {} };
    tokio::time::timeout(Duration::from_secs(30), again).await.expect("there is place again");
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_can_not_be_told_anything_is_not_asked_for_keys() {
    let folders = [(); 2].map(|()| tempfile::tempdir().expect("a folder"));
    let mut network = Network::of(&["a.test", "b.test"]);
    let a = network.start("a.test", folders[0].path());
    let b = network.start("b.test", folders[1].path());
    let (alice, bob) = (a.user("alice"), b.register("bob").await);
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    keys(&a, &alice, &b.name).await.expect("answers");
    let name = b.name.clone();
    b.stop().await;
    // As long as there is nothing to tell to it, nobody knows.
    assert_eq!(keys(&a, &alice, &name).await.expect_err("is gone").status, 502, "that was tried");
    let b = network.start("b.test", folders[1].path());
    b.join(&room, &bob, &a.name).await.expect("joins");
    b.stop().await;
    a.send(&room, &alice, "m.room.message", None, json!({ "body": "nobody is there" })).await;
    let (to, sender) = (name.clone(), a.state.sender().clone());
    a.until("it is left alone", move |_| sender.is_pausing(&to)).await;
    assert_eq!(keys(&a, &alice, &name).await.expect_err("is gone").status, 503, "that was not");
    let b = network.start("b.test", folders[1].path());
    let sender = a.state.sender().clone();
    a.until("it is back", move |_| !sender.is_pausing(&name)).await;
    keys(&a, &alice, &b.name).await.expect("answers");
    a.stop().await;
    b.stop().await;
}
