//! [`EncodedBatch`]: one batch, ready to be sent as often as needed; [`SealedBatch`]: one that only
//! lacks its producer's stamp and its checksum.

use crate::codec::Compressor;
use crate::compression::Compression;
use crate::header::Header;
use crate::set::RecordSet;
use bytes::{Bytes, BytesMut};
use ottla_types::ProducerId;
use std::sync::Arc;

/// What an idempotent producer writes into a batch (KIP-98).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The producer's id and epoch.
    pub producer: ProducerId,
    /// The number of the batch's first record in its partition.
    pub base_sequence: i32,
    /// Whether the batch belongs to a transaction.
    pub transactional: bool,
}

/// A batch that takes no more records and gets its header when its stamp is known, so that the
/// checksum is taken once. It can be encoded again, with the same stamp or another.
#[derive(Debug)]
pub struct SealedBatch {
    buf: Buf,
    tail: Tail,
    header: Header,
    stamp: Option<Stamp>,
}

/// What follows the first piece of a batch.
type Tail = Option<Arc<Vec<Bytes>>>;

fn pieces(tail: &Tail) -> &[Bytes] {
    tail.as_ref().map_or(&[], |tail| tail.as_slice())
}

#[derive(Debug)]
enum Buf {
    /// Not summed up yet.
    Raw(BytesMut),
    /// As it was encoded last.
    Encoded(Bytes),
}

impl SealedBatch {
    pub(crate) fn new(buf: BytesMut, tail: Vec<Bytes>, header: Header) -> Self {
        Self {
            buf: Buf::Raw(buf),
            tail: (!tail.is_empty()).then(|| Arc::new(tail)),
            header,
            stamp: None,
        }
    }

    /// How many records the batch holds.
    pub fn record_count(&self) -> u32 {
        self.header.count as u32
    }

    /// The batch's size in bytes, the overhead included.
    pub fn size(&self) -> usize {
        let head = match &self.buf {
            Buf::Raw(buf) => buf.len(),
            Buf::Encoded(bytes) => bytes.len(),
        };
        head + pieces(&self.tail).iter().map(Bytes::len).sum::<usize>()
    }

    /// The buffers, for other batches; without those that somebody still reads.
    pub fn into_buffers(self) -> impl Iterator<Item = BytesMut> {
        let head = match self.buf {
            Buf::Raw(buf) => Some(buf),
            Buf::Encoded(bytes) => bytes.try_into_mut().ok(),
        };
        let tail = self.tail.and_then(Arc::into_inner).unwrap_or_default();
        let tail = tail
            .into_iter()
            .filter_map(|piece| piece.try_into_mut().ok());
        head.into_iter().chain(tail)
    }

    /// The batch with this stamp. With the stamp of the call before it shares that one's bytes; with
    /// another the records are copied if those bytes are still in use.
    pub fn encode(&mut self, stamp: Option<Stamp>) -> EncodedBatch {
        let buf = std::mem::replace(&mut self.buf, Buf::Encoded(Bytes::new()));
        let bytes = match buf {
            Buf::Encoded(bytes) if stamp == self.stamp => bytes,
            buf => {
                let mut buf = match buf {
                    Buf::Raw(buf) => buf,
                    Buf::Encoded(bytes) => into_mut(bytes),
                };
                self.header.stamp(stamp);
                self.header.write_before(&mut buf, pieces(&self.tail));
                self.stamp = stamp;
                buf.freeze()
            }
        };
        self.buf = Buf::Encoded(bytes.clone());
        EncodedBatch {
            head: bytes,
            tail: self.tail.clone(),
            header: self.header,
        }
    }
}

/// One batch on its way out: base offset 0, checksum valid. Cloning shares the bytes.
#[derive(Debug, Clone)]
pub struct EncodedBatch {
    head: Bytes,
    tail: Tail,
    header: Header,
}

impl EncodedBatch {
    fn new(bytes: Bytes, header: Header) -> Self {
        Self {
            head: bytes,
            tail: None,
            header,
        }
    }

    /// The batch as it goes on the wire; copied if it is in several pieces.
    pub fn bytes(&self) -> Bytes {
        if self.tail.is_none() {
            return self.head.clone();
        }
        let mut whole = BytesMut::with_capacity(self.size());
        for piece in self.pieces() {
            whole.extend_from_slice(piece);
        }
        whole.freeze()
    }

    fn into_bytes(self) -> Bytes {
        match self.tail {
            None => self.head,
            Some(_) => self.bytes(),
        }
    }

    /// The pieces of the batch as they go on the wire, one after the other.
    pub fn pieces(&self) -> impl Iterator<Item = &Bytes> {
        std::iter::once(&self.head).chain(pieces(&self.tail))
    }

    /// Its size in bytes.
    pub fn size(&self) -> usize {
        self.pieces().map(Bytes::len).sum()
    }

    /// How many records the batch holds.
    pub fn record_count(&self) -> u32 {
        self.header.count as u32
    }

    /// The highest timestamp of its records, in milliseconds; -1 if they have none.
    pub fn max_timestamp_ms(&self) -> i64 {
        self.header.max_timestamp
    }

    /// How the records are compressed.
    pub fn compression(&self) -> Compression {
        // The header is of our making.
        Compression::from_attributes(self.header.attributes).unwrap_or_default()
    }

    /// The same batch with its records compressed, for a caller that learns the codec after the
    /// batch was finished; [`BatchBuilder::finish_with`](crate::BatchBuilder::finish_with) sums the
    /// records up only once. A batch that is compressed already, or would not get smaller, stays as
    /// it is. The records are copied first if the bytes are shared.
    #[must_use]
    pub fn compressed(self, compressor: &mut Compressor) -> Self {
        if self.compression() != Compression::None || compressor.compression() == Compression::None
        {
            return self;
        }
        let mut header = self.header;
        let mut buf = into_mut(self.into_bytes());
        let compression = compressor.compress_records(&mut buf);
        if compression == Compression::None {
            return Self::new(buf.freeze(), header);
        }
        header.attributes |= compression.bits();
        header.write(&mut buf);
        Self::new(buf.freeze(), header)
    }

    /// The batch as a record set, to be read.
    pub fn into_record_set(self) -> RecordSet {
        RecordSet::from(self.into_bytes())
    }

    /// The same batch with an idempotent producer's id, epoch and first sequence (KIP-98). The
    /// records are copied if the bytes are shared, and summed up again; see [`SealedBatch`] for a
    /// batch whose stamp is known before it is summed up.
    #[must_use]
    pub fn with_producer(self, id: i64, epoch: i16, base_sequence: i32) -> Self {
        self.stamped(Stamp {
            producer: ProducerId { id, epoch },
            base_sequence,
            transactional: false,
        })
    }

    /// The same batch with another stamp. The records are copied if the bytes are shared, and summed
    /// up again.
    #[must_use]
    pub fn stamped(self, stamp: Stamp) -> Self {
        let mut header = self.header;
        header.stamp(Some(stamp));
        let mut buf = into_mut(self.into_bytes());
        header.write(&mut buf);
        Self::new(buf.freeze(), header)
    }
}

/// The bytes to be changed: themselves if nobody shares them, else a copy.
fn into_mut(bytes: Bytes) -> BytesMut {
    bytes
        .try_into_mut()
        .unwrap_or_else(|shared| BytesMut::from(&shared[..]))
}
