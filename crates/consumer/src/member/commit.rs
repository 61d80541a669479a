//! Commits what the lanes have handled.
//!
//! One OffsetCommit is out at a time (C17), and it names only partitions that are owned when it is
//! sent (C2, C3, C12). What comes to be handled meanwhile goes with the next one.

use super::core::Member;
use super::partition::{Partitions, may_pass};
use crate::lane::Progress;
use crate::{Error, ErrorKind};
use ottla_client::{Backoff, GroupClient};
use ottla_group::{CommitIdentity, CommitVerdict};
use ottla_types::coordinator::{CommitOffset, OffsetCommitRequest, OffsetCommitResponse};
use ottla_types::{BoxFuture, ErrorCode, Offset, TopicPartition};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

const BACKOFF: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// The commit that is out, and when the next one goes.
pub(super) struct Committer {
    group: GroupClient,
    interval: Duration,
    out: Option<BoxFuture<'static, CommitEnd>>,
    due: Instant,
    /// Not before this, whatever is due: the wait after a failure.
    not_before: Instant,
    /// The coordinator takes nothing until the next assignment.
    held: bool,
    backoff: Backoff,
}

/// The end of a commit.
pub(super) struct CommitEnd {
    identity: CommitIdentity,
    entries: Vec<Entry>,
    result: Result<OffsetCommitResponse, ottla_client::Error>,
}

pub(super) struct Entry {
    pub(super) partition: TopicPartition,
    pub(super) offset: Offset,
    /// That of the assignment in which the offset was reached.
    pub(super) progress: Arc<Progress>,
}

/// What is handled and not committed.
pub(super) fn collect(partitions: &Partitions) -> (Vec<Entry>, Vec<CommitOffset>) {
    let mut entries = Vec::new();
    let mut offsets = Vec::new();
    for (partition, owned) in partitions {
        if let Some(commit) = owned.progress.start_commit() {
            offsets.push(CommitOffset {
                partition: partition.clone(),
                offset: commit.offset,
                leader_epoch: commit.leader_epoch,
                metadata: commit.metadata,
            });
            entries.push(Entry {
                partition: partition.clone(),
                offset: commit.offset,
                progress: owned.progress.clone(),
            });
        }
    }
    (entries, offsets)
}

impl Committer {
    pub(super) fn new(group: GroupClient, interval: Duration, now: Instant) -> Self {
        Self {
            group,
            interval,
            out: None,
            due: now + interval,
            not_before: now,
            held: false,
            backoff: Backoff::new(BACKOFF, BACKOFF_MAX),
        }
    }

    /// Sends what is handled, if it is time and no commit is out.
    pub(super) fn start(
        &mut self,
        partitions: &Partitions,
        identity: Option<CommitIdentity>,
        now: Instant,
    ) {
        if self.next_wake().is_none_or(|at| at > now) {
            return;
        }
        self.due = now + self.interval;
        let retiring = partitions.values().any(|owned| owned.drain_by.is_some());
        let Some(identity) = identity else {
            self.not_before = now + BACKOFF;
            return;
        };
        if self.held && !retiring {
            return;
        }
        let (entries, offsets) = collect(partitions);
        if entries.is_empty() {
            return;
        }
        let request = OffsetCommitRequest {
            generation: identity.generation,
            member_id: identity.member_id.clone(),
            instance_id: identity.instance_id.clone(),
            offsets,
        };
        let group = self.group.clone();
        self.out = Some(Box::pin(async move {
            CommitEnd {
                result: group.commit(request).await,
                identity,
                entries,
            }
        }));
    }

    /// The end of the commit that is out; for ever pending when there is none. Safe to cancel.
    pub(super) async fn next(&mut self) -> CommitEnd {
        match &mut self.out {
            Some(commit) => {
                let end = commit.await;
                self.out = None;
                end
            }
            None => std::future::pending().await,
        }
    }

    /// Commits as soon as possible rather than at the next interval.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.due = self.due.min(now);
    }

    /// What made the last commit fail is over.
    pub(super) fn retry_now(&mut self, now: Instant) {
        self.backoff.reset();
        (self.due, self.not_before) = (now, now);
    }

    /// A new assignment: the coordinator takes commits again.
    pub(super) fn resume(&mut self) {
        self.held = false;
    }

    /// When the next commit goes; `None` while one is out.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        self.out.is_none().then(|| self.due.max(self.not_before))
    }

    fn succeeded(&mut self) {
        self.backoff.reset();
    }

    fn retry(&mut self, now: Instant) {
        self.not_before = now + self.backoff.next_delay();
        self.due = now;
    }
}

impl Member {
    /// Takes the end of a commit.
    ///
    /// # Errors
    /// What no further try can mend.
    pub(super) fn on_committed(&mut self, end: CommitEnd, now: Instant) -> Result<(), Error> {
        let group = self.spec.group.to_string();
        let response = match end.result {
            Ok(response) => response,
            Err(error) => {
                metrics::counter!("ottla_consumer_commit_failures_total", "group" => group)
                    .increment(1);
                self.spec.board.set_last_error(&error);
                if !may_pass(&error) {
                    let error = Error::from(error);
                    for entry in &end.entries {
                        entry.progress.commit_refused(error.clone());
                    }
                    // A plain consumer's caller hears of it, and decides.
                    return match self.spec.work.desk() {
                        Some(_) => Ok(()),
                        None => Err(error),
                    };
                }
                end.entries.iter().for_each(|e| e.progress.commit_failed());
                tracing::warn!(group = %self.spec.group, %error, "a commit failed; trying again");
                self.committer.retry(now);
                return Ok(());
            }
        };
        metrics::counter!("ottla_consumer_commits_total", "group" => group).increment(1);
        let codes: HashMap<_, _> = response.into_iter().collect();
        let mut retry = false;
        for entry in end.entries {
            // A partition that the answer leaves out was not committed.
            let code = codes.get(&entry.partition).copied();
            let code = code.unwrap_or(ErrorCode::UNKNOWN_SERVER_ERROR);
            let verdict = self.driver.commit_result(&end.identity, code, now);
            self.settle_commit(&entry, code, verdict);
            retry |= verdict == CommitVerdict::Retry;
            self.committer.held |= verdict == CommitVerdict::RetryAfterRebalance;
        }
        // What retires has no later occasion: it does not wait for the next assignment.
        if retry || (self.committer.held && self.is_retiring()) {
            self.committer.retry(now);
        } else {
            self.committer.succeeded();
        }
        Ok(())
    }

    fn settle_commit(&mut self, entry: &Entry, code: ErrorCode, verdict: CommitVerdict) {
        if verdict == CommitVerdict::Committed {
            entry.progress.committed(entry.offset);
            if let Some(desk) = self.spec.work.desk() {
                desk.committed(&entry.partition, entry.offset);
            }
            if let Some(owned) = self.partitions.get(&entry.partition) {
                owned.lag.show(&owned.progress);
            }
            self.pins.remove(&entry.partition);
            return;
        }
        let error = Error::new(ErrorKind::Coordinator)
            .with_group(&*self.spec.group)
            .with_partition(entry.partition.clone())
            .with_offset(entry.offset)
            .with_code(code);
        tracing::warn!(%error, ?verdict, "an offset was not committed");
        self.spec.board.set_last_error(&error);
        match verdict {
            CommitVerdict::Retry | CommitVerdict::RetryAfterRebalance => {
                entry.progress.commit_failed();
            }
            _ => entry.progress.commit_refused(error),
        }
        if matches!(verdict, CommitVerdict::Abandoned | CommitVerdict::Rejected) {
            self.abandon_retiring(&entry.partition);
        }
    }
}
