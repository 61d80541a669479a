//! Buffers of batches that were written, for those that come: memory that is used again and again is
//! not scattered, and is already there.
//!
//! What must hold: the spare ones, and those in use, are together within `buffer.memory`, unless those in
//! use alone are not.

use bytes::BytesMut;

/// So many are looked at for one that fits: mostly partitions get batches of one size.
const LOOKED_AT_MAX: usize = 8;
/// One is not taken for a batch that would fill less than this part of it.
const WASTE_MAX: usize = 4;

#[derive(Debug, Default)]
pub(super) struct Spares {
    buffers: Vec<BytesMut>,
    bytes: usize,
}

impl Spares {
    /// One for a batch of so many bytes, if there is one.
    pub(super) fn take(&mut self, expected: usize) -> Option<BytesMut> {
        let fits = |buffer: &BytesMut| {
            (expected..=expected.saturating_mul(WASTE_MAX)).contains(&buffer.capacity())
        };
        let from = self.buffers.len().saturating_sub(LOOKED_AT_MAX);
        let at = self.buffers[from..].iter().rposition(fits)?;
        let buffer = self.buffers.swap_remove(from + at);
        self.bytes -= buffer.capacity();
        Some(buffer)
    }

    /// Keeps a buffer, unless those that are kept would take more than `room` bytes.
    pub(super) fn give(&mut self, buffer: BytesMut, room: usize) {
        if self.bytes + buffer.capacity() <= room {
            self.bytes += buffer.capacity();
            self.buffers.push(buffer);
        }
    }

    /// Frees some until the rest takes no more than `room` bytes.
    pub(super) fn shrink(&mut self, room: usize) {
        while self.bytes > room
            && let Some(buffer) = self.buffers.pop()
        {
            self.bytes -= buffer.capacity();
        }
        if self.buffers.is_empty() {
            self.buffers = Vec::new();
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
    fn a_buffer_is_taken_where_it_fits() {
        let mut spares = Spares::default();
        for size in [100, 1_000, 10_000] {
            spares.give(BytesMut::with_capacity(size), 20_000);
        }
        assert_eq!(spares.bytes(), 11_100);
        assert!(spares.take(11_000).is_none());
        assert_eq!(spares.take(900).unwrap().capacity(), 1_000);
        assert!(
            spares.take(900).is_none(),
            "ten times as large as it need be"
        );
        assert_eq!(spares.bytes(), 10_100);
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let mut spares = Spares::default();
        for _ in 0..10 {
            spares.give(BytesMut::with_capacity(1_000), 3_500);
        }
        assert_eq!(spares.bytes(), 3_000);
        spares.shrink(2_100);
        assert_eq!(spares.bytes(), 2_000);
        spares.shrink(0);
        assert_eq!(spares.bytes(), 0);
    }
}
