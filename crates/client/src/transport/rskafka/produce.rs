//! One batch to one partition.

use super::cluster::{Call, Cluster, Purpose};
use super::{CAPABILITIES, convert};
use crate::transport::{Acks, Compression, ProduceOptions, Produced};
use crate::{Error, ErrorKind};
use ::rskafka::client::partition::Compression as RsCompression;
use ottla_record_batch::EncodedBatch;
use ottla_types::{Fate, Offset, TopicPartition};
use tokio::time::{Instant, timeout_at};

const PRODUCE: &str = "Produce";

/// Writes the batch, with retries until `deadline`. One batch of a partition is on its way at a
/// time; the others wait for their turn in the order in which they came.
#[tracing::instrument(level = "debug", skip_all, fields(%partition))]
pub(super) async fn produce(
    cluster: &Cluster,
    options: &ProduceOptions,
    partition: &TopicPartition,
    batch: &EncodedBatch,
    deadline: Instant,
) -> Result<Produced, Error> {
    let error = |kind| Error::new(kind, PRODUCE).with_partition(partition.clone());
    if options.acks != Acks::All && !CAPABILITIES.acks {
        return Err(error(ErrorKind::Unsupported).with_source("acks other than all"));
    }
    if options.transactional_id.is_some() {
        return Err(error(ErrorKind::Unsupported).with_source("transactions"));
    }
    let Some(compression) = codec(options.compression) else {
        return Err(error(ErrorKind::Unsupported)
            .with_source(format!("compression {:?}", options.compression)));
    };
    // The first attempt takes these records; rskafka consumes them, so that a second one decodes
    // the batch again.
    let records =
        convert::to_records(batch, PRODUCE).map_err(|e| e.with_partition(partition.clone()))?;
    let first = std::sync::Mutex::new(Some(records));
    let turn = cluster.writer(partition);
    let Ok(_turn) = timeout_at(deadline, turn.lock()).await else {
        return Err(error(ErrorKind::TimedOut));
    };
    let call = Call {
        name: PRODUCE,
        partition,
        purpose: Purpose::Write,
        attempt: cluster.settings.request_timeout,
        give_up: deadline,
        deadline,
    };
    let written = cluster
        .run(call, |client| {
            let ready = super::cluster::lock(&first).take();
            let records = match ready {
                Some(records) => records,
                // It could be decoded before.
                None => convert::to_records(batch, PRODUCE).unwrap_or_default(),
            };
            async move { client.produce(records, compression).await }
        })
        .await
        .map_err(|failure| failure.into_error(PRODUCE, partition))?;
    metrics::counter!("ottla_client_produced_records_total").increment(written.len() as u64);
    let base_offset = base_offset(&written).map_err(|cause| {
        error(ErrorKind::Protocol)
            .with_fate(Fate::MaybeWritten)
            .with_source(cause)
    })?;
    Ok(Produced {
        base_offset,
        log_append_time_ms: None,
    })
}

/// The offsets that rskafka counted up from the broker's base offset cannot be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{count} records were given the offsets from {base} on")]
struct BadOffsets {
    base: Offset,
    count: usize,
}

/// The first record's offset; `None` for -1, by which a broker does not tell it.
fn base_offset(offsets: &[Offset]) -> Result<Option<Offset>, BadOffsets> {
    match offsets {
        [] | [-1, ..] => Ok(None),
        // Without overflow checks the sum wraps.
        [base, .., last] if *base < 0 || last < base => Err(BadOffsets {
            base: *base,
            count: offsets.len(),
        }),
        [base] if *base < 0 => Err(BadOffsets {
            base: *base,
            count: 1,
        }),
        [base, ..] => Ok(Some(*base)),
    }
}

fn codec(compression: Compression) -> Option<RsCompression> {
    match compression {
        Compression::None => Some(RsCompression::NoCompression),
        Compression::Gzip => Some(RsCompression::Gzip),
        Compression::Snappy => Some(RsCompression::Snappy),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_that_cannot_be_are_refused() {
        let bad = |base, count| Err(BadOffsets { base, count });
        assert_eq!(base_offset(&[7, 8]), Ok(Some(7)));
        assert_eq!(base_offset(&[i64::MAX]), Ok(Some(i64::MAX)));
        assert_eq!(base_offset(&[-1, 0]), Ok(None));
        assert_eq!(base_offset(&[-2]), bad(-2, 1));
        assert_eq!(base_offset(&[-9, -8]), bad(-9, 2));
        assert_eq!(base_offset(&[i64::MAX, i64::MIN]), bad(i64::MAX, 2));
    }

    #[test]
    fn the_codecs_that_are_promised_are_the_ones_that_work() {
        let all = [
            Compression::None,
            Compression::Gzip,
            Compression::Snappy,
            Compression::Lz4,
            Compression::Zstd,
        ];
        for compression in all {
            assert_eq!(
                codec(compression).is_some(),
                CAPABILITIES.codecs.contains(&compression)
            );
        }
    }
}
