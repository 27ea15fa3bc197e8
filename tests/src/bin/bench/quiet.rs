//! What two servers say to each other when there is nothing to say.

use std::time::Duration;

use causeway_tests::{
    cluster::Cluster,
    result::{Failure, Result},
    user::User,
    wait,
};

use crate::{
    catch_up,
    figures::{Figures, number},
    writes,
};

/// Items in the small and in the large room.
const ITEMS: [usize; 2] = [100, 10_000];
/// Exchanges that are counted.
const EXCHANGES: usize = 8;
/// The metric that counts transactions sent: in a quiet room each carries one
/// advertisement.
const ADVERTISEMENTS: &str = "causeway_federation_transactions_sent";

/// Waits for the timer's advertisements in a room where nothing happens.
pub async fn measure(cluster: &Cluster, scale: usize, figures: &mut Figures) -> Result<()> {
    let alice = User::register(&cluster[0], "alice").await?;
    let bob = User::register(&cluster[1], "bob").await?;
    for items in ITEMS {
        let items = items / scale;
        let room = catch_up::mirror(&alice).await?;
        bob.join(&room, &cluster[0].name).await?;
        writes::fill(&alice, &room, items).await?;
        wait::until_within(wait::PATIENCE * 2, "both servers to be in step", async || {
            let (north, south) = (alice.space_status(&room).await?, bob.space_status(&room).await?);
            Ok((north["vector"] == south["vector"]).then_some(()))
        })
        .await?;
        let (sent, bytes) = exchanges(cluster).await?;
        figures.add(format!("quiet_exchange_{items}_items"), number(bytes) / number(sent), "bytes", "< 500");
    }
    Ok(())
}

/// Waits for some exchanges after the room fell silent; their number and bytes.
async fn exchanges(cluster: &Cluster) -> Result<(usize, usize)> {
    // What was in flight when the room fell silent is not counted.
    settle(cluster, 2).await?;
    let before = (advertisements(cluster).await?, cluster.carried());
    settle(cluster, EXCHANGES).await?;
    let after = (advertisements(cluster).await?, cluster.carried());
    Ok((after.0 - before.0, usize::try_from(after.1 - before.1)?))
}

async fn settle(cluster: &Cluster, more: usize) -> Result<()> {
    let goal = advertisements(cluster).await? + more;
    wait::until_within(Duration::from_mins(5), "advertisements of a quiet room", async || {
        Ok((advertisements(cluster).await? >= goal).then_some(()))
    })
    .await
}

/// Advertisements that both servers have sent, from their metrics.
async fn advertisements(cluster: &Cluster) -> Result<usize> {
    let mut sum = 0.0;
    for server in [&cluster[0], &cluster[1]] {
        let (_, text) = server.client().download("/metrics", None).await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        sum += text
            .lines()
            .filter(|line| line.starts_with(ADVERTISEMENTS))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum::<f64>();
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    let sum = sum as usize;
    if sum == 0 { Err(Failure::new(format!("no metric {ADVERTISEMENTS}"))) } else { Ok(sum) }
}
