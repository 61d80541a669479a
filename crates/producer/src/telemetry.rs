//! Metrics and log lines, by batch and never by record.

use crate::accumulator::Written;
use metrics::{Key, Label, Level, Metadata};
use ottla_types::{Fate, PublishError, TopicPartition};
use std::sync::Arc;

static METADATA: Metadata<'static> =
    Metadata::new(module_path!(), Level::INFO, Some(module_path!()));

/// Metrics of one topic, with keys that are made once: to make them for each batch costs more than to
/// count it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Meters {
    records: Key,
    bytes: Key,
    batches: Key,
}

impl Meters {
    pub(crate) fn new(topic: &Arc<str>) -> Self {
        let key = |name| Key::from_parts(name, vec![Label::new("topic", Arc::clone(topic))]);
        Self {
            records: key("ottla_producer_records_total"),
            bytes: key("ottla_producer_bytes_total"),
            batches: key("ottla_producer_batches_total"),
        }
    }
}

/// A batch was acknowledged.
pub(crate) fn written(batch: &Written) {
    let Written {
        partition,
        meters,
        records,
        bytes,
        age,
        request,
    } = batch;
    metrics::with_recorder(|recorder| {
        let count = |key, by| recorder.register_counter(key, &METADATA).increment(by);
        count(&meters.records, u64::from(*records));
        count(&meters.bytes, *bytes as u64);
        count(&meters.batches, 1);
    });
    metrics::histogram!("ottla_producer_delivery_seconds").record(age.as_secs_f64());
    metrics::histogram!("ottla_producer_request_seconds").record(request.as_secs_f64());
    tracing::trace!(%partition, records, bytes, ?age, "batch written");
}

/// An attempt failed, and the batch is sent again.
pub(crate) fn retried(partition: &TopicPartition, attempts: u32, cause: &str) {
    let topic = partition.topic.to_string();
    metrics::counter!("ottla_producer_retries_total", "topic" => topic).increment(1);
    tracing::debug!(%partition, attempts, cause, "batch is sent again");
}

/// Records failed for good.
pub(crate) fn failed(error: &PublishError, records: u32) {
    let kind = format!("{:?}", error.kind());
    metrics::counter!(
        "ottla_producer_errors_total", "topic" => error.topic().to_owned(), "kind" => kind
    )
    .increment(u64::from(records));
    let maybe_written = error.fate() == Fate::MaybeWritten;
    let cause = std::error::Error::source(error).map(ToString::to_string);
    tracing::warn!(%error, cause, records, maybe_written, "records were not acknowledged");
}

/// By how much the bytes that wait for their result have changed. Producers share the gauge, and the
/// order in which changes are told makes no difference to it. A recorder that comes when records are
/// buffered already misses those.
pub(crate) fn buffered(change: isize) {
    if change != 0 {
        metrics::gauge!("ottla_producer_buffered_bytes").increment(change as f64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};
    use std::time::Duration;

    #[test]
    fn a_written_batch_counts_for_its_topic() {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        metrics::with_local_recorder(&recorder, || {
            for (topic, records) in [("orders", 3), ("orders", 4), ("payments", 1)] {
                let partition = TopicPartition::new(topic, 0);
                written(&Written {
                    meters: Arc::new(Meters::new(&partition.topic)),
                    partition,
                    records,
                    bytes: 100,
                    age: Duration::from_secs(1),
                    request: Duration::from_secs(1),
                });
            }
        });
        let mut seen: Vec<(String, String, u64)> = Vec::new();
        for (key, _, _, value) in snapshotter.snapshot().into_vec() {
            let key = key.key();
            if let (DebugValue::Counter(count), Some(topic)) = (value, key.labels().next()) {
                assert_eq!((key.labels().len(), topic.key()), (1, "topic"));
                seen.push((key.name().to_owned(), topic.value().to_owned(), count));
            }
        }
        seen.sort();
        let mut expected = Vec::new();
        for (name, orders, payments) in [("batches", 2, 1), ("bytes", 200, 100), ("records", 7, 1)]
        {
            let name = format!("ottla_producer_{name}_total");
            expected.push((name.clone(), "orders".to_owned(), orders));
            expected.push((name, "payments".to_owned(), payments));
        }
        assert_eq!(seen, expected);
    }
}
