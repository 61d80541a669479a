//! The protocol's primitive types, for the two messages that carry batches.
//!
//! Written by hand because these two are the hot path: a batch goes into the request as the bytes
//! that it is, and record sets come out as slices of the answer's frame. What is read is untrusted:
//! every length and count is checked against the bytes that are left before anything is reserved.

use crate::connection::RequestFrame;
use bytes::{BufMut, Bytes};
use ottla_record_batch::EncodedBatch;

/// How an answer's body breaks the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    #[error("the answer ends where {wanted} bytes are announced and {left} are left")]
    Short { wanted: usize, left: usize },
    #[error("an array of {count} elements is announced where {left} bytes are left")]
    Count { count: usize, left: usize },
    #[error("{count} elements are announced where {asked} at most were asked for")]
    Unasked { count: usize, asked: usize },
    #[error("a length of {0} is announced")]
    Negative(i64),
    #[error("a variable-length number is longer than five bytes")]
    Varint,
    #[error("a name is not UTF-8")]
    Text,
}

/// Reads from the front of an answer's frame.
#[derive(Debug)]
pub(super) struct Reader {
    left: Bytes,
    /// Whether lengths are compact and structs end in tagged fields (KIP-482).
    flexible: bool,
}

impl Reader {
    pub(super) fn new(frame: Bytes, flexible: bool) -> Self {
        Self {
            left: frame,
            flexible,
        }
    }

    pub(super) fn i16(&mut self) -> Result<i16, WireError> {
        self.fixed().map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, WireError> {
        self.fixed().map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, WireError> {
        self.fixed().map(i64::from_be_bytes)
    }

    /// An id: 16 bytes.
    pub(super) fn uuid(&mut self) -> Result<[u8; 16], WireError> {
        self.fixed()
    }

    /// A string; `None` for null.
    pub(super) fn text(&mut self) -> Result<Option<Text>, WireError> {
        let Some(length) = self.length(2)? else {
            return Ok(None);
        };
        Text::new(self.take(length)?).map(Some)
    }

    /// Bytes, shared with the frame; `None` for null.
    pub(super) fn blob(&mut self) -> Result<Option<Bytes>, WireError> {
        match self.length(4)? {
            Some(length) => self.take(length).map(Some),
            None => Ok(None),
        }
    }

    /// The elements of an array, none for null. Each takes `element_bytes` at least, and there are
    /// `asked` at most.
    pub(super) fn array<T>(
        &mut self,
        element_bytes: usize,
        asked: usize,
        mut read: impl FnMut(&mut Self) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let count = self.count(element_bytes, asked)?;
        let mut elements = Vec::with_capacity(count);
        for _ in 0..count {
            elements.push(read(self)?);
        }
        Ok(elements)
    }

    /// The count of an array whose elements follow.
    pub(super) fn count(&mut self, element_bytes: usize, asked: usize) -> Result<usize, WireError> {
        let count = self.length(4)?.unwrap_or(0);
        let left = self.left.len();
        if count > left / element_bytes.max(1) {
            return Err(WireError::Count { count, left });
        }
        if count > asked {
            return Err(WireError::Unasked { count, asked });
        }
        Ok(count)
    }

    /// The partitions of an answer, topic by topic, to a request for `asked` of them.
    pub(super) fn partitions<N, T>(
        &mut self,
        partition_bytes: usize,
        asked: usize,
        mut topic: impl FnMut(&mut Self) -> Result<N, WireError>,
        mut read: impl FnMut(&mut Self, &N) -> Result<T, WireError>,
    ) -> Result<Vec<T>, WireError> {
        let mut partitions = Vec::new();
        for _ in 0..self.count(3, asked)? {
            let topic = topic(self)?;
            for _ in 0..self.count(partition_bytes, asked - partitions.len())? {
                partitions.push(read(self, &topic)?);
            }
            self.skip_tags()?;
        }
        Ok(partitions)
    }

    /// The tagged fields that end a struct: each known one is handed to `read` with a reader of its
    /// own bytes.
    pub(super) fn tags(
        &mut self,
        mut read: impl FnMut(u32, &mut Self) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        if !self.flexible {
            return Ok(());
        }
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let length = self.varint()? as usize;
            let mut field = Self::new(self.take(length)?, true);
            read(tag, &mut field)?;
        }
        Ok(())
    }

    /// The tagged fields that end a struct, none of them known.
    pub(super) fn skip_tags(&mut self) -> Result<(), WireError> {
        self.tags(|_, _| Ok(()))
    }

    /// A length, `None` for null: `width` bytes, or a varint above by one in flexible versions.
    fn length(&mut self, width: usize) -> Result<Option<usize>, WireError> {
        if self.flexible {
            return Ok((self.varint()? as usize).checked_sub(1));
        }
        let length = if width == 2 {
            i64::from(self.i16()?)
        } else {
            i64::from(self.i32()?)
        };
        match usize::try_from(length) {
            Ok(length) => Ok(Some(length)),
            Err(_) if length == -1 => Ok(None),
            Err(_) => Err(WireError::Negative(length)),
        }
    }

    fn varint(&mut self) -> Result<u32, WireError> {
        let mut value = 0_u64;
        for i in 0..5 {
            let [byte] = self.fixed()?;
            value |= u64::from(byte & 0x7f) << (7 * i);
            if byte < 0x80 {
                return u32::try_from(value).map_err(|_| WireError::Varint);
            }
        }
        Err(WireError::Varint)
    }

    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let left = self.left.len();
        let Some(&bytes) = self.left.first_chunk::<N>() else {
            return Err(WireError::Short { wanted: N, left });
        };
        bytes::Buf::advance(&mut self.left, N);
        Ok(bytes)
    }

    fn take(&mut self, wanted: usize) -> Result<Bytes, WireError> {
        let left = self.left.len();
        if wanted > left {
            return Err(WireError::Short { wanted, left });
        }
        Ok(self.left.split_to(wanted))
    }
}

/// UTF-8 that shares the frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Text(Bytes);

impl Text {
    fn new(bytes: Bytes) -> Result<Self, WireError> {
        match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(Self(bytes)),
            Err(_) => Err(WireError::Text),
        }
    }

    pub(super) fn as_str(&self) -> &str {
        // Checked when it was read.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

/// Writes a request behind its header.
#[derive(Debug)]
pub(super) struct Writer<'a> {
    pub(super) frame: &'a mut RequestFrame,
    pub(super) flexible: bool,
}

impl Writer<'_> {
    pub(super) fn i8(&mut self, value: i8) {
        self.frame.buf().put_i8(value);
    }

    pub(super) fn i16(&mut self, value: i16) {
        self.frame.buf().put_i16(value);
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.frame.buf().put_i32(value);
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.frame.buf().put_i64(value);
    }

    pub(super) fn uuid(&mut self, id: &[u8; 16]) {
        self.frame.buf().put_slice(id);
    }

    /// A topic's name, a rack, an id: all of them far below 32 KiB.
    pub(super) fn text(&mut self, text: &str) {
        if self.flexible {
            self.varint(text.len() as u32 + 1);
        } else {
            self.i16(text.len() as i16);
        }
        self.frame.buf().put_slice(text.as_bytes());
    }

    pub(super) fn null_text(&mut self) {
        if self.flexible {
            self.varint(0);
        } else {
            self.i16(-1);
        }
    }

    /// A batch, which is below 2 GiB.
    pub(super) fn batch(&mut self, batch: &EncodedBatch) {
        self.count_or_length(batch.size());
        for piece in batch.pieces() {
            self.frame.put_shared(piece);
        }
    }

    /// The number of elements of an array that follows.
    pub(super) fn count(&mut self, count: usize) {
        self.count_or_length(count);
    }

    /// Ends a struct: no tagged fields.
    pub(super) fn no_tags(&mut self) {
        if self.flexible {
            self.varint(0);
        }
    }

    fn count_or_length(&mut self, n: usize) {
        if self.flexible {
            self.varint(n as u32 + 1);
        } else {
            self.i32(n as i32);
        }
    }

    fn varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.frame.buf().put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.frame.buf().put_u8(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use ottla_record_batch::BatchBuilder;

    fn reader(bytes: &'static [u8], flexible: bool) -> Reader {
        Reader::new(Bytes::from_static(bytes), flexible)
    }

    #[test]
    fn what_is_written_is_read() {
        for flexible in [false, true] {
            let mut frame = RequestFrame::new(BytesMut::new());
            let mut w = Writer {
                frame: &mut frame,
                flexible,
            };
            w.i16(-2);
            w.i32(7);
            w.i64(i64::MIN);
            w.text("orders");
            w.null_text();
            w.uuid(&[7; 16]);
            let batch = BatchBuilder::new(100).finish();
            w.batch(&batch);
            w.count(2);
            w.i32(1);
            w.i32(2);
            w.no_tags();
            let mut r = Reader::new(frame.to_bytes(), flexible);
            assert_eq!((r.i16(), r.i32(), r.i64()), (Ok(-2), Ok(7), Ok(i64::MIN)));
            assert_eq!(r.text().unwrap().unwrap().as_str(), "orders");
            assert_eq!(r.text(), Ok(None));
            assert_eq!(r.uuid(), Ok([7; 16]));
            assert_eq!(r.blob().unwrap().unwrap(), batch.bytes());
            assert_eq!(r.array(4, 2, Reader::i32), Ok(vec![1, 2]));
            r.skip_tags().unwrap();
            assert!(r.left.is_empty());
        }
    }

    #[test]
    fn trap_d_lengths_and_counts_above_what_is_left_are_refused() {
        let count = |count, left| Err(WireError::Count { count, left });
        let mut r = reader(b"\x7f\xff\xff\xff\0\0\0\x01", false);
        assert_eq!(r.array(4, usize::MAX, Reader::i32), count(0x7fff_ffff, 4));
        let mut r = reader(b"\xff\xff\xff\xff\x0f\0\0\0\x01", true);
        assert_eq!(r.array(4, usize::MAX, Reader::i32), count(0xffff_fffe, 4));
        let unasked = WireError::Unasked { count: 3, asked: 2 };
        let mut r = reader(b"\x04\0\0\0\x01\0\0\0\x01\0\0\0\x01", true);
        assert_eq!(r.array(4, 2, Reader::i32), Err(unasked));
        let short = WireError::Short { wanted: 5, left: 1 };
        assert_eq!(reader(b"\0\0\0\x05x", false).blob(), Err(short));
        assert_eq!(reader(b"\x06x", true).blob(), Err(short));
        assert_eq!(
            reader(b"\xff\xfe", false).text(),
            Err(WireError::Negative(-2))
        );
        assert_eq!(reader(b"\x02\xff", true).text(), Err(WireError::Text));
        assert_eq!(reader(&[0xff; 9], true).blob(), Err(WireError::Varint));
        let mut lying_tag = reader(b"\x01\x00\x09x", true);
        let short = WireError::Short { wanted: 9, left: 1 };
        assert_eq!(lying_tag.skip_tags(), Err(short));
    }
}
