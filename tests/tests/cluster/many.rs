//! More conflicts at once than are told one by one: one message, for all, once.

use std::collections::BTreeSet;

use causeway_tests::{
    cluster::Cluster,
    link::Cut,
    result::{Result, ensure},
    user::SHARED_SPACE,
    wait,
};
use serde_json::{Value, json};

use crate::pair::{Pair, value};

const KEYS: usize = 25;

fn key(number: usize) -> String {
    format!("plans/{number:02}.md")
}

#[tokio::test(flavor = "multi_thread")]
async fn many_conflicts_are_told_once_and_settled_by_one_reply() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let pair = Pair::meet(&cluster).await?;
    // Without faces the changes travel by the logs alone, and arrive together.
    pair.alice.put_state(&pair.room, SHARED_SPACE, "", &json!({ "projection": "none" })).await?;
    wait::until("the declaration on the other server", async || {
        let declared = pair.bob.state(&pair.room, SHARED_SPACE, "").await?;
        Ok(declared.filter(|content| content["projection"] == "none"))
    })
    .await?;

    cluster.cut(0, 1, Cut::Refused)?;
    let write =
        |writer: &'static str| move |number| json!({ "key": key(number), "value": value(writer, number) });
    // Deletes are last in the order of display: the home of whoever deletes speaks of all.
    pair.alice.write_batch(&pair.room, &(0..KEYS).map(write("alice")).collect::<Vec<_>>()).await?;
    let deletes: Vec<Value> = (0..KEYS).map(|number| json!({ "key": key(number), "delete": true })).collect();
    pair.bob.write_batch(&pair.room, &deletes).await?;
    cluster.heal(0, 1)?;

    let is_summary = |event: &Value| event["content"]["org.causeway.conflicts"].is_array();
    let told = pair.alice.sync_until(&pair.room, "the message about all", is_summary).await?;
    let listed: BTreeSet<&str> = told["content"]["org.causeway.conflicts"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|one| one["key"].as_str())
        .collect();
    ensure(listed.len() == KEYS, || format!("{} are listed: {told}", listed.len()))?;

    // The number of Alice, by the order of the authors' ids.
    let number = if pair.alice.id < pair.bob.id { 1 } else { 2 };
    let relation = json!({ "m.in_reply_to": { "event_id": told["event_id"] } });
    let reply = json!({ "msgtype": "m.text", "body": format!("keep {number}"), "m.relates_to": relation });
    pair.alice.send(&pair.room, "m.room.message", &reply).await?;
    for user in [&pair.alice, &pair.bob] {
        wait::until("the settlement of all", async || {
            let items = user.items(&pair.room).await?;
            let settled = items.iter().filter(|item| !item.conflict && item.value().is_some()).count();
            ensure(settled == KEYS, || format!("{settled} of {KEYS} are settled"))?;
            Ok(Some(()))
        })
        .await?;
    }
    let is_edit = |event: &Value| event["content"]["m.relates_to"]["rel_type"] == "m.replace";
    wait::until("the edit", async || {
        Ok(pair.alice.messages(&pair.room, 200).await?.into_iter().find(is_edit))
    })
    .await?;
    cluster.all_is_told().await?;
    for user in [&pair.alice, &pair.bob] {
        let told = user.messages(&pair.room, 200).await?;
        let told: Vec<_> = told.iter().filter(|event| is_summary(event) || is_notice(event)).collect();
        ensure(told.len() == 1, || format!("told {} times: {}", told.len(), json!(told)))?;
    }
    cluster.finish().await
}

fn is_notice(event: &Value) -> bool {
    event["content"]["org.causeway.conflict"]["key"].is_string() && event["content"]["m.relates_to"].is_null()
}
