//! From a write on one server to a long-polling sync on the other.

use causeway_tests::{
    cluster::Cluster,
    result::{Failure, Result},
    user::{ITEM, User, timeline},
};
use serde_json::json;
use tokio::time::Instant;

use crate::figures::{Figures, quantile};

/// Writes that are followed.
const SAMPLES: usize = 300;
/// Of these the first are not counted: connections are being made.
const WARM_UP: usize = 10;

/// Writes one item after the other and waits for each in the other's sync.
pub async fn measure(cluster: &Cluster, scale: usize, figures: &mut Figures) -> Result<()> {
    let alice = User::register(&cluster[0], "alice").await?;
    let bob = User::register(&cluster[1], "bob").await?;
    let room = alice.create_room("latency").await?;
    bob.join(&room, &cluster[0].name).await?;
    bob.sync(0).await?;
    let mut took = Vec::new();
    for number in 0..(SAMPLES / scale).max(WARM_UP * 2) {
        let begin = Instant::now();
        let key = format!("item {}", number % 50);
        let content = json!({ "number": number });
        let write = alice.put_item(&room, &key, &content);
        let seen = async {
            for _ in 0..50 {
                let answer = bob.sync(10_000).await?;
                let arrived = timeline(&answer, &room)
                    .iter()
                    .any(|event| event["type"] == ITEM && event["content"]["number"] == number);
                if arrived {
                    return Ok(begin.elapsed().as_secs_f64() * 1_000.0);
                }
            }
            Err(Failure::new("a write never arrived"))
        };
        let (written, seen) = tokio::join!(write, seen);
        written?;
        if number >= WARM_UP {
            took.push(seen?);
        }
    }
    figures.add("write_on_a_to_sync_on_b_p50", quantile(&mut took, 0.5), "ms", "< 30");
    figures.add("write_on_a_to_sync_on_b_p99", quantile(&mut took, 0.99), "ms", "");
    Ok(())
}
