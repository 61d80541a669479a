//! The metrics of requests.

use crate::Error;
use metrics::{Key, Label, Level, Metadata};
use std::time::Duration;

static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// Metrics of one API with keys that are made once: to make them for each request costs more than to
/// count it.
#[derive(Debug)]
pub(crate) struct Meters {
    pub(crate) api: &'static str,
    requests: Key,
    seconds: Key,
}

impl Meters {
    /// `labels` are those of [`api_label`], in a static of their own because a key of a static borrows
    /// them.
    pub(crate) const fn new(api: &'static str, labels: &'static [Label; 1]) -> Self {
        Self {
            api,
            requests: Key::from_static_parts(REQUESTS, labels),
            seconds: Key::from_static_parts(SECONDS, labels),
        }
    }

    /// Counts a request that is over.
    pub(super) fn count(&self, took: Duration, error: Option<&Error>) {
        metrics::with_recorder(|recorder| {
            recorder
                .register_counter(&self.requests, &METADATA)
                .increment(1);
            recorder
                .register_histogram(&self.seconds, &METADATA)
                .record(took.as_secs_f64());
        });
        count_error(self.api, error);
    }
}

const REQUESTS: &str = "ottla_client_requests_total";
const SECONDS: &str = "ottla_client_request_seconds";

/// The label of an API's metrics.
pub(crate) const fn api_label(api: &'static str) -> [Label; 1] {
    [Label::from_static_parts("api", api)]
}

/// Counts a request that is over, of any API.
pub(super) fn count(api: &'static str, took: Duration, error: Option<&Error>) {
    metrics::counter!(REQUESTS, "api" => api).increment(1);
    metrics::histogram!(SECONDS, "api" => api).record(took.as_secs_f64());
    count_error(api, error);
}

fn count_error(api: &'static str, error: Option<&Error>) {
    if let Some(error) = error {
        let kind = format!("{:?}", error.kind());
        metrics::counter!("ottla_client_request_errors_total", "api" => api, "kind" => kind)
            .increment(1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    use std::collections::BTreeMap;

    static LABEL: [Label; 1] = api_label("Produce");
    static METERS: Meters = Meters::new("Produce", &LABEL);

    /// What stands behind each name with its labels after `calls`.
    fn seen(calls: impl FnOnce()) -> BTreeMap<String, String> {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        metrics::with_local_recorder(&recorder, calls);
        let seen = snapshotter.snapshot().into_vec().into_iter();
        seen.map(|(key, _, _, value)| {
            let labels: Vec<_> = key
                .key()
                .labels()
                .map(|label| format!("{}={}", label.key(), label.value()))
                .collect();
            let value = match value {
                DebugValue::Counter(count) => count.to_string(),
                DebugValue::Gauge(value) => value.to_string(),
                DebugValue::Histogram(values) => format!("{values:?}"),
            };
            (format!("{} {}", key.key().name(), labels.join(" ")), value)
        })
        .collect()
    }

    #[test]
    fn requests_are_counted_by_api_whether_their_keys_are_kept_or_not() {
        let took = Duration::from_millis(250);
        let error = Error::new(ErrorKind::TimedOut, "Produce");
        let kept = seen(|| {
            METERS.count(took, None);
            METERS.count(took, Some(&error));
        });
        let made = seen(|| {
            count("Produce", took, None);
            count("Produce", took, Some(&error));
        });
        assert_eq!(kept, made);
        let expected = [
            (
                "ottla_client_request_errors_total api=Produce kind=TimedOut",
                "1",
            ),
            ("ottla_client_request_seconds api=Produce", "[0.25, 0.25]"),
            ("ottla_client_requests_total api=Produce", "2"),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(kept, BTreeMap::from(expected));
    }
}
