//! A number that is looked up whenever a collector asks.

use opentelemetry::metrics::{AsyncInstrument, Meter};

/// Registers a gauge under its name, unit (UCUM) and description.
pub fn gauge(
    meter: &Meter,
    (name, unit, what): (&'static str, &'static str, &'static str),
    answer: impl Fn(&dyn AsyncInstrument<u64>) + Send + Sync + 'static,
) {
    meter
        .u64_observable_gauge(name)
        .with_unit(unit)
        .with_description(what)
        .with_callback(move |observer| answer(observer))
        .build();
}
