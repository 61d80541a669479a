//! The 61 bytes in front of a batch's records: where each field stands, and the checked reading.

use crate::encoded::Stamp;
use crate::error::{DecodeError, Problem};
use bytes::{Buf, Bytes, BytesMut};
use crc_fast::{CrcAlgorithm, Digest};

/// The bytes that a batch needs besides its records.
pub const BATCH_OVERHEAD: usize = 61;

/// The bytes before those that the length field counts: base offset and the length itself.
pub(crate) const LENGTH_END: usize = 12;
const LENGTH_AT: usize = 8;
const LEADER_EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
pub(crate) const CRC_AT: usize = 17;
/// The checksum covers everything from here to the batch's end.
pub(crate) const CRC_FROM: usize = 21;
const LAST_OFFSET_DELTA_AT: usize = 23;
const BASE_TIMESTAMP_AT: usize = 27;
const MAX_TIMESTAMP_AT: usize = 35;
pub(crate) const PRODUCER_ID_AT: usize = 43;
const PRODUCER_EPOCH_AT: usize = 51;
const BASE_SEQUENCE_AT: usize = 53;
const COUNT_AT: usize = 57;

const MAGIC: i8 = 2;
/// Length, attributes, timestamp delta, offset delta, key length, value length and header count
/// take a byte each at least.
pub(crate) const MIN_RECORD: usize = 7;

const ATTRIBUTE_CODEC: i16 = 0x7;
pub(crate) const ATTRIBUTE_LOG_APPEND_TIME: i16 = 1 << 3;
pub(crate) const ATTRIBUTE_TRANSACTIONAL: i16 = 1 << 4;
pub(crate) const ATTRIBUTE_CONTROL: i16 = 1 << 5;

/// The fields of a batch header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) base_offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) attributes: i16,
    pub(crate) last_offset_delta: i32,
    pub(crate) base_timestamp: i64,
    pub(crate) max_timestamp: i64,
    pub(crate) producer_id: i64,
    pub(crate) producer_epoch: i16,
    pub(crate) base_sequence: i32,
    pub(crate) count: i32,
}

impl Header {
    /// A header without producer, leader epoch and attributes.
    pub(crate) fn plain(
        base_offset: i64,
        last_offset_delta: i32,
        base_timestamp: i64,
        max_timestamp: i64,
        count: i32,
    ) -> Self {
        Self {
            base_offset,
            leader_epoch: -1,
            attributes: 0,
            last_offset_delta,
            base_timestamp,
            max_timestamp,
            producer_id: -1,
            producer_epoch: -1,
            base_sequence: -1,
            count,
        }
    }

    /// Takes over what an idempotent producer writes; without a stamp, that there is none.
    pub(crate) fn stamp(&mut self, stamp: Option<Stamp>) {
        self.producer_id = stamp.map_or(-1, |stamp| stamp.producer.id);
        self.producer_epoch = stamp.map_or(-1, |stamp| stamp.producer.epoch);
        self.base_sequence = stamp.map_or(-1, |stamp| stamp.base_sequence);
        self.attributes &= !ATTRIBUTE_TRANSACTIONAL;
        if stamp.is_some_and(|stamp| stamp.transactional) {
            self.attributes |= ATTRIBUTE_TRANSACTIONAL;
        }
    }

    /// Writes the header over the first 61 bytes of `batch`, with the checksum. `batch` must hold
    /// exactly one batch of less than 2 GiB.
    pub(crate) fn write(&self, batch: &mut [u8]) {
        self.write_before(batch, &[]);
    }

    /// The same for a batch that goes on in further pieces.
    pub(crate) fn write_before(&self, batch: &mut [u8], tail: &[Bytes]) {
        let whole = batch.len() + tail.iter().map(Bytes::len).sum::<usize>();
        let length = (whole - LENGTH_END) as i32;
        put(batch, 0, &self.base_offset.to_be_bytes());
        put(batch, LENGTH_AT, &length.to_be_bytes());
        put(batch, LEADER_EPOCH_AT, &self.leader_epoch.to_be_bytes());
        put(batch, MAGIC_AT, &MAGIC.to_be_bytes());
        put(batch, CRC_FROM, &self.attributes.to_be_bytes());
        put(
            batch,
            LAST_OFFSET_DELTA_AT,
            &self.last_offset_delta.to_be_bytes(),
        );
        put(batch, BASE_TIMESTAMP_AT, &self.base_timestamp.to_be_bytes());
        put(batch, MAX_TIMESTAMP_AT, &self.max_timestamp.to_be_bytes());
        put(batch, PRODUCER_ID_AT, &self.producer_id.to_be_bytes());
        put(batch, PRODUCER_EPOCH_AT, &self.producer_epoch.to_be_bytes());
        put(batch, BASE_SEQUENCE_AT, &self.base_sequence.to_be_bytes());
        put(batch, COUNT_AT, &self.count.to_be_bytes());
        let crc = checksum(&batch[CRC_FROM..], tail);
        put(batch, CRC_AT, &crc.to_be_bytes());
    }

    /// Reads the header of the batch that `data` holds and nothing else.
    fn read(mut data: &[u8]) -> Self {
        let base_offset = data.get_i64();
        data.advance(4);
        let leader_epoch = data.get_i32();
        data.advance(1 + 4);
        Self {
            base_offset,
            leader_epoch,
            attributes: data.get_i16(),
            last_offset_delta: data.get_i32(),
            base_timestamp: data.get_i64(),
            max_timestamp: data.get_i64(),
            producer_id: data.get_i64(),
            producer_epoch: data.get_i16(),
            base_sequence: data.get_i32(),
            count: data.get_i32(),
        }
    }

    fn check(&self, records_len: usize) -> Result<(), DecodeError> {
        let problem = |p| Err(DecodeError::malformed(self.base_offset, p));
        let last = i64::from(self.last_offset_delta);
        if self.base_offset < 0 || last < 0 || self.base_offset.checked_add(last).is_none() {
            return problem(Problem::BatchOffsets);
        }
        match usize::try_from(self.count) {
            // Compressed records take fewer bytes than they have: they are counted when read.
            Ok(_) if self.attributes & ATTRIBUTE_CODEC != 0 => Ok(()),
            Ok(count) if count <= records_len / MIN_RECORD => Ok(()),
            _ => problem(Problem::RecordCount),
        }
    }
}

/// CRC-32C of the bytes one after the other (RFC 3720, appendix B.4).
fn checksum(head: &[u8], tail: &[Bytes]) -> u32 {
    let algorithm = CrcAlgorithm::Crc32Iscsi;
    if tail.is_empty() {
        return crc_fast::checksum(algorithm, head) as u32;
    }
    let mut digest = Digest::new(algorithm);
    digest.update(head);
    for piece in tail {
        digest.update(piece);
    }
    digest.finalize() as u32
}

fn put(batch: &mut [u8], at: usize, bytes: &[u8]) {
    batch[at..at + bytes.len()].copy_from_slice(bytes);
}

/// Room for a header, to be filled in when the records are known.
pub(crate) fn reserve(buf: &mut BytesMut) {
    buf.resize(buf.len() + BATCH_OVERHEAD, 0);
}

/// Takes the next whole batch off `data`: its header and the bytes of its records. `None` if what
/// is left is empty or cut off.
pub(crate) fn split(data: &mut Bytes) -> Result<Option<(Header, Bytes)>, DecodeError> {
    let mut peek = &data[..];
    if peek.len() < LENGTH_END {
        return Ok(None);
    }
    let base_offset = peek.get_i64();
    let length = peek.get_i32();
    let Ok(length) = usize::try_from(length) else {
        return Err(DecodeError::malformed(base_offset, Problem::BatchLength));
    };
    if length > peek.len() {
        return Ok(None);
    }
    // The older formats have their magic at the same place.
    match data.get(MAGIC_AT).map(|m| *m as i8) {
        Some(magic) if length > MAGIC_AT - LENGTH_END && magic != MAGIC => {
            return Err(DecodeError::UnknownMagic { base_offset, magic });
        }
        _ if length < BATCH_OVERHEAD - LENGTH_END => {
            return Err(DecodeError::malformed(base_offset, Problem::BatchLength));
        }
        _ => {}
    }
    let mut batch = data.split_to(LENGTH_END + length);
    let expected = (&batch[CRC_AT..]).get_u32();
    let actual = checksum(&batch[CRC_FROM..], &[]);
    if expected != actual {
        return Err(DecodeError::BadCrc {
            base_offset,
            expected,
            actual,
        });
    }
    let header = Header::read(&batch);
    batch.advance(BATCH_OVERHEAD);
    header.check(batch.len())?;
    Ok(Some((header, batch)))
}
