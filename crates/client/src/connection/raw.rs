//! Requests that the native transport encodes itself: the frame goes in as bytes, the answer comes
//! out as a slice of what was read.

use super::request_frame::RequestFrame;
use super::{Connection, Outgoing};
use crate::{Error, ErrorKind};
use bytes::{BufMut, Bytes, BytesMut};
use std::ops::RangeInclusive;
use std::time::Duration;
use tokio::sync::{OwnedRwLockReadGuard, oneshot};
use tokio::time::{Instant, timeout_at};

/// A request that was handed to the connection. Dropping it withdraws the request only as long as the
/// driver has not taken it from the queue; after that it is sent, and its answer is dropped.
pub(crate) struct Submitted {
    api: &'static str,
    connection: Connection,
    deadline: Instant,
    started: Instant,
    answer: oneshot::Receiver<Result<Bytes, Error>>,
    _admitted: OwnedRwLockReadGuard<()>,
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

    /// A frame with the room for its length and its header; the body is put behind it.
    pub(crate) fn frame(&self, key: i16, version: i16, flexible: bool) -> RequestFrame {
        let client_id = self.0.client_id.as_bytes();
        let mut frame = BytesMut::with_capacity(256);
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

    /// Hands a frame over. Frames are sent, and answered, in the order of these calls; where the
    /// broker gives no answer (`acks=0`) the answer is empty and comes when the frame is written.
    /// An error says that it was not sent.
    pub(crate) async fn submit(
        &self,
        api: &'static str,
        mut frame: RequestFrame,
        deadline: Instant,
        is_answered: bool,
    ) -> Result<Submitted, Error> {
        let error = |kind| self.0.error(kind, api);
        frame
            .finish()
            .map_err(|cause| error(ErrorKind::Unsupported).with_source(cause))?;
        let started = Instant::now();
        let admitted = timeout_at(deadline, self.0.gate.clone().read_owned())
            .await
            .map_err(|_| error(ErrorKind::TimedOut))?;
        let (reply, answer) = oneshot::channel();
        let outgoing = Outgoing {
            frame,
            api,
            deadline,
            is_answered,
            reply,
        };
        match timeout_at(deadline, self.0.queue.send(outgoing)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(error(self.0.closed.kind())),
            Err(_) => return Err(error(ErrorKind::TimedOut)),
        }
        Ok(Submitted {
            api,
            connection: self.clone(),
            deadline,
            started,
            answer,
            _admitted: admitted,
        })
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

impl Submitted {
    /// The answer from behind its correlation id. A request without an answer at its deadline
    /// fails, and the connection with it.
    pub(crate) async fn answer(self) -> Result<Bytes, Error> {
        let handle = &self.connection.0;
        // The driver keeps the deadline; this one is for a request that never left the queue.
        let limit = self.deadline + Duration::from_millis(50);
        let result = match timeout_at(limit, self.answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(handle.error(handle.closed.kind(), self.api)),
            Err(_) => Err(handle.error(ErrorKind::TimedOut, self.api)),
        };
        metrics::counter!("ottla_client_requests_total", "api" => self.api).increment(1);
        metrics::histogram!("ottla_client_request_seconds", "api" => self.api)
            .record(self.started.elapsed().as_secs_f64());
        if let Err(error) = &result {
            let kind = format!("{:?}", error.kind());
            metrics::counter!("ottla_client_request_errors_total", "api" => self.api, "kind" => kind)
                .increment(1);
        }
        // Frames shorter than a correlation id end the connection before they come here.
        result.map(|mut frame| frame.split_off(frame.len().min(4)))
    }
}
