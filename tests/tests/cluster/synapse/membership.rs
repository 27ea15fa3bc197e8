//! Who is in a room with a Synapse and who is not: invites that are refused or taken back,
//! kicks, bans, knocks, and rooms for the members of another room.

use causeway_tests::{
    client::segment,
    result::{Result, ensure},
    user::User,
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Mixed, Way, create, hears, in_room, member_is};

/// Does something to another's membership.
async fn to(user: &User, room: &str, what: &str, other: &User) -> Result<Value> {
    in_room(user, Method::POST, room, what, &json!({"user_id": other.id, "reason": "tests"})).await
}

async fn leave(user: &User, room: &str) -> Result<Value> {
    in_room(user, Method::POST, room, "leave", &json!({})).await
}

/// Waits until a new device of nobody's would be shown the room under this heading of /sync,
/// or under none.
async fn is_listed(user: &User, room: &str, under: Option<&str>) -> Result<()> {
    let path = "/_matrix/client/v3/sync?timeout=0&filter={\"room\":{\"include_leave\":true}}";
    wait::until(&format!("{room} to be under {under:?} for {}", user.id), async || {
        let rooms = user.call(Method::GET, path, None).await?["rooms"].take();
        let found =
            ["join", "invite", "knock"].into_iter().find(|heading| rooms[heading].get(room).is_some());
        Ok((found == under).then_some(()))
    })
    .await
}

async fn refused(user: &User, room: &str, via: &str) -> Result<()> {
    let path = format!("/_matrix/client/v3/join/{}?via={1}&server_name={1}", segment(room), segment(via));
    let answer = user.try_call(Method::POST, &path, Some(&json!({}))).await?;
    ensure(answer.status == 403, || format!("a join that is not allowed was answered {answer:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn invites_kicks_and_bans_hold_with_synapse_both_ways() -> Result<()> {
    let mixed = Mixed::start().await?;
    for way in mixed.ways() {
        let Way { maker, guest, via, .. } = way;
        let room = create(maker, &json!({"preset": "private_chat"})).await?;
        refused(guest, &room, via).await?;

        to(maker, &room, "invite", guest).await?;
        is_listed(guest, &room, Some("invite")).await?;
        leave(guest, &room).await?;
        member_is(maker, &room, guest, "leave").await?;
        is_listed(guest, &room, None).await?;

        to(maker, &room, "invite", guest).await?;
        is_listed(guest, &room, Some("invite")).await?;
        to(maker, &room, "kick", guest).await?;
        is_listed(guest, &room, None).await?;
        refused(guest, &room, via).await?;

        to(maker, &room, "invite", guest).await?;
        is_listed(guest, &room, Some("invite")).await?;
        guest.join(&room, via).await?;
        to(maker, &room, "kick", guest).await?;
        is_listed(guest, &room, None).await?;

        to(maker, &room, "invite", guest).await?;
        is_listed(guest, &room, Some("invite")).await?;
        guest.join(&room, via).await?;
        hears(guest, maker, &room, "back").await?;
        to(maker, &room, "ban", guest).await?;
        is_listed(guest, &room, None).await?;
        refused(guest, &room, via).await?;
        to(maker, &room, "unban", guest).await?;
        to(maker, &room, "invite", guest).await?;
        is_listed(guest, &room, Some("invite")).await?;
        guest.join(&room, via).await?;
        hears(maker, guest, &room, "forgiven").await?;
    }
    mixed.finish().await
}

async fn knock(user: &User, room: &str, via: &str) -> Result<()> {
    let path = format!("/_matrix/client/v3/knock/{}?via={1}&server_name={1}", segment(room), segment(via));
    user.call(Method::POST, &path, Some(&json!({"reason": "let me in"}))).await.map(drop)
}

/// A room with this join rule; that of a lobby, if there is one, lets its members in.
async fn ruled(maker: &User, rule: &str, lobby: Option<&str>) -> Result<String> {
    let mut content = json!({"join_rule": rule});
    if let Some(lobby) = lobby {
        content["allow"] = json!([{"type": "m.room_membership", "room_id": lobby}]);
    }
    let rules = json!({"type": "m.room.join_rules", "state_key": "", "content": content});
    create(maker, &json!({"preset": "private_chat", "initial_state": [rules]})).await
}

#[tokio::test(flavor = "multi_thread")]
async fn knocks_and_restricted_rooms_hold_with_synapse_both_ways() -> Result<()> {
    let mixed = Mixed::start().await?;
    for way in mixed.ways() {
        let Way { maker, guest, via, guests_server } = way;
        let room = ruled(maker, "knock", None).await?;
        knock(guest, &room, via).await?;
        member_is(maker, &room, guest, "knock").await?;
        is_listed(guest, &room, Some("knock")).await?;
        to(maker, &room, "kick", guest).await?;
        // That he is refused, Synapse neither tells nor takes in for who is outside.
        member_is(maker, &room, guest, "leave").await?;
        knock(guest, &room, via).await?;
        member_is(maker, &room, guest, "knock").await?;
        // Nor does it tell others when its user takes a knock back.
        if guest.id == mixed.alice.id {
            leave(guest, &room).await?;
            member_is(maker, &room, guest, "leave").await?;
            knock(guest, &room, via).await?;
        }
        member_is(maker, &room, guest, "knock").await?;
        to(maker, &room, "invite", guest).await?;
        is_listed(guest, &room, Some("invite")).await?;
        guest.join(&room, via).await?;
        hears(maker, guest, &room, "come in").await?;

        let lobby = way.room(&json!({"preset": "public_chat"})).await?;
        hears(guest, maker, &lobby, "waiting").await?;
        let stranger = User::register_with(guests_server, "stranger").await?;
        let room = ruled(maker, "restricted", Some(&lobby)).await?;
        refused(&stranger, &room, via).await?;
        guest.join(&room, via).await?;
        hears(guest, maker, &room, "from the lobby").await?;
        // Their server is in the room now; that lets nobody else in.
        refused(&stranger, &room, via).await?;

        let room = ruled(maker, "knock_restricted", Some(&lobby)).await?;
        guest.join(&room, via).await?;
        hears(guest, maker, &room, "from the lobby").await?;
        refused(&stranger, &room, via).await?;
        knock(&stranger, &room, via).await?;
        member_is(maker, &room, &stranger, "knock").await?;
        to(maker, &room, "invite", &stranger).await?;
        is_listed(&stranger, &room, Some("invite")).await?;
        // He is shown the invite before his server, which is in the room, goes by it.
        wait::until("the stranger to be let in", async || Ok(stranger.join(&room, via).await.ok())).await?;
        hears(&stranger, maker, &room, "let in").await?;
    }
    mixed.finish().await
}
