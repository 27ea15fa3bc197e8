//! Users and aliases of application services that another server asks for before anybody here
//! did: the service makes them, and they are known.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use causeway_service::{
    Services,
    appservices::{Namespace, Registration, ServerToken, ServiceToken, questions::Question},
    remote::RemoteRequest,
};
use ruma::{OwnedRoomId, RoomAliasId, RoomVersionId, events::room::member::MembershipState};
use serde_json::json;
use tokio::{sync::mpsc::Receiver, task::JoinSet};

use crate::{
    requests::{invite, membership, two},
    support::Server,
};

/// A bridge that makes whoever is asked for, but for `@irc_gone`.
fn bridge(server: &Server) -> Registration {
    let namespace = |pattern: &str| vec![Namespace::new(pattern, false).expect("a pattern")];
    Registration {
        id: Arc::from("irc"),
        url: None,
        token: ServiceToken::of("as"),
        server_token: ServerToken("hs".to_owned()),
        sender: server.user("irc"),
        users: namespace("@irc_.*"),
        aliases: namespace("#irc_.*"),
        rooms: Vec::new(),
        rate_limited: false,
        protocols: Vec::new(),
        ephemeral: None,
        follows_devices: false,
    }
}

/// Answers for the bridge: users get accounts, aliases lead to `room`.
async fn serve(
    services: Arc<Services>,
    mut asked: Receiver<Question>,
    room: OwnedRoomId,
    count: Arc<AtomicUsize>,
) {
    while let Some(question) = asked.recv().await {
        count.fetch_add(1, Ordering::SeqCst);
        let (services, room) = (Arc::clone(&services), room.clone());
        match question {
            Question::User { user_id, reply } => {
                let name = user_id.localpart().to_owned();
                let is_made = name != "irc_gone";
                let making = move || services.accounts.register(Some(&name), None, false).expect("is new");
                if is_made {
                    tokio::task::spawn_blocking(making).await.expect("is made");
                }
                reply.send(Ok(is_made)).expect("waits");
            }
            Question::Alias { alias, reply } => {
                let (owner, wanted) = (alias.server_name().to_owned(), alias);
                let owner = ruma::UserId::parse(format!("@owner:{owner}")).expect("a user id");
                let making =
                    move || services.directory.create_alias(&wanted, &room, &owner).expect("is free");
                tokio::task::spawn_blocking(making).await.expect("is made");
                reply.send(Ok(true)).expect("waits");
            }
            other => panic!("nobody asks {other:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_service_would_make_is_made_for_other_servers_too() {
    let (a, b, _folders) = two();
    let (alice, owner) = (a.register("alice").await, b.register("owner").await);
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    let bridged = b.create_room(&owner, RoomVersionId::V12).await;
    let registration = bridge(&b);
    b.run(move |services| services.register_appservices(vec![registration]).expect("is one")).await;
    let asked = b.services.appservices.questions.serve().expect("nobody serves yet");
    let count = Arc::new(AtomicUsize::new(0));
    let counting = Arc::clone(&count);
    let mut serving = JoinSet::new();
    serving.spawn(serve(Arc::clone(&b.services), asked, bridged.clone(), counting));

    let profile = async |name: &str| {
        let user_id = b.user(name);
        a.services.remote.request(|reply| RemoteRequest::Profile { user_id, reply }).await
    };
    assert!(profile("irc_carol").await.is_ok(), "the bridge made her");
    assert!(profile("irc_carol").await.is_ok(), "and is not asked again");
    assert_eq!(profile("irc_gone").await.expect_err("not made").status, 404);
    assert_eq!(profile("carol").await.expect_err("not the bridge's").status, 404);
    let alias = RoomAliasId::parse(format!("#irc_room:{}", b.name)).expect("an alias");
    let found = a.services.remote.request(|reply| RemoteRequest::Alias { alias, reply }).await;
    assert_eq!(found.expect("is made").0, bridged);
    let dave = b.user("irc_dave");
    invite(&a, &room, &alice, &dave).await;
    assert_eq!(membership(&b, &room, &dave).await, Some(MembershipState::Invite));
    assert_eq!(count.load(Ordering::SeqCst), 4, "Carol, the one who is gone, the room, and Dave");
    serving.shutdown().await;
    a.stop().await;
    b.stop().await;
}

/// Complement's `TestJoinFederatedRoomFromApplicationServiceBridgeUser`.
#[tokio::test(flavor = "multi_thread")]
async fn a_services_user_without_a_profile_joins_a_room_of_another_server() {
    let (a, b, _folders) = two();
    let alice = a.register("alice").await;
    let room = a.create_room(&alice, RoomVersionId::V12).await;
    let users = [b.register("irc").await, b.register("irc_erin").await];
    let registration = bridge(&b);
    b.run(move |services| services.register_appservices(vec![registration]).expect("is one")).await;
    for user in users {
        let (wanted, registration) = (user.clone(), bridge(&b));
        let session = b.run(move |services| services.devices.masquerade(&registration, Some(wanted), None));
        let user_id = session.await.expect("the service may act as this user").user_id;
        let (room_id, via) = (room.clone(), vec![a.name.clone()]);
        let join = |reply| RemoteRequest::Join { room_id, user_id, via, content: json!({}), reply };
        b.services.remote.request(join).await.expect("joins");
        assert_eq!(membership(&b, &room, &user).await, Some(MembershipState::Join));
        let said = b.send(&room, &user, "m.room.message", None, json!({"body": "here"})).await;
        a.has(&said).await;
    }
    a.stop().await;
    b.stop().await;
}
