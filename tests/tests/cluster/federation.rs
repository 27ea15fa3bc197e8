//! Two servers, one room: what one writes, the other shows.

use causeway_tests::{
    cluster::Cluster,
    result::{Result, ensure},
    user::ITEM,
    wait,
};
use serde_json::json;

use crate::pair::{Pair, value};

#[tokio::test(flavor = "multi_thread")]
async fn messages_and_items_travel_both_ways() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let pair = Pair::meet(&cluster).await?;
    pair.bob.sync(0).await?;
    pair.alice.sync(0).await?;

    let sent =
        pair.alice.send(&pair.room, "m.room.message", &json!({ "msgtype": "m.text", "body": "hi" })).await?;
    pair.bob.sync_until(&pair.room, "Alice's message", |event| event["event_id"] == *sent).await?;
    let sent =
        pair.bob.send(&pair.room, "m.room.message", &json!({ "msgtype": "m.text", "body": "ho" })).await?;
    pair.alice.sync_until(&pair.room, "Bob's message", |event| event["event_id"] == *sent).await?;

    pair.alice.put_item(&pair.room, "plans/by event", &value("alice", 1)).await?;
    let written =
        pair.bob.try_write(&pair.room, "plans/by api", &json!({ "value": value("bob", 1) })).await?;
    written.ok()?;
    let items = pair.in_step(2).await?;
    assert_eq!(items[0].value(), Some(&value("bob", 1)));
    assert_eq!(items[1].value(), Some(&value("alice", 1)));
    assert!(items.iter().all(|item| !item.conflict));

    wait::until("Bob's item in Alice's room state", async || {
        let state = pair.alice.state(&pair.room, ITEM, "plans/by api").await?;
        Ok(state.filter(|content| content["writer"] == "bob"))
    })
    .await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_later_write_that_saw_the_earlier_is_no_conflict() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let pair = Pair::meet(&cluster).await?;
    pair.bob.sync(0).await?;
    for round in 0..5 {
        pair.alice.put_item(&pair.room, "ball", &value("alice", round)).await?;
        pair.bob
            .sync_until(&pair.room, "Alice's move", |event| {
                event["type"] == ITEM
                    && event["content"]["writer"] == "alice"
                    && event["content"]["number"] == round
            })
            .await?;
        // The acknowledgement is the next since.
        pair.bob.sync(0).await?;
        pair.bob.put_item(&pair.room, "ball", &value("bob", round)).await?;
        pair.alice
            .sync_until(&pair.room, "Bob's move", |event| {
                event["type"] == ITEM
                    && event["content"]["writer"] == "bob"
                    && event["content"]["number"] == round
            })
            .await?;
        pair.alice.sync(0).await?;
    }
    let items = pair.in_step(1).await?;
    ensure(items[0].siblings.len() == 1, || format!("a false alarm: {:?}", items[0]))?;
    cluster.finish().await
}
