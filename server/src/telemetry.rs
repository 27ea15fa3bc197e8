//! What the operator sees: logs, traces, metrics.
//!
//! Logs go to the standard error stream. Traces and metrics are collected only
//! where somebody reads them: an OTLP collector named in the configuration, or
//! a listener with `/metrics`. With neither, no provider is installed and every
//! instrument is a no-op. Fields never hold what users write.

use std::time::Duration;

use opentelemetry::{KeyValue, global, trace::TracerProvider as _};
use opentelemetry_otlp::{MetricExporter, Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    metrics::{PeriodicReader, SdkMeterProvider},
    propagation::TraceContextPropagator,
    trace::{Sampler, SdkTracerProvider},
};
use prometheus::{Registry, TextEncoder};
use thiserror::Error;
use tracing::{Level, Metadata};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{FilterFn, LevelFilter, filter_fn},
    layer::SubscriberExt,
    registry::Registry as Spans,
    reload,
    util::SubscriberInitExt,
};

use crate::config::{LogFormat, Telemetry as Settings};

/// Why telemetry can't be started.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The exporter refuses its configuration.
    #[error("can't export to the OTLP collector {endpoint}")]
    Otlp {
        /// As configured.
        endpoint: String,
        /// Why.
        #[source]
        source: opentelemetry_otlp::ExporterBuildError,
    },
    /// The Prometheus reader can't be built.
    #[error("can't serve metrics")]
    Prometheus(#[source] opentelemetry_sdk::error::OTelSdkError),
    /// The log filter is no filter.
    #[error("telemetry.log")]
    Filter(#[source] tracing_subscriber::filter::ParseError),
    /// Started twice in one process.
    #[error("logging is set up already")]
    Twice(#[source] tracing_subscriber::util::TryInitError),
    /// The filter can't be exchanged.
    #[error("telemetry.log can't be changed")]
    Reload(#[source] reload::Error),
}

/// What is logged; it can be changed.
#[derive(Clone, Debug)]
pub struct LogFilter(reload::Handle<EnvFilter, Spans>);

impl LogFilter {
    /// Other directives from now on.
    pub fn set(&self, directives: &str) -> Result<(), TelemetryError> {
        self.0.reload(filter(directives)?).map_err(TelemetryError::Reload)
    }
}

/// What has to be flushed at the end, and what `/metrics` reads.
#[derive(Debug)]
pub struct Telemetry {
    traces: Option<SdkTracerProvider>,
    metrics: Option<SdkMeterProvider>,
    registry: Option<Registry>,
    log: LogFilter,
}

impl Telemetry {
    /// Starts logging, and collecting where anybody reads. `scraped`: some listener serves `/metrics`.
    pub fn start(settings: &Settings, server_name: &str, scraped: bool) -> Result<Self, TelemetryError> {
        let resource = Resource::builder()
            .with_service_name("causeway")
            .with_attributes([
                KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
                KeyValue::new("service.instance.id", server_name.to_owned()),
            ])
            .build();
        let traces = traces(settings, &resource)?;
        let log = start_logging(settings, traces.as_ref())?;
        if let Some(provider) = &traces {
            global::set_tracer_provider(provider.clone());
            global::set_text_map_propagator(TraceContextPropagator::new());
        }
        let (metrics, registry) = metrics(settings, resource, scraped)?;
        if let Some(provider) = &metrics {
            global::set_meter_provider(provider.clone());
        }
        Ok(Self { traces, metrics, registry, log })
    }

    /// Whether anybody reads what is collected.
    pub fn collects(&self) -> bool {
        self.traces.is_some() || self.metrics.is_some()
    }

    /// What `/metrics` answers from; nothing when nobody scrapes.
    pub fn registry(&self) -> Option<Registry> {
        self.registry.clone()
    }

    /// What is logged.
    pub fn log(&self) -> LogFilter {
        self.log.clone()
    }

    /// Sends what is still waiting. A collector that does not answer is only logged.
    pub fn stop(self) {
        let ended = [
            self.traces.map(|provider| provider.shutdown()),
            self.metrics.map(|provider| provider.shutdown()),
        ];
        for error in ended.into_iter().flatten().filter_map(Result::err) {
            tracing::warn!(%error, "the last telemetry was not sent");
        }
    }
}

/// All metrics in Prometheus' text format.
pub fn prometheus_text(registry: &Registry) -> Result<String, prometheus::Error> {
    TextEncoder::new().encode_to_string(&registry.gather())
}

/// Those who write a line for every event do so only when something is wrong, unless asked to.
fn filter(directives: &str) -> Result<EnvFilter, TelemetryError> {
    EnvFilter::try_new(format!("opentelemetry=warn,ruma_state_res=warn,{directives}"))
        .map_err(TelemetryError::Filter)
}

fn start_logging(
    settings: &Settings,
    traces: Option<&SdkTracerProvider>,
) -> Result<LogFilter, TelemetryError> {
    let (filter, handle) = reload::Layer::new(filter(&settings.log)?);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = match settings.log_format {
        LogFormat::Text => lines.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).boxed(),
        LogFormat::Json => lines.json().boxed(),
    };
    let spans = traces.map(|provider| {
        let tracer = provider.tracer("causeway");
        tracing_opentelemetry::layer().with_tracer(tracer).with_filter(own_spans())
    });
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(spans)
        .try_init()
        .map_err(TelemetryError::Twice)?;
    Ok(LogFilter(handle))
}

/// Traces hold our own spans and none of the exporter's, which would trace itself.
///
/// The spans of frequent things are of level "debug", so that they cost nothing
/// where only the log is written; a trace has them all the same.
fn own_spans() -> FilterFn {
    const OWN: [&str; 5] =
        ["causeway", "causeway_appservice", "causeway_client_api", "causeway_federation", "causeway_service"];
    let is_own = |metadata: &Metadata<'_>| {
        let most = if metadata.is_span() { Level::DEBUG } else { Level::INFO };
        let of = metadata.target().split("::").next().unwrap_or_default();
        *metadata.level() <= most && OWN.contains(&of)
    };
    filter_fn(is_own as fn(&Metadata<'_>) -> bool).with_max_level_hint(LevelFilter::DEBUG)
}

fn traces(settings: &Settings, resource: &Resource) -> Result<Option<SdkTracerProvider>, TelemetryError> {
    if settings.otlp_endpoint.is_empty() {
        return Ok(None);
    }
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(signal_endpoint(settings, "traces"))
        .build()
        .map_err(|source| TelemetryError::Otlp { endpoint: settings.otlp_endpoint.clone(), source })?;
    // By the trace's id alone: all servers of a trace decide the same, and a request
    // can't have itself traced by saying that its trace is.
    let sampler = Sampler::TraceIdRatioBased(settings.trace_ratio);
    Ok(Some(
        SdkTracerProvider::builder()
            .with_batch_exporter(exporter)
            .with_sampler(sampler)
            .with_resource(resource.clone())
            .build(),
    ))
}

fn metrics(
    settings: &Settings,
    resource: Resource,
    scraped: bool,
) -> Result<(Option<SdkMeterProvider>, Option<Registry>), TelemetryError> {
    if settings.otlp_endpoint.is_empty() && !scraped {
        return Ok((None, None));
    }
    let mut builder = SdkMeterProvider::builder().with_resource(resource);
    if !settings.otlp_endpoint.is_empty() {
        let exporter = MetricExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(signal_endpoint(settings, "metrics"))
            .build()
            .map_err(|source| TelemetryError::Otlp { endpoint: settings.otlp_endpoint.clone(), source })?;
        let reader = PeriodicReader::builder(exporter)
            .with_interval(Duration::from_millis(settings.metrics_interval_ms))
            .build();
        builder = builder.with_reader(reader);
    }
    let registry = scraped.then(Registry::new);
    if let Some(registry) = &registry {
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .build()
            .map_err(TelemetryError::Prometheus)?;
        builder = builder.with_reader(exporter);
    }
    Ok((Some(builder.build()), registry))
}

/// The collector's base URL with the path of one signal, as OTLP over HTTP has it.
fn signal_endpoint(settings: &Settings, signal: &str) -> String {
    format!("{}/v1/{signal}", settings.otlp_endpoint.trim_end_matches('/'))
}
