//! [`Parts`]: the records of a batch a part at a time, so that a batch that grows when it is
//! decompressed never stands in memory as a whole.

use crate::codec::{self, Failure};
use crate::compression::Compression;
use crate::error::{DecodeError, Problem};
use crate::varint::Reader;
use crate::view::{BatchView, Records};
use bytes::Bytes;
use std::fmt;
use std::io::{self, Read};

/// Batches of so many records get a reference count of their own: those of one answer are read by
/// different tasks, which would wait for each other's count with every record.
const OWN_COUNT_FROM: u32 = 8;
/// What is read at a time of a record that is larger than a part.
const STEP: usize = 64 << 10;

/// The records of a [`BatchView`], in parts of whole records; see [`BatchView::parts`].
///
/// Parts are decompressed when they are asked for. The first error ends the iteration; the parts
/// before it stand.
pub struct Parts {
    batch: BatchView,
    state: State,
    part_bytes: usize,
    limit: usize,
}

/// Some of a batch's records, in order.
#[derive(Debug, Clone)]
pub struct Part {
    /// The records.
    pub records: Records,
    /// The bytes that they take besides those of the record set; 0 if they were not compressed.
    pub decompressed: usize,
}

enum State {
    /// Nothing was read yet.
    Start,
    /// The batch is larger than a part.
    Stream(Stream),
    Done,
}

/// What is left of a batch that is larger than a part.
struct Stream {
    source: Box<dyn Read + Send>,
    codec: Compression,
    /// The beginning of a record whose end has not come.
    carry: Vec<u8>,
    records_left: u32,
    /// The last offset so far.
    above: i64,
}

impl Parts {
    pub(crate) fn new(batch: &BatchView, part_bytes: usize, limit: usize) -> Self {
        Self {
            batch: batch.clone(),
            state: State::Start,
            part_bytes: part_bytes.min(limit).max(1),
            limit,
        }
    }

    fn start(&mut self) -> Result<Option<Part>, DecodeError> {
        let codec = self.batch.compression()?;
        let encoded = self.batch.encoded_records();
        // Compaction leaves batches that have a codec and no bytes.
        if codec == Compression::None || encoded.is_empty() {
            let plain = if self.batch.record_count() >= OWN_COUNT_FROM {
                Bytes::from_owner(encoded.clone())
            } else {
                encoded.clone()
            };
            return Ok(Some(self.whole(plain, 0)));
        }
        match codec::decompress(codec, encoded, self.part_bytes) {
            Ok(plain) => {
                self.batch.check_count(plain.len())?;
                let decompressed = plain.capacity();
                Ok(Some(self.whole(plain.into(), decompressed)))
            }
            Err(Failure::TooLarge) => {
                let source = codec::stream(codec, encoded, self.limit);
                let source = source.map_err(|e| self.batch.failure(codec, e, self.limit))?;
                self.go_on(Stream {
                    source,
                    codec,
                    carry: Vec::new(),
                    records_left: self.batch.record_count(),
                    above: -1,
                })
            }
            Err(failure) => Err(self.batch.failure(codec, failure, self.part_bytes)),
        }
    }

    fn whole(&self, plain: Bytes, decompressed: usize) -> Part {
        let count = self.batch.record_count();
        Part {
            records: Records::new(*self.batch.header(), plain, count, -1),
            decompressed,
        }
    }

    fn go_on(&mut self, mut stream: Stream) -> Result<Option<Part>, DecodeError> {
        let base_offset = self.batch.base_offset();
        let malformed = |problem| Err(DecodeError::malformed(base_offset, problem));
        let whole = stream.read(self.part_bytes, self.limit);
        let whole = whole.map_err(|e| self.batch.failure(stream.codec, e, self.limit))?;
        let Some(Whole { plain, count, last }) = whole else {
            return match (stream.records_left, stream.carry.is_empty()) {
                (0, true) => Ok(None),
                (0, false) => malformed(Problem::TrailingBytes),
                (_, true) => malformed(Problem::RecordCount),
                (_, false) => malformed(Problem::RecordLength),
            };
        };
        let header = *self.batch.header();
        let above = stream.above;
        stream.records_left -= count;
        // An offset that cannot be read is an error when the record is.
        stream.above = last.map_or(above, |delta| base_offset.saturating_add(delta.into()));
        self.state = State::Stream(stream);
        let decompressed = plain.capacity();
        Ok(Some(Part {
            records: Records::new(header, plain.into(), count, above),
            decompressed,
        }))
    }
}

impl Iterator for Parts {
    type Item = Result<Part, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Start => self.start(),
            State::Stream(stream) => self.go_on(stream),
            State::Done => Ok(None),
        }
        .transpose()
    }
}

impl std::iter::FusedIterator for Parts {}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parts")
            .field("batch", &self.batch)
            .field("part_bytes", &self.part_bytes)
            .finish_non_exhaustive()
    }
}

/// Whole records, at least one.
struct Whole {
    plain: Vec<u8>,
    count: u32,
    /// The offset delta of the last one.
    last: Option<i32>,
}

impl Stream {
    /// Reads about `part_bytes` of whole records; `None` at the end, with what is left in the carry.
    fn read(&mut self, part_bytes: usize, limit: usize) -> Result<Option<Whole>, Failure> {
        let mut plain = std::mem::take(&mut self.carry);
        let mut wanted = part_bytes.max(plain.len());
        loop {
            let is_end = fill(&mut *self.source, &mut plain, wanted)?;
            let (end, count, last) = whole_records(&plain, self.records_left);
            if count > 0 {
                self.carry.extend_from_slice(&plain[end..]);
                plain.truncate(end);
                return Ok(Some(Whole { plain, count, last }));
            }
            if is_end || self.records_left == 0 {
                self.carry = plain;
                return Ok(None);
            }
            if plain.len() >= limit {
                return Err(Failure::TooLarge);
            }
            wanted = plain.len().saturating_add(plain.len().max(STEP)).min(limit);
        }
    }
}

/// Reads until there are `wanted` bytes; whether it came to the end before.
fn fill(source: &mut dyn Read, plain: &mut Vec<u8>, wanted: usize) -> Result<bool, Failure> {
    let mut filled = plain.len();
    plain.reserve_exact(wanted.saturating_sub(filled));
    plain.resize(wanted.max(filled), 0);
    while filled < plain.len() {
        match source.read(&mut plain[filled..]) {
            Ok(0) => {
                plain.truncate(filled);
                return Ok(true);
            }
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::FileTooLarge => return Err(Failure::TooLarge),
            Err(_) => return Err(Failure::Corrupt),
        }
    }
    Ok(false)
}

/// Where the last whole record of at most `most` ends, how many there are, and the last one's offset
/// delta.
fn whole_records(plain: &[u8], most: u32) -> (usize, u32, Option<i32>) {
    let mut reader = Reader(plain);
    let (mut end, mut count, mut last) = (0, 0, &[][..]);
    while count < most
        && let Some(body) = reader.record()
    {
        (end, last) = (plain.len() - reader.len(), body);
        count += 1;
    }
    let mut fields = Reader(last);
    let delta = fields.u8().and_then(|_| {
        fields.varlong()?;
        fields.varint()
    });
    (end, count, delta)
}
