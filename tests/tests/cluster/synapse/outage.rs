//! What one has not seen happen: history before the join, messages of an outage, and what
//! both did to a room's state while they were cut off from each other.

use std::collections::BTreeMap;

use causeway_tests::{
    client::segment,
    link::Cut,
    result::{Result, ensure},
    user::{User, text},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

use super::{Mixed, Way, create, hears, say};

/// Messages from before one's time: more than any answer of one page brings.
const BEFORE: usize = 60;
/// Messages of an outage: many times what a Synapse gives at once of what is missing.
const MISSED: usize = 250;

/// The texts of all messages that a user can read, oldest first.
async fn history(user: &User, room: &str) -> Result<Vec<String>> {
    let (mut texts, mut from) = (Vec::new(), String::new());
    loop {
        let path = format!("/_matrix/client/v3/rooms/{}/messages?dir=b&limit=25{from}", segment(room));
        let answer = user.call(Method::GET, &path, None).await?;
        let page = answer["chunk"].as_array().cloned().unwrap_or_default();
        texts.extend(page.iter().filter_map(|event| event["content"]["body"].as_str().map(str::to_owned)));
        let Some(end) = answer["end"].as_str() else { break };
        from = format!("&from={}", segment(end));
    }
    texts.reverse();
    Ok(texts)
}

/// Waits until a user's history is just these messages, in this order.
async fn reads(user: &User, room: &str, wanted: &[String]) -> Result<()> {
    wait::until(&format!("{} to read all in order", user.id), async || {
        let read = history(user, room).await?;
        ensure(read == wanted, || format!("{} messages, not {}: {read:?}", read.len(), wanted.len()))?;
        Ok(Some(()))
    })
    .await
}

async fn monologue(user: &User, room: &str, what: &str, count: usize) -> Result<Vec<String>> {
    let texts: Vec<String> = (0..count).map(|number| format!("{what} {number}")).collect();
    for text in &texts {
        say(user, room, text).await?;
    }
    Ok(texts)
}

/// The room's whole state as a user sees it: the event of each type and key.
async fn whole_state(user: &User, room: &str) -> Result<BTreeMap<(String, String), String>> {
    let path = format!("/_matrix/client/v3/rooms/{}/state", segment(room));
    let state = user.call(Method::GET, &path, None).await?;
    let entry =
        |event: &Value| Ok(((text(event, "type")?, text(event, "state_key")?), text(event, "event_id")?));
    state.as_array().into_iter().flatten().map(entry).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn history_is_fetched_from_synapse_and_by_it() -> Result<()> {
    let mixed = Mixed::start().await?;
    for Way { maker, guest, via, .. } in mixed.ways() {
        let room = create(maker, &json!({"preset": "public_chat"})).await?;
        let mut said = monologue(maker, &room, "before", BEFORE).await?;
        guest.join(&room, via).await?;
        reads(guest, &room, &said).await?;

        mixed.cluster.cut(0, 1, Cut::Refused)?;
        said.extend(monologue(maker, &room, "missed", MISSED).await?);
        mixed.cluster.heal(0, 1)?;
        // Nothing more is said.
        reads(guest, &room, &said).await?;
    }
    mixed.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn state_of_both_sides_of_a_cut_is_resolved_as_synapse_does() -> Result<()> {
    let mixed = Mixed::start().await?;
    for way in mixed.ways() {
        let Way { maker, guest, guests_server, via } = way;
        let powers = json!({"users": {&maker.id: 100, &guest.id: 90}});
        let body =
            json!({"preset": "public_chat", "room_version": "11", "power_level_content_override": powers});
        let room = way.room(&body).await?;
        let fellow = User::register_with(guests_server, &format!("fellow{}", maker.id.len())).await?;
        fellow.join(&room, via).await?;
        hears(guest, maker, &room, "before the cut").await?;

        mixed.cluster.cut(0, 1, Cut::Refused)?;
        for (user, name) in [(maker, "maker"), (guest, "guest")] {
            user.put_state(&room, "m.room.topic", "", &json!({"topic": name})).await?;
            user.put_state(&room, "m.room.name", "", &json!({"name": name})).await?;
            user.put_state(&room, "org.example.own", name, &json!({"by": name})).await?;
        }
        // Whom one side bans, the other side lets change his name.
        let ban = json!({"user_id": fellow.id});
        super::in_room(maker, Method::POST, &room, "ban", &ban).await?;
        fellow_renames(&fellow, &room).await?;
        mixed.cluster.heal(0, 1)?;
        agree(maker, guest, &room).await?;
        // And what comes later builds on the same.
        hears(maker, guest, &room, "after").await?;
        hears(guest, maker, &room, "the cut").await?;
        agree(maker, guest, &room).await?;
    }
    mixed.finish().await
}

async fn fellow_renames(fellow: &User, room: &str) -> Result<()> {
    let path =
        format!("/_matrix/client/v3/rooms/{}/state/m.room.member/{}", segment(room), segment(&fellow.id));
    let body = json!({"membership": "join", "displayname": "renamed while cut off"});
    fellow.call(Method::PUT, &path, Some(&body)).await.map(drop)
}

/// Waits until both see the same events as the room's state, those of both sides among them.
async fn agree(one: &User, other: &User, room: &str) -> Result<()> {
    wait::until("the same state on both sides", async || {
        let states = (whole_state(one, room).await?, whole_state(other, room).await?);
        ensure(states.0 == states.1, || format!("{:#?} is not {:#?}", states.0, states.1))?;
        let own = states.0.keys().filter(|(kind, _)| kind == "org.example.own").count();
        ensure(own == 2, || "one side's state is lacking".to_owned())?;
        Ok(Some(()))
    })
    .await
}
