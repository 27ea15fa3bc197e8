//! An OpenTelemetry collector: takes what servers export by OTLP over HTTP, by the types that
//! OpenTelemetry publishes of that protocol, and notes all that is not by the book.
//!
//! Source: the OpenTelemetry protocol specification, OTLP/HTTP with binary protobuf.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use opentelemetry_proto::tonic::{
    collector::{
        metrics::v1::{ExportMetricsServiceRequest, ExportMetricsServiceResponse},
        trace::v1::{ExportTraceServiceRequest, ExportTraceServiceResponse},
    },
    common::v1::{KeyValue, any_value::Value},
    metrics::v1::Metric,
    resource::v1::Resource,
    trace::v1::Span,
};
use prost::Message;
use tokio::{net::TcpListener, task::JoinSet};

use crate::result::Result;

/// What came, each with the resource that sent it.
#[derive(Debug, Default)]
pub struct Received {
    /// How often anything was sent.
    pub requests: usize,
    /// Spans, in the order in which they came.
    pub spans: Vec<(Resource, Span)>,
    /// Metrics, each as often as it was sent.
    pub metrics: Vec<(Resource, Metric)>,
    /// What was wrong with requests.
    pub wrong: Vec<String>,
}

/// See the module.
#[derive(Debug)]
pub struct Collector {
    /// Its base URL.
    pub endpoint: String,
    received: Arc<Mutex<Received>>,
    _tasks: JoinSet<()>,
}

impl Collector {
    /// Listens on a free port of this machine.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let endpoint = format!("http://{}", listener.local_addr()?);
        let received = Arc::<Mutex<Received>>::default();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::clone(&received)));
        Ok(Self { endpoint, received, _tasks: tasks })
    }

    /// What has come until now.
    pub fn received(&self) -> MutexGuard<'_, Received> {
        lock(&self.received)
    }
}

async fn serve(listener: TcpListener, received: Arc<Mutex<Received>>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let received = Arc::clone(&received);
        let service = service_fn(move |request| {
            let received = Arc::clone(&received);
            async move { Ok::<_, Infallible>(answer(request, &received).await) }
        });
        // Whoever hangs up has his reasons.
        connections.spawn(async move {
            let connection = Builder::new(TokioExecutor::new());
            drop(connection.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer(request: Request<Incoming>, received: &Mutex<Received>) -> Response<Full<Bytes>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    let kind = head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
    let mut received = lock(received);
    received.requests += 1;
    let taken = match (&head.method, head.uri.path(), kind) {
        (&Method::POST, "/v1/traces", Some(PROTOBUF)) => received.take_traces(&body),
        (&Method::POST, "/v1/metrics", Some(PROTOBUF)) => received.take_metrics(&body),
        (method, path, kind) => Err(format!("{method} {path} with {kind:?}")),
    };
    let (status, body) = match taken {
        Ok(body) => (StatusCode::OK, body),
        Err(wrong) => {
            received.wrong.push(wrong);
            (StatusCode::BAD_REQUEST, Vec::new())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(PROTOBUF));
    response
}

/// The type of what is sent and answered.
const PROTOBUF: &str = "application/x-protobuf";

impl Received {
    fn take_traces(&mut self, body: &[u8]) -> std::result::Result<Vec<u8>, String> {
        let request = ExportTraceServiceRequest::decode(body).map_err(|error| format!("traces: {error}"))?;
        for of in request.resource_spans {
            let resource = of.resource.ok_or("spans of nobody")?;
            let spans = of.scope_spans.into_iter().flat_map(|scope| scope.spans);
            self.spans.extend(spans.map(|span| (resource.clone(), span)));
        }
        Ok(ExportTraceServiceResponse::default().encode_to_vec())
    }

    fn take_metrics(&mut self, body: &[u8]) -> std::result::Result<Vec<u8>, String> {
        let request =
            ExportMetricsServiceRequest::decode(body).map_err(|error| format!("metrics: {error}"))?;
        for of in request.resource_metrics {
            let resource = of.resource.ok_or("metrics of nobody")?;
            let metrics = of.scope_metrics.into_iter().flat_map(|scope| scope.metrics);
            self.metrics.extend(metrics.map(|metric| (resource.clone(), metric)));
        }
        Ok(ExportMetricsServiceResponse::default().encode_to_vec())
    }

    /// What there is, for whoever lacks something.
    pub fn told(&self) -> String {
        let spans: BTreeSet<&str> = self.spans.iter().map(|(_, span)| &*span.name).collect();
        let metrics: BTreeSet<&str> = self.metrics.iter().map(|(_, metric)| &*metric.name).collect();
        format!("{} requests, wrong: {:?}, spans {spans:?}, metrics {metrics:?}", self.requests, self.wrong)
    }

    /// The spans that a server sent, by the name with which it presents itself.
    pub fn spans_of(&self, instance: &str) -> impl Iterator<Item = &Span> {
        self.spans
            .iter()
            .filter(move |(from, _)| text(&from.attributes, "service.instance.id") == Some(instance))
            .map(|(_, span)| span)
    }
}

/// The text of an attribute.
pub fn text<'a>(attributes: &'a [KeyValue], key: &str) -> Option<&'a str> {
    match attributes.iter().find(|one| one.key == key)?.value.as_ref()?.value.as_ref()? {
        Value::StringValue(text) => Some(text),
        _ => None,
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
