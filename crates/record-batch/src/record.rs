//! One record: its encoding, and the view that reads it from shared bytes.

use crate::error::{DecodeError, Problem};
use crate::header::Header;
use crate::varint::{Numbers, Reader, put_varlong, varlong_len};
use bytes::{BufMut, Bytes, BytesMut};
use ottla_types::{ConsumedRecord, Header as RecordHeader, Headers, TimestampType};
use std::ops::Range;
use std::sync::Arc;

/// The content of a record to be encoded.
#[derive(Clone, Copy)]
pub(crate) struct Content<'a> {
    pub(crate) key: Option<&'a [u8]>,
    pub(crate) value: Option<&'a [u8]>,
    pub(crate) headers: &'a Headers,
}

impl Content<'_> {
    /// The bytes of key, value and headers with their lengths; the deltas are not in it.
    #[inline]
    pub(crate) fn encoded_len(&self) -> usize {
        let headers: usize = self
            .headers
            .iter()
            .map(|h| field_len(Some(&h.key)) + field_len(h.value.as_deref()))
            .sum();
        field_len(self.key)
            + field_len(self.value)
            + varlong_len(self.headers.len() as i64)
            + headers
    }
}

/// The bytes of a whole record, its length prefix included, and of what the prefix counts.
#[inline]
pub(crate) fn sizes(content_len: usize, timestamp_delta: i64, offset_delta: i64) -> (usize, usize) {
    let body = 1 + varlong_len(timestamp_delta) + varlong_len(offset_delta) + content_len;
    (varlong_len(body as i64) + body, body)
}

#[inline]
fn field_len(field: Option<&[u8]>) -> usize {
    match field {
        None => 1,
        Some(bytes) => varlong_len(bytes.len() as i64) + bytes.len(),
    }
}

/// Writes a field with its length, and before it what `before` holds.
#[inline]
fn put_field(buf: &mut BytesMut, mut before: Numbers, field: Option<&[u8]>) {
    before.varlong(field.map_or(-1, |bytes| bytes.len() as i64));
    buf.extend_from_slice(before.as_slice());
    if let Some(bytes) = field {
        buf.extend_from_slice(bytes);
    }
}

/// Writes a record whose body takes `body_len` bytes, as [`sizes`] says.
#[inline]
pub(crate) fn put(
    buf: &mut BytesMut,
    content: Content<'_>,
    timestamp_delta: i64,
    offset_delta: i64,
    body_len: usize,
) {
    let mut numbers = Numbers::new();
    numbers.varlong(body_len as i64);
    // The attributes, which no record has.
    numbers.byte(0);
    numbers.varlong(timestamp_delta);
    numbers.varlong(offset_delta);
    put_field(buf, numbers, content.key);
    put_field(buf, Numbers::new(), content.value);
    if content.headers.is_empty() {
        return buf.put_slice(NO_HEADERS);
    }
    put_varlong(buf, content.headers.len() as i64);
    for header in content.headers {
        put_field(buf, Numbers::new(), Some(&header.key));
        put_field(buf, Numbers::new(), header.value.as_deref());
    }
}

/// A record in a batch. Key and value share the bytes of the record set; headers are read when they
/// are asked for.
#[derive(Debug, Clone)]
pub struct RecordView {
    /// The offset within the partition.
    pub offset: i64,
    /// Milliseconds since the Unix epoch: the record's own, or the batch's if the topic uses
    /// `LogAppendTime`; -1 where the producer set none.
    pub timestamp_ms: i64,
    /// Who set the timestamp.
    pub timestamp_type: TimestampType,
    /// The epoch of the leader that wrote the batch, if the batch names one.
    pub leader_epoch: Option<i32>,
    /// The key; `None` is null.
    pub key: Option<Bytes>,
    /// The value; `None` is null.
    pub value: Option<Bytes>,
    headers: Bytes,
}

/// A header count of 0 and nothing behind it: how most records end.
const NO_HEADERS: &[u8] = &[0];

/// Where the fields of a record stand.
pub(crate) struct Fields {
    pub(crate) offset: i64,
    timestamp_delta: i64,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    headers: Range<usize>,
}

impl Fields {
    /// Finds the fields of the record that `at` in `plain` holds and nothing else.
    #[inline]
    pub(crate) fn find(
        plain: &[u8],
        at: Range<usize>,
        batch: &Header,
    ) -> Result<Self, DecodeError> {
        let error = |problem| DecodeError::malformed(batch.base_offset, problem);
        let fields = || error(Problem::RecordFields);
        let end = at.end;
        let mut reader = Reader(plain.get(at).unwrap_or_default());
        reader.u8().ok_or_else(fields)?;
        let timestamp_delta = reader.varlong().ok_or_else(fields)?;
        let offset_delta = reader.varint().ok_or_else(fields)?;
        if !(0..=batch.last_offset_delta).contains(&offset_delta) {
            return Err(error(Problem::RecordOffset));
        }
        // The sum with the last delta was checked with the header.
        let offset = batch.base_offset + i64::from(offset_delta);
        let field_error = || DecodeError::malformed(offset, Problem::FieldLength);
        Ok(Self {
            offset,
            timestamp_delta,
            key: find_field(end, &mut reader).ok_or_else(field_error)?,
            value: find_field(end, &mut reader).ok_or_else(field_error)?,
            headers: end - reader.len()..end,
        })
    }

    /// The timestamp and who set it.
    #[inline]
    fn timestamp(&self, batch: &Header) -> (i64, TimestampType) {
        match batch.timestamp_type() {
            // A sum that overflows wraps, as it does in the Java client: a strange time must not
            // stop the partition.
            TimestampType::CreateTime => (
                batch.base_timestamp.wrapping_add(self.timestamp_delta),
                TimestampType::CreateTime,
            ),
            TimestampType::LogAppendTime => (batch.max_timestamp, TimestampType::LogAppendTime),
        }
    }

    /// Writes everything but topic and partition to `record`.
    #[inline]
    pub(crate) fn write_to(
        self,
        plain: &Bytes,
        batch: &Header,
        record: &mut ConsumedRecord,
    ) -> Result<(), DecodeError> {
        if plain.get(self.headers.clone()) != Some(NO_HEADERS) {
            record.headers = read_headers(plain, self.headers.clone(), self.offset)?;
        } else if !record.headers.is_empty() {
            record.headers = Headers::new();
        }
        record.offset = self.offset;
        (record.timestamp_ms, record.timestamp_type) = self.timestamp(batch);
        record.leader_epoch = batch.leader_epoch();
        record.key = self.key.map(|key| plain.slice(key));
        record.value = self.value.map(|value| plain.slice(value));
        Ok(())
    }
}

impl RecordView {
    #[inline]
    pub(crate) fn new(fields: Fields, plain: &Bytes, batch: &Header) -> Self {
        let (timestamp_ms, timestamp_type) = fields.timestamp(batch);
        let headers = match plain.get(fields.headers.clone()) {
            Some(NO_HEADERS) => Bytes::from_static(NO_HEADERS),
            _ => plain.slice(fields.headers),
        };
        Self {
            offset: fields.offset,
            timestamp_ms,
            timestamp_type,
            leader_epoch: batch.leader_epoch(),
            key: fields.key.map(|key| plain.slice(key)),
            value: fields.value.map(|value| plain.slice(value)),
            headers,
        }
    }

    /// Reads the headers, in their order. Keys that are no UTF-8 are kept as they are.
    ///
    /// # Errors
    /// [`DecodeError::Malformed`] with the record's offset. The other fields and the records after
    /// this one are not affected.
    pub fn headers(&self) -> Result<Headers, DecodeError> {
        read_headers(&self.headers, 0..self.headers.len(), self.offset)
    }

    /// The bytes of key, value and encoded headers: what the record weighs in a buffer.
    pub fn size(&self) -> usize {
        self.key.as_ref().map_or(0, Bytes::len)
            + self.value.as_ref().map_or(0, Bytes::len)
            + self.headers.len()
    }

    /// The record as the consumer hands it on. Key, value and headers still share the record set's
    /// bytes, which stay in memory for as long as the record does.
    ///
    /// # Errors
    /// As [`headers`](Self::headers).
    #[inline]
    pub fn into_consumed(
        self,
        topic: Arc<str>,
        partition: i32,
    ) -> Result<ConsumedRecord, DecodeError> {
        let headers = self.headers()?;
        Ok(ConsumedRecord {
            topic,
            partition,
            offset: self.offset,
            leader_epoch: self.leader_epoch,
            timestamp_ms: self.timestamp_ms,
            timestamp_type: self.timestamp_type,
            key: self.key,
            value: self.value,
            headers,
        })
    }
}

/// Reads the headers that `at` in `shared` holds and nothing else, of the record at `offset`.
#[inline]
fn read_headers(shared: &Bytes, at: Range<usize>, offset: i64) -> Result<Headers, DecodeError> {
    let end = at.end;
    let encoded = shared.get(at).unwrap_or_default();
    if encoded == NO_HEADERS {
        return Ok(Headers::new());
    }
    let error = |problem| DecodeError::malformed(offset, problem);
    let mut reader = Reader(encoded);
    // A header takes two bytes at least.
    let count = reader
        .varint()
        .and_then(|count| usize::try_from(count).ok())
        .filter(|count| *count <= reader.len() / 2)
        .ok_or_else(|| error(Problem::HeaderCount))?;
    let mut headers = Headers::new();
    for _ in 0..count {
        let key = find_field(end, &mut reader)
            .flatten()
            .ok_or_else(|| error(Problem::Header))?;
        let value = find_field(end, &mut reader).ok_or_else(|| error(Problem::Header))?;
        headers.push_raw(RecordHeader {
            key: shared.slice(key),
            value: value.map(|value| shared.slice(value)),
        });
    }
    if reader.len() > 0 {
        return Err(error(Problem::TrailingBytes));
    }
    Ok(headers)
}

/// A length, and where as many bytes stand; `reader` has those up to `end` left, and -1 is null. The
/// outer `None` is a length that is below -1, overflows, or is above what is left.
#[inline]
fn find_field(end: usize, reader: &mut Reader<'_>) -> Option<Option<Range<usize>>> {
    match reader.varint()? {
        -1 => Some(None),
        length => {
            let length = usize::try_from(length).ok()?;
            reader.take(length)?;
            let behind = end - reader.len();
            Some(Some(behind - length..behind))
        }
    }
}
