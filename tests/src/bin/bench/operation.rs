//! What an operator sees: memory of a server that has nothing to do, how long one
//! starts whose space is large, and what a backup costs those who write meanwhile.

use std::{path::Path, process::Stdio, time::Duration};

use causeway_tests::{
    cluster::Cluster,
    process, program,
    result::{Doing, Failure, Result, ensure},
    user::User,
};
use serde_json::json;
use tokio::{
    process::{Child, Command},
    time::{Instant, MissedTickBehavior},
};

use crate::{
    catch_up,
    figures::{Figures, number, quantile},
    writes,
};

/// Items of the large space.
const ITEMS: usize = 1_000_000;
/// Files that are backed up, together 10 GB.
const FILES: usize = 200;
const FILE_BYTES: usize = 50_000_000;
/// Writes that are timed while there is no backup, one each [`PAUSE`].
const WRITES: usize = 500;
const PAUSE: Duration = Duration::from_millis(20);

/// Measures the first server; the second has nothing to do.
pub async fn measure(cluster: &mut Cluster, scale: usize, figures: &mut Figures) -> Result<()> {
    let pid = cluster[1].pid().ok_or_else(|| Failure::new("the server is down"))?;
    let mebibytes = number(usize::try_from(process::resident_bytes(pid)?)?) / f64::from(1 << 20);
    figures.add("memory_idle", mebibytes, "MiB", "< 60");
    let alice = User::register(&cluster[0], "alice").await?;
    let room = catch_up::mirror(&alice).await?;
    let items = ITEMS / scale;
    writes::fill(&alice, &room, items).await?;
    for (name, kill) in [("stop", false), ("kill", true)] {
        let took = restart(cluster, &alice, &room, kill).await?;
        figures.add(format!("start_with_{items}_items_after_{name}"), took, "s", "< 2");
    }
    backup(cluster, &alice, &room, scale, figures).await
}

/// Seconds from the start of the process until somebody has read what is newest in the space.
async fn restart(cluster: &mut Cluster, alice: &User, room: &str, kill: bool) -> Result<f64> {
    let (servers, _) = cluster.parts();
    if kill {
        servers[0].kill().await?;
    } else {
        servers[0].stop().await?;
    }
    let begin = Instant::now();
    servers[0].start().await?;
    let item = alice.item(room, "items/000000").await?;
    ensure(item.is_some(), || "an item is gone".to_owned())?;
    Ok(begin.elapsed().as_secs_f64())
}

async fn backup(
    cluster: &Cluster,
    alice: &User,
    room: &str,
    scale: usize,
    figures: &mut Figures,
) -> Result<()> {
    let mut file: Vec<u8> = (0..FILE_BYTES / 32).flat_map(|_| rand::random::<[u8; 32]>()).collect();
    for at in 0..FILES / scale {
        file[..8].copy_from_slice(&at.to_be_bytes());
        alice.upload("application/octet-stream", file.clone()).await?;
    }
    let mut alone = timed(alice, room, async || Ok(()), WRITES).await?;
    let target = cluster.path("backups");
    let mut running = start_backup(&cluster[0].folder.join("causeway.toml"), &target)?;
    let begin = Instant::now();
    let done = async || {
        let status = running.wait().await?;
        ensure(status.success(), || format!("the backup ended with {status}"))
    };
    let mut meanwhile = timed(alice, room, done, 0).await?;
    figures.add("backup", begin.elapsed().as_secs_f64(), "s", "");
    let gigabytes = number(FILES / scale * FILE_BYTES) / 1e9;
    figures.add("backup_of_files", gigabytes, "GB", "");
    figures.add("write_during_backup_p50", quantile(&mut meanwhile, 0.5), "ms", "");
    let (p99, before) = (quantile(&mut meanwhile, 0.99), quantile(&mut alone, 0.99));
    figures.add("write_before_backup_p99", before, "ms", "");
    figures.add("write_during_backup_p99", p99, "ms", "");
    figures.add("write_p99_during_over_before_backup", p99 / before, "ratio", "< 2");
    Ok(())
}

fn start_backup(config: &Path, target: &Path) -> Result<Child> {
    Command::new(program::server()?)
        .arg("backup")
        .arg(target)
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .doing("starting a backup")
}

/// How long each write took in milliseconds: at least so many, and until `what` is done.
async fn timed(
    alice: &User,
    room: &str,
    what: impl AsyncFnOnce() -> Result<()>,
    least: usize,
) -> Result<Vec<f64>> {
    let mut what = std::pin::pin!(what());
    let (mut took, mut is_done) = (Vec::new(), false);
    let mut ticks = tokio::time::interval(PAUSE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while !is_done || took.len() < least {
        let begin = Instant::now();
        let at = took.len();
        alice.put_item(room, &format!("timed/{}", at % 100), &json!({ "number": at })).await?;
        took.push(begin.elapsed().as_secs_f64() * 1_000.0);
        tokio::select! {
            biased;
            ended = &mut what, if !is_done => { ended?; is_done = true; }
            _ = ticks.tick() => {}
        }
    }
    Ok(took)
}
