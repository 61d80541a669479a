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
/// The longest string of the protocol.
const METADATA_BYTES_MAX: usize = i16::MAX as usize;

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

/// An offset of a group, the next one to be read, and the text that is kept beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetAndMetadata {
    /// The offset.
    pub offset: Offset,
    /// The text; empty for none. A group that a runner has committed for has its own in it: what was
    /// handled above the offset.
    pub metadata: String,
}

impl OffsetAndMetadata {
    /// An offset and its text.
    pub fn new(offset: Offset, metadata: impl Into<String>) -> Self {
        Self {
            offset,
            metadata: metadata.into(),
        }
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
            let round = progress.ask(progress.last_marked()?, None);
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
        let offsets = offsets.into_iter();
        self.ask_for(offsets.map(|(partition, offset)| (partition, offset, None)))
    }

    /// As [`commit_offsets`](Self::commit_offsets), with a text beside each offset, which
    /// [`committed_with_metadata`](Self::committed_with_metadata) gives back. A later commit of another
    /// offset takes the text away, one of the same offset without a text leaves it.
    ///
    /// # Errors
    /// A text that is longer than `offset.metadata.max.bytes` of the broker (4,096 by default) is refused
    /// with code 12 (OFFSET_METADATA_TOO_LARGE).
    pub fn commit_with_metadata(
        &mut self,
        offsets: impl IntoIterator<Item = (TopicPartition, OffsetAndMetadata)>,
    ) -> CommitHandle {
        let offsets = offsets.into_iter();
        self.ask_for(offsets.map(|(partition, commit)| {
            let OffsetAndMetadata { offset, metadata } = commit;
            (partition, offset, Some(metadata))
        }))
    }

    fn ask_for(
        &mut self,
        offsets: impl Iterator<Item = (TopicPartition, Offset, Option<String>)>,
    ) -> CommitHandle {
        let mut asking = Asking {
            rounds: Vec::new(),
            refused: None,
        };
        for (partition, offset, metadata) in offsets {
            let not_owner = || Error::new(ErrorKind::NotOwner).with_partition(partition.clone());
            let progress = self.desk.progress(&partition).ok_or_else(not_owner);
            let checked = check_offset(offset).and(check_metadata(metadata.as_deref()));
            match checked.and(progress) {
                Ok(progress) => {
                    let round = progress.ask(offset, metadata);
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

/// What no request can carry, whatever the broker takes.
fn check_metadata(metadata: Option<&str>) -> Result<(), Error> {
    match metadata.map_or(0, str::len) {
        0..=METADATA_BYTES_MAX => Ok(()),
        bytes => {
            let allowed = format!("at most {METADATA_BYTES_MAX} bytes");
            Err(ConfigError::new("metadata", format!("{bytes} bytes"), allowed).into())
        }
    }
}

/// The committed offsets of a group with their texts, asked for until there is an answer.
pub(super) async fn committed(
    group: &GroupClient,
    partitions: Vec<TopicPartition>,
) -> Result<BTreeMap<TopicPartition, Option<OffsetAndMetadata>>, Error> {
    let mut backoff = Backoff::new(BACKOFF, BACKOFF_MAX);
    loop {
        let answer = lookup::committed(group, partitions.clone()).await;
        let all = answer.and_then(|found| {
            let offset = |(partition, found): (_, Result<Option<lookup::Committed>, _>)| {
                let found = found.map_err(|code| ClientError::from_code(code, "OffsetFetch"))?;
                let with_text = |(offset, _, metadata)| OffsetAndMetadata { offset, metadata };
                Ok((partition, found.map(with_text)))
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
