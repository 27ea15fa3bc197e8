//! The proof of the problem: both sides write the same items while cut off.

use std::collections::BTreeMap;

use causeway_tests::{
    cluster::Cluster,
    link::Cut,
    namespaces::Namespaces,
    result::{Result, ensure, skipped},
    user::{ITEM, User},
    wait,
};
use serde_json::{Value, json};

use crate::pair::{Pair, in_step, value};

const KEYS: usize = 20;

fn key(number: usize) -> String {
    format!("plans/{number:02}.md")
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_twenty_items_written_on_both_sides_are_kept_and_flagged() -> Result<()> {
    both_write_while_cut_off(Cluster::start(3).await?).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_with_a_network_that_loses_packets() -> Result<()> {
    if let Some(refusal) = Namespaces::refused()? {
        return skipped("a network that loses packets", &refusal);
    }
    both_write_while_cut_off(Cluster::start_in_namespaces(3, 0).await?).await
}

async fn both_write_while_cut_off(cluster: Cluster) -> Result<()> {
    let pair = Pair::meet(&cluster).await?;
    let carol = pair.bystander(&cluster).await?;
    let all = [&pair.alice, &pair.bob, &carol];
    for number in 0..KEYS {
        pair.alice.put_item(&pair.room, &key(number), &value("first", number)).await?;
    }
    in_step(&pair.room, KEYS, &all).await?;
    pair.all_seen().await?;

    // Carol's server stays with Bob's: it holds what Bob writes and must tell nothing.
    cluster.cut(0, 1, Cut::Silent)?;
    cluster.cut(0, 2, Cut::Silent)?;
    for number in 0..KEYS {
        pair.alice.put_item(&pair.room, &key(number), &value("alice", number)).await?;
        pair.bob.put_item(&pair.room, &key(number), &value("bob", number)).await?;
    }
    pair.alice.put_item(&pair.room, "zz only Alice", &value("alice", 0)).await?;
    pair.bob.put_item(&pair.room, "zz only Bob", &value("bob", 0)).await?;
    cluster.heal(0, 1)?;
    cluster.heal(0, 2)?;

    let items = in_step(&pair.room, KEYS + 2, &all).await?;
    for (number, item) in items[..KEYS].iter().enumerate() {
        let mut writers: Vec<&str> =
            item.siblings.iter().filter_map(|one| one.value.as_ref()?["writer"].as_str()).collect();
        writers.sort_unstable();
        ensure(item.conflict && writers == ["alice", "bob"], || {
            format!("item {number} lost a write: {item:?}")
        })?;
    }
    assert!(items[KEYS..].iter().all(|item| !item.conflict && item.siblings.len() == 1));
    for user in all {
        every_conflict_is_told(user, &pair.room).await?;
    }
    // A second speaker waits for its turn: only now would it have spoken.
    cluster.all_is_told().await?;
    for user in all {
        no_conflict_is_told_twice(user, &pair.room).await?;
    }
    cluster.finish().await
}

/// Waits until there is a notice for each key.
async fn every_conflict_is_told(user: &User, room: &str) -> Result<()> {
    wait::until("a notice of each conflict", async || {
        let told = notices(user, room).await?;
        ensure(told.len() >= KEYS, || format!("{} of {KEYS} conflicts are told", told.len()))?;
        Ok(Some(()))
    })
    .await
}

/// The notices that a user is shown, by the key that they tell.
async fn notices(user: &User, room: &str) -> Result<BTreeMap<String, Vec<Value>>> {
    let mut told: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for event in user.messages(room, 200).await? {
        for key in told_keys(&event) {
            told.entry(key).or_default().push(event.clone());
        }
    }
    Ok(told)
}

async fn no_conflict_is_told_twice(user: &User, room: &str) -> Result<()> {
    let told = notices(user, room).await?;
    let twice: Vec<_> = told.iter().filter(|(_, notices)| notices.len() != 1).collect();
    ensure(twice.is_empty() && told.len() == KEYS, || {
        let example = twice.first().map(|(_, notices)| json!(notices)).unwrap_or_default();
        format!("{} of {} conflicts are told other than once: {example:#}", twice.len(), told.len())
    })
}

/// The keys of the conflicts that an event announces; an edit announces nothing new.
fn told_keys(event: &Value) -> Vec<String> {
    let content = &event["content"];
    let edit = content["m.relates_to"]["rel_type"] == "m.replace";
    if edit || event["type"] != "m.room.message" {
        return Vec::new();
    }
    content["org.causeway.conflict"]["key"].as_str().map(str::to_owned).into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conflict_is_settled_by_a_reaction() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let pair = Pair::meet(&cluster).await?;
    pair.alice.put_item(&pair.room, "plan", &value("first", 0)).await?;
    pair.in_step(1).await?;
    pair.all_seen().await?;
    cluster.cut(0, 1, Cut::Refused)?;
    pair.alice.put_item(&pair.room, "plan", &value("alice", 1)).await?;
    pair.bob.put_item(&pair.room, "plan", &value("bob", 1)).await?;
    cluster.heal(0, 1)?;

    let notice = pair
        .bob
        .sync_until(&pair.room, "the notice", |event| {
            event["content"]["org.causeway.conflict"]["key"] == "plan"
        })
        .await?;
    let mentioned = &notice["content"]["m.mentions"]["user_ids"];
    for user in [&pair.alice, &pair.bob] {
        let named = mentioned.as_array().is_some_and(|ids| ids.contains(&json!(user.id)));
        ensure(named, || format!("{} is not mentioned in {notice}", user.id))?;
    }
    let chosen = notice["content"]["org.causeway.conflict"]["siblings"][0]["author"].clone();
    let event = notice["event_id"].as_str().unwrap_or_default();
    pair.bob.react(&pair.room, event, "1\u{fe0f}\u{20e3}").await?;

    let winner = if chosen == *pair.alice.id { "alice" } else { "bob" };
    for user in [&pair.alice, &pair.bob] {
        wait::until("the settlement", async || {
            let item = user.item(&pair.room, "plan").await?;
            Ok(item.filter(|item| !item.conflict && item.value() == Some(&value(winner, 1))))
        })
        .await?;
        wait::until("the settled face in the room state", async || {
            let face = user.state(&pair.room, ITEM, "plan").await?;
            Ok(face.filter(|face| face["writer"] == winner && face.get("org.causeway.conflict").is_none()))
        })
        .await?;
    }
    cluster.finish().await
}
