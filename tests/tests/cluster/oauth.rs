//! matrix-rust-sdk, unmodified, logs in by OAuth at a real server: the story `oauth` of
//! the program in `tests/rust-sdk`.

use std::{process::Stdio, time::Duration};

use causeway_tests::{
    cluster::Cluster,
    link::{Gate, Switchboard},
    program,
    result::{Doing, Result, ensure},
    server::Tuning,
    user::{User, password},
};
use tokio::process::Command;

/// How long the program may take, whatever it waits for.
const PATIENCE: Duration = Duration::from_mins(5);

#[tokio::test(flavor = "multi_thread")]
async fn rust_sdk_logs_in_by_oauth_refreshes_is_restored_and_logs_out() -> Result<()> {
    let client = tokio::task::spawn_blocking(program::rust_sdk_client).await??;
    // The server says where it is found, so that is known before it starts.
    let gate = Gate::open(0, Switchboard::default()).await?;
    let url = format!("http://{}", gate.address);
    let variables = [("ENABLED", "true"), ("BASE_URL", &*url)];
    let variables = variables.map(|(key, value)| (format!("CAUSEWAY_OAUTH__{key}"), value.to_owned()));
    let tuning = Tuning { variables: variables.to_vec(), ..Tuning::default() };
    let cluster = Cluster::start_tuned(1, &tuning).await?;
    gate.lead_to(Some(cluster[0].client().base().trim_start_matches("http://").parse()?));
    User::register(&cluster[0], "alice").await?;
    let alice = [url, "alice".to_owned(), password("alice")];
    let running = Command::new(client)
        .arg("oauth")
        .args(alice.iter().chain(&alice))
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, running).await.doing("running the client")??;
    let said = [output.stdout, output.stderr].concat();
    ensure(output.status.success(), || format!("the client failed:\n{}", String::from_utf8_lossy(&said)))?;
    cluster.finish().await
}
