//! `make dashboards`: two servers with people at them, of which the link is cut twice, watched
//! by a Prometheus; then the dashboards of `deploy/grafana`, drawn from what it saw while the
//! second cut lasts.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use causeway_tests::{
    cluster::Cluster,
    link::Cut,
    program,
    prometheus::Prometheus,
    result::{Result, ensure},
    server::Tuning,
    user::{User, text},
    wait,
};
use clap::Parser;
use serde_json::json;
use tokio::time::{Instant, sleep};

/// Of what the servers are called, by the dashboards too.
const NAMES: [&str; 2] = ["north.test", "south.test"];
/// Items that both sides write while they are cut off.
const SHARED: usize = 12;
/// Items that one batch writes.
const BATCH: usize = 10;
/// Among so many of the last messages are those about conflicts.
const TEXTS: usize = 200;
/// Between two rounds of one person.
const PACE: Duration = Duration::from_millis(250);
/// What Grafana would take for `$__rate_interval` at this scraping: at least four readings.
const RATE_INTERVAL: &str = "8s";

/// Draws the dashboards from two servers under load.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long there is load.
    #[arg(long, default_value_t = 4)]
    minutes: u64,
    /// Where the pictures go.
    #[arg(long, default_value = "target/dashboards")]
    out: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("dashboards: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(Arguments { minutes, out }: Arguments) -> Result<()> {
    let tuning = Tuning { names: NAMES.map(str::to_owned).to_vec(), ..Tuning::default() };
    let cluster = Cluster::start_tuned(2, &tuning).await?;
    let servers = [0, 1].map(|index| {
        let base = cluster[index].direct().base();
        (NAMES[index], base.trim_start_matches("http://").to_owned())
    });
    let folder = tempfile::tempdir()?;
    let prometheus = Prometheus::start(folder.path(), &servers).await?;
    let alice = User::register(&cluster[0], "alice").await?;
    let bob = User::register(&cluster[1], "bob").await?;
    let room = alice.create_room("Plans").await?;
    bob.join(&room, &cluster[0].name).await?;

    let (start, whole) = (Instant::now(), Duration::from_secs(minutes * 60));
    println!("{minutes} minutes of load; Prometheus answers at {}", prometheus.base());
    let story = async {
        sleep(whole * 4 / 10).await;
        cluster.cut(0, 1, Cut::Silent)?;
        quarrel(&alice, &bob, &room).await?;
        sleep(whole * 2 / 10).await;
        cluster.heal(0, 1)?;
        settle(&alice, &room).await?;
        sleep((whole * 85 / 100).saturating_sub(start.elapsed())).await;
        cluster.cut(0, 1, Cut::Silent)?;
        sleep(whole.saturating_sub(start.elapsed())).await;
        draw(&prometheus, start.elapsed(), &out).await
    };
    // The load has no end of its own.
    tokio::select! {
        drawn = story => drawn?,
        failed = load(&alice, "alice", &room) => failed?,
        failed = load(&bob, "bob", &room) => failed?,
    }
    cluster.heal(0, 1)?;
    cluster.finish().await
}

/// What one person does: talks, changes own items singly and many at once, and syncs.
async fn load(user: &User, name: &str, room: &str) -> Result<()> {
    let writing = async {
        for number in 0_usize.. {
            let body = json!({ "msgtype": "m.text", "body": format!("message {number}") });
            user.send(room, "m.room.message", &body).await?;
            let own = format!("{name}/{:02}", number % BATCH);
            user.put_item(room, &own, &json!({ "text": "a plan", "number": number })).await?;
            let batch: Vec<_> = (0..BATCH)
                .map(|one| {
                    let key = format!("{name}/{number}/{one}");
                    json!({ "key": key, "value": { "text": "one of many" } })
                })
                .collect();
            user.write_batch(room, &batch).await?;
            sleep(PACE).await;
        }
        Ok(())
    };
    let syncing = async {
        loop {
            user.sync(5_000).await?;
        }
    };
    tokio::select! { ended = writing => ended, ended = syncing => ended }
}

fn shared(number: usize) -> String {
    format!("shared/{number:02}")
}

/// Both write the same items.
async fn quarrel(alice: &User, bob: &User, room: &str) -> Result<()> {
    for user in [alice, bob] {
        for number in 0..SHARED {
            user.put_item(room, &shared(number), &json!({ "text": user.id })).await?;
        }
    }
    Ok(())
}

/// Waits for what is said of the conflicts, and settles half of them by reactions.
async fn settle(alice: &User, room: &str) -> Result<()> {
    for number in 0..SHARED / 2 {
        let key = shared(number);
        let told = wait::until("a message about a conflict", async || {
            let events = alice.texts(room, TEXTS).await?;
            Ok(events.into_iter().find(|event| {
                let content = &event["content"];
                content["m.relates_to"].is_null() && content["org.causeway.conflict"]["key"] == *key
            }))
        });
        let told = text(&told.await?, "event_id")?;
        alice.react(room, &told, "1\u{fe0f}\u{20e3}").await?;
    }
    Ok(())
}

/// Draws every dashboard as it is now.
async fn draw(prometheus: &Prometheus, seen: Duration, out: &Path) -> Result<()> {
    fs::create_dir_all(out)?;
    let checkout = program::checkout();
    for name in ["overview", "replication", "federation"] {
        let picture = out.join(format!("{name}.svg"));
        let mut python = tokio::process::Command::new("python3");
        python.arg(checkout.join("tests/deploy/draw.py"));
        python.arg(checkout.join(format!("deploy/grafana/dashboards/{name}.json")));
        python.args([prometheus.base(), seen.as_secs().to_string(), RATE_INTERVAL.to_owned()]);
        println!("\n{}", picture.display());
        let drawn = python.arg(&picture).kill_on_drop(true).status().await?;
        ensure(drawn.success(), || format!("{name} can't be drawn"))?;
    }
    Ok(())
}
