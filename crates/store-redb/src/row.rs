//! An outbox row as bytes: a version, then fixed fields, then length-prefixed ones (little endian).
//!
//! What is read back may be damaged or of a later version: lengths are checked against what is left
//! before anything is reserved.

use ottla_store::{OutboxId, OutboxRow, StoreError, StoreErrorKind};
use ottla_types::{Bytes, Header, Headers, Record};

const VERSION: u8 = 1;
const NULL: u32 = u32::MAX;
const HAS_PARTITION: u8 = 1;
const HAS_TIMESTAMP: u8 = 2;
const FLAGS: u8 = HAS_PARTITION | HAS_TIMESTAMP;
/// Two length prefixes: no header takes less.
const HEADER_BYTES_MIN: usize = 8;

/// The row as bytes.
///
/// # Errors
/// [`StoreErrorKind::Refused`] for a field of 4 GiB or more.
pub(crate) fn encode(record: &Record, enqueued_at_ms: i64) -> Result<Vec<u8>, StoreError> {
    let mut out = Vec::with_capacity(64 + record.topic.len() + record.size());
    out.push(VERSION);
    out.push(
        record.partition.map_or(0, |_| HAS_PARTITION)
            | record.timestamp_ms.map_or(0, |_| HAS_TIMESTAMP),
    );
    out.extend_from_slice(&enqueued_at_ms.to_le_bytes());
    out.extend_from_slice(&record.partition.unwrap_or_default().to_le_bytes());
    out.extend_from_slice(&record.timestamp_ms.unwrap_or_default().to_le_bytes());
    put(&mut out, Some(record.topic.as_bytes()))?;
    put(&mut out, record.key.as_deref())?;
    put(&mut out, record.value.as_deref())?;
    out.extend_from_slice(&length(record.headers.len())?.to_le_bytes());
    for header in &record.headers {
        put(&mut out, Some(&header.key))?;
        put(&mut out, header.value.as_deref())?;
    }
    Ok(out)
}

fn length(length: usize) -> Result<u32, StoreError> {
    u32::try_from(length)
        .ok()
        .filter(|n| *n != NULL)
        .ok_or_else(|| StoreError::new(StoreErrorKind::Refused, "encode an outbox row"))
}

fn put(out: &mut Vec<u8>, field: Option<&[u8]>) -> Result<(), StoreError> {
    let prefix = field.map_or(Ok(NULL), |bytes| length(bytes.len()))?;
    out.extend_from_slice(&prefix.to_le_bytes());
    out.extend_from_slice(field.unwrap_or_default());
    Ok(())
}

/// The row that was encoded.
///
/// # Errors
/// [`StoreErrorKind::Corrupt`] for anything that [`encode`] does not write.
pub(crate) fn decode(id: OutboxId, bytes: &[u8]) -> Result<OutboxRow, StoreError> {
    read(id, bytes).ok_or_else(|| {
        StoreError::new(StoreErrorKind::Corrupt, "read an outbox row").with_source(format!(
            "row {} of {} bytes",
            id.0,
            bytes.len()
        ))
    })
}

fn read(id: OutboxId, bytes: &[u8]) -> Option<OutboxRow> {
    let mut reader = Reader(bytes);
    let flags = match reader.array::<2>()? {
        [VERSION, flags] if flags & !FLAGS == 0 => flags,
        _ => return None,
    };
    let enqueued_at_ms = i64::from_le_bytes(reader.array()?);
    let partition = i32::from_le_bytes(reader.array()?);
    let timestamp_ms = i64::from_le_bytes(reader.array()?);
    let topic = std::str::from_utf8(reader.field()??).ok()?.into();
    let key = reader.field()?.map(Bytes::copy_from_slice);
    let value = reader.field()?.map(Bytes::copy_from_slice);
    let count = u32::from_le_bytes(reader.array()?) as usize;
    if count > reader.0.len() / HEADER_BYTES_MIN {
        return None;
    }
    let mut headers = Headers::new();
    for _ in 0..count {
        headers.push_raw(Header {
            key: Bytes::copy_from_slice(reader.field()??),
            value: reader.field()?.map(Bytes::copy_from_slice),
        });
    }
    reader.0.is_empty().then_some(OutboxRow {
        id,
        record: Record {
            topic,
            partition: (flags & HAS_PARTITION != 0).then_some(partition),
            key,
            value,
            headers,
            timestamp_ms: (flags & HAS_TIMESTAMP != 0).then_some(timestamp_ms),
        },
        enqueued_at_ms,
    })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    /// `None`: damaged. `Some(None)`: null.
    #[allow(
        clippy::option_option,
        reason = "damaged and null are different answers"
    )]
    fn field(&mut self) -> Option<Option<&'a [u8]>> {
        let length = u32::from_le_bytes(self.array()?);
        if length == NULL {
            return Some(None);
        }
        let (head, rest) = self.0.split_at_checked(length as usize)?;
        self.0 = rest;
        Some(Some(head))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(any::<u8>(), 0..20)
    }

    proptest! {
        #[test]
        fn a_row_is_read_as_it_was_written(
            topic in "[a-z]{1,9}",
            partition in proptest::option::of(any::<i32>()),
            timestamp_ms in proptest::option::of(any::<i64>()),
            key in proptest::option::of(bytes()),
            value in proptest::option::of(bytes()),
            headers in proptest::collection::vec((bytes(), proptest::option::of(bytes())), 0..4),
            enqueued_at_ms in any::<i64>(),
        ) {
            let headers = headers.into_iter().map(|(key, value)| Header {
                key: key.into(),
                value: value.map(Bytes::from),
            }).collect();
            let record = Record {
                topic: topic.into(),
                partition,
                key: key.map(Bytes::from),
                value: value.map(Bytes::from),
                headers,
                timestamp_ms,
            };
            let encoded = encode(&record, enqueued_at_ms).unwrap();
            let row = decode(OutboxId(3), &encoded).unwrap();
            prop_assert_eq!(row, OutboxRow { id: OutboxId(3), record, enqueued_at_ms });
            // Whatever is cut off or changed is an error or another row, never a panic.
            for end in 0..encoded.len() {
                prop_assert!(decode(OutboxId(3), &encoded[..end]).is_err());
            }
        }

        #[test]
        fn any_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut versioned = vec![VERSION, 0];
            versioned.extend_from_slice(&bytes);
            let _ = decode(OutboxId(1), &versioned);
            let _ = decode(OutboxId(1), &bytes);
        }
    }

    #[test]
    fn a_later_version_is_corrupt() {
        let mut encoded = encode(&Record::new("t"), 0).unwrap();
        encoded[0] = VERSION + 1;
        let error = decode(OutboxId(1), &encoded).unwrap_err();
        assert_eq!(error.kind(), StoreErrorKind::Corrupt);
    }
}
