//! The commits that the caller of a [`Consumer`] asks for.

use super::Consumer;
use crate::lane::Round;
use crate::member::lookup;
use crate::{Error, ErrorKind};
use ottla_client::{Backoff, Error as ClientError, GroupClient};
use ottla_types::{BoxFuture, ConfigError, Offset, TopicPartition};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

const BACKOFF: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A commit on its way. Resolves with what became of it, which always comes: when the coordinator has
/// answered, when a partition is lost or given up, when the consumer is closed, dropped or has failed,
/// or after `default.api.timeout.ms`. Dropping it drops the answer alone; the commit goes on.
///
/// # Errors
/// The first of its partitions that failed: [`ErrorKind::NotOwner`] when it was given up or lost
/// before the answer, [`ErrorKind::Closed`] when the consumer was, [`ErrorKind::Coordinator`] when the
/// coordinator refused (with its code), [`ErrorKind::TimedOut`] when nobody knows yet. A request that
/// was out by then may have been carried out, except when it was refused. The other partitions are
/// committed all the same.
pub struct CommitHandle(BoxFuture<'static, Result<(), Error>>);

impl Future for CommitHandle {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.as_mut().poll(cx)
    }
}

impl std::fmt::Debug for CommitHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CommitHandle")
    }
}

/// A commit as it is asked for.
struct Asking {
    rounds: Vec<(TopicPartition, Option<Arc<Round>>)>,
    /// The first partition that could not even be asked for.
    refused: Option<Error>,
}

impl Consumer {
    /// Commits the positions, that is everything handed out so far, and waits for the answer. What may
    /// pass is tried again; a rebalance is waited for.
    ///
    /// Cancellation: the commit goes on.
    ///
    /// # Errors
    /// Those of a [`CommitHandle`]; [`ErrorKind::Config`] without a group. A partition that went since
    /// records of it were handed out, and before they were committed, is told as
    /// [`ErrorKind::NotOwner`], once.
    pub async fn commit_sync(&mut self) -> Result<(), Error> {
        self.commit_async().await
    }

    /// As [`commit_sync`](Self::commit_sync), without waiting. Commits are sent in order, one at a
    /// time; what is asked for meanwhile is sent together, the latest offsets alone.
    pub fn commit_async(&mut self) -> CommitHandle {
        let gone = self.desk.take_gone();
        let refused = gone.into_iter().next().map(|(partition, offset)| {
            Error::new(ErrorKind::NotOwner)
                .with_partition(partition)
                .with_offset(offset)
        });
        let handed = self.handed_out().into_iter();
        let rounds = handed.filter_map(|(partition, progress)| {
            let round = progress.ask(progress.last_marked()?);
            Some((partition, round))
        });
        let rounds = rounds.collect();
        // Behind the asking: a partition that only waits for this goes with its commit.
        self.desk.settle();
        self.asked(Asking { rounds, refused })
    }

    /// Commits these offsets, each the next one to be read, whatever the positions are. Dropping the
    /// handle drops the answer alone. The caller is done with what it was given only where the offset
    /// is the position.
    pub fn commit_offsets(
        &mut self,
        offsets: impl IntoIterator<Item = (TopicPartition, Offset)>,
    ) -> CommitHandle {
        let mut asking = Asking {
            rounds: Vec::new(),
            refused: None,
        };
        for (partition, offset) in offsets {
            let not_owner = || Error::new(ErrorKind::NotOwner).with_partition(partition.clone());
            let progress = self.desk.progress(&partition).ok_or_else(not_owner);
            match check_offset(offset).and(progress) {
                Ok(progress) => {
                    let round = progress.ask(offset);
                    if progress.last_marked() == Some(offset) {
                        self.desk.settle_one(&partition);
                    }
                    asking.rounds.push((partition, round));
                }
                Err(error) => {
                    asking.refused.get_or_insert(error);
                }
            }
        }
        self.asked(asking)
    }

    fn asked(&self, asking: Asking) -> CommitHandle {
        let Some(group) = &self.group else {
            return CommitHandle(Box::pin(std::future::ready(Err(no_group()))));
        };
        self.desk.hurry_commit();
        let limit = Instant::now() + self.api_timeout;
        let group = group.group_id().clone();
        CommitHandle(Box::pin(async move {
            let mut first = asking.refused;
            for (partition, round) in asking.rounds {
                let Some(round) = round else { continue };
                let late = |_| Err(Error::new(ErrorKind::TimedOut));
                let end = timeout_at(limit, round.wait()).await.unwrap_or_else(late);
                if let Err(error) = end {
                    first.get_or_insert_with(|| error.with_partition(partition));
                }
            }
            first.map_or(Ok(()), |error| Err(error.with_group(&*group)))
        }))
    }
}

pub(super) fn no_group() -> Error {
    ConfigError::new("group.id", "", "a group: committed offsets are a group's").into()
}

pub(crate) fn check_offset(offset: Offset) -> Result<(), Error> {
    match offset {
        0.. => Ok(()),
        _ => Err(ConfigError::new("offset", offset, "0 or more").into()),
    }
}

/// The committed offsets of a group, asked for until there is an answer.
pub(super) async fn committed(
    group: &GroupClient,
    partitions: Vec<TopicPartition>,
) -> Result<BTreeMap<TopicPartition, Option<Offset>>, Error> {
    let mut backoff = Backoff::new(BACKOFF, BACKOFF_MAX);
    loop {
        let answer = lookup::committed(group, partitions.clone()).await;
        let all = answer.and_then(|found| {
            let offset = |(partition, found): (_, Result<Option<lookup::Committed>, _>)| {
                let found = found.map_err(|code| ClientError::from_code(code, "OffsetFetch"))?;
                Ok((partition, found.map(|(offset, ..)| offset)))
            };
            found.into_iter().map(offset).collect()
        });
        match all {
            Ok(all) => return Ok(all),
            Err(error) if error.is_retriable() => {
                tracing::debug!(group = &**group.group_id(), %error, "asking again for offsets");
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(backoff.next_delay()).await;
    }
}
