//! An old copy of a data folder is put back: the server gets its own lost
//! changes back from whoever holds them, and never issues a dot twice.

use causeway_tests::{
    cluster::Cluster,
    link::Cut,
    result::{Result, ensure},
};

use crate::pair::{Pair, in_step, value};

const BEFORE: usize = 6;
const AFTER: usize = 6;

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_server_gets_its_own_changes_back() -> Result<()> {
    let mut cluster = Cluster::start(3).await?;
    let pair = Pair::meet(&cluster).await?;
    let carol = pair.bystander(&cluster).await?;
    let all = [&pair.alice, &pair.bob, &carol];
    for number in 0..BEFORE {
        pair.alice.put_item(&pair.room, &format!("before/{number}"), &value("alice", number)).await?;
    }
    in_step(&pair.room, BEFORE, &all).await?;

    let copy = cluster.path("old copy");
    cluster[0].stop().await?;
    cluster[0].save(&copy)?;
    cluster[0].start().await?;
    for number in 0..AFTER {
        pair.alice.put_item(&pair.room, &format!("lost/{number}"), &value("alice", number)).await?;
    }
    in_step(&pair.room, BEFORE + AFTER, &all).await?;

    cluster[0].stop().await?;
    cluster[0].restore(&copy)?;
    // Only the bystander can give them back.
    cluster.cut(0, 1, Cut::Refused)?;
    cluster[0].start().await?;
    in_step(&pair.room, BEFORE + AFTER, &[&pair.alice, &carol]).await?;
    cluster.heal(0, 1)?;

    // What it writes now must not collide with what it had forgotten.
    pair.alice.put_item(&pair.room, "new/alice", &value("alice", 0)).await?;
    pair.bob.put_item(&pair.room, "new/bob", &value("bob", 0)).await?;
    let items = in_step(&pair.room, BEFORE + AFTER + 2, &all).await?;
    ensure(items.iter().all(|item| item.value().is_some() && !item.conflict), || format!("{items:?}"))?;
    let status = pair.bob.space_status(&pair.room).await?;
    let forks = status["forks"].as_array().map_or(0, Vec::len);
    ensure(forks == 0, || format!("a dot was issued twice: {status}"))?;
    cluster.finish().await
}
