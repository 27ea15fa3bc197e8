//! A real Synapse in the room: rooms made on either side, and a shared space in
//! which its users take part by ordinary state events and reactions.

use causeway_tests::{
    client::segment,
    cluster::Cluster,
    link::Cut,
    result::{Result, ensure},
    server::Tuning,
    space::Item,
    synapse::Synapse,
    user::{ITEM, SHARED_SPACE, User, text},
    wait,
};
use reqwest::Method;
use serde_json::{Value, json};

use crate::interop::python;

/// The type of a conflict notice's own field.
const CONFLICT: &str = "org.causeway.conflict";

/// One of each, and a user of each.
struct Mixed {
    cluster: Cluster,
    synapse: Synapse,
    alice: User,
    zoe: User,
}

impl Mixed {
    async fn start() -> Result<Self> {
        let python = python().await?;
        let tuning = Tuning { announce_step_ms: 1_000, ..Tuning::default() };
        let cluster = Cluster::start_tuned(1, &tuning).await?;
        let synapse = cluster.add_synapse(&python).await?;
        let alice = User::register(&cluster[0], "alice").await?;
        let zoe = User::register_with(synapse.client(), "zoe").await?;
        Ok(Self { cluster, synapse, alice, zoe })
    }

    /// Who makes the room, who comes to it, and through which server; both ways.
    fn directions(&self) -> [(&User, &User, &str); 2] {
        [(&self.alice, &self.zoe, &self.cluster[0].name), (&self.zoe, &self.alice, &self.synapse.name)]
    }

    async fn finish(mut self) -> Result<()> {
        self.synapse.kill().await?;
        self.cluster.finish().await
    }
}

/// A request about a room.
async fn in_room(user: &User, method: Method, room: &str, what: &str, body: &Value) -> Result<Value> {
    user.call(method, &format!("/_matrix/client/v3/rooms/{}/{what}", segment(room)), Some(body)).await
}

async fn create(user: &User, body: &Value) -> Result<String> {
    text(&user.call(Method::POST, "/_matrix/client/v3/createRoom", Some(body)).await?, "room_id")
}

async fn say(user: &User, room: &str, body: &str) -> Result<String> {
    user.send(room, "m.room.message", &json!({"msgtype": "m.text", "body": body})).await
}

/// Waits until a user can read an event whose content pleases.
async fn sees(user: &User, room: &str, event: &str, pleases: impl Fn(&Value) -> bool) -> Result<()> {
    let path = format!("/_matrix/client/v3/rooms/{}/event/{}", segment(room), segment(event));
    wait::until(&format!("{} to see {event}", user.id), async || {
        let answer = user.try_call(Method::GET, &path, None).await?;
        Ok((answer.status == 200 && pleases(&answer.body["content"])).then_some(()))
    })
    .await
}

/// Waits until a piece of a room's state pleases a user.
async fn state_is(user: &User, room: &str, kind: &str, key: &str, field: &str, value: &str) -> Result<()> {
    wait::until(&format!("{kind} {key:?} to be {value} for {}", user.id), async || {
        let state = user.state(room, kind, key).await?;
        Ok(state.filter(|content| content[field] == value).map(drop))
    })
    .await
}

/// Talking, taking back, leaving and coming back, in a room with both in it.
async fn share(room: &str, maker: &User, guest: &User, via: &str) -> Result<()> {
    for (from, to) in [(maker, guest), (guest, maker)] {
        let said = say(from, room, "hello").await?;
        sees(to, room, &said, |content| content["body"] == "hello").await?;
        in_room(from, Method::PUT, room, &format!("redact/{}/1", segment(&said)), &json!({})).await?;
        sees(to, room, &said, |content| *content == json!({})).await?;
    }
    maker.put_state(room, "m.room.topic", "", &json!({"topic": "shared"})).await?;
    state_is(guest, room, "m.room.topic", "", "topic", "shared").await?;
    in_room(guest, Method::POST, room, "leave", &json!({})).await?;
    state_is(maker, room, "m.room.member", &guest.id, "membership", "leave").await?;
    guest.join(room, via).await?;
    let said = say(maker, room, "welcome back").await?;
    sees(guest, room, &said, |content| content["body"] == "welcome back").await
}

#[tokio::test(flavor = "multi_thread")]
async fn rooms_and_files_are_shared_with_synapse_both_ways() -> Result<()> {
    let mixed = Mixed::start().await?;
    for (maker, guest, via) in mixed.directions() {
        // No version: each side's default.
        let room = create(maker, &json!({"preset": "public_chat"})).await?;
        guest.join(&room, via).await?;
        share(&room, maker, guest, via).await?;

        let room = create(maker, &json!({"preset": "private_chat"})).await?;
        in_room(maker, Method::POST, &room, "invite", &json!({"user_id": guest.id})).await?;
        let shown = wait::until("the invite", async || {
            let answer = guest.sync(0).await?;
            Ok(answer["rooms"]["invite"][&room]["invite_state"]["events"].as_array().cloned())
        });
        let shown = shown.await?;
        ensure(shown.iter().any(|event| event["type"] == "m.room.create"), || format!("{shown:?}"))?;
        guest.join(&room, via).await?;
        let said = say(maker, &room, "just us").await?;
        sees(guest, &room, &said, |content| content["body"] == "just us").await?;

        let content: Vec<u8> = (0..100_000_u32).map(|n| n.to_le_bytes()[n as usize % 2]).collect();
        let mxc = maker.upload("application/octet-stream", content.clone()).await?;
        let (status, fetched) = guest.download(&mxc).await?;
        ensure(status == 200 && fetched == content, || format!("the file came with {status}"))?;
    }
    mixed.finish().await
}

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
    for (maker, guest, via) in mixed.directions() {
        let room = create(
            maker,
            &json!({
                "preset": "public_chat",
                "power_level_content_override": {"events": {ITEM: 0}},
                "initial_state": [{"type": SHARED_SPACE, "state_key": "", "content": {}}],
            }),
        )
        .await?;
        guest.join(&room, via).await?;
        take_turns(&room, &mixed.alice, &mixed.zoe).await?;
        quarrel(&mixed, &room).await?;
    }
    mixed.finish().await
}
