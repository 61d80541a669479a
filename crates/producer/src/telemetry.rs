//! Metrics and log lines, by batch and never by record.

use crate::accumulator::Written;
use ottla_types::{Fate, PublishError, TopicPartition};

/// A batch was acknowledged.
pub(crate) fn written(batch: &Written) {
    let Written {
        partition,
        records,
        bytes,
        age,
        request,
    } = batch;
    let topic = partition.topic.to_string();
    metrics::counter!("ottla_producer_records_total", "topic" => topic.clone())
        .increment(u64::from(*records));
    metrics::counter!("ottla_producer_bytes_total", "topic" => topic.clone())
        .increment(*bytes as u64);
    metrics::counter!("ottla_producer_batches_total", "topic" => topic).increment(1);
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
