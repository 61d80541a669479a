//! Requests on their way to the socket.
//!
//! Small ones are gathered, so that they share a write; what is large goes out of the buffer that it
//! was encoded into, several such buffers in a write.

use super::request_frame::{Part, RequestFrame, SMALL_BYTES};
use bytes::Buf;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncWrite;
use tokio_util::io::poll_write_buf;

#[derive(Debug, Default)]
pub(super) struct Outflow {
    parts: Parts,
    /// The stream may hold bytes back that it took (TLS does) until it is flushed.
    must_flush: bool,
}

/// What waits, in order; none is empty.
#[derive(Debug, Default)]
struct Parts(VecDeque<Part>);

impl Outflow {
    pub(super) fn push(&mut self, frame: RequestFrame) {
        frame.for_each_part(|part| match self.parts.0.back_mut() {
            Some(Part::Own(last))
                if part.remaining() <= SMALL_BYTES && last.len() <= SMALL_BYTES =>
            {
                last.extend_from_slice(part.chunk());
            }
            _ => self.parts.0.push_back(part),
        });
    }

    /// Whether everything is written and flushed.
    pub(super) fn is_done(&self) -> bool {
        !self.parts.has_remaining() && !self.must_flush
    }

    /// Writes everything, and flushes behind the last.
    pub(super) fn poll_write<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        while self.parts.has_remaining() {
            self.must_flush = true;
            let written = match self.parts.0.front() {
                // The kernel takes one piece in less time than a list of one.
                Some(only) if self.parts.0.len() == 1 => {
                    let written = ready!(Pin::new(&mut *writer).poll_write(cx, only.chunk()))?;
                    self.parts.advance(written);
                    written
                }
                _ => ready!(poll_write_buf(Pin::new(writer), cx, &mut self.parts))?,
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        if self.must_flush {
            ready!(Pin::new(writer).poll_flush(cx))?;
            self.must_flush = false;
        }
        Poll::Ready(Ok(()))
    }
}

impl Buf for Parts {
    fn remaining(&self) -> usize {
        self.0.iter().map(Part::remaining).sum()
    }

    fn has_remaining(&self) -> bool {
        !self.0.is_empty()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map_or(&[], Part::chunk)
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let both = slices.iter_mut().zip(&self.0);
        both.map(|(slice, part)| *slice = IoSlice::new(part.chunk()))
            .count()
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.0.front_mut() {
            let left = first.remaining();
            if count < left {
                return first.advance(count);
            }
            count -= left;
            self.0.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::{BufMut, Bytes, BytesMut};
    use std::future::poll_fn;

    fn frame(bytes: &[u8]) -> RequestFrame {
        RequestFrame::new(BytesMut::from(bytes))
    }

    /// Takes `most` bytes a call at most, and remembers how many parts it was offered.
    struct Trickle {
        most: usize,
        written: Vec<u8>,
        offered: Vec<usize>,
    }

    impl AsyncWrite for Trickle {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.offered.push(slices.len());
            let all = slices.iter().flat_map(|slice| slice.iter());
            let taken: Vec<u8> = all.copied().take(self.most).collect();
            self.written.extend_from_slice(&taken);
            Poll::Ready(Ok(taken.len()))
        }

        fn is_write_vectored(&self) -> bool {
            true
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn written(outflow: &mut Outflow, most: usize) -> Trickle {
        let mut trickle = Trickle {
            most,
            written: Vec::new(),
            offered: Vec::new(),
        };
        poll_fn(|cx| outflow.poll_write(&mut trickle, cx))
            .await
            .unwrap();
        assert!(outflow.is_done());
        trickle
    }

    #[tokio::test]
    async fn frames_go_out_in_order_whole_and_small_ones_together() {
        let sizes = [10, 20, 100_000, SMALL_BYTES, 5, 200_000, 1];
        let frames: Vec<_> = (0_u8..).zip(sizes).map(|(n, size)| vec![n; size]).collect();
        for most in [7, 4096, 150_000, usize::MAX] {
            let mut outflow = Outflow::default();
            for bytes in &frames {
                outflow.push(frame(bytes));
            }
            let lengths: Vec<_> = outflow.parts.0.iter().map(Part::remaining).collect();
            assert_eq!(lengths, [30, 100_000, SMALL_BYTES + 5, 200_000, 1]);
            assert!(!outflow.is_done());
            assert!(written(&mut outflow, most).await.written == frames.concat());
        }
    }

    #[tokio::test]
    async fn batches_are_written_from_where_they_are_and_with_what_surrounds_them() {
        let batches = [9_000, 100, 70_000].map(|size| Bytes::from(vec![1; size]));
        let mut request = frame(&[0; 20]);
        for batch in &batches {
            request.buf().put_u8(2);
            request.put_shared(batch);
        }
        request.buf().put_u8(3);
        request.finish().unwrap();
        let expected = request.to_bytes();
        let length = (expected.len() - 4) as u32;
        assert_eq!(expected[..4], length.to_be_bytes());
        assert_eq!(expected.len(), 20 + 3 + 9_000 + 100 + 70_000 + 1);
        let mut outflow = Outflow::default();
        outflow.push(request);
        let places: Vec<_> = outflow.parts.0.iter().map(|p| p.chunk().as_ptr()).collect();
        assert_eq!(places.len(), 5);
        assert_eq!(places[1], batches[0].as_ptr(), "it was not copied");
        assert_eq!(places[3], batches[2].as_ptr(), "it was not copied");
        let out = written(&mut outflow, usize::MAX).await;
        assert_eq!(out.offered, [5], "one write for all");
        assert!(out.written == expected);
    }

    #[tokio::test]
    async fn a_stream_that_takes_nothing_is_an_error() {
        let mut outflow = Outflow::default();
        outflow.push(frame(b"frame"));
        let mut trickle = Trickle {
            most: 0,
            written: Vec::new(),
            offered: Vec::new(),
        };
        let written = poll_fn(|cx| outflow.poll_write(&mut trickle, cx)).await;
        let error = written.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::WriteZero);
    }
}
