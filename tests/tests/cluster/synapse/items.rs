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

use super::{Mixed, Way, state_is};

/// The type of a conflict notice's own field, and of one about many.
const CONFLICT: &str = "org.causeway.conflict";
const CONFLICTS: &str = "org.causeway.conflicts";
/// Items that both write at once: more than a Synapse asks for as missing, and than are told
/// one by one.
const MANY: usize = 25;

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

/// The keys of the conflicts that a user can read of, in the order of the notices; an edit tells
/// of none.
async fn told(user: &User, room: &str) -> Result<Vec<String>> {
    let mut keys = Vec::new();
    for event in user.messages(room, 200).await? {
        let content = &event["content"];
        if event["type"] != "m.room.message" || !content["m.relates_to"].is_null() {
            continue;
        }
        let many = content[CONFLICTS].as_array().into_iter().flatten();
        for conflict in many.chain(content.get(CONFLICT)) {
            keys.push(text(conflict, "key")?);
        }
    }
    Ok(keys)
}

/// Both write many items while cut off.
async fn quarrel_about_many(mixed: &Mixed, room: &str) -> Result<()> {
    let Mixed { cluster, alice, zoe, .. } = mixed;
    cluster.cut(0, 1, Cut::Refused)?;
    for number in 0..MANY {
        let key = format!("many/{number:02}");
        alice.put_item(room, &key, &json!({"text": "Alice's"})).await?;
        zoe.put_item(room, &key, &json!({"text": "Zoe's"})).await?;
    }
    cluster.heal(0, 1)?;
    let wanted: Vec<String> = (0..MANY).map(|number| format!("many/{number:02}")).collect();
    let items = wait::until("all to be in conflict", async || {
        let mut items = alice.items(room).await?;
        items.retain(|item| item.conflict);
        let lacking = MANY - items.len().min(MANY);
        ensure(lacking == 0, || format!("{lacking} are not"))?;
        Ok(Some(items))
    })
    .await?;
    for item in items {
        let mut texts: Vec<&str> =
            item.siblings.iter().filter_map(|one| one.value.as_ref()?["text"].as_str()).collect();
        texts.sort_unstable();
        ensure(texts == ["Alice's", "Zoe's"], || format!("a write was lost: {item:?}"))?;
    }
    for user in [alice, zoe] {
        wait::until("everybody to be told of each once", async || {
            let mut keys = told(user, room).await?;
            keys.retain(|key| key.starts_with("many/"));
            keys.sort();
            ensure(keys == wanted, || format!("{} was told of {keys:?}", user.id))?;
            Ok(Some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn many_conflicts_with_users_of_synapse_are_found_and_told() -> Result<()> {
    let mixed = Mixed::start().await?;
    for way in mixed.ways() {
        let room = space(&way).await?;
        quarrel_about_many(&mixed, &room).await?;
    }
    mixed.finish().await
}

/// A room with a shared space in which everybody may write items.
async fn space(way: &Way<'_>) -> Result<String> {
    way.room(&json!({
        "preset": "public_chat",
        "power_level_content_override": {"events": {ITEM: 0}},
        "initial_state": [{"type": SHARED_SPACE, "state_key": "", "content": {}}],
    }))
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn users_of_synapse_write_items_and_settle_a_conflict_by_a_reaction() -> Result<()> {
    let mixed = Mixed::start().await?;
    for way in mixed.ways() {
        let room = space(&way).await?;
        take_turns(&room, &mixed.alice, &mixed.zoe).await?;
        quarrel(&mixed, &room).await?;
    }
    mixed.finish().await
}
