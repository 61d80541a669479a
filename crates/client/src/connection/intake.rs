//! Collects the bytes of a broker into frames.
//!
//! Small answers are cut out of one buffer. A large one is read straight into a buffer of its own,
//! which grows only as bytes arrive and is used again when the last slice of its frame is dropped:
//! fresh memory for every answer would cost as much as everything else about it.

use super::frame::{FrameError, frame_length, next_frame};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What is reserved for small answers.
const READ_CHUNK_BYTES: usize = 8 << 10;
/// So much of it is left for a read at least.
const READ_BYTES_MIN: usize = 4 << 10;
/// Frames from this size on are read into a buffer of their own.
const LARGE_BYTES: usize = 64 << 10;
/// Buffers that wait for their next use.
const SPARE_MAX: usize = 4;
/// Their bytes together.
const SPARE_BYTES_MAX: usize = 8 << 20;

/// How many bytes the large frames take that somebody still reads, of all connections. A slice of a
/// frame, however small, keeps the whole of it.
#[derive(Debug, Default, Clone)]
pub(crate) struct FrameBytes(Arc<AtomicUsize>);

impl FrameBytes {
    pub(crate) fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The reading half of a connection's state.
#[derive(Debug, Default)]
pub(super) struct Intake {
    small: BytesMut,
    large: Option<Large>,
    spares: Arc<Spares>,
    in_use: FrameBytes,
}

/// A large frame, as far as it has come.
#[derive(Debug)]
struct Large {
    bytes: Vec<u8>,
    length: usize,
}

impl Intake {
    /// Counts what its frames take in `in_use`.
    pub(super) fn new(in_use: FrameBytes) -> Self {
        Self {
            in_use,
            ..Self::default()
        }
    }

    /// Reads some bytes; 0 at the end of the stream. Safe to cancel.
    pub(super) async fn read<R: AsyncRead + Unpin>(&mut self, reader: &mut R) -> io::Result<usize> {
        match &mut self.large {
            Some(large) => {
                let missing = large.length - large.bytes.len();
                if large.bytes.len() == large.bytes.capacity() {
                    let more = large.bytes.len().max(LARGE_BYTES).min(missing);
                    large.bytes.reserve_exact(more);
                }
                reader
                    .read_buf(&mut (&mut large.bytes).limit(missing))
                    .await
            }
            None => {
                // Looking for room each time costs more than a small answer.
                if self.small.capacity() - self.small.len() < READ_BYTES_MIN {
                    self.small.reserve(READ_CHUNK_BYTES);
                }
                reader.read_buf(&mut self.small).await
            }
        }
    }

    /// The next whole frame, without its length; `None` until there is one.
    pub(super) fn next_frame(&mut self, limit: usize) -> Result<Option<Bytes>, FrameError> {
        if let Some(large) = self.large.take() {
            if large.bytes.len() < large.length {
                self.large = Some(large);
                return Ok(None);
            }
            let held = large.bytes.capacity();
            self.in_use.0.fetch_add(held, Ordering::Relaxed);
            let frame = Frame {
                bytes: large.bytes,
                spares: self.spares.clone(),
                in_use: self.in_use.clone(),
            };
            return Ok(Some(Bytes::from_owner(frame)));
        }
        if let Some(frame) = next_frame(&mut self.small, limit)? {
            self.spares.shrink();
            return Ok(Some(frame));
        }
        if let Some(head) = self.small.first_chunk::<4>() {
            let length = frame_length(*head, limit)?;
            if length >= LARGE_BYTES {
                self.small.advance(4);
                let mut bytes = self.spares.take(length);
                bytes.extend_from_slice(&self.small);
                self.small.clear();
                self.large = Some(Large { bytes, length });
            }
        }
        Ok(None)
    }
}

/// A large frame as its slices share it.
struct Frame {
    bytes: Vec<u8>,
    spares: Arc<Spares>,
    in_use: FrameBytes,
}

impl AsRef<[u8]> for Frame {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        let held = self.bytes.capacity();
        self.in_use.0.fetch_sub(held, Ordering::Relaxed);
        self.spares.give(std::mem::take(&mut self.bytes));
    }
}

/// Buffers of frames that were dropped.
#[derive(Debug, Default)]
struct Spares(Mutex<Vec<Vec<u8>>>);

impl Spares {
    /// An empty buffer for a frame of `length`: a used one, unless the frame would keep much more
    /// memory than it fills.
    fn take(&self, length: usize) -> Vec<u8> {
        self.with(|spares| {
            let fits = |spare: &Vec<u8>| spare.capacity() / 4 <= length;
            let at = spares.iter().rposition(fits)?;
            Some(spares.swap_remove(at))
        })
        .unwrap_or_default()
    }

    fn give(&self, mut bytes: Vec<u8>) {
        bytes.clear();
        self.with(|spares| {
            let held: usize = spares.iter().map(Vec::capacity).sum();
            if spares.len() < SPARE_MAX && held + bytes.capacity() <= SPARE_BYTES_MAX {
                spares.push(bytes);
            }
        });
    }

    /// Small answers came: the large ones may be over.
    fn shrink(&self) {
        self.with(|spares| drop(spares.pop()));
    }

    fn with<T>(&self, change: impl FnOnce(&mut Vec<Vec<u8>>) -> T) -> T {
        // A list of buffers is whole whatever happened.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: usize = 64 << 20;

    fn framed(length: usize, fill: u8) -> Vec<u8> {
        let mut bytes = u32::try_from(length).unwrap().to_be_bytes().to_vec();
        bytes.resize(4 + length, fill);
        bytes
    }

    async fn frames(intake: &mut Intake, mut stream: &[u8]) -> Vec<Bytes> {
        let mut frames = Vec::new();
        while intake.read(&mut stream).await.unwrap() > 0 {
            while let Some(frame) = intake.next_frame(LIMIT).unwrap() {
                frames.push(frame);
            }
        }
        frames
    }

    #[tokio::test]
    async fn large_and_small_frames_come_in_order_and_whole() {
        let sizes = [4, LARGE_BYTES - 1, LARGE_BYTES, 700_000, 5, 300_000, 6];
        let stream: Vec<u8> = sizes
            .iter()
            .zip(1..)
            .flat_map(|(n, i)| framed(*n, i))
            .collect();
        let frames = frames(&mut Intake::default(), &stream).await;
        assert_eq!(frames.iter().map(Bytes::len).collect::<Vec<_>>(), sizes);
        for (frame, fill) in frames.iter().zip(1..) {
            assert!(frame.iter().all(|byte| *byte == fill), "frame {fill}");
        }
    }

    #[tokio::test]
    async fn a_buffer_is_used_again_only_when_nobody_reads_it() {
        let mut intake = Intake::default();
        let kept = frames(&mut intake, &framed(200_000, 1)).await[0].slice(10..20);
        let other = frames(&mut intake, &framed(200_000, 2)).await;
        let address = other[0].as_ptr();
        assert!(kept.iter().all(|byte| *byte == 1));
        drop(other);
        let third = frames(&mut intake, &framed(150_000, 3)).await;
        assert_eq!(third[0].as_ptr(), address);
        assert!(kept.iter().all(|byte| *byte == 1));
        // Ten bytes that somebody keeps count as the frame that they are in.
        let in_use = intake.in_use.get();
        assert!((350_000..500_000).contains(&in_use), "{in_use}");
        drop(third);
        assert!((200_000..250_000).contains(&intake.in_use.get()));
        drop(kept);
        assert_eq!(intake.in_use.get(), 0);
    }

    #[tokio::test]
    async fn spare_buffers_are_bounded_and_go_when_answers_are_small() {
        let mut intake = Intake::default();
        let stream: Vec<u8> = (0..8).flat_map(|_| framed(1 << 20, 1)).collect();
        drop(frames(&mut intake, &stream).await);
        let held = |intake: &Intake| -> usize {
            intake
                .spares
                .with(|spares| spares.iter().map(Vec::capacity).sum())
        };
        assert!(held(&intake) > 0 && held(&intake) <= SPARE_BYTES_MAX);
        let small: Vec<u8> = (0..SPARE_MAX).flat_map(|_| framed(4, 1)).collect();
        frames(&mut intake, &small).await;
        assert_eq!(held(&intake), 0);
    }

    #[tokio::test]
    async fn trap_d_a_length_alone_reserves_little() {
        let mut intake = Intake::default();
        let mut stream = &framed(LIMIT, 1)[..70_000];
        while intake.read(&mut stream).await.unwrap() > 0 {
            assert_eq!(intake.next_frame(LIMIT).unwrap(), None);
        }
        let large = intake.large.as_ref().unwrap();
        assert!(
            large.bytes.capacity() <= 4 * LARGE_BYTES,
            "{}",
            large.bytes.capacity()
        );
    }
}
