//! Traces and metrics arrive at a collector, an exchange between two servers is
//! one trace, and nothing is sent without a collector.

use std::collections::BTreeSet;

use causeway_tests::{
    cluster::Cluster,
    collector::{Collector, Received, text},
    link::Cut,
    result::{Result, ensure},
    server::Tuning,
    user::User,
    wait,
};
use opentelemetry_proto::tonic::{
    metrics::v1::{AggregationTemporality, HistogramDataPoint, Metric, metric::Data},
    trace::v1::{Span, span::SpanKind},
};
use serde_json::json;

use crate::pair::Pair;

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

/// What nobody but the room's members may read.
const SECRET: &str = "Watched";

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_gets_traces_and_metrics_that_are_right() -> Result<()> {
    let collector = Collector::start().await?;
    let tuning = Tuning { variables: sending_to(&collector.endpoint), ..Tuning::default() };
    let cluster = Cluster::start_tuned(1, &tuning).await?;
    let alice = User::register(&cluster[0], "alice").await?;
    let room = alice.create_room(SECRET).await?;
    alice.put_item(&room, SECRET, &json!({ "text": SECRET })).await?;
    wait::until("a request's trace, and what it took in the metrics", async || {
        let received = collector.received();
        let route = "PUT /_matrix/client/v3/rooms/";
        let is_traced = received.spans.iter().any(|(_, span)| span.name.starts_with(route));
        let is_measured = |wanted: &str| received.metrics.iter().any(|(_, metric)| metric.name == wanted);
        let measured = is_measured("http.server.request.duration") && is_measured("causeway.space.writes");
        ensure(is_traced && measured, || received.told()).map(Some)
    })
    .await?;
    check(&collector.received(), &cluster[0].name);
    cluster.finish().await
}

/// That all is right which one server sent.
fn check(received: &Received, server: &str) {
    assert!(received.wrong.is_empty(), "{:?}", received.wrong);
    let senders =
        received.spans.iter().map(|(from, _)| from).chain(received.metrics.iter().map(|(from, _)| from));
    for from in senders {
        let said = |key| text(&from.attributes, key);
        assert_eq!(said("service.name"), Some("causeway"));
        assert_eq!(said("service.instance.id"), Some(server));
        assert!(said("service.version").is_some());
    }
    for (_, span) in &received.spans {
        check_span(span);
    }
    for (_, metric) in &received.metrics {
        check_metric(metric);
    }
}

/// What every span has, by the specification of OTLP, and what none has.
fn check_span(span: &Span) {
    assert_eq!((span.trace_id.len(), span.span_id.len()), (16, 8), "{span:?}");
    assert!(span.trace_id.iter().any(|byte| *byte != 0) && span.span_id.iter().any(|byte| *byte != 0));
    assert!([0, 8].contains(&span.parent_span_id.len()), "{span:?}");
    assert!(0 < span.start_time_unix_nano && span.start_time_unix_nano <= span.end_time_unix_nano);
    assert!(!span.name.is_empty());
    assert!(!format!("{span:?}").contains(SECRET), "what a user wrote is told: {span:?}");
}

/// What every metric has: somebody who reads it knows what it is, and it adds up.
fn check_metric(metric: &Metric) {
    let name = &metric.name;
    assert!(!metric.description.is_empty() && !metric.unit.is_empty(), "{metric:?}");
    assert!(!format!("{metric:?}").contains(SECRET), "what a user wrote is told: {metric:?}");
    let cumulative = AggregationTemporality::Cumulative as i32;
    match metric.data.as_ref() {
        Some(Data::Gauge(gauge)) => assert!(!gauge.data_points.is_empty(), "{name}"),
        Some(Data::Sum(sum)) => {
            assert!(!sum.data_points.is_empty() && sum.aggregation_temporality == cumulative, "{name}");
        }
        Some(Data::Histogram(histogram)) => {
            assert!(!histogram.data_points.is_empty(), "{name}");
            assert_eq!(histogram.aggregation_temporality, cumulative, "{name}");
            for point in &histogram.data_points {
                check_histogram(name, point);
            }
        }
        other => panic!("{name} is {other:?}"),
    }
}

fn check_histogram(name: &str, point: &HistogramDataPoint) {
    assert_eq!(point.bucket_counts.len(), point.explicit_bounds.len() + 1, "{name}");
    assert_eq!(point.bucket_counts.iter().sum::<u64>(), point.count, "{name}");
    assert!(point.explicit_bounds.is_sorted(), "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sent_without_a_collector_in_the_configuration() -> Result<()> {
    let collector = Collector::start().await?;
    // Where exporters look for one by themselves.
    let variables = ["", "TRACES_", "METRICS_", "LOGS_"]
        .map(|signal| (format!("OTEL_EXPORTER_OTLP_{signal}ENDPOINT"), collector.endpoint.clone()));
    let tuning = Tuning { variables: variables.to_vec(), ..Tuning::default() };
    let cluster = Cluster::start_tuned(1, &tuning).await?;
    let alice = User::register(&cluster[0], "alice").await?;
    alice.create_room("Unwatched").await?;
    // A server that collected anything would send the rest of it when it stops.
    cluster.finish().await?;
    let sent = collector.received().requests;
    ensure(sent == 0, || format!("{sent} requests arrived"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exchange_is_one_trace_on_both_servers_and_its_spans_are_in_order() -> Result<()> {
    let collector = Collector::start().await?;
    let tuning = Tuning { variables: sending_to(&collector.endpoint), ..Tuning::default() };
    let cluster = Cluster::start_tuned(2, &tuning).await?;
    let Pair { alice, bob, room } = Pair::meet(&cluster).await?;
    alice.put_item(&room, "a", &json!({ "text": "a" })).await?;
    wait::until("the write to arrive", async || {
        Ok(bob.item(&room, "a").await?.filter(|item| item.value() == Some(&json!({ "text": "a" }))))
    })
    .await?;
    // What one asks and the other answers: the one's span is the other's parent. So both ways.
    wait::until("requests that both servers tell of", async || {
        let received = collector.received();
        let passed_on = |from: &str, to: &str| {
            let asked = received.spans_of(from).filter(|span| span.kind == SpanKind::Client as i32);
            let asked: BTreeSet<(&[u8], &[u8])> =
                asked.map(|span| (&*span.trace_id, &*span.span_id)).collect();
            received.spans_of(to).any(|span| {
                let cause = (&*span.trace_id, &*span.parent_span_id);
                span.kind == SpanKind::Server as i32 && asked.contains(&cause)
            })
        };
        let (a, b) = (&*cluster[0].name, &*cluster[1].name);
        let answered = passed_on(a, b) && passed_on(b, a);
        ensure(answered, || received.told()).map(Some)
    })
    .await?;
    ensure(collector.received().wrong.is_empty(), || format!("{:?}", collector.received().wrong))?;
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
