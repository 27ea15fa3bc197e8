//! A space in an encrypted room: what is told of a conflict says neither key nor
//! value, and settles it all the same.

use causeway_tests::{
    cluster::Cluster,
    link::Cut,
    result::{Result, ensure},
    user::{ITEM, User, text},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::pair::{in_step, value};

/// A key that stands nowhere else.
const KEY: &str = "plans/secret-key.md";

/// A room with encryption in which items may be written in clear.
async fn create_room(user: &User) -> Result<String> {
    let body = json!({
        "preset": "public_chat",
        "power_level_content_override": { "events": { ITEM: 0 } },
        "initial_state": [
            { "type": "m.room.encryption", "state_key": "", "content": { "algorithm": "m.megolm.v1.aes-sha2" } },
            { "type": "org.causeway.shared_space", "state_key": "", "content": { "allow_unencrypted": true } },
        ],
    });
    text(&user.call(Method::POST, "/_matrix/client/v3/createRoom", Some(&body)).await?, "room_id")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_notice_in_an_encrypted_room_gives_nothing_away_and_settles() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let alice = User::register(&cluster[0], "alice").await?;
    let bob = User::register(&cluster[1], "bob").await?;
    let room = create_room(&alice).await?;
    bob.join(&room, &cluster[0].name).await?;
    alice.put_item(&room, KEY, &value("first", 0)).await?;
    in_step(&room, 1, &[&alice, &bob]).await?;
    for user in [&alice, &bob] {
        user.sync(0).await?;
        user.sync(0).await?;
    }
    cluster.cut(0, 1, Cut::Refused)?;
    alice.put_item(&room, KEY, &value("secret-of-alice", 1)).await?;
    bob.put_item(&room, KEY, &value("secret-of-bob", 1)).await?;
    cluster.heal(0, 1)?;

    let is_notice = |event: &Value| event["content"]["org.causeway.conflict"]["id"].is_string();
    let notice = bob
        .sync_until(&room, "the notice", |event| event["type"] == "m.room.message" && is_notice(event))
        .await?;
    let said = notice["content"].to_string();
    ensure(!said.contains("secret"), || format!("it gives something away: {said}"))?;
    ensure(notice["content"]["org.causeway.conflict"]["key"].is_null(), || said.clone())?;
    let chosen = notice["content"]["org.causeway.conflict"]["siblings"][0]["author"].clone();
    bob.react(&room, notice["event_id"].as_str().unwrap_or_default(), "1\u{fe0f}\u{20e3}").await?;
    let winner = if chosen == *alice.id { "secret-of-alice" } else { "secret-of-bob" };
    for user in [&alice, &bob] {
        wait::until("the settlement", async || {
            let item = user.item(&room, KEY).await?;
            Ok(item.filter(|item| !item.conflict && item.value() == Some(&value(winner, 1))))
        })
        .await?;
    }
    cluster.finish().await
}
