//! Batches to rskafka's records and back.

use crate::transport::RecordRefusal;
use crate::{Error, ErrorKind};
use ::rskafka::chrono::DateTime;
use ::rskafka::record::{Record, RecordAndOffset};
use bytes::Bytes;
use ottla_record_batch::{DecodeError, EncodedBatch, RecordSet, RecordSetBuilder, RecordView};
use ottla_types::{Header, Headers, Offset, TimestampType};
use std::collections::BTreeMap;

/// Which record of a batch cannot be carried, and why.
#[derive(Debug, thiserror::Error)]
#[error("record {index} of the batch")]
pub(super) struct BatchRefusal {
    pub(super) index: usize,
    #[source]
    pub(super) reason: RecordRefusal,
}

#[derive(Debug, thiserror::Error)]
#[error("the batch holds no record")]
struct EmptyBatch;

/// The batch's records, copied.
pub(super) fn to_records(
    batch: &EncodedBatch,
    operation: &'static str,
) -> Result<Vec<Record>, Error> {
    let invalid = || Error::new(ErrorKind::InvalidRecord, operation);
    let undecodable = |e: DecodeError| invalid().with_source(e);
    let mut records = Vec::with_capacity(batch.record_count() as usize);
    for batch in batch.clone().into_record_set().batches() {
        for (index, record) in batch.map_err(undecodable)?.records().enumerate() {
            let record = record.map_err(undecodable)?;
            let headers = record.headers().map_err(undecodable)?;
            let record = to_record(record, headers)
                .map_err(|reason| invalid().with_source(BatchRefusal { index, reason }))?;
            records.push(record);
        }
    }
    if records.is_empty() {
        return Err(invalid().with_source(EmptyBatch));
    }
    Ok(records)
}

fn to_record(record: RecordView, headers: Headers) -> Result<Record, RecordRefusal> {
    super::CAPABILITIES.check_record(&headers, record.timestamp_ms)?;
    let timestamp = DateTime::from_timestamp_millis(record.timestamp_ms)
        .ok_or(RecordRefusal::TimestampOutOfRange)?;
    let mut map = BTreeMap::new();
    for Header { key, value } in headers {
        let key = String::from_utf8(key.into()).map_err(|_| RecordRefusal::HeaderNameNotUtf8)?;
        let value = value.ok_or(RecordRefusal::NullHeaderValue)?;
        map.insert(key, value.into());
    }
    Ok(Record {
        key: record.key.map(Vec::from),
        value: record.value.map(Vec::from),
        headers: map,
        timestamp,
    })
}

/// The records as a record set, and the offset to read on from.
///
/// `None` if the broker's offsets are not in order.
pub(super) fn to_record_set(
    records: Vec<RecordAndOffset>,
    position: Offset,
) -> Option<(RecordSet, Offset)> {
    let mut builder = RecordSetBuilder::new();
    let mut next = position;
    for RecordAndOffset { record, offset } in records {
        let headers: Headers = record
            .headers
            .into_iter()
            .map(|(key, value)| Header {
                key: Bytes::from(key),
                value: Some(Bytes::from(value)),
            })
            .collect();
        builder
            .push(
                offset,
                record.timestamp.timestamp_millis(),
                TimestampType::CreateTime,
                record.key.as_deref(),
                record.value.as_deref(),
                &headers,
            )
            .ok()?;
        next = offset.checked_add(1)?;
    }
    Some((builder.finish(), next))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_record_batch::BatchBuilder;

    fn batch(records: &[(i64, Headers)]) -> EncodedBatch {
        let mut builder = BatchBuilder::new(10_000);
        for (timestamp, headers) in records {
            builder
                .try_append(*timestamp, None, Some(b"v"), headers)
                .unwrap();
        }
        builder.finish()
    }

    #[test]
    fn records_survive_the_way_there_and_back() {
        let headers = Headers::new().with("a", "1").with("b", "");
        let records = to_records(&batch(&[(-1, headers.clone()), (5, Headers::new())]), "x");
        let records = records.unwrap().into_iter().enumerate();
        let records = records
            .map(|(i, record)| RecordAndOffset {
                record,
                offset: 10 + 3 * i as i64,
            })
            .collect();
        let (set, next) = to_record_set(records, 10).unwrap();
        assert_eq!(next, 14);
        let batch = set.batches().next().unwrap().unwrap();
        let read: Vec<_> = batch.records().map(Result::unwrap).collect();
        assert_eq!((read[0].offset, read[0].timestamp_ms), (10, -1));
        assert_eq!(read[0].headers().unwrap(), headers);
        assert_eq!((read[1].offset, read[1].timestamp_ms), (13, 5));
        assert_eq!(read[1].value.as_deref(), Some(&b"v"[..]));
        assert_eq!(read[1].key, None);
    }

    #[test]
    fn trap_a11_headers_that_cannot_be_carried_name_the_record() {
        let mut null = Headers::new();
        null.push("k", None);
        let twice = Headers::new().with("k", "1").with("k", "2");
        let mut raw = Headers::new();
        raw.push_raw(Header {
            key: Bytes::from_static(&[0xff]),
            value: Some(Bytes::new()),
        });
        for (headers, timestamp, wanted) in [
            (null, 0, RecordRefusal::NullHeaderValue),
            (twice, 0, RecordRefusal::RepeatedHeader),
            (raw, 0, RecordRefusal::HeaderNameNotUtf8),
            (Headers::new(), i64::MAX, RecordRefusal::TimestampOutOfRange),
        ] {
            let batch = batch(&[(0, Headers::new()), (timestamp, headers)]);
            let error = to_records(&batch, "Produce").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidRecord);
            let source = std::error::Error::source(&error).unwrap();
            let refusal = source.downcast_ref::<BatchRefusal>().unwrap();
            assert_eq!((refusal.index, refusal.reason), (1, wanted));
        }
    }

    #[test]
    fn the_range_of_times_that_is_promised_can_be_carried() {
        for ms in [
            crate::transport::CARRIED_TIMESTAMPS_MS.start(),
            crate::transport::CARRIED_TIMESTAMPS_MS.end(),
        ] {
            assert!(DateTime::from_timestamp_millis(*ms).is_some());
        }
    }

    #[test]
    fn an_empty_batch_is_refused() {
        let error = to_records(&batch(&[]), "Produce").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRecord);
    }

    #[test]
    fn offsets_out_of_order_are_not_believed() {
        let record = |offset| RecordAndOffset {
            record: Record {
                key: None,
                value: None,
                headers: BTreeMap::new(),
                timestamp: DateTime::UNIX_EPOCH,
            },
            offset,
        };
        assert!(to_record_set(vec![record(5), record(5)], 5).is_none());
        assert!(to_record_set(vec![record(i64::MAX)], 5).is_none());
    }
}
