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
/// The metric that counts the bytes of their bodies and of the answers'.
const BODIES: &str = "causeway_federation_transaction_size_bytes";

/// Waits for the timer's advertisements in a room where nothing happens.
pub async fn measure(cluster: &Cluster, scale: usize, figures: &mut Figures) -> Result<()> {
    let alice = User::register(&cluster[0], "alice").await?;
    let bob = User::register(&cluster[1], "bob").await?;
    let mut each = Vec::with_capacity(ITEMS.len());
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
        let Exchanged { number: sent, bodies, wire } = exchanges(cluster).await?;
        // What the protocol says; a signature in a header, HTTP and TLS are around it.
        let bytes = number(bodies) / number(sent);
        each.push(bytes);
        figures.add(format!("quiet_exchange_{items}_items"), bytes, "bytes", "< 500");
        let name = format!("quiet_exchange_{items}_items_with_http_and_tls");
        figures.add(name, number(wire) / number(sent), "bytes", "");
    }
    if let [small, large] = each[..] {
        figures.add("quiet_exchange_large_over_small", large / small, "ratio", "about 1: flat");
    }
    Ok(())
}

/// Exchanges and their bytes.
struct Exchanged {
    number: usize,
    bodies: usize,
    wire: usize,
}

/// Waits for some exchanges after the room fell silent.
async fn exchanges(cluster: &Cluster) -> Result<Exchanged> {
    // What was in flight when the room fell silent is not counted.
    settle(cluster, 2).await?;
    let look = async || -> Result<Exchanged> {
        let (number, bodies) = (total(cluster, ADVERTISEMENTS).await?, total(cluster, BODIES).await?);
        Ok(Exchanged { number, bodies, wire: usize::try_from(cluster.carried())? })
    };
    let before = look().await?;
    settle(cluster, EXCHANGES).await?;
    let after = look().await?;
    Ok(Exchanged {
        number: after.number - before.number,
        bodies: after.bodies - before.bodies,
        wire: after.wire - before.wire,
    })
}

async fn settle(cluster: &Cluster, more: usize) -> Result<()> {
    let goal = total(cluster, ADVERTISEMENTS).await? + more;
    wait::until_within(Duration::from_mins(5), "advertisements of a quiet room", async || {
        Ok((total(cluster, ADVERTISEMENTS).await? >= goal).then_some(()))
    })
    .await
}

/// A counter of both servers, summed over its attributes.
async fn total(cluster: &Cluster, metric: &str) -> Result<usize> {
    let mut sum = 0.0;
    for server in [&cluster[0], &cluster[1]] {
        let (_, text) = server.client().download("/metrics", None).await?;
        let text = String::from_utf8_lossy(&text).into_owned();
        sum += text
            .lines()
            .filter(|line| line.starts_with(metric))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum::<f64>();
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small count")]
    let sum = sum as usize;
    if sum == 0 { Err(Failure::new(format!("no metric {metric}"))) } else { Ok(sum) }
}
