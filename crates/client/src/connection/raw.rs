//! Requests that the native transport encodes itself: the frame goes in as bytes, the answer comes
//! out as a slice of what was read.

use super::exchange::{Refused, Request, Room};
use super::request_frame::RequestFrame;
use super::{Connection, Meters};
use crate::{Error, ErrorKind};
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::RangeInclusive;
use tokio::sync::{OwnedRwLockReadGuard, oneshot};
use tokio::time::{Instant, timeout_at};

/// What stands before the body, without the client's id: length, API key, version, correlation id, the
/// id's length and no tagged fields.
const HEADER_BYTES: usize = 4 + 2 + 2 + 4 + 2 + 1;

/// The right to send one request on a connection.
pub(crate) struct Slot {
    connection: Connection,
    room: Room,
    admitted: OwnedRwLockReadGuard<()>,
}

impl Connection {
    /// The highest version of the API that both sides speak.
    pub(crate) fn agreed(
        &self,
        key: i16,
        api: &'static str,
        ours: RangeInclusive<i16>,
    ) -> Result<i16, Error> {
        self.0.common_version(key, api, ours)
    }

    /// A frame with the room for its length and its header; the body, of about so many bytes, is put
    /// behind it.
    pub(crate) fn frame(
        &self,
        key: i16,
        version: i16,
        flexible: bool,
        body_bytes: usize,
    ) -> RequestFrame {
        let client_id = self.0.client_id.as_bytes();
        let mut frame = BytesMut::with_capacity(HEADER_BYTES + client_id.len() + body_bytes);
        frame.put_i32(0);
        frame.put_i16(key);
        frame.put_i16(version);
        // The driver fills in the correlation id.
        frame.put_i32(0);
        // Bounded by the configuration.
        frame.put_i16(client_id.len() as i16);
        frame.put_slice(client_id);
        if flexible {
            frame.put_u8(0);
        }
        RequestFrame::new(frame)
    }

    /// Waits for the right to send one request.
    ///
    /// # Errors
    /// The deadline passes before, or the connection has ended.
    pub(crate) async fn slot(&self, api: &'static str, deadline: Instant) -> Result<Slot, Error> {
        let slot = async {
            Ok(Slot {
                admitted: self.0.gate.clone().read_owned().await,
                room: self.0.exchange.room(api).await?,
                connection: self.clone(),
            })
        };
        let timed_out = |_| self.0.error(ErrorKind::TimedOut, api);
        timeout_at(deadline, slot).await.map_err(timed_out)?
    }

    /// The same if there is room now.
    pub(crate) fn try_slot(&self) -> Option<Slot> {
        Some(Slot {
            admitted: self.0.gate.clone().try_read_owned().ok()?,
            room: self.0.exchange.try_room()?,
            connection: self.clone(),
        })
    }

    /// Sends a frame and waits for its answer, from behind its correlation id. Dropping the future does
    /// not withdraw a request that was sent.
    pub(crate) async fn submit(
        &self,
        meters: &'static Meters,
        frame: RequestFrame,
        deadline: Instant,
    ) -> Result<Bytes, Error> {
        let slot = self.slot(meters.api, deadline).await?;
        let (reply, answer) = oneshot::channel();
        slot.send(meters, frame, deadline, true, |answer| {
            // Nobody is there any more who wants it.
            let _ = reply.send(answer);
        })
        .map_err(|refused| refused.error)?;
        let closed = |_| self.0.error(self.0.exchange.closed.kind(), meters.api);
        answer.await.map_err(closed)?
    }

    /// Closes the connection after an answer that breaks the protocol, and gives the error.
    pub(crate) fn refuse(
        &self,
        api: &'static str,
        cause: impl std::error::Error + Send + Sync + 'static,
    ) -> Error {
        self.close();
        self.0.error(ErrorKind::Protocol, api).with_source(cause)
    }
}

impl Slot {
    /// Hands a frame over. Frames are sent, and answered, in the order of these calls; where the broker
    /// gives no answer (`acks=0`) the answer is empty and comes when the frame is written.
    ///
    /// `answered` gets the answer from behind its correlation id, or the error; it is called by the
    /// connection's task, and shall be quick. A request without an answer at its deadline fails, and the
    /// connection with it.
    ///
    /// # Errors
    /// It was not sent, and what would have called `answered` comes back.
    pub(crate) fn send(
        self,
        meters: &'static Meters,
        mut frame: RequestFrame,
        deadline: Instant,
        is_answered: bool,
        answered: impl FnOnce(Result<Bytes, Error>) + Send + 'static,
    ) -> Result<(), Refused> {
        let Self {
            connection,
            room,
            admitted,
        } = self;
        let started = Instant::now();
        let reply = Box::new(move |answer: Result<Bytes, Error>| {
            drop(admitted);
            meters.count(started.elapsed(), answer.as_ref().err());
            // Frames shorter than a correlation id end the connection before they come here.
            answered(answer.map(|mut frame| frame.split_off(frame.len().min(4))));
        });
        if let Err(cause) = frame.finish() {
            let error = connection.0.error(ErrorKind::Unsupported, meters.api);
            let error = error.with_source(cause);
            return Err(Refused { error, reply });
        }
        let request = Request {
            frame,
            api: meters.api,
            deadline,
            is_answered,
            reply,
        };
        connection.0.exchange.admit(request, room)
    }
}
