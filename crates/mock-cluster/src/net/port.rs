//! A broker's port and the task that accepts on it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::net::{TcpListener, TcpSocket};
use tokio::task::{JoinError, JoinSet};
use tokio_util::sync::CancellationToken;

use super::connection;
use crate::shared::Shared;

/// Connections that the system keeps before they are accepted.
const BACKLOG: u32 = 1024;

/// A port that is listened on.
#[derive(Debug)]
pub(crate) struct Port {
    listener: TcpListener,
    number: u16,
}

/// Takes a port without listening: connections are refused, and nobody else gets it. A refused
/// client could otherwise connect to itself, when the system picks the same port for its end.
pub(crate) fn hold(port: u16) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    Ok(socket)
}

impl Port {
    pub(crate) fn listen(held: TcpSocket) -> io::Result<Self> {
        let listener = held.listen(BACKLOG)?;
        let number = listener.local_addr()?.port();
        Ok(Self { listener, number })
    }

    pub(crate) fn number(&self) -> u16 {
        self.number
    }
}

/// Serves a broker until it is told to stop; then all its connections are closed, too.
pub(crate) async fn serve(shared: Arc<Shared>, broker: i32, port: Port, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            accepted = port.listener.accept() => match accepted {
                Ok((stream, peer)) if connections.len() < shared.config.max_connections => {
                    connections.spawn(connection::run(Arc::clone(&shared), broker, stream, peer));
                }
                Ok((_, peer)) => tracing::warn!(broker, %peer, "too many connections"),
                // Out of file handles, or the peer left already: yield so that others can end.
                Err(error) => {
                    tracing::warn!(broker, %error, "accept failed");
                    tokio::task::yield_now().await;
                }
            },
            Some(ended) = connections.join_next() => report(&shared, ended),
        }
    }
    drop(port);
    connections.abort_all();
    while let Some(ended) = connections.join_next().await {
        report(&shared, ended);
    }
}

/// Keeps count of the tasks that ended by a panic.
pub(crate) fn report(shared: &Shared, ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        shared.failed_tasks.fetch_add(1, Ordering::SeqCst);
        tracing::error!(%error, "a task panicked");
    }
}
