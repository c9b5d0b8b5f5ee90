//! Handles of single metrics, registered with the recorder that is installed when
//! they are made. `no_handles.rs` takes their place without the feature `metrics`.

use std::fmt;
use std::time::Duration;

use metrics::{Key, Label, Metadata, Recorder, Unit, with_recorder};

use crate::telemetry::metric_names::{ALL, Kind, Metric};

/// Whether anything is reported: measurements made only for metrics are otherwise
/// skipped.
pub(crate) const ARE_ON: bool = true;

macro_rules! handle {
    ($(#[$doc:meta])* $handle:ident, $inner:ident, $register:ident) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub(crate) struct $handle(metrics::$inner);

        impl $handle {
            /// Registers a handle under `metric` with these labels.
            pub(crate) fn of(metric: &Metric, labels: &[(&'static str, &str)]) -> Self {
                Self(register(metric, labels, |recorder, key, metadata| {
                    recorder.$register(key, metadata)
                }))
            }
        }

        impl Default for $handle {
            fn default() -> Self {
                Self(metrics::$inner::noop())
            }
        }

        impl fmt::Debug for $handle {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($handle))
            }
        }
    };
}

handle!(
    /// A number that only increases.
    Count, Counter, register_counter
);
handle!(
    /// A number that increases and decreases.
    Level, Gauge, register_gauge
);
handle!(
    /// A distribution of values.
    Spread, Histogram, register_histogram
);

impl Count {
    pub(crate) fn add_one(&self) {
        self.0.increment(1);
    }
}

impl Level {
    pub(crate) fn set(&self, value: u32) {
        self.0.set(value);
    }

    pub(crate) fn add_one(&self) {
        self.0.increment(1);
    }

    pub(crate) fn take_one(&self) {
        self.0.decrement(1);
    }
}

impl Spread {
    #[cfg(feature = "redis")]
    pub(crate) fn note(&self, value: u32) {
        self.0.record(value);
    }

    pub(crate) fn note_span(&self, span: Duration) {
        self.0.record(span);
    }
}

fn register<T>(
    metric: &Metric,
    labels: &[(&'static str, &str)],
    register: impl FnOnce(&dyn Recorder, &Key, &Metadata<'_>) -> T,
) -> T {
    let labels = labels
        .iter()
        .map(|(name, value)| Label::new(*name, (*value).to_owned()));
    let key = Key::from_parts(metric.name, labels.collect::<Vec<_>>());
    let metadata = Metadata::new("ringlock", metrics::Level::INFO, None);
    with_recorder(|recorder| register(recorder, &key, &metadata))
}

/// Describes every metric to the recorder.
pub(crate) fn describe() {
    with_recorder(|recorder| {
        for metric in ALL {
            let (name, text) = (metric.name.into(), metric.text.into());
            let unit = match metric.is_in_seconds() {
                true => Unit::Seconds,
                false => Unit::Count,
            };
            match metric.kind {
                Kind::Counter => recorder.describe_counter(name, Some(unit), text),
                Kind::Gauge => recorder.describe_gauge(name, Some(unit), text),
                Kind::Histogram => recorder.describe_histogram(name, Some(unit), text),
            }
        }
    });
}
