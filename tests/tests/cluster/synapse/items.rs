//! A shared space in a room with a Synapse, whose users take part by ordinary state events
//! and reactions.

use causeway_tests::{
    link::Cut,
    result::{Result, ensure},
    space::Item,
    user::{ITEM, SHARED_SPACE, User, text},
    wait,
};
use serde_json::{Value, json};

use super::{Mixed, state_is};

/// The type of a conflict notice's own field.
const CONFLICT: &str = "org.causeway.conflict";

/// Waits until an item pleases a user of the server that takes part.
async fn item_is(user: &User, room: &str, key: &str, pleases: impl Fn(&Item) -> bool) -> Result<Item> {
    wait::until(&format!("the item {key} to be as it should"), async || {
        Ok(user.item(room, key).await?.filter(|item| pleases(item)))
    })
    .await
}

fn has_text(item: &Item, text: &str) -> bool {
    !item.conflict && item.value().is_some_and(|value| value["text"] == text)
}

/// The conflict notices that a user can read, edits left out.
async fn notices(user: &User, room: &str) -> Result<Vec<Value>> {
    let mut all = user.messages(room, 50).await?;
    all.retain(|event| {
        let content = &event["content"];
        let tells = event["type"] == "m.room.message" && content.get(CONFLICT).is_some();
        tells && content["m.relates_to"].is_null()
    });
    Ok(all)
}

/// One after the other writes the same items, each having seen what was there.
async fn take_turns(room: &str, alice: &User, zoe: &User) -> Result<()> {
    zoe.put_item(room, "notes/zoe", &json!({"text": "by Zoe"})).await?;
    let item = item_is(alice, room, "notes/zoe", |item| has_text(item, "by Zoe")).await?;
    ensure(item.siblings[0].author == zoe.id, || format!("adopted in another's name: {item:?}"))?;
    alice.put_item(room, "notes/alice", &json!({"text": "by Alice"})).await?;
    state_is(zoe, room, ITEM, "notes/alice", "text", "by Alice").await?;
    zoe.put_item(room, "notes/alice", &json!({"text": "Zoe edits"})).await?;
    item_is(alice, room, "notes/alice", |item| has_text(item, "Zoe edits")).await?;
    alice
        .try_write(room, "notes/zoe", &json!({"value": {"text": "Alice edits"}, "token": item.token}))
        .await?;
    state_is(zoe, room, ITEM, "notes/zoe", "text", "Alice edits").await?;
    zoe.put_item(room, "notes/zoe", &json!({})).await?;
    wait::until("the item to be deleted", async || {
        let listed = alice.items(room).await?;
        Ok((listed.len() == 1 && has_text(&listed[0], "Zoe edits")).then_some(()))
    })
    .await
}

/// Both write one item while cut off; Zoe decides for what Alice wrote.
async fn quarrel(mixed: &Mixed, room: &str) -> Result<()> {
    let Mixed { cluster, alice, zoe, .. } = mixed;
    cluster.cut(0, 1, Cut::Refused)?;
    alice.put_item(room, "plan", &json!({"text": "Alice's"})).await?;
    zoe.put_item(room, "plan", &json!({"text": "Zoe's"})).await?;
    cluster.heal(0, 1)?;
    let item = item_is(alice, room, "plan", |item| item.conflict).await?;
    let mut texts: Vec<&str> =
        item.siblings.iter().filter_map(|one| one.value.as_ref()?["text"].as_str()).collect();
    texts.sort_unstable();
    ensure(texts == ["Alice's", "Zoe's"], || format!("a write was lost: {item:?}"))?;

    let notice = wait::until("Zoe to be told", async || Ok(notices(zoe, room).await?.pop())).await?;
    let listed = notice["content"][CONFLICT]["siblings"].as_array().cloned().unwrap_or_default();
    let number = listed.iter().position(|one| one["author"] == alice.id.as_str()).unwrap_or_default() + 1;
    let event = text(&notice, "event_id")?;
    zoe.react(room, &event, &format!("{number}\u{fe0f}\u{20e3}")).await?;
    item_is(alice, room, "plan", |item| has_text(item, "Alice's")).await?;
    state_is(zoe, room, ITEM, "plan", "text", "Alice's").await?;
    let settled = format!("Settled by {}", zoe.id);
    wait::until("the notice to say who settled it", async || {
        let said = zoe.messages(room, 50).await?;
        let edited = |said: &Value| {
            said["content"]["m.relates_to"]["event_id"] == event.as_str()
                && said["content"]["m.new_content"]["body"]
                    .as_str()
                    .is_some_and(|body| body.starts_with(&settled))
        };
        Ok(said.iter().any(edited).then_some(()))
    })
    .await?;
    for user in [alice, zoe] {
        let told = notices(user, room).await?;
        ensure(told.len() == 1, || format!("told {} times: {told:?}", told.len()))?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_synapse_write_items_and_settle_a_conflict_by_a_reaction() -> Result<()> {
    let mixed = Mixed::start().await?;
    for way in mixed.ways() {
        let room = way
            .room(&json!({
                "preset": "public_chat",
                "power_level_content_override": {"events": {ITEM: 0}},
                "initial_state": [{"type": SHARED_SPACE, "state_key": "", "content": {}}],
            }))
            .await?;
        take_turns(&room, &mixed.alice, &mixed.zoe).await?;
        quarrel(&mixed, &room).await?;
    }
    mixed.finish().await
}
