//! Traces and metrics arrive at a collector, an exchange between two servers is
//! one trace, and nothing is sent without a collector.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use causeway_tests::{
    cluster::Cluster,
    link::Cut,
    result::{Result, ensure},
    server::Tuning,
    user::User,
    wait,
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use crate::pair::Pair;

/// What was posted: paths and bodies.
type Seen = Arc<Mutex<Vec<(String, Vec<u8>)>>>;

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
        seen.lock().unwrap_or_else(PoisonError::into_inner).push((path, body));
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await?;
    }
}

/// A collector: where it listens, and what it has seen.
async fn collector(tasks: &mut JoinSet<()>) -> Result<(String, Seen)> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    let seen = Seen::default();
    tasks.spawn(collect(listener, Arc::clone(&seen)));
    Ok((endpoint, seen))
}

/// Environment variables that make a server send everything to `endpoint` soon.
fn sending_to(endpoint: &str) -> Vec<(String, String)> {
    let variable = |name: &str, value: &str| (format!("CAUSEWAY_TELEMETRY__{name}"), value.to_owned());
    vec![
        variable("OTLP_ENDPOINT", endpoint),
        variable("METRICS_INTERVAL_MS", "200"),
        variable("TRACE_RATIO", "1.0"),
        ("OTEL_BSP_SCHEDULE_DELAY".to_owned(), "200".to_owned()),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn traces_and_metrics_arrive_at_a_collector() -> Result<()> {
    let mut tasks = JoinSet::new();
    let (endpoint, seen) = collector(&mut tasks).await?;
    let tuning = Tuning { variables: sending_to(&endpoint), ..Tuning::default() };
    let cluster = Cluster::start_tuned(1, &tuning).await?;
    let alice = User::register(&cluster[0], "alice").await?;
    alice.create_room("Watched").await?;
    wait::until("traces and metrics", async || {
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let arrived =
            |wanted: &str| seen.iter().any(|(path, body)| path == wanted && contains(body, b"causeway"));
        Ok((arrived("/v1/traces") && arrived("/v1/metrics")).then_some(()))
    })
    .await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_without_a_collector_in_the_configuration() -> Result<()> {
    let mut tasks = JoinSet::new();
    let (endpoint, seen) = collector(&mut tasks).await?;
    // Where exporters look for one by themselves.
    let variables = ["", "TRACES_", "METRICS_", "LOGS_"]
        .map(|signal| (format!("OTEL_EXPORTER_OTLP_{signal}ENDPOINT"), endpoint.clone()));
    let tuning = Tuning { variables: variables.to_vec(), ..Tuning::default() };
    let cluster = Cluster::start_tuned(1, &tuning).await?;
    let alice = User::register(&cluster[0], "alice").await?;
    alice.create_room("Unwatched").await?;
    // A server that collected anything would send the rest of it when it stops.
    cluster.finish().await?;
    let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).len();
    ensure(seen == 0, || format!("{seen} requests arrived"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_is_one_trace_on_both_servers() -> Result<()> {
    let mut tasks = JoinSet::new();
    let (endpoint, seen) = collector(&mut tasks).await?;
    let tuning = Tuning { variables: sending_to(&endpoint), ..Tuning::default() };
    let cluster = Cluster::start_tuned(2, &tuning).await?;
    let alice = User::register(&cluster[0], "alice").await?;
    let bob = User::register(&cluster[1], "bob").await?;
    let room = alice.create_room("Watched").await?;
    bob.join(&room, &cluster[0].name).await?;
    alice.put_item(&room, "a", &json!({ "text": "a" })).await?;
    wait::until("one trace of both servers", async || {
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        let traces_of = |name: &str| -> BTreeSet<[u8; 16]> {
            let own = instance(name);
            let bodies = seen.iter().filter(|(path, body)| path == "/v1/traces" && contains(body, &own));
            bodies.flat_map(|(_, body)| trace_ids(body)).collect()
        };
        let (a, b) = (traces_of(&cluster[0].name), traces_of(&cluster[1].name));
        Ok((!a.is_disjoint(&b)).then_some(()))
    })
    .await?;
    cluster.finish().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_off_server_is_seen_to_fall_behind_and_to_catch_up() -> Result<()> {
    let cluster = Cluster::start(2).await?;
    let Pair { alice, bob, room } = Pair::meet(&cluster).await?;
    alice.put_item(&room, "first", &json!({ "text": "a" })).await?;
    let lag_of = async |user: &User, server: &str| -> Result<Option<u64>> {
        let status = user.space_status(&room).await?;
        let peers = status["peers"].as_array().cloned().unwrap_or_default();
        let peer = peers.into_iter().find(|peer| peer["server"] == server);
        Ok(peer.and_then(|peer| peer["lag"]["changes"].as_u64()))
    };
    let comes_to = async |wanted: u64| {
        wait::until(&format!("a lag of {wanted}"), async || {
            Ok((lag_of(&alice, &cluster[1].name).await? == Some(wanted)).then_some(()))
        })
        .await
    };
    comes_to(0).await?;
    cluster.cut(0, 1, Cut::Refused)?;
    for key in ["a", "b", "c"] {
        alice.put_item(&room, key, &json!({ "text": key })).await?;
    }
    comes_to(3).await?;
    let metrics = async || metrics_of(&cluster, 0).await;
    wait::until("the lag in the metrics, since when, and what waits to be sent", async || {
        let text = metrics().await?;
        let is_above_0 = |name: &str, label: &str| value(&text, name, label).is_some_and(|value| value > 0.0);
        ensure(text.contains("causeway_space_queue_depth{"), || format!("no depth of queues:\n{text}"))?;
        let lags = value(&text, "causeway_space_lag", &room) == Some(3.0);
        let since = is_above_0("causeway_space_lag_age_seconds", &room);
        Ok((lags && since && is_above_0("causeway_federation_queue_depth", "")).then_some(()))
    })
    .await?;
    bob.put_item(&room, "a", &json!({ "text": "concurrent" })).await?;
    cluster.heal(0, 1)?;
    comes_to(0).await?;
    wait::until("no lag in the metrics, but a conflict", async || {
        let text = metrics().await?;
        let caught_up = value(&text, "causeway_space_lag", &room) == Some(0.0);
        Ok((caught_up && value(&text, "causeway_space_conflicts_total", "") == Some(1.0)).then_some(()))
    })
    .await?;
    let written = value(&metrics().await?, "causeway_space_writes_total", "way=\"state\"");
    ensure(written == Some(4.0), || format!("written as state events: {written:?}"))?;
    ensure(lag_of(&bob, &cluster[0].name).await? == Some(0), || "bob's server sees a lag".to_owned())?;
    cluster.finish().await
}

async fn metrics_of(cluster: &Cluster, server: usize) -> Result<String> {
    let (status, text) = cluster[server].client().download("/metrics", None).await?;
    ensure(status == 200, || format!("/metrics answered {status}"))?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// A metric's value: of the first of its lines that contain `label`.
fn value(text: &str, name: &str, label: &str) -> Option<f64> {
    let mut lines = text.lines().filter(|line| line.contains(label));
    let line = lines.find(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{') || rest.starts_with(' '))
    })?;
    line.rsplit(' ').next()?.parse().ok()
}

fn contains(body: &[u8], part: &[u8]) -> bool {
    body.windows(part.len()).any(|window| window == part)
}

/// The resource attribute by which a server names itself, as protobuf has it.
fn instance(name: &str) -> Vec<u8> {
    let length = u8::try_from(name.len()).unwrap_or(u8::MAX);
    let value = [&[0x12, length + 2, 0x0a, length][..], name.as_bytes()].concat();
    [b"service.instance.id", &value[..]].concat()
}

/// The ids of the traces whose spans are in an OTLP request: field 1 of a span,
/// 16 bytes, before field 2, its own id, 8 bytes. Text is no id.
fn trace_ids(body: &[u8]) -> impl Iterator<Item = [u8; 16]> {
    body.windows(20).filter_map(|window| {
        let id: [u8; 16] = window.get(2..18)?.try_into().ok()?;
        let framed = window.starts_with(&[0x0a, 16]) && window.ends_with(&[0x12, 8]);
        (framed && !id.is_ascii()).then_some(id)
    })
}
