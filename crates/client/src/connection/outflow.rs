//! Requests on their way to the socket.
//!
//! Small ones are gathered, so that they share a write; a large one goes out of the buffer that it
//! was encoded into.

use bytes::BytesMut;
use std::collections::VecDeque;
use std::io;
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// Frames up to this size are copied behind one that waits.
const SMALL_BYTES: usize = 8 << 10;
/// Bytes that wait before no more are taken.
const GATHER_BYTES: usize = 64 << 10;

#[derive(Debug, Default)]
pub(super) struct Outflow {
    frames: VecDeque<BytesMut>,
    /// The stream may hold bytes back that it took (TLS does) until it is flushed.
    must_flush: bool,
}

impl Outflow {
    pub(super) fn push(&mut self, frame: BytesMut) {
        match self.frames.back_mut() {
            Some(last) if frame.len() <= SMALL_BYTES && last.len() <= SMALL_BYTES => {
                last.extend_from_slice(&frame);
            }
            _ => self.frames.push_back(frame),
        }
    }

    /// Whether everything is written and flushed.
    pub(super) fn is_done(&self) -> bool {
        self.frames.is_empty() && !self.must_flush
    }

    /// Whether more requests may be taken.
    pub(super) fn has_room(&self) -> bool {
        self.frames.iter().map(BytesMut::len).sum::<usize>() < GATHER_BYTES
    }

    /// Writes some of the bytes, and flushes behind the last. Dropping it loses nothing.
    pub(super) async fn write<W: AsyncWrite + Unpin>(&mut self, writer: &mut W) -> io::Result<()> {
        if let Some(first) = self.frames.front_mut() {
            self.must_flush = true;
            writer.write_buf(first).await?;
            if first.is_empty() {
                self.frames.pop_front();
            }
        }
        if self.frames.is_empty() {
            writer.flush().await?;
            self.must_flush = false;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_go_out_in_order_whole_and_large_ones_where_they_are() {
        let sizes = [10, 20, 100_000, SMALL_BYTES, 5, 200_000, 1];
        let frames: Vec<_> = (0_u8..).zip(sizes).map(|(n, size)| vec![n; size]).collect();
        let mut outflow = Outflow::default();
        for frame in &frames {
            outflow.push(BytesMut::from(&frame[..]));
        }
        let large = outflow.frames[1].as_ptr();
        let lengths: Vec<_> = outflow.frames.iter().map(BytesMut::len).collect();
        assert_eq!(lengths, [30, 100_000, SMALL_BYTES + 5, 200_000, 1]);
        assert!(!outflow.has_room());
        let mut written = Vec::new();
        while !outflow.is_done() {
            if outflow.frames.len() == 4 {
                assert_eq!(outflow.frames[0].as_ptr(), large, "it was not copied");
            }
            outflow.write(&mut written).await.unwrap();
        }
        assert_eq!(written, frames.concat());
        assert!(outflow.has_room());
    }
}
