//! A span and a duration for every request: how the doors are used, without
//! what was said. Put around the routes only where telemetry is collected.

use axum::{
    Router,
    extract::{MatchedPath, Request},
    http::Method,
    middleware::{self, Next},
    response::Response,
};
use causeway_federation::trace_context;
use causeway_service::clock::Clock;
use opentelemetry::{KeyValue, global, metrics::Histogram};
use tracing::{Instrument, field::Empty};

/// The name of a route that does not exist.
const NO_ROUTE: &str = "none";

/// Bounds of the histogram's buckets, in seconds (OpenTelemetry's advice for HTTP).
const BOUNDARIES_S: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// `router`, observed.
pub fn requests(router: Router, clock: &Clock) -> Router {
    let duration = global::meter("causeway")
        .f64_histogram("http.server.request.duration")
        .with_unit("s")
        .with_description("Time from the head of a request to the head of its answer")
        .with_boundaries(BOUNDARIES_S.to_vec())
        .build();
    let clock = clock.clone();
    router.layer(middleware::from_fn(move |request: Request, next: Next| {
        observed(request, next, duration.clone(), clock.clone())
    }))
}

/// The method; one that nobody has heard of is not a label of its own.
fn known(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::PUT => "PUT",
        Method::POST => "POST",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::HEAD => "HEAD",
        _ => "_OTHER",
    }
}

async fn observed(request: Request, next: Next, duration: Histogram<f64>, clock: Clock) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or_else(|| NO_ROUTE.to_owned(), |path| path.as_str().to_owned());
    let method = known(request.method());
    let span = tracing::info_span!(
        "http.server.request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        http.request.method = method,
        http.route = &*route,
        http.response.status_code = Empty,
    );
    if route.starts_with(trace_context::OWN_ENDPOINTS) {
        trace_context::adopt(&span, request.headers());
    }
    let begin = clock.instant();
    let response = next.run(request).instrument(span.clone()).await;
    let status = i64::from(response.status().as_u16());
    span.record("http.response.status_code", status);
    duration.record(
        begin.elapsed().as_secs_f64(),
        &[
            KeyValue::new("http.request.method", method),
            KeyValue::new("http.route", route),
            KeyValue::new("http.response.status_code", status),
        ],
    );
    response
}
