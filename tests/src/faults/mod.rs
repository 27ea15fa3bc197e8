//! Three servers and a Synapse through bad days: links are cut, lose packets and get slow,
//! servers are stopped and killed, and clients at all of them write all the time. Then all is
//! mended, nobody writes any more, and all servers have to hold and show the same.
//!
//! The schedule follows from a seed; what the machine makes of it does not.

mod chaos;
mod check;
mod picture;
mod plan;
mod report;
mod writers;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use reqwest::Method;
use serde_json::json;
use tokio::time::Instant;

use crate::{
    cluster::Cluster,
    faults::{chaos::Houses, writers::Ledger},
    namespaces::Namespaces,
    result::{Doing, Result, ensure},
    user::{ITEM, SHARED_SPACE, User, text},
};
pub use check::{complete, misplaced};
pub use report::Report;

/// What is tried.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Decides the schedule of the faults and what the clients write.
    pub seed: u64,
    /// How long there are faults, s.
    pub seconds: u64,
    /// Servers of ours.
    pub servers: usize,
    /// The Python that a Synapse is installed for, which then takes part.
    pub synapse: Option<PathBuf>,
    /// Between two writes of one client, ms.
    pub pace_ms: u64,
    /// Where the servers' logs are kept if they did wrong.
    pub logs: Option<PathBuf>,
}

/// A user of one server, who writes there.
struct Member {
    user: User,
    /// Whether the server knows of items.
    takes_part: bool,
}

/// Runs it. An error is a trouble of the test's own; what servers did wrong is in the report.
pub async fn run(settings: &Settings) -> Result<Report> {
    let cluster = match Namespaces::refused()? {
        None => Cluster::start_in_namespaces(settings.servers, 7).await?,
        Some(_) => Cluster::start(settings.servers).await?,
    };
    let synapse = match &settings.synapse {
        Some(python) => Some(cluster.add_synapse(python).await?),
        None => None,
    };
    let mut houses = Houses::new(cluster, settings.servers, synapse);
    let mut members = Vec::new();
    for index in 0..houses.count() {
        let user = User::register_with(houses.client(index), &format!("writer{index}")).await?;
        members.push(Member { user, takes_part: index < settings.servers });
    }
    let room = shared_room(&houses, &members).await?;

    let started = Instant::now();
    let ledger = Arc::new(Ledger::new(started, houses.count()));
    let members = Arc::new(members);
    let plan = plan::make(settings.seed, settings.seconds, houses.count());
    let chaos = houses.endure(plan, started);
    let _readers = writers::write_during(&members, &room, &ledger, settings, chaos).await?;
    let quiet_from = started.elapsed();
    let verdict = check::agreement(&members, &room, &ledger).await;
    let report = Report::new(settings, &houses, &ledger, quiet_from, verdict);
    match (report.failure(), &settings.logs) {
        (None, _) => houses.finish().await?,
        (Some(_), Some(folder)) => houses.keep_logs(folder)?,
        (Some(_), None) => {}
    }
    Ok(report)
}

/// Writes table and picture to a folder.
pub fn write(report: &Report, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join("faults.md"), report.table()).doing("writing the table")?;
    fs::write(folder.join("faults.svg"), picture::draw(report)).doing("writing the picture")
}

/// A room with a shared space that all are in, in which all may write everything.
async fn shared_room(houses: &Houses, members: &[Member]) -> Result<String> {
    let body = json!({
        "preset": "public_chat",
        "power_level_content_override": {"events": {ITEM: 0, "m.room.topic": 0, writers::NOTE: 0}},
        "initial_state": [{"type": SHARED_SPACE, "state_key": "", "content": {}}],
    });
    let maker = &members[0].user;
    let room =
        text(&maker.call(Method::POST, "/_matrix/client/v3/createRoom", Some(&body)).await?, "room_id")?;
    for member in &members[1..] {
        member.user.join(&room, houses.name(0)).await?;
    }
    ensure(members.len() > 1, || "one server alone has nobody to agree with".to_owned())?;
    Ok(room)
}
