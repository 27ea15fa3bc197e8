//! What a homeserver fails softly: it keeps the event, and tells its clients and its sidecar nothing
//! of it.

use causeway_tests::{result::Result, user::ITEM};
use serde_json::json;

use super::{Besides, until};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_homeserver_fails_softly_comes_to_its_sidecar_by_the_log() -> Result<()> {
    let besides = Besides::start().await?;
    let (room, zoe, yan, alice) = (&besides.room, &besides.zoe, &besides.yan, &besides.alice);
    let path = "m.room.power_levels";
    let mut levels = zoe.state(room, path, "").await?.unwrap_or_default();
    besides.cut_one_off()?;
    // Where Zoe is, nobody else may write items any more; the others do not know it yet.
    levels["events"][ITEM] = json!(100);
    zoe.put_state(room, path, "", &levels).await?;
    yan.put_item(room, "soft/yan", &json!({"by": "Yan"})).await?;
    alice.put_item(room, "soft/alice", &json!({"by": "Alice"})).await?;
    alice.try_write(room, "soft/api", &json!({"value": {"by": "Alice"}})).await?.ok()?;
    besides.heal()?;
    zoe.put_item(room, "hard/zoe", &json!({"by": "Zoe"})).await?;
    until("Zoe's homeserver to fail something softly", async || {
        Ok(besides.one.log().contains("Soft-failing").then_some(()))
    })
    .await?;
    for (key, by) in [("soft/alice", "Alice"), ("soft/api", "Alice"), ("hard/zoe", "Zoe")] {
        besides.all_hold(key, &json!({ "by": by })).await?;
    }
    // What Yan's sidecar adopted, Zoe's can't prove: her homeserver shows it nothing of that event.
    besides.hold(&[alice, yan], "soft/yan", &json!({"by": "Yan"})).await?;
    assert!(zoe.state(room, ITEM, "soft/alice").await?.is_none(), "it is no part of the room's state");
    // Who may write, and has seen it, writes over it.
    let token = zoe.item(room, "soft/alice").await?.map(|item| item.token);
    let over = json!({"value": {"by": "Zoe"}, "token": token});
    zoe.try_write(room, "soft/alice", &over).await?.ok()?;
    besides.all_hold("soft/alice", &json!({"by": "Zoe"})).await?;
    besides.all_see("soft/alice", &json!({"by": "Zoe"})).await?;
    besides.finish().await
}
