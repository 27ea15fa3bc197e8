//! The origin is gone for good: any holder serves its changes and its files.

use causeway_tests::{cluster::Cluster, link::Cut, result::Result, user::User, wait};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::pair::{Pair, in_step, value};

const WRITES: usize = 10;

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_serves_the_changes_of_an_origin_that_is_gone() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let pair = Pair::meet(&cluster).await?;
    let carol = User::register(&cluster[2], "carol").await?;
    carol.join(&pair.room, &cluster[0].name).await?;
    pair.alice.put_item(&pair.room, "shared", &value("alice", 0)).await?;
    in_step(&pair.room, 1, &[&pair.alice, &pair.bob, &carol]).await?;

    cluster.cut(0, 2, Cut::Silent)?;
    cluster.cut(1, 2, Cut::Silent)?;
    for number in 0..WRITES {
        pair.alice.put_item(&pair.room, &format!("late/{number}"), &value("alice", number)).await?;
    }
    let content = vec![7_u8; 100_000];
    let url = pair.alice.upload("application/octet-stream", content.clone()).await?;
    let file = json!({ "file": {
        "url": url,
        "size": content.len(),
        "mimetype": "application/octet-stream",
        "sha256": hex::encode(Sha256::digest(&content)),
    } });
    pair.alice.try_write(&pair.room, "file", &json!({ "value": file })).await?.ok()?;
    pair.in_step(WRITES + 2).await?;
    // Nobody asks for the file while its origin lives: the server does, in the background.
    wait::until("the file in Bob's server's store", async || {
        Ok(cluster[1].holds_file_of(content.len() as u64)?.then_some(()))
    })
    .await?;

    cluster[0].kill().await?;
    cluster.heal(1, 2)?;
    let items = in_step(&pair.room, WRITES + 2, &[&pair.bob, &carol]).await?;
    assert!(items.iter().all(|item| item.value().is_some() && !item.conflict));
    for user in [&pair.bob, &carol] {
        wait::until("the file of the origin that is gone", async || {
            let (status, got) = user.download(&url).await?;
            Ok((status == 200 && got == content).then_some(()))
        })
        .await?;
    }
    cluster.finish().await
}
