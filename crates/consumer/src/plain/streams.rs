//! The records and the batches of a [`Consumer`] as streams.

use super::{ConsumedBatch, Consumer};
use crate::Error;
use futures_core::Stream;
use ottla_types::ConsumedRecord;
use std::pin::Pin;
use std::task::{self, Poll};

/// See [`Consumer::batches`].
#[derive(Debug)]
#[must_use = "a stream does nothing until it is asked"]
pub struct Batches<'a> {
    consumer: &'a mut Consumer,
}

/// See [`Consumer::records`].
#[derive(Debug)]
#[must_use = "a stream does nothing until it is asked"]
pub struct Records<'a> {
    consumer: &'a mut Consumer,
}

impl<'a> Batches<'a> {
    pub(super) fn new(consumer: &'a mut Consumer) -> Self {
        Self { consumer }
    }
}

impl<'a> Records<'a> {
    pub(super) fn new(consumer: &'a mut Consumer) -> Self {
        Self { consumer }
    }
}

impl Consumer {
    /// The item of a stream: an error that ended the consumer is the last one.
    fn item<T>(&mut self, next: Result<T, Error>) -> Option<Result<T, Error>> {
        if let (Err(error), Some(fatal)) = (&next, self.desk.fatal()) {
            self.has_ended = error.is(&fatal);
        }
        Some(next)
    }
}

impl Stream for Batches<'_> {
    type Item = Result<ConsumedBatch, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<Self::Item>> {
        if self.consumer.has_ended {
            return Poll::Ready(None);
        }
        let next = task::ready!(self.consumer.poll_recv(cx));
        Poll::Ready(self.consumer.item(next))
    }
}

impl Stream for Records<'_> {
    type Item = Result<ConsumedRecord, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut task::Context<'_>) -> Poll<Option<Self::Item>> {
        if self.consumer.has_ended {
            return Poll::Ready(None);
        }
        let next = task::ready!(self.consumer.poll_record(cx));
        Poll::Ready(self.consumer.item(next))
    }
}
