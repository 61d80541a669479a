//! Buffers of batches that were written, for those that come: memory that is used again and again is
//! not scattered, and is already there. They have two sizes, so that each fits the next batch, whichever
//! partition that is of.
//!
//! What must hold: the spare ones, and those in use, are together within `buffer.memory`. Where those in use
//! are at that bound, because many are hardly filled, records get just the room that they need.

use bytes::BytesMut;

/// What the batches of partitions with little to do are made of.
pub(super) const SMALL: usize = 4 << 10;
/// The pieces of larger batches.
const LARGE: usize = 16 << 10;
/// What a record gets at least where there is no room for a piece: some find place behind it.
const TINY: usize = 512;
const LARGE_HALF: usize = LARGE / 2;
/// Batches from this size on are made of large pieces.
const LARGE_FROM: usize = 32 << 10;

/// The lists keep the room for so many.
const FEW: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Spares {
    small: Vec<BytesMut>,
    large: Vec<BytesMut>,
    bytes: usize,
}

impl Spares {
    /// A piece with room for `least` bytes, of a batch that will probably be as large as `expected`. `room`
    /// is what it and the spare ones may take together.
    pub(super) fn buffer(&mut self, expected: usize, least: usize, room: usize) -> BytesMut {
        self.take(expected, least).unwrap_or_else(|size| {
            let size = if size > room { least.max(TINY) } else { size };
            self.shrink(room.saturating_sub(size));
            BytesMut::with_capacity(size)
        })
    }

    /// A spare piece, or the size that a new one is to have.
    fn take(&mut self, expected: usize, least: usize) -> Result<BytesMut, usize> {
        let size = match least {
            ..=SMALL if expected < LARGE_FROM => SMALL,
            // Else half of it or more would stay empty.
            ..=LARGE_HALF if expected >= LARGE_FROM => LARGE,
            least => least,
        };
        let spare = self.of(size).and_then(Vec::pop);
        self.bytes -= spare.as_ref().map_or(0, BytesMut::capacity);
        spare.ok_or(size)
    }

    fn of(&mut self, size: usize) -> Option<&mut Vec<BytesMut>> {
        match size {
            SMALL => Some(&mut self.small),
            LARGE => Some(&mut self.large),
            // What a large record got for itself.
            _ => None,
        }
    }

    /// Keeps a buffer, unless those that are kept would take more than `room` bytes.
    pub(super) fn give(&mut self, buffer: BytesMut, room: usize) {
        let size = buffer.capacity();
        if self.bytes + size <= room
            && let Some(spares) = self.of(size)
        {
            spares.push(buffer);
            self.bytes += size;
        }
    }

    /// Frees some until the rest takes no more than `room` bytes.
    pub(super) fn shrink(&mut self, room: usize) {
        while self.bytes > room
            && let Some(buffer) = self.large.pop().or_else(|| self.small.pop())
        {
            self.bytes -= buffer.capacity();
        }
        if self.bytes <= SMALL {
            self.small.shrink_to(FEW);
            self.large.shrink_to(FEW);
        }
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_are_as_large_as_their_batches_and_records_need() {
        let mut spares = Spares::default();
        let sizes = [
            (0, 100),
            (40_000, 100),
            (40_000, 5_000),
            (40_000, 9_000),
            (0, 5_000),
        ];
        let wanted = [SMALL, LARGE, LARGE, 9_000, 5_000];
        for ((expected, least), wanted) in sizes.into_iter().zip(wanted) {
            assert_eq!(spares.take(expected, least), Err(wanted));
        }
        for size in wanted {
            spares.give(BytesMut::with_capacity(size), 1 << 20);
        }
        assert_eq!(spares.bytes(), SMALL + 2 * LARGE);
        assert_eq!(spares.take(0, 100).unwrap().capacity(), SMALL);
        assert_eq!(spares.take(0, 100), Err(SMALL));
        assert_eq!(spares.take(40_000, 100).unwrap().capacity(), LARGE);
        assert_eq!(spares.bytes(), LARGE);
    }

    #[test]
    fn where_there_is_no_room_for_a_piece_a_record_gets_what_it_needs() {
        let mut spares = Spares::default();
        assert_eq!(spares.buffer(0, 100, SMALL).capacity(), SMALL);
        assert_eq!(spares.buffer(0, 100, SMALL - 1).capacity(), TINY);
        assert_eq!(spares.buffer(40_000, 1_000, 0).capacity(), 1_000);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut spares = Spares::default();
        for _ in 0..10 {
            spares.give(BytesMut::with_capacity(SMALL), 3 * SMALL + 1);
        }
        assert_eq!(spares.bytes(), 3 * SMALL);
        spares.shrink(2 * SMALL + 1);
        assert_eq!(spares.bytes(), 2 * SMALL);
        spares.shrink(0);
        assert_eq!(spares.bytes(), 0);
    }
}
