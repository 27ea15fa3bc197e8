//! A sidecar with a name of its own, beside a Synapse that knows nothing of its key: the Synapse's
//! name claims it, and then does not any more.

use std::{fs, path::Path};

use causeway_tests::{
    cluster::Cluster,
    link::Cut,
    result::Result,
    server::Tuning,
    space::Item,
    user::{ITEM, User, state_path},
    wait,
};
use reqwest::Method;
use serde_json::json;

use super::{ONE, notices, past_the_proxy, until};
use crate::two::python;

/// The keys that a homeserver publishes, or the sidecar in its name.
const KEYS: &str = "/_matrix/key/v2/server";

async fn item(user: &User, room: &str, key: &str, is: impl Fn(&Item) -> bool) -> Result<Item> {
    until(&format!("{key} at {}", user.id), async || Ok(user.item(room, key).await?.filter(|item| is(item))))
        .await
}

async fn writes(user: &User, room: &str, key: &str, by: &str) -> Result<()> {
    until(&format!("{} to write {key}", user.id), async || {
        let written = user.try_write(room, key, &json!({ "value": { "by": by } })).await?;
        Ok((written.status == 200).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_by_a_name_of_its_own_is_believed_while_its_homeservers_name_claims_it() -> Result<()> {
    let tuning = Tuning { own_names: true, ..Tuning::default() };
    let cluster = Cluster::start_tuned(1, &tuning).await?;
    let (synapse, mut side) = cluster.add_besides(&python().await?, 1, &tuning).await?.remove(0);
    let (mut synapse, name) = (synapse, side.front().own.to_string());
    let alice = User::register(&cluster[0], "alice").await?;
    let zoe = User::register_with(synapse.client(), "zoe").await?;
    let room = zoe.create_room("space").await?;
    until("Alice to join", async || alice.join(&room, &synapse.name).await.map(Some)).await?;

    let key = fs::read_to_string(side.folder.join("signing.key"))?;
    let version = key.split(' ').nth(1).unwrap_or_default().to_owned();
    let published = synapse.client().call(Method::GET, KEYS, None, None).await?.ok()?;
    assert!(!published.to_string().contains(&version), "the Synapse has no part in it: {published}");

    // Both ways, by state events and by the API.
    zoe.put_item(&room, "state", &json!({"by": "zoe"})).await?;
    writes(&zoe, &room, "api", "zoe").await?;
    writes(&alice, &room, "alice", "alice").await?;
    for (key, by) in [("state", "zoe"), ("api", "zoe"), ("alice", "alice")] {
        for user in [&alice, &zoe] {
            let shown = item(user, &room, key, |item| item.value() == Some(&json!({ "by": by }))).await?;
            assert!(shown.siblings[0].author.contains(by), "{:?}", shown.siblings[0]);
        }
    }

    // What did not see each other is kept on both sides, and told once.
    cluster.cut(0, ONE, Cut::Refused)?;
    side.kill().await?;
    writes(&alice, &room, "plan", "alice").await?;
    side.start().await?;
    let direct = past_the_proxy(&synapse)?;
    let path = state_path(&room, ITEM, "plan");
    direct.call(Method::PUT, &path, Some(&zoe.token), Some(&json!({"by": "zoe"}))).await?.ok()?;
    cluster.heal(0, ONE)?;
    for user in [&alice, &zoe] {
        let shown = item(user, &room, "plan", |item| item.siblings.len() == 2).await?;
        assert!(shown.conflict);
    }
    let told = until("the conflict to be told", async || {
        Ok(Some(notices(&alice, &room).await?).filter(|told| !told.is_empty()))
    });
    assert_eq!(told.await?.len(), 1);

    // The name takes its word back.
    side.front().claims(None);
    wait::until("both to say that nobody speaks for the Synapse", async || {
        let here = log_has(&cluster[0].folder, "does not say any more that this sidecar speaks for it")?;
        let there = log_has(&side.folder, &format!("does not say that {name} speaks for it"))?;
        Ok((here && there).then_some(()))
    })
    .await?;
    writes(&zoe, &room, "unclaimed", "zoe").await?;
    writes(&alice, &room, "alone", "alice").await?;
    // Its face is in the room, and says nothing by itself.
    until("the face at Alice's", async || Ok(alice.state(&room, ITEM, "unclaimed").await?.map(drop))).await?;
    assert!(alice.item(&room, "unclaimed").await?.is_none(), "nobody speaks for the Synapse");
    assert!(alice.item(&room, "api").await?.is_some(), "what is held stays");

    // And gives it again.
    side.front().claims(Some(&name));
    item(&alice, &room, "unclaimed", |item| item.value() == Some(&json!({"by": "zoe"}))).await?;
    item(&zoe, &room, "alone", |item| item.value() == Some(&json!({"by": "alice"}))).await?;
    side.kill().await?;
    synapse.kill().await?;
    cluster.finish().await
}

fn log_has(folder: &Path, text: &str) -> Result<bool> {
    Ok(fs::read_to_string(folder.join("log"))?.contains(text))
}
