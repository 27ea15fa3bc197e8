//! Who comes when all is written, through a Synapse with a sidecar, and nobody writes any more.

use causeway_tests::result::Result;
use serde_json::json;

use super::Besides;

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_late_sees_all_items_of_a_space_in_which_nobody_writes_any_more() -> Result<()> {
    let besides = Besides::apart().await?;
    let (room, alice, zoe) = (&besides.room, &besides.alice, &besides.zoe);
    besides.comes(alice).await?;
    zoe.put_item(room, "old/state", &json!({"by": "Zoe"})).await?;
    besides.write(zoe, "old/zoe", &json!({"by": "Zoe"})).await?;
    besides.write(alice, "old/alice", &json!({"by": "Alice"})).await?;
    let old = [("old/state", "Zoe"), ("old/zoe", "Zoe"), ("old/alice", "Alice")];
    for (key, by) in old {
        besides.hold(&[alice, zoe], key, &json!({ "by": by })).await?;
        // Its face is there as well: nothing is said in the room any more.
        besides.see(&[alice, zoe], key, &json!({ "by": by })).await?;
    }
    besides.comes(&besides.yan).await?;
    for (key, by) in old {
        besides.all_hold(key, &json!({ "by": by })).await?;
    }
    besides.finish().await
}
