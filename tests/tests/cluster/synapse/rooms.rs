//! What happens in every room: of each version, made here and made there.

use causeway_tests::{
    client::segment,
    result::{Result, ensure},
    user::User,
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Mixed, Way, create, hears, in_room, member_is, sees, state_is};

/// All that both know.
const VERSIONS: [&str; 7] = ["6", "7", "8", "9", "10", "11", "12"];

/// Talking, taking back, state, leaving and coming back.
async fn share(room: &str, way: Way<'_>) -> Result<()> {
    let Way { maker, guest, via, .. } = way;
    for (from, to) in [(maker, guest), (guest, maker)] {
        let said = hears(from, to, room, "hello").await?;
        in_room(from, Method::PUT, room, &format!("redact/{}/1", segment(&said)), &json!({})).await?;
        sees(to, room, &said, |content| *content == json!({})).await?;
    }
    maker.put_state(room, "m.room.topic", "", &json!({"topic": "shared"})).await?;
    state_is(guest, room, "m.room.topic", "", "topic", "shared").await?;
    in_room(maker, Method::PUT, room, "state/m.room.power_levels", &powers(maker, guest, room).await?)
        .await?;
    wait::until("the guest to be let write the topic", async || {
        let topic = json!({"topic": "by the guest"});
        Ok(guest.put_state(room, "m.room.topic", "", &topic).await.ok())
    })
    .await?;
    state_is(maker, room, "m.room.topic", "", "topic", "by the guest").await?;
    in_room(guest, Method::POST, room, "leave", &json!({})).await?;
    member_is(maker, room, guest, "leave").await?;
    guest.join(room, via).await?;
    hears(maker, guest, room, "welcome back").await.map(drop)
}

/// The room's power levels with the guest raised.
async fn powers(maker: &User, guest: &User, room: &str) -> Result<Value> {
    let mut powers = maker.state(room, "m.room.power_levels", "").await?.unwrap_or_default();
    powers["users"][&guest.id] = json!(50);
    Ok(powers)
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_of_every_version_are_shared_with_synapse_both_ways() -> Result<()> {
    let mixed = Mixed::start().await?;
    for way in mixed.ways() {
        for version in VERSIONS {
            let room = way.room(&json!({"preset": "public_chat", "room_version": version})).await?;
            let create = way.guest.state(&room, "m.room.create", "").await?.unwrap_or_default();
            ensure(create["room_version"] == version, || format!("not of version {version}: {create}"))?;
            share(&room, way).await?;
        }
        // No version: each side's default.
        share(&way.room(&json!({"preset": "public_chat"})).await?, way).await?;
    }
    mixed.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_invites_and_upgrades_are_shared_with_synapse_both_ways() -> Result<()> {
    let mixed = Mixed::start().await?;
    for way in mixed.ways() {
        let Way { maker, guest, via, .. } = way;
        let room = create(maker, &json!({"preset": "private_chat"})).await?;
        in_room(maker, Method::POST, &room, "invite", &json!({"user_id": guest.id})).await?;
        let shown = wait::until("the invite", async || {
            let answer = guest.sync(0).await?;
            Ok(answer["rooms"]["invite"][&room]["invite_state"]["events"].as_array().cloned())
        });
        let shown = shown.await?;
        ensure(shown.iter().any(|event| event["type"] == "m.room.create"), || format!("{shown:?}"))?;
        guest.join(&room, via).await?;
        hears(maker, guest, &room, "just us").await?;

        let content: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[n as usize % 2]).collect();
        let mxc = maker.upload("application/octet-stream", content.clone()).await?;
        let (status, fetched) = guest.download(&mxc).await?;
        ensure(status == 200 && fetched == content, || format!("the file came with {status}"))?;
        upgrade(way).await?;
    }
    mixed.finish().await
}

/// The maker upgrades a room; the guest follows the tombstone and finds the way back.
async fn upgrade(way: Way<'_>) -> Result<()> {
    let Way { maker, guest, via, .. } = way;
    let body = json!({"preset": "public_chat", "room_version": "10", "name": "of old"});
    let old = way.room(&body).await?;
    let answer = in_room(maker, Method::POST, &old, "upgrade", &json!({"new_version": "12"})).await?;
    let new = answer["replacement_room"].as_str().unwrap_or_default();
    state_is(guest, &old, "m.room.tombstone", "", "replacement_room", new).await?;
    guest.join(new, via).await?;
    let create = guest.state(new, "m.room.create", "").await?.unwrap_or_default();
    ensure(create["predecessor"]["room_id"] == *old, || format!("leads back to nothing: {create}"))?;
    state_is(guest, new, "m.room.name", "", "name", "of old").await?;
    hears(guest, maker, new, "moved").await.map(drop)
}
