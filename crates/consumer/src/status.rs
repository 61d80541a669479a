//! What an app is doing: a snapshot for health pages and tests.
//!
//! Each member writes its [`MemberBoard`]; a snapshot reads all boards. The board outlives the
//! member's task, so that restarts and the last error stay visible.

use crate::lane::Progress;
use crate::{Error, HandlerError};
use ottla_types::transactions::GroupMetadata;
use ottla_types::{Offset, TopicPartition, with_causes};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// A snapshot of a running app.
#[derive(Debug, Clone)]
pub struct AppStatus {
    /// One entry a registration, in the order in which they were registered.
    pub registrations: Vec<RegistrationStatus>,
}

impl AppStatus {
    /// Whether every member runs and no partition is stopped by an error.
    pub fn is_healthy(&self) -> bool {
        let mut members = self.registrations.iter().flat_map(|r| &r.members);
        members.all(|member| {
            let stopped = |p: &PartitionStatus| matches!(p.state, PartitionState::Stopped(_));
            !matches!(member.state, MemberState::Failed | MemberState::Restarting)
                && !member.partitions.iter().any(stopped)
        })
    }
}

/// A snapshot of one registration.
#[derive(Debug, Clone)]
pub struct RegistrationStatus {
    /// The group.
    pub group: String,
    /// The topics that it named at the start.
    pub topics: Vec<String>,
    /// The regular expression over names of topics that it has besides.
    pub topic_pattern: Option<String>,
    /// Its members in this process.
    pub members: Vec<MemberStatus>,
}

impl RegistrationStatus {
    /// Records not yet committed as handled, over the partitions whose end is known.
    pub fn lag(&self) -> u64 {
        self.partitions().filter_map(PartitionStatus::lag).sum()
    }

    /// The partitions that members in this process own.
    pub fn partitions(&self) -> impl Iterator<Item = &PartitionStatus> {
        self.members.iter().flat_map(|m| &m.partitions)
    }

    /// Records handled since the start.
    pub fn handled(&self) -> u64 {
        self.members.iter().map(|m| m.handled).sum()
    }

    /// Handler calls that failed since the start.
    pub fn failed(&self) -> u64 {
        self.members.iter().map(|m| m.failed).sum()
    }
}

/// A snapshot of one member.
#[derive(Debug, Clone)]
pub struct MemberStatus {
    /// The member's name, as handlers see it in [`Context::member`](crate::Context::member).
    pub name: Arc<str>,
    /// What it is doing.
    pub state: MemberState,
    /// How often it was restarted after a failure.
    pub restarts: u64,
    /// Generations that it has joined.
    pub rebalances: u64,
    /// The partitions it owns, ordered.
    pub partitions: Vec<PartitionStatus>,
    /// Bytes that were fetched and are not handled.
    pub buffered_bytes: usize,
    /// Records handled since the start.
    pub handled: u64,
    /// Handler calls that failed since the start.
    pub failed: u64,
    /// Calls of a [`RebalanceListener`](crate::RebalanceListener) that failed, panicked or took too
    /// long since the start.
    pub callback_failures: u64,
    /// The last error of the member, its commits, fetches, callbacks or handler; kept until the next
    /// one.
    pub last_error: Option<String>,
}

/// What a member is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MemberState {
    /// It has no generation yet.
    #[default]
    Joining,
    /// It is in a generation (perhaps with no partition).
    Stable,
    /// It gives partitions up.
    Revoking,
    /// It finishes its work to stop.
    Stopping,
    /// It has stopped.
    Stopped,
    /// It failed and is about to be restarted.
    Restarting,
    /// It failed for good.
    Failed,
}

/// A snapshot of one owned partition.
#[derive(Debug, Clone)]
pub struct PartitionStatus {
    /// The partition.
    pub partition: TopicPartition,
    /// What is going on with it.
    pub state: PartitionState,
    /// The offset that was committed last, by this member or before it.
    pub committed: Option<Offset>,
    /// Everything below is handled.
    pub handled: Option<Offset>,
    /// The end of the partition as the last fetch saw it.
    pub high_watermark: Option<Offset>,
}

impl PartitionStatus {
    /// Records that are not handled yet, if the end of the partition is known.
    pub fn lag(&self) -> Option<u64> {
        let behind = self.high_watermark?.saturating_sub(self.handled?);
        Some(u64::try_from(behind).unwrap_or(0))
    }
}

/// What is going on with a partition.
#[derive(Debug, Clone)]
pub enum PartitionState {
    /// Its position is being looked up.
    Locating,
    /// It is consumed.
    Active,
    /// It is being given up.
    Retiring,
    /// It cannot be consumed; other partitions go on.
    Stopped(Error),
}

/// Where one member writes its status.
#[derive(Debug)]
pub(crate) struct MemberBoard {
    name: Arc<str>,
    handled: AtomicU64,
    failed: AtomicU64,
    rest: Mutex<Rest>,
}

#[derive(Debug, Default)]
struct Rest {
    state: MemberState,
    restarts: u64,
    rebalances: u64,
    callback_failures: u64,
    partitions: Vec<(TopicPartition, Arc<Progress>)>,
    group: Option<GroupMetadata>,
    last_error: Option<String>,
}

impl MemberBoard {
    pub(crate) fn new(name: Arc<str>) -> Self {
        Self {
            name,
            handled: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            rest: Mutex::default(),
        }
    }

    pub(crate) fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub(crate) fn add_handled(&self, records: u64) {
        self.handled.fetch_add(records, Ordering::Relaxed);
    }

    pub(crate) fn add_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_state(&self, state: MemberState) {
        self.write(|rest| rest.state = state);
    }

    pub(crate) fn add_rebalance(&self) {
        self.write(|rest| rest.rebalances += 1);
    }

    pub(crate) fn add_callback_failure(&self, error: &HandlerError) {
        let text = with_causes(error);
        self.write(|rest| {
            rest.callback_failures += 1;
            rest.last_error = Some(text);
        });
    }

    /// Notes that the member ended with an error; its partitions are gone.
    pub(crate) fn member_failed(&self, state: MemberState, error: &Error) {
        self.write(|rest| {
            rest.state = state;
            rest.restarts += u64::from(state == MemberState::Restarting);
            rest.partitions.clear();
            rest.group = None;
            rest.last_error = Some(with_causes(error));
        });
    }

    pub(crate) fn set_last_error(&self, error: &(dyn std::error::Error + 'static)) {
        let text = with_causes(error);
        self.write(|rest| rest.last_error = Some(text));
    }

    /// Names the partitions that the member owns; their progress is read when a snapshot is taken.
    pub(crate) fn set_partitions(&self, partitions: Vec<(TopicPartition, Arc<Progress>)>) {
        self.write(|rest| rest.partitions = partitions);
    }

    /// Names the member as its coordinator knows it, while it owns partitions.
    pub(crate) fn set_group(&self, group: Option<GroupMetadata>) {
        self.write(|rest| rest.group = group);
    }

    pub(crate) fn group(&self) -> Option<GroupMetadata> {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        rest.group.clone()
    }

    pub(crate) fn snapshot(&self) -> MemberStatus {
        let rest = self.rest.lock().unwrap_or_else(PoisonError::into_inner);
        MemberStatus {
            name: self.name.clone(),
            state: rest.state,
            restarts: rest.restarts,
            rebalances: rest.rebalances,
            partitions: rest.partitions.iter().map(partition_status).collect(),
            buffered_bytes: rest.partitions.iter().map(|(_, p)| p.buffered()).sum(),
            handled: self.handled.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            callback_failures: rest.callback_failures,
            last_error: rest.last_error.clone(),
        }
    }

    fn write(&self, change: impl FnOnce(&mut Rest)) {
        // Plain values only: they are whole even if a writer panicked.
        change(&mut self.rest.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

fn partition_status((partition, progress): &(TopicPartition, Arc<Progress>)) -> PartitionStatus {
    PartitionStatus {
        partition: partition.clone(),
        state: progress.state(),
        committed: progress.last_committed(),
        handled: progress.handled(),
        high_watermark: progress.high_watermark(),
    }
}
