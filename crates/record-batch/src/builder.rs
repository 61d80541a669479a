//! [`BatchBuilder`]: records are encoded as they are added, into the buffer that is sent.

use crate::codec::Compressor;
use crate::encoded::{EncodedBatch, SealedBatch};
use crate::error::AppendError;
use crate::header::{self, BATCH_OVERHEAD, Header};
use crate::record::{self, Content};
use bytes::BytesMut;
use ottla_types::Headers;

/// The buffer starts with this much room, unless more is expected; it grows up to the batch's limit.
const INITIAL_CAPACITY: usize = 4 * 1024;

/// An upper bound on the bytes that a record takes in a batch; [`BATCH_OVERHEAD`] comes on top once
/// a batch. A batch of `BATCH_OVERHEAD + record_size(..)` bytes holds the record.
#[inline]
pub fn record_size(key: Option<&[u8]>, value: Option<&[u8]>, headers: &Headers) -> usize {
    let content = Content {
        key,
        value,
        headers,
    };
    record::sizes(content.encoded_len(), i64::MIN, i64::from(i32::MAX)).0
}

/// Collects the records of one batch.
#[derive(Debug)]
pub struct BatchBuilder {
    /// The buffer that records are put into: the only one, or the last.
    buf: BytesMut,
    /// Those before it.
    full: Vec<BytesMut>,
    full_bytes: usize,
    full_capacity: usize,
    max_bytes: usize,
    count: i32,
    base_timestamp: i64,
    max_timestamp: i64,
}

impl BatchBuilder {
    /// An empty batch that takes `max_bytes` bytes at most, the overhead included; never more than
    /// `i32::MAX`.
    pub fn new(max_bytes: usize) -> Self {
        Self::with_expected(max_bytes, 0)
    }

    /// The same with room for as many bytes as it will probably take (0: nobody knows), so that
    /// memory is not taken in vain, and records are not moved because the buffer grows.
    pub fn with_expected(max_bytes: usize, expected_bytes: usize) -> Self {
        let capacity = match expected_bytes {
            0 => INITIAL_CAPACITY,
            expected => expected,
        };
        let capacity = capacity.min(max_bytes).max(BATCH_OVERHEAD);
        Self::with_buffer(max_bytes, BytesMut::with_capacity(capacity))
    }

    /// The same in a buffer that may have been used before; what it holds is cleared away. It grows
    /// unless [`go_on_in`](Self::go_on_in) is called in time.
    pub fn with_buffer(max_bytes: usize, mut buf: BytesMut) -> Self {
        let max_bytes = max_bytes.min(i32::MAX as usize);
        buf.clear();
        header::reserve(&mut buf);
        Self {
            buf,
            full: Vec::new(),
            full_bytes: 0,
            full_capacity: 0,
            max_bytes,
            count: 0,
            base_timestamp: -1,
            max_timestamp: -1,
        }
    }

    /// Adds a record and gives its place in the batch, from 0. `timestamp_ms` is in milliseconds
    /// since the Unix epoch, -1 for none.
    ///
    /// # Errors
    /// [`AppendError::Full`] if the record fits a new batch of this size but not this one (or its
    /// time is too far from the first record's to be expressed in one batch),
    /// [`AppendError::TooLarge`] if it fits none, [`AppendError::Overflow`] if the format cannot
    /// express it. The batch is unchanged.
    #[inline]
    pub fn try_append(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &Headers,
    ) -> Result<u32, AppendError> {
        let content = Content {
            key,
            value,
            headers,
        };
        let content_len = content.encoded_len();
        if content_len > i32::MAX as usize {
            return Err(AppendError::Overflow);
        }
        let (alone, _) = record::sizes(content_len, 0, 0);
        if BATCH_OVERHEAD + alone > self.max_bytes {
            return Err(AppendError::TooLarge);
        }
        let timestamp_delta = if self.count == 0 {
            0
        } else {
            timestamp_ms
                .checked_sub(self.base_timestamp)
                .ok_or(AppendError::Full)?
        };
        let (size, body_len) = record::sizes(content_len, timestamp_delta, i64::from(self.count));
        if self.size() + size > self.max_bytes || self.count == i32::MAX {
            return Err(AppendError::Full);
        }
        if self.count == 0 {
            self.base_timestamp = timestamp_ms;
            self.max_timestamp = timestamp_ms;
        }
        self.max_timestamp = self.max_timestamp.max(timestamp_ms);
        self.buf.reserve(size);
        let index = self.count;
        record::put(
            &mut self.buf,
            content,
            timestamp_delta,
            i64::from(index),
            body_len,
        );
        self.count += 1;
        Ok(index as u32)
    }

    /// How many records were added.
    #[inline]
    pub fn len(&self) -> u32 {
        self.count as u32
    }

    /// Whether no record was added.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The bytes of the batch as it stands, the overhead included.
    #[inline]
    pub fn size(&self) -> usize {
        self.full_bytes + self.buf.len()
    }

    /// The bytes of the buffers that it is in.
    #[inline]
    pub fn capacity(&self) -> usize {
        self.full_capacity + self.buf.capacity()
    }

    /// What its buffer takes before it grows.
    #[inline]
    pub fn free(&self) -> usize {
        self.buf.capacity() - self.buf.len()
    }

    /// Puts what is added from now on into another buffer, so that nothing is moved; what that holds is
    /// cleared away.
    pub fn go_on_in(&mut self, mut buf: BytesMut) {
        buf.clear();
        let full = std::mem::replace(&mut self.buf, buf);
        self.full_bytes += full.len();
        self.full_capacity += full.capacity();
        self.full.push(full);
    }

    /// The most bytes that the batch may take, the overhead included.
    pub fn max_bytes(&self) -> usize {
        self.max_bytes
    }

    /// Takes no more records; the checksum is taken when the producer's stamp is known.
    pub fn seal(self) -> SealedBatch {
        let header = self.header();
        let mut pieces = self.full.into_iter().chain([self.buf]);
        // There is always one.
        let head = pieces.next().unwrap_or_default();
        SealedBatch::new(head, pieces.map(BytesMut::freeze).collect(), header)
    }

    /// Writes the header and the checksum. A batch without records is legal to read, but brokers
    /// refuse to write it.
    pub fn finish(self) -> EncodedBatch {
        self.seal().encode(None)
    }

    /// Compresses the records in their buffer, then writes the header and the checksum. A batch
    /// that would not get smaller is left uncompressed, so `size` is never exceeded.
    pub fn finish_with(mut self, compressor: &mut Compressor) -> EncodedBatch {
        let mut header = self.header();
        if !self.full.is_empty() {
            return self.finish().compressed(compressor);
        }
        header.attributes |= compressor.compress_records(&mut self.buf).bits();
        SealedBatch::new(self.buf, Vec::new(), header).encode(None)
    }

    fn header(&self) -> Header {
        Header::plain(
            0,
            (self.count - 1).max(0),
            self.base_timestamp,
            self.max_timestamp,
            self.count,
        )
    }
}
