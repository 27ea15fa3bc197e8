//! A sidecar goes on under another signing key.

use causeway_tests::{cluster::Cluster, result::Result, server::Tuning, user::User};
use serde_json::json;

use super::until;
use crate::two::python;

/// Waits until all of these show what was written.
async fn hold(users: &[&User], room: &str, key: &str) -> Result<()> {
    for user in users {
        until(&format!("{key} at {}", user.id), async || {
            let item = user.item(room, key).await.ok().flatten();
            Ok(item.filter(|item| item.value() == Some(&json!({ "key": key }))).map(drop))
        })
        .await?;
    }
    Ok(())
}

async fn write(user: &User, room: &str, key: &str) -> Result<()> {
    until(&format!("{} to write {key}", user.id), async || {
        let written = user.try_write(room, key, &json!({ "value": { "key": key } })).await?;
        Ok((written.status == 200).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_former_key_signed_is_believed_by_newcomers_and_by_the_sidecar_itself() -> Result<()> {
    let tuning = Tuning::default();
    let cluster = Cluster::start_tuned(2, &tuning).await?;
    let (mut synapse, mut side) = cluster.add_besides(&python().await?, 1, &tuning).await?.remove(0);
    let alice = User::register(&cluster[0], "alice").await?;
    let carol = User::register(&cluster[1], "carol").await?;
    let zoe = User::register_with(synapse.client(), "zoe").await?;
    let room = zoe.create_room("space").await?;
    until("Alice to join", async || alice.join(&room, &synapse.name).await.map(Some)).await?;
    write(&zoe, &room, "before").await?;
    hold(&[&alice, &zoe], &room, "before").await?;

    side.stop().await?;
    side.renew_key(&mut synapse).await?;
    side.start().await?;
    write(&zoe, &room, "after").await?;
    write(&alice, &room, "alice").await?;
    let all = ["before", "after", "alice"];
    for key in all {
        hold(&[&alice, &zoe], &room, key).await?;
    }
    until("Carol to join", async || carol.join(&room, &synapse.name).await.map(Some)).await?;
    for key in all {
        hold(&[&carol], &room, key).await?;
    }

    // Its data, with the former key in it, is lost: what it wrote under that comes back all the same.
    side.kill().await?;
    side.restore(None)?;
    side.start().await?;
    for key in all {
        hold(&[&zoe], &room, key).await?;
    }
    side.kill().await?;
    synapse.kill().await?;
    cluster.finish().await
}
