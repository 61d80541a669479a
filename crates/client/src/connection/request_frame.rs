//! A request as it goes to the socket: what was encoded here, and between it the batches, which stay
//! where they are.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::num::TryFromIntError;

/// Pieces up to this size are copied, which costs less than one more piece to write.
pub(super) const SMALL_BYTES: usize = 2 << 10;
const LENGTH: std::ops::Range<usize> = 0..4;
/// Where the correlation id stands: behind the length, the API key and the version.
const CORRELATION_ID: std::ops::Range<usize> = 8..12;

/// The whole frame, with the room for its length.
#[derive(Debug)]
pub(crate) struct RequestFrame {
    encoded: BytesMut,
    /// Shared bytes, each with the number of encoded ones before it, in order.
    pieces: Vec<(usize, Bytes)>,
}

impl RequestFrame {
    /// A frame of what `encoded` holds, its length's room included.
    pub(crate) fn new(encoded: BytesMut) -> Self {
        Self {
            encoded,
            pieces: Vec::new(),
        }
    }

    /// Where the next bytes are written.
    pub(crate) fn buf(&mut self) -> &mut BytesMut {
        &mut self.encoded
    }

    /// How many of these bytes [`put_shared`](Self::put_shared) copies.
    pub(crate) fn copied_bytes(bytes: &Bytes) -> usize {
        if is_copied(bytes) { bytes.len() } else { 0 }
    }

    /// Puts bytes behind what is there, without copying them if they are many.
    pub(crate) fn put_shared(&mut self, bytes: &Bytes) {
        if is_copied(bytes) {
            self.encoded.put_slice(bytes);
        } else {
            self.pieces.push((self.encoded.len(), bytes.clone()));
        }
    }

    fn len(&self) -> usize {
        let pieces = self.pieces.iter().map(|(_, piece)| piece.len());
        self.encoded.len() + pieces.sum::<usize>()
    }

    /// Writes the length in front.
    ///
    /// # Errors
    /// The frame is too long.
    pub(crate) fn finish(&mut self) -> Result<(), TryFromIntError> {
        let length = i32::try_from(self.len() - LENGTH.len())?;
        self.encoded[LENGTH].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    pub(super) fn set_correlation_id(&mut self, id: i32) {
        self.encoded[CORRELATION_ID].copy_from_slice(&id.to_be_bytes());
    }

    /// Gives the bytes out in the order in which they are written, in parts that were not copied; none
    /// of them is empty.
    pub(super) fn for_each_part(self, mut take: impl FnMut(Part)) {
        let Self {
            mut encoded,
            pieces,
        } = self;
        let mut give = |part: Part| {
            if part.has_remaining() {
                take(part);
            }
        };
        let mut taken = 0;
        for (at, piece) in pieces {
            give(Part::Own(encoded.split_to(at - taken)));
            give(Part::Shared(piece));
            taken = at;
        }
        give(Part::Own(encoded));
    }

    /// All of it in one piece.
    #[cfg(test)]
    pub(crate) fn to_bytes(&self) -> Bytes {
        let mut all = BytesMut::new();
        let mut taken = 0;
        for (at, piece) in &self.pieces {
            all.put_slice(&self.encoded[taken..*at]);
            all.put_slice(piece);
            taken = *at;
        }
        all.put_slice(&self.encoded[taken..]);
        all.freeze()
    }
}

fn is_copied(bytes: &Bytes) -> bool {
    bytes.len() <= SMALL_BYTES
}

/// A part of one frame, or of several small ones.
#[derive(Debug)]
pub(super) enum Part {
    Own(BytesMut),
    Shared(Bytes),
}

impl Buf for Part {
    fn remaining(&self) -> usize {
        self.chunk().len()
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Own(bytes) => bytes.advance(count),
            Self::Shared(bytes) => bytes.advance(count),
        }
    }
}
