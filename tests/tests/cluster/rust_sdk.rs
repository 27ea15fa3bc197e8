//! matrix-rust-sdk, unmodified, with encryption, on two servers: the program in
//! `tests/rust-sdk`, which says what is tried.

use std::{process::Stdio, time::Duration};

use causeway_tests::{
    cluster::Cluster,
    program,
    result::{Doing, Result, ensure},
    user::{User, password},
};
use tokio::process::Command;

/// How long the program may take, whatever it waits for.
const PATIENCE: Duration = Duration::from_mins(10);

#[tokio::test(flavor = "multi_thread")]
async fn rust_sdk_clients_on_two_servers_verify_each_other_encrypt_and_restore_a_backup() -> Result<()> {
    tell("sync").await
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_sdk_room_lists_on_two_servers_live_by_sliding_sync() -> Result<()> {
    tell("sliding-sync").await
}

/// Runs one of the program's stories.
async fn tell(story: &str) -> Result<()> {
    let client = tokio::task::spawn_blocking(program::rust_sdk_client).await??;
    let cluster = Cluster::start(2).await?;
    User::register(&cluster[0], "alice").await?;
    User::register(&cluster[1], "bob").await?;
    let running = Command::new(client)
        .arg(story)
        .args([cluster[0].client().base(), "alice".to_owned(), password("alice")])
        .args([cluster[1].client().base(), "bob".to_owned(), password("bob")])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, running).await.doing("running the client")??;
    let said = [output.stdout, output.stderr].concat();
    ensure(output.status.success(), || format!("the client failed:\n{}", String::from_utf8_lossy(&said)))?;
    cluster.finish().await
}
