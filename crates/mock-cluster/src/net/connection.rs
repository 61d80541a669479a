//! One connection: frames in, answers out, one request at a time and in order, as Kafka does.
//!
//! While a request waits (a long poll, a join), the connection keeps reading ahead into its bounded
//! buffer, so that it notices when the peer leaves. What has arrived is still applied then: a
//! real broker does not take a request back because its client gave up.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::api::{self, Reply};
use crate::sasl::Session;
use crate::shared::Shared;

/// The length field of a frame.
const PREFIX: usize = 4;
/// What is read ahead while a request is at work.
const READ_AHEAD: usize = 64 * 1024;

/// Counts the connection as open while the peer is there.
struct Open(Arc<Shared>);

impl Open {
    fn new(shared: Arc<Shared>) -> Self {
        shared.connections.fetch_add(1, Ordering::SeqCst);
        Self(shared)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::SeqCst);
    }
}

struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
    /// `None` once the peer has closed its end.
    open: Option<Open>,
    max_frame: usize,
    session: Session,
}

/// Serves one connection to its end.
pub(super) async fn run(shared: Arc<Shared>, broker: i32, stream: TcpStream, peer: SocketAddr) {
    let mut connection = Connection {
        stream,
        buffer: BytesMut::new(),
        open: Some(Open::new(Arc::clone(&shared))),
        max_frame: shared.config.max_frame_bytes,
        session: Session::new(shared.config.sasl.clone()),
    };
    let host = peer.ip().to_string();
    if let Err(error) = connection.serve(&shared, broker, &host).await {
        tracing::debug!(broker, %peer, %error, "connection closed");
    }
}

impl Connection {
    async fn serve(&mut self, shared: &Arc<Shared>, broker: i32, host: &str) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        while let Some(frame) = self.next_frame().await? {
            let Self {
                stream,
                buffer,
                open,
                session,
                ..
            } = self;
            let work = api::dispatch(shared, broker, host, session, frame);
            let mute = match reading(stream, buffer, open, work).await {
                Reply::Answer { frame, mute } => {
                    self.stream.write_all(&frame).await?;
                    if self.session.is_over() {
                        return Ok(());
                    }
                    mute
                }
                Reply::Last { frame } => return self.stream.write_all(&frame).await,
                Reply::Silence { mute } => mute,
                Reply::Close => return Ok(()),
                Reply::Hang => return self.wait_for_close().await,
            };
            if !mute.is_zero() {
                let sleep = tokio::time::sleep(mute);
                reading(&mut self.stream, &mut self.buffer, &mut self.open, sleep).await;
            }
        }
        Ok(())
    }

    /// The next whole frame without its length; `None` at the end of the stream.
    async fn next_frame(&mut self) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(prefix) = self.buffer.first_chunk::<PREFIX>() {
                let announced = i32::from_be_bytes(*prefix);
                let length = usize::try_from(announced).unwrap_or(usize::MAX);
                if length > self.max_frame {
                    let text = format!("a frame of {announced} bytes");
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                if self.buffer.len() - PREFIX >= length {
                    self.buffer.advance(PREFIX);
                    return Ok(Some(self.buffer.split_to(length).freeze()));
                }
            }
            // The buffer grows with what arrives, not with what is announced.
            if self.open.is_none() || self.stream.read_buf(&mut self.buffer).await? == 0 {
                self.open = None;
                return Ok(None);
            }
        }
    }

    async fn wait_for_close(&mut self) -> io::Result<()> {
        while self.open.is_some() {
            self.buffer.clear();
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                self.open = None;
            }
        }
        Ok(())
    }
}

/// Does the work to its end, reading ahead meanwhile.
async fn reading<T>(
    stream: &mut TcpStream,
    buffer: &mut BytesMut,
    open: &mut Option<Open>,
    work: impl Future<Output = T>,
) -> T {
    let mut work = pin!(work);
    loop {
        tokio::select! {
            biased;
            done = &mut work => break done,
            read = stream.read_buf(buffer), if open.is_some() && buffer.len() < READ_AHEAD => {
                if matches!(read, Ok(0) | Err(_)) {
                    *open = None;
                }
            }
        }
    }
}
