//! A room is upgraded by a Synapse, and its items go along.

use causeway_tests::{
    cluster::Cluster,
    result::{Failure, Result},
    server::Tuning,
    user::User,
};
use reqwest::Method;
use serde_json::json;

use super::until;
use crate::two::python;

#[tokio::test(flavor = "multi_thread")]
async fn the_items_of_a_room_that_a_synapse_upgrades_go_along() -> Result<()> {
    let tuning = Tuning::default();
    let cluster = Cluster::start_tuned(1, &tuning).await?;
    let (mut synapse, mut side) = cluster.add_besides(&python().await?, 1, &tuning).await?.remove(0);
    let alice = User::register(&cluster[0], "alice").await?;
    let zoe = User::register_with(synapse.client(), "zoe").await?;
    let old = zoe.create_room("space").await?;
    zoe.put_item(&old, "state", &json!({"n": 1})).await?;
    until("an item by the API", async || {
        let written = zoe.try_write(&old, "api", &json!({"value": {"n": 2}})).await?;
        Ok((written.status == 200).then_some(()))
    })
    .await?;
    zoe.put_item(&old, "gone", &json!({"n": 3})).await?;
    zoe.put_item(&old, "gone", &json!({})).await?;
    until("the delete", async || {
        let item = zoe.item(&old, "gone").await?;
        Ok(item.is_none_or(|item| item.value().is_none()).then_some(()))
    })
    .await?;

    let path = format!("/_matrix/client/v3/rooms/{}/upgrade", causeway_tests::client::segment(&old));
    let upgraded = zoe.call(Method::POST, &path, Some(&json!({"new_version": "11"}))).await?;
    let new = upgraded["replacement_room"].as_str().map(str::to_owned);
    let new = new.ok_or_else(|| Failure::new(format!("no new room: {upgraded}")))?;
    until("Alice to join", async || alice.join(&new, &synapse.name).await.map(Some)).await?;
    for user in [&zoe, &alice] {
        for (key, n) in [("state", 1), ("api", 2)] {
            until(&format!("{key} in the new room, at {}", user.id), async || {
                let item = user.item(&new, key).await.ok().flatten();
                Ok(item.filter(|item| item.value() == Some(&json!({ "n": n }))).map(drop))
            })
            .await?;
        }
        assert!(user.item(&new, "gone").await?.is_none());
    }
    let late = zoe.try_write(&old, "late", &json!({"value": {"n": 4}})).await?;
    assert_eq!(late.status, 403, "the old room is closed");
    side.kill().await?;
    synapse.kill().await?;
    cluster.finish().await
}
