//! matrix-js-sdk, unmodified, on two servers, of which one may be a Synapse: what people do
//! all day, and end-to-end encryption from one server to the other.

use std::process::Stdio;

use causeway_tests::{
    program,
    result::{Doing, Result},
};
use tokio::process::Command;

use crate::two::{Sides, Two, ended_well, node};

/// Runs a script of `tests/interop/js` with Alice on one server and Bob on another.
async fn run(script: &str, sides: Sides) -> Result<()> {
    let (node, folder) = node().await?;
    let two = Two::start(sides).await?;
    let output = Command::new(node)
        .arg(program::checkout().join("tests/interop/js").join(script))
        .arg(folder)
        .args(two.arguments())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .doing("running Node")?;
    ended_well(script, &output)?;
    two.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn people_do_what_they_do_all_day() -> Result<()> {
    run("daily.mjs", Sides::Ours).await
}

#[tokio::test(flavor = "multi_thread")]
async fn people_here_and_at_synapse_do_what_they_do_all_day() -> Result<()> {
    run("daily.mjs", Sides::BobElsewhere).await?;
    run("daily.mjs", Sides::AliceElsewhere).await
}

#[tokio::test(flavor = "multi_thread")]
async fn people_find_rooms_and_keep_what_is_theirs() -> Result<()> {
    run("rooms.mjs", Sides::Ours).await
}

#[tokio::test(flavor = "multi_thread")]
async fn people_here_and_at_synapse_find_rooms_and_keep_what_is_theirs() -> Result<()> {
    run("rooms.mjs", Sides::BobElsewhere).await?;
    run("rooms.mjs", Sides::AliceElsewhere).await
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_works_between_servers() -> Result<()> {
    run("encryption.mjs", Sides::Ours).await
}

#[tokio::test(flavor = "multi_thread")]
async fn encryption_works_with_synapse() -> Result<()> {
    run("encryption.mjs", Sides::BobElsewhere).await?;
    run("encryption.mjs", Sides::AliceElsewhere).await
}
