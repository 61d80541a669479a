//! Connections that can be cut, and what they carry counted: a TCP proxy before each node.

use super::HarnessError;
use std::io;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// A proxy for each of some ports on loopback. Dropping it cuts everything.
#[derive(Debug)]
pub struct Proxies {
    open: Arc<Open>,
    /// For each route the bytes that have come from the node.
    sent_by: Vec<Arc<AtomicU64>>,
    /// They end with this.
    _listeners: JoinSet<()>,
}

/// One `Notify` for each connection that is open; it cuts it.
#[derive(Debug, Default)]
struct Open(Mutex<Vec<Arc<Notify>>>);

impl Open {
    fn with<T>(&self, change: impl FnOnce(&mut Vec<Arc<Notify>>) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Proxies {
    /// Listens on the first port of each pair, for what listens on the second.
    ///
    /// # Errors
    /// `Io` if a port is taken.
    pub async fn start(routes: Vec<(u16, u16)>) -> Result<Self, HarnessError> {
        let open = Arc::new(Open::default());
        let mut listeners = JoinSet::new();
        let mut sent_by = Vec::new();
        for (from, to) in routes {
            let sent = Arc::new(AtomicU64::new(0));
            sent_by.push(sent.clone());
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, from)).await;
            let listener = listener.map_err(HarnessError::io(format!("listen on {from}")))?;
            listeners.spawn(serve(listener, to, open.clone(), sent));
        }
        Ok(Self {
            open,
            sent_by,
            _listeners: listeners,
        })
    }

    /// How many bytes the node behind the route with this number has sent, over all connections.
    pub fn sent_by(&self, route: usize) -> u64 {
        let sent = self.sent_by.get(route);
        sent.map_or(0, |sent| sent.load(Ordering::Acquire))
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.open.with(|open| open.len())
    }

    /// Cuts a connection by chance, in the middle of whatever it carries; `false` if none is open.
    pub fn cut_one(&self) -> bool {
        self.open.with(|open| {
            let cut = (!open.is_empty()).then(|| open.swap_remove(fastrand::usize(..open.len())));
            cut.inspect(|cut| cut.notify_one()).is_some()
        })
    }
}

async fn serve(listener: TcpListener, to: u16, open: Arc<Open>, sent: Arc<AtomicU64>) {
    let mut carried = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        while carried.try_join_next().is_some() {}
        let cut = Arc::new(Notify::new());
        open.with(|open| open.push(cut.clone()));
        carried.spawn(carry(client, to, cut, open.clone(), sent.clone()));
    }
}

async fn carry(
    mut client: TcpStream,
    to: u16,
    cut: Arc<Notify>,
    open: Arc<Open>,
    sent: Arc<AtomicU64>,
) {
    // A node that is down is a connection that ends at once.
    if let Ok(mut node) = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await {
        let (mut asks, answers) = client.split();
        let (answered, mut asked) = node.split();
        let there = async {
            copy(&mut asks, &mut asked).await?;
            asked.shutdown().await
        };
        let both = async { tokio::try_join!(there, copy_counted(answered, answers, &sent)) };
        tokio::select! {
            // However it ends, both ends are closed.
            _ = both => {}
            () = cut.notified() => {}
        }
    }
    open.with(|open| open.retain(|other| !Arc::ptr_eq(other, &cut)));
}

async fn copy_counted(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    count: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    loop {
        match from.read(&mut buffer).await? {
            0 => return to.shutdown().await,
            read => {
                count.fetch_add(read as u64, Ordering::AcqRel);
                to.write_all(&buffer[..read]).await?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::harness::free_ports;
    #[tokio::test]
    async fn what_is_carried_ends_when_it_is_cut() {
        let ports = free_ports(2).unwrap();
        let node = TcpListener::bind((Ipv4Addr::LOCALHOST, ports[1]))
            .await
            .unwrap();
        let proxies = Proxies::start(vec![(ports[0], ports[1])]).await.unwrap();
        assert!(!proxies.cut_one());
        let mut client = TcpStream::connect((Ipv4Addr::LOCALHOST, ports[0]))
            .await
            .unwrap();
        let (mut served, _) = node.accept().await.unwrap();
        client.write_all(b"ping").await.unwrap();
        let mut buffer = [0; 4];
        served.read_exact(&mut buffer).await.unwrap();
        assert_eq!((&buffer, proxies.connections()), (b"ping", 1));
        served.write_all(b"pong!").await.unwrap();
        let mut answer = [0; 5];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!((&answer, proxies.sent_by(0)), (b"pong!", 5));
        assert!(proxies.cut_one());
        assert_eq!(client.read(&mut buffer).await.unwrap_or(0), 0);
        assert_eq!(served.read(&mut buffer).await.unwrap_or(0), 0);
        assert_eq!(proxies.connections(), 0);
    }
}
