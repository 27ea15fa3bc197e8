//! What a sidecar adds to an item's write over the state write of the Synapse behind it, by
//! the same client through the same reverse proxy, in turn.

use causeway_tests::{
    cluster::Cluster,
    process, program,
    result::{Failure, Result},
    server::Tuning,
    user::{ITEM, User},
    wait,
};
use serde_json::json;
use tokio::time::Instant;

use crate::figures::{Figures, number, quantile};

/// Writes of each kind that are timed.
const WRITES: usize = 500;
/// Different items, and pieces of state.
const KEYS: usize = 100;
/// What Synapse keeps by itself.
const PLAIN: &str = "org.example.plain";

/// Measures writes one after the other.
pub async fn measure(cluster: &Cluster, scale: usize, figures: &mut Figures) -> Result<()> {
    let python = tokio::task::spawn_blocking(program::python).await??;
    let tuning = Tuning { log: "warn".to_owned(), ..Tuning::default() };
    let beside = cluster.add_besides(&python, 1, &tuning).await?.pop();
    let (mut synapse, mut side) = beside.ok_or_else(|| Failure::new("one was asked for"))?;
    let zoe = User::register_with(synapse.client(), "zoe").await?;
    let room = zoe.create_room("space").await?;
    wait::until("the first item", async || {
        let body = json!({"value": {"number": 0}});
        Ok((zoe.try_write(&room, "first", &body).await?.status == 200).then_some(()))
    })
    .await?;
    let mut took = [Vec::new(), Vec::new()];
    for at in 0..WRITES / scale {
        for (kind, took) in [PLAIN, ITEM].into_iter().zip(&mut took) {
            let begin = Instant::now();
            zoe.put_state(&room, kind, &format!("timed/{}", at % KEYS), &json!({ "number": at })).await?;
            took.push(begin.elapsed().as_secs_f64() * 1_000.0);
        }
    }
    let [mut plain, mut item] = took;
    let [plain_p99, item_p99] = [quantile(&mut plain, 0.99), quantile(&mut item, 0.99)];
    let [plain, item] = [quantile(&mut plain, 0.5), quantile(&mut item, 0.5)];
    figures.compare("synapse", "sidecar_state_write_p50", plain, "ms");
    figures.add("sidecar_item_write_p50", item, "ms", "");
    figures.add("sidecar_adds_p50", item - plain, "ms", "< 10");
    figures.compare("synapse", "sidecar_state_write_p99", plain_p99, "ms");
    figures.add("sidecar_item_write_p99", item_p99, "ms", "");
    let pid = side.pid().ok_or_else(|| Failure::new("the sidecar is down"))?;
    let mebibytes = number(usize::try_from(process::resident_bytes(pid)?)?) / f64::from(1 << 20);
    figures.add("sidecar_memory", mebibytes, "MiB", "");
    side.stop().await?;
    synapse.stop().await
}
