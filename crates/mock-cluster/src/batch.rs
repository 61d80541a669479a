//! Record batches, format v2, read with this crate's own few lines so that a mistake of
//! `ottla-record-batch` is not repeated here. Compressed batches are kept as opaque bytes: only
//! their header is looked at.
//!
//! Everything here is untrusted input: every length is checked against what is left.

use bytes::{BufMut, Bytes, BytesMut};

use crate::MockRecord;
use crate::codes;

/// The end of a transaction in one partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Marker {
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) commit: bool,
    pub(crate) timestamp: i64,
}

/// The types of a control record.
const ABORT: i16 = 0;
const COMMIT: i16 = 1;

impl Marker {
    /// A control batch of one record: key `version, type`, value `version, coordinator epoch`.
    pub(crate) fn batch(self) -> Batch {
        let kind = if self.commit { COMMIT } else { ABORT };
        // Attributes, two deltas; key of 4 bytes; value of 6 bytes; no headers.
        let mut record = vec![0, 0, 0, 4 << 1, 0, 0];
        record.extend_from_slice(&kind.to_be_bytes());
        record.extend_from_slice(&[6 << 1, 0, 0, 0, 0, 0, 0, 0]);
        let attributes = ATTRIBUTE_TRANSACTIONAL | ATTRIBUTE_CONTROL;
        let mut bytes = BytesMut::with_capacity(HEADER_LEN + record.len() + 1);
        bytes.put_i64(0);
        // The record and its length, one byte as a varint.
        bytes.put_i32((HEADER_LEN - LENGTH_PREFIX + record.len() + 1) as i32);
        bytes.put_i32(-1);
        bytes.put_u8(2);
        bytes.put_u32(0);
        bytes.put_u16(attributes);
        bytes.put_i32(0);
        bytes.put_i64(self.timestamp);
        bytes.put_i64(self.timestamp);
        bytes.put_i64(self.producer_id);
        bytes.put_i16(self.producer_epoch);
        bytes.put_i32(-1);
        bytes.put_i32(1);
        bytes.put_u8((record.len() as u8) << 1);
        bytes.put_slice(&record);
        seal(&mut bytes);
        Batch {
            bytes: bytes.freeze(),
            base_offset: 0,
            last_offset_delta: 0,
            base_timestamp: self.timestamp,
            max_timestamp: self.timestamp,
            producer_id: self.producer_id,
            producer_epoch: self.producer_epoch,
            base_sequence: -1,
            record_count: 1,
            leader_epoch: -1,
            attributes,
        }
    }
}

/// Makes the CRC right.
fn seal(bytes: &mut BytesMut) {
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
}

/// Bytes before the first record.
pub(crate) const HEADER_LEN: usize = 61;
/// Bytes that the batch's own length field does not count.
const LENGTH_PREFIX: usize = 12;
const ATTRIBUTE_LOG_APPEND_TIME: u16 = 1 << 3;
const ATTRIBUTE_TRANSACTIONAL: u16 = 1 << 4;
const ATTRIBUTE_CONTROL: u16 = 1 << 5;

/// The header fields that the mock needs, and the whole batch.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) bytes: Bytes,
    pub(crate) base_offset: i64,
    pub(crate) last_offset_delta: i32,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) record_count: i32,
    pub(crate) leader_epoch: i32,
    attributes: u16,
}

impl Batch {
    /// Reads and checks the one batch that a produce request may carry for a partition.
    pub(crate) fn from_produce(records: &Bytes, max_bytes: usize) -> Result<Self, i16> {
        let length = read::<4>(records, 8)
            .map(i32::from_be_bytes)
            .ok_or(codes::INVALID_RECORD)?;
        let total = usize::try_from(length)
            .ok()
            .and_then(|length| length.checked_add(LENGTH_PREFIX))
            .ok_or(codes::CORRUPT_MESSAGE)?;
        if read::<1>(records, 16) != Some([2]) {
            return Err(codes::INVALID_RECORD);
        }
        if total < HEADER_LEN || total > records.len() {
            return Err(codes::CORRUPT_MESSAGE);
        }
        if total < records.len() {
            // KIP-98: a produce request of version 3 and up carries exactly one batch a partition.
            return Err(codes::INVALID_RECORD);
        }
        if total > max_bytes {
            return Err(codes::MESSAGE_TOO_LARGE);
        }
        let crc = read::<4>(records, 17).map(u32::from_be_bytes);
        if crc != Some(crc32c::crc32c(&records[21..])) {
            return Err(codes::CORRUPT_MESSAGE);
        }
        let batch = Self::parse(records.clone()).ok_or(codes::CORRUPT_MESSAGE)?;
        batch.check_contents()?;
        Ok(batch)
    }

    fn parse(bytes: Bytes) -> Option<Self> {
        let batch = Self {
            base_offset: i64::from_be_bytes(read(&bytes, 0)?),
            leader_epoch: i32::from_be_bytes(read(&bytes, 12)?),
            attributes: u16::from_be_bytes(read(&bytes, 21)?),
            last_offset_delta: i32::from_be_bytes(read(&bytes, 23)?),
            base_timestamp: i64::from_be_bytes(read(&bytes, 27)?),
            max_timestamp: i64::from_be_bytes(read(&bytes, 35)?),
            producer_id: i64::from_be_bytes(read(&bytes, 43)?),
            producer_epoch: i16::from_be_bytes(read(&bytes, 51)?),
            base_sequence: i32::from_be_bytes(read(&bytes, 53)?),
            record_count: i32::from_be_bytes(read(&bytes, 57)?),
            bytes,
        };
        Some(batch)
    }

    fn check_contents(&self) -> Result<(), i16> {
        if self.is_control() || self.record_count < 1 || self.codec() > 4 {
            return Err(codes::INVALID_RECORD);
        }
        if self.last_offset_delta != self.record_count - 1 {
            return Err(codes::INVALID_RECORD);
        }
        if self.codec() == 0 {
            let mut body = &self.bytes[HEADER_LEN..];
            for expected in 0..self.record_count {
                let record = RawRecord::read(&mut body).ok_or(codes::INVALID_RECORD)?;
                if record.offset_delta != i64::from(expected) {
                    return Err(codes::INVALID_RECORD);
                }
            }
            if !body.is_empty() {
                return Err(codes::INVALID_RECORD);
            }
        }
        Ok(())
    }

    /// Puts the batch at its place in the log. The CRC does not cover the base offset and the
    /// leader epoch; the time of an append does change it.
    pub(crate) fn place(&mut self, offset: i64, leader_epoch: i32, append_time: Option<i64>) {
        let mut bytes = BytesMut::from(&self.bytes[..]);
        bytes[0..8].copy_from_slice(&offset.to_be_bytes());
        bytes[12..16].copy_from_slice(&leader_epoch.to_be_bytes());
        self.base_offset = offset;
        self.leader_epoch = leader_epoch;
        if let Some(now) = append_time {
            self.attributes |= ATTRIBUTE_LOG_APPEND_TIME;
            self.max_timestamp = now;
            bytes[21..23].copy_from_slice(&self.attributes.to_be_bytes());
            bytes[35..43].copy_from_slice(&now.to_be_bytes());
            seal(&mut bytes);
        }
        self.bytes = bytes.freeze();
    }

    pub(crate) fn codec(&self) -> u8 {
        (self.attributes & 0b111) as u8
    }

    pub(crate) fn is_control(&self) -> bool {
        self.attributes & ATTRIBUTE_CONTROL != 0
    }

    pub(crate) fn is_transactional(&self) -> bool {
        self.attributes & ATTRIBUTE_TRANSACTIONAL != 0
    }

    pub(crate) fn is_log_append_time(&self) -> bool {
        self.attributes & ATTRIBUTE_LOG_APPEND_TIME != 0
    }

    pub(crate) fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// Of a transaction's marker, whether it commits; `None` for data.
    pub(crate) fn marker(&self) -> Option<bool> {
        if !self.is_control() {
            return None;
        }
        let mut body = &self.bytes[HEADER_LEN..];
        let key = RawRecord::read(&mut body)?.key?;
        Some(read::<2>(key, 2).map(i16::from_be_bytes)? == COMMIT)
    }

    /// The same batch with only those records of an uncompressed one that `keep` wants, by key and
    /// offset. Offsets and sequences stay.
    pub(crate) fn filtered(&self, keep: impl Fn(Option<&[u8]>, i64) -> bool) -> Self {
        let mut bytes = BytesMut::from(&self.bytes[..HEADER_LEN]);
        let mut slim = self.clone();
        slim.record_count = 0;
        let mut body = &self.bytes[HEADER_LEN..];
        let mut before = body;
        while let Some(record) = RawRecord::read(&mut body) {
            let raw = &before[..before.len() - body.len()];
            before = body;
            if keep(record.key, self.base_offset + record.offset_delta) {
                bytes.extend_from_slice(raw);
                slim.record_count += 1;
            }
        }
        let length = (bytes.len() - LENGTH_PREFIX) as i32;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        bytes[57..61].copy_from_slice(&slim.record_count.to_be_bytes());
        seal(&mut bytes);
        slim.bytes = bytes.freeze();
        slim
    }

    /// The records of an uncompressed batch; `None` for a compressed one.
    pub(crate) fn records(&self, partition: i32) -> Option<Vec<MockRecord>> {
        if self.codec() != 0 {
            return None;
        }
        let mut body = &self.bytes[HEADER_LEN..];
        let mut records = Vec::new();
        while let Some(raw) = RawRecord::read(&mut body) {
            let timestamp_ms = if self.is_log_append_time() {
                self.max_timestamp
            } else {
                self.base_timestamp.wrapping_add(raw.timestamp_delta)
            };
            let headers = raw.headers.iter().map(|(key, value)| {
                let key = String::from_utf8_lossy(key).into_owned();
                (key, value.map(Bytes::copy_from_slice))
            });
            records.push(MockRecord {
                partition,
                offset: self.base_offset + raw.offset_delta,
                timestamp_ms,
                key: raw.key.map(Bytes::copy_from_slice),
                value: raw.value.map(Bytes::copy_from_slice),
                headers: headers.collect(),
            });
        }
        Some(records)
    }
}

fn read<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

struct RawRecord<'a> {
    timestamp_delta: i64,
    offset_delta: i64,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    headers: Vec<(&'a [u8], Option<&'a [u8]>)>,
}

impl<'a> RawRecord<'a> {
    fn read(input: &mut &'a [u8]) -> Option<Self> {
        let length = usize::try_from(varint(input)?).ok()?;
        let mut body = take(input, length)?;
        let body = &mut body;
        take(body, 1)?;
        let timestamp_delta = varint(body)?;
        let offset_delta = varint(body)?;
        let key = nullable(body)?;
        let value = nullable(body)?;
        let count = usize::try_from(varint(body)?).ok()?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let key = nullable(body)??;
            headers.push((key, nullable(body)?));
        }
        body.is_empty().then_some(Self {
            timestamp_delta,
            offset_delta,
            key,
            value,
            headers,
        })
    }
}

fn take<'a>(input: &mut &'a [u8], length: usize) -> Option<&'a [u8]> {
    let (head, tail) = input.split_at_checked(length)?;
    *input = tail;
    Some(head)
}

fn nullable<'a>(input: &mut &'a [u8]) -> Option<Option<&'a [u8]>> {
    match varint(input)? {
        -1 => Some(None),
        length => Some(Some(take(input, usize::try_from(length).ok()?)?)),
    }
}

fn varint(input: &mut &[u8]) -> Option<i64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let byte = take(input, 1)?[0];
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return None;
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Some((value >> 1) as i64 ^ -((value & 1) as i64));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn varints_are_zigzag_and_bounded() {
        assert_eq!(varint(&mut &[0x00][..]), Some(0));
        assert_eq!(varint(&mut &[0x01][..]), Some(-1));
        assert_eq!(varint(&mut &[0x80, 0x01][..]), Some(64));
        assert_eq!(varint(&mut &[0xff; 11][..]), None);
        assert_eq!(varint(&mut &[0x80][..]), None);
    }

    #[test]
    fn garbage_is_refused_without_a_panic() {
        for length in 0..200 {
            for fill in [0x00, 0x02, 0x7f, 0x80, 0xff] {
                let bytes = Bytes::from(vec![fill; length]);
                assert!(Batch::from_produce(&bytes, 1000).is_err());
            }
        }
    }
}
