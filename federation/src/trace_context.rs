//! W3C trace context between Causeway servers.
//!
//! Sent on and read from our own endpoints only: other servers have no use for
//! it, and a peer must not be able to tie our traces of ordinary traffic
//! together. Without a tracer this does nothing.

use http::{HeaderMap, HeaderName, HeaderValue};
use opentelemetry::propagation::{Extractor, Injector};
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// Where this server's own endpoints are.
pub const OWN_ENDPOINTS: &str = "/_matrix/federation/unstable/org.causeway/";

struct Writer<'a>(&'a mut HeaderMap);

impl Injector for Writer<'_> {
    fn set(&mut self, key: &str, value: String) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(key), HeaderValue::try_from(value)) {
            self.0.insert(name, value);
        }
    }
}

struct Reader<'a>(&'a HeaderMap);

impl Extractor for Reader<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.0.keys().map(HeaderName::as_str).collect()
    }
}

/// Adds the current span's context to a request.
pub fn inject(headers: &mut HeaderMap) {
    let context = tracing::Span::current().context();
    opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&context, &mut Writer(headers));
    });
}

/// Makes the context that came with a request the parent of `span`, which must
/// not have been entered yet.
///
/// The request is not authenticated at that point: whoever sends it can at most
/// name the trace that the span of this very request belongs to.
pub fn adopt(span: &tracing::Span, headers: &HeaderMap) {
    let context =
        opentelemetry::global::get_text_map_propagator(|propagator| propagator.extract(&Reader(headers)));
    // Without a tracer there is nothing to set.
    let _kept = span.set_parent(context);
}
