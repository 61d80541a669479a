//! One broker of the cluster and the connections to it, kept apart by purpose.
//!
//! A broker answers a connection's requests one after another. A request that it holds back (a
//! JoinGroup until all members came, a CreateTopics until the topic is everywhere, an OffsetCommit
//! until it is replicated) would hold back everything behind it, so heartbeats share a connection
//! with none of them.

use crate::connection::{Api, Connection, Connector};
use crate::{Error, ErrorKind};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::{Instant, timeout_at};

/// Connections without a caller that are kept for the next JoinGroup or SyncGroup.
const IDLE_MAX: usize = 4;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Metadata and administration.
    Control,
    /// Heartbeats and farewells.
    Coordination,
    /// Commits and offset fetches.
    Offsets,
    /// The calls to a transaction's coordinator, which wait for replicas too.
    Transactions,
}

#[derive(Debug)]
pub(crate) struct Broker {
    /// `host:port`.
    pub address: String,
    /// How errors name it.
    pub name: Arc<str>,
    control: Slot,
    coordination: Slot,
    offsets: Slot,
    transactions: Slot,
    idle: Mutex<Vec<Connection>>,
    /// When it did not answer a question for any broker, if that was the last one.
    failed: Mutex<Option<Instant>>,
}

#[derive(Debug, Default)]
struct Slot {
    /// Held while connecting, so that callers share one attempt's connection.
    connection: tokio::sync::Mutex<Option<Connection>>,
}

impl Broker {
    pub(crate) fn new(id: i32, address: String) -> Self {
        Self {
            name: format!("{id} ({address})").into(),
            address,
            control: Slot::default(),
            coordination: Slot::default(),
            offsets: Slot::default(),
            transactions: Slot::default(),
            idle: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    /// Sends the request that `build` makes over the connection for `purpose`, connecting first if
    /// need be.
    pub(crate) async fn call<A: Api>(
        &self,
        connector: &Connector,
        purpose: Purpose,
        deadline: Instant,
        build: impl FnOnce(i16) -> A,
    ) -> Result<(A::Answer, i16), Error> {
        self.call_within(connector, purpose, deadline, A::VERSIONS, build)
            .await
    }

    /// The same in one of these versions only.
    pub(crate) async fn call_within<A: Api>(
        &self,
        connector: &Connector,
        purpose: Purpose,
        deadline: Instant,
        versions: RangeInclusive<i16>,
        build: impl FnOnce(i16) -> A,
    ) -> Result<(A::Answer, i16), Error> {
        let connection = self
            .connection(connector, purpose, A::NAME, deadline)
            .await?;
        connection.call_within(deadline, versions, build).await
    }

    /// The same over a connection that nobody else uses meanwhile, for requests that the broker may
    /// hold back. If the call is dropped, the connection is closed.
    pub(crate) async fn call_alone<A: Api>(
        &self,
        connector: &Connector,
        deadline: Instant,
        build: impl FnOnce(i16) -> A,
    ) -> Result<(A::Answer, i16), Error> {
        let connection = match self.take_idle() {
            Some(connection) => connection,
            None => {
                connector
                    .connect(self.name.clone(), &self.address, deadline)
                    .await?
            }
        };
        let guard = ClosedOnDrop(Some(connection.clone()));
        let answer = connection.call(deadline, build).await?;
        if let Some(connection) = guard.release() {
            self.put_idle(connection);
        }
        Ok(answer)
    }

    /// Keeps in mind whether it has answered a question for any broker.
    pub(crate) fn note(&self, has_answered: bool) {
        let failed = (!has_answered).then(Instant::now);
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = failed;
    }

    /// When it did not answer, if that was its last question.
    pub(crate) fn failed(&self) -> Option<Instant> {
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it did not answer its last question.
    pub(crate) fn has_failed(&self) -> bool {
        self.failed().is_some()
    }

    /// Whether a connection for metadata is open.
    pub(crate) fn is_connected(&self) -> bool {
        let slot = self.control.connection.try_lock();
        slot.is_ok_and(|slot| slot.as_ref().is_some_and(|c| !c.is_closed()))
    }

    /// The connection for `purpose`, made if need be.
    pub(crate) async fn connection(
        &self,
        connector: &Connector,
        purpose: Purpose,
        operation: &'static str,
        deadline: Instant,
    ) -> Result<Connection, Error> {
        let slot = match purpose {
            Purpose::Control => &self.control,
            Purpose::Coordination => &self.coordination,
            Purpose::Offsets => &self.offsets,
            Purpose::Transactions => &self.transactions,
        };
        let timed_out = |_| Error::new(ErrorKind::TimedOut, operation).with_broker(&*self.name);
        let mut slot = timeout_at(deadline, slot.connection.lock())
            .await
            .map_err(timed_out)?;
        match &*slot {
            Some(connection) if !connection.is_closed() => return Ok(connection.clone()),
            Some(_) => metrics::counter!("ottla_client_reconnects_total").increment(1),
            None => {}
        }
        let connection = connector
            .connect(self.name.clone(), &self.address, deadline)
            .await?;
        *slot = Some(connection.clone());
        Ok(connection)
    }

    fn take_idle(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.retain(|connection| !connection.is_closed());
        idle.pop()
    }

    fn put_idle(&self, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_MAX {
            idle.push(connection);
        }
    }
}

/// A connection that ends with the call that it was taken for, unless it is released.
struct ClosedOnDrop(Option<Connection>);

impl ClosedOnDrop {
    fn release(mut self) -> Option<Connection> {
        self.0.take()
    }
}

impl Drop for ClosedOnDrop {
    fn drop(&mut self) {
        if let Some(connection) = &self.0 {
            connection.close();
        }
    }
}
