//! A process: the member with the application behind it, which reads, handles and commits.

use ottla_group::{
    CommitIdentity, GroupMembership, OffsetTracker, RequestBody, RequestId, RevocationId, Ticket,
};
use ottla_types::coordinator::JoinGroupMember;
use ottla_types::{Offset, TopicPartition};
use std::collections::{BTreeMap, HashMap};

/// How many records of a partition are with handlers at once.
pub(crate) const IN_FLIGHT: usize = 12;

/// A partition that the application works on.
pub(crate) struct Part {
    /// Tells assignments of the same partition apart.
    pub(crate) incarnation: u64,
    pub(crate) tracker: OffsetTracker,
    /// The next offset to read, once the committed one is known.
    pub(crate) next: Option<Offset>,
    pub(crate) out: Vec<Ticket>,
    pub(crate) retiring: bool,
}

impl Part {
    pub(crate) fn new(incarnation: u64) -> Self {
        Self {
            incarnation,
            tracker: OffsetTracker::with_gaps(IN_FLIGHT, 4_096),
            next: None,
            out: Vec::new(),
            retiring: false,
        }
    }
}

/// One partition in a commit.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) tp: TopicPartition,
    pub(crate) incarnation: u64,
    /// What the tracker calls it.
    pub(crate) started: Offset,
    pub(crate) offset: Offset,
    pub(crate) metadata: String,
}

#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub(crate) identity: CommitIdentity,
    pub(crate) entries: Vec<Entry>,
}

/// What is given up, until it is acknowledged.
#[derive(Debug)]
pub(crate) struct Retiring {
    pub(crate) id: RevocationId,
    pub(crate) partitions: Vec<TopicPartition>,
    /// The handlers are done, only commits are waited for: this many more tries.
    pub(crate) tries: Option<u32>,
}

pub(crate) struct Process {
    pub(crate) member: GroupMembership,
    pub(crate) instance: Option<String>,
    pub(crate) alive: bool,
    pub(crate) ended: bool,
    pub(crate) fatal_asked: bool,
    pub(crate) closing: bool,
    /// No packet passes before this time.
    pub(crate) cut_until: i64,
    pub(crate) last_arrival: i64,
    pub(crate) requests: HashMap<u64, RequestId>,
    pub(crate) parts: BTreeMap<TopicPartition, Part>,
    pub(crate) retiring: Option<Retiring>,
    pub(crate) commits: BTreeMap<u64, Commit>,
    /// For mutants: the newest request, the join that this member leads, trackers of the past, a
    /// commit that was refused.
    pub(crate) newest: Option<RequestId>,
    pub(crate) last_beat: Option<RequestBody>,
    pub(crate) led: Vec<JoinGroupMember>,
    pub(crate) past: BTreeMap<TopicPartition, Part>,
    pub(crate) refused: Option<Commit>,
}

impl Process {
    pub(crate) fn new(
        member: GroupMembership,
        instance: Option<String>,
        last_arrival: i64,
    ) -> Self {
        Self {
            member,
            instance,
            alive: true,
            ended: false,
            fatal_asked: false,
            closing: false,
            cut_until: 0,
            last_arrival,
            requests: HashMap::new(),
            parts: BTreeMap::new(),
            retiring: None,
            commits: BTreeMap::new(),
            newest: None,
            last_beat: None,
            led: Vec::new(),
            past: BTreeMap::new(),
            refused: None,
        }
    }

    pub(crate) fn is_live(&self) -> bool {
        self.alive && !self.ended
    }

    /// Whether it will still be there in the end.
    pub(crate) fn lasts(&self) -> bool {
        self.is_live() && !self.fatal_asked && !self.closing
    }
}
