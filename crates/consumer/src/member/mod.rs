//! One member of a group: what an [`App`](crate::App) runs once an instance.
//!
//! [`core`] is the member's one task; it owns the membership, the partitions, and the tasks that look
//! offsets up, fetch and handle. It never waits for a handler, so heartbeats go on whatever a handler
//! does. The other modules are its parts:
//!
//! - [`driver`]: runs the requests of the membership state machine,
//! - [`topics`]: what topics there are, for a membership that counts or matches them,
//! - [`lookup`]: where a newly assigned partition begins,
//! - [`fetch`]: reads records into the lanes,
//! - [`reading`]: what is done with found positions and fetched records,
//! - [`missing`]: what is done about partitions that are not there,
//! - [`callbacks`]: tells the listener,
//! - [`commit`]: commits what the lanes have handled, one request at a time,
//! - [`transact`]: the same in transactions, with what was published,
//! - [`retire`]: gives partitions up in order: drain the lane, commit, acknowledge.

mod callbacks;
mod commit;
mod core;
mod driver;
mod fetch;
pub(crate) mod lookup;
mod missing;
mod partition;
mod reading;
mod retire;
#[cfg(test)]
mod tests;
mod topics;
mod transact;

pub(crate) use retire::closing_grace;

use crate::app::{Registration, Resolved};
use crate::listener::BoxListener;
use crate::output::OutputMode;
use crate::status::MemberBoard;
use crate::subscription::Subscription;
use crate::work::Work;
use crate::{ConsumerConfig, Error};
use ottla_client::Client;
use ottla_types::{Offset, TopicPartition};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::Instant;

/// Whether a member goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It goes on.
    Run,
    /// It ends gracefully; handler calls may go on until then.
    By(Instant),
}

/// What a member left behind when it was stopped.
#[derive(Debug, Default)]
pub(crate) struct MemberReport {
    /// Calls that were dropped at the deadline.
    pub(crate) in_flight: Vec<TopicPartition>,
    /// Handled and not committed.
    pub(crate) uncommitted: Vec<(TopicPartition, Offset)>,
}

/// What a member is made of.
#[derive(Clone)]
pub(crate) struct MemberSpec {
    pub(crate) client: Client,
    pub(crate) config: Arc<ConsumerConfig>,
    pub(crate) group: Arc<str>,
    subscription: Subscription,
    pub(crate) work: Work,
    pub(crate) listener: Option<BoxListener>,
    pub(crate) mode: OutputMode,
    /// Names its transactional producer, if it has one.
    pub(crate) transactional_id: String,
    pub(crate) name: Arc<str>,
    pub(crate) board: Arc<MemberBoard>,
}

impl MemberSpec {
    pub(crate) fn new(
        client: &Client,
        registration: &Registration,
        resolved: &Resolved,
        instance: usize,
    ) -> Self {
        let mut config = resolved.config.clone();
        if registration.instances > 1
            && let Some(id) = &mut config.group_instance_id
        {
            *id = format!("{id}-{instance}");
        }
        let random = fastrand::u128(..);
        let name: Arc<str> = format!("{}-{instance}-{random:032x}", registration.group).into();
        Self {
            client: client.clone(),
            group: registration.group.as_str().into(),
            subscription: resolved.subscription.clone(),
            work: registration.work.clone(),
            listener: registration.listener.clone(),
            mode: resolved.mode.clone(),
            transactional_id: config.transactional_id(instance, &name),
            board: Arc::new(MemberBoard::new(name.clone())),
            name,
            config: Arc::new(config),
        }
    }

    /// What is subscribed now.
    fn subscription(&self) -> Subscription {
        let desk = self.work.desk().and_then(|desk| desk.subscription());
        desk.unwrap_or_else(|| self.subscription.clone())
    }
}

/// Runs a member until it is stopped or fails.
pub(crate) async fn run(
    spec: MemberSpec,
    stop: watch::Receiver<Stop>,
) -> Result<MemberReport, Error> {
    Box::pin(core::Member::new(spec)?.run(stop)).await
}
