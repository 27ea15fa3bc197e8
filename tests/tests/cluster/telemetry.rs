//! Traces and metrics arrive at a collector, and nothing is sent without one.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use causeway_tests::{cluster::Cluster, result::Result, server::Tuning, user::User, wait};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Paths that were posted to, with whether their body named the service.
type Seen = Arc<Mutex<BTreeSet<(String, bool)>>>;

/// Answers every POST with an empty success, as an OTLP collector does.
async fn collect(listener: TcpListener, seen: Seen) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        connections.spawn(connection(stream, Arc::clone(&seen)));
    }
}

async fn connection(stream: TcpStream, seen: Seen) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let (mut path, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if stream.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let lower = line.to_ascii_lowercase();
            if let Some(value) = lower.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            } else if let Some(rest) = line.strip_prefix("POST ") {
                rest.split(' ').next().unwrap_or_default().clone_into(&mut path);
            } else if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await?;
        let named = body.windows(8).any(|part| part == b"causeway");
        seen.lock().unwrap_or_else(PoisonError::into_inner).insert((path, named));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_and_metrics_arrive_at_a_collector() -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let seen = Seen::default();
    let mut tasks = JoinSet::new();
    tasks.spawn(collect(listener, Arc::clone(&seen)));
    let variable = |name: &str, value: &str| (format!("CAUSEWAY_TELEMETRY__{name}"), value.to_owned());
    let variables = vec![variable("OTLP_ENDPOINT", &endpoint), variable("METRICS_INTERVAL_MS", "200")];
    let cluster = Cluster::start_tuned(1, &Tuning { variables, ..Tuning::default() }).await?;
    let alice = User::register(&cluster[0], "alice").await?;
    alice.create_room("Watched").await?;
    wait::until("traces and metrics", async || {
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let arrived = |path: &str| seen.contains(&(path.to_owned(), true));
        Ok((arrived("/v1/traces") && arrived("/v1/metrics")).then_some(()))
    })
    .await?;
    cluster.finish().await
}
