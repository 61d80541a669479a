//! Who reads which partition: pure functions over the members and the topics' partition counts.
//!
//! The result has an entry for every member, and never depends on the order of the members.
//! Topics without a count (or with count 0) are skipped.

mod range;
mod round_robin;
mod sticky;
mod user_data;

pub use range::range;
pub use round_robin::round_robin;
pub use sticky::{cooperative_sticky, sticky};
pub use user_data::Claim;

use ottla_types::TopicPartition;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Partitions of each topic.
pub type TopicCounts = BTreeMap<Arc<str>, i32>;

/// Each member's partitions by member id, sorted by topic and partition.
pub type Assignments = BTreeMap<String, Vec<TopicPartition>>;

/// A member as an assignor sees it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// The member's id.
    pub id: String,
    /// `group.instance.id` of a static member.
    pub instance_id: Option<String>,
    /// Its topics; duplicates count once.
    pub topics: Vec<Arc<str>>,
    /// The partitions that it says it owns, or for [`sticky`] had before it gave them up.
    pub owned: Vec<TopicPartition>,
    /// The generation in which it came to own them; `None` when it does not say.
    pub generation: Option<i32>,
}

/// How a group moves partitions between its members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RebalanceProtocol {
    /// Everybody gives up everything before joining.
    Eager,
    /// Only what changes its owner is given up, in a rebalance of its own (KIP-429).
    Cooperative,
}

/// The assignors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Assignor {
    /// [`range`].
    Range,
    /// [`round_robin`].
    RoundRobin,
    /// [`sticky`].
    Sticky,
    /// [`cooperative_sticky`].
    CooperativeSticky,
}

impl Assignor {
    /// Every assignor.
    pub const ALL: [Self; 4] = [
        Self::Range,
        Self::RoundRobin,
        Self::Sticky,
        Self::CooperativeSticky,
    ];

    /// The name by which members agree on it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Range => "range",
            Self::RoundRobin => "roundrobin",
            Self::Sticky => "sticky",
            Self::CooperativeSticky => "cooperative-sticky",
        }
    }

    /// The assignor with this name.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|a| a.name() == name)
    }

    /// How it moves partitions.
    pub fn protocol(self) -> RebalanceProtocol {
        match self {
            Self::Range | Self::RoundRobin | Self::Sticky => RebalanceProtocol::Eager,
            Self::CooperativeSticky => RebalanceProtocol::Cooperative,
        }
    }

    /// Runs it.
    pub fn assign(self, members: &[Member], topics: &TopicCounts) -> Assignments {
        match self {
            Self::Range => range(members, topics),
            Self::RoundRobin => round_robin(members, topics),
            Self::Sticky => sticky(members, topics),
            Self::CooperativeSticky => cooperative_sticky(members, topics),
        }
    }
}

/// Java's order of members: static ones first, by instance id, then the others by member id.
fn java_member_order(a: &Member, b: &Member) -> Ordering {
    match (&a.instance_id, &b.instance_id) {
        (Some(x), Some(y)) => java_string_order(x, y),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (None, None) => java_string_order(&a.id, &b.id),
    }
}

/// `String.compareTo`: by UTF-16 code units, which differs from bytes above the basic plane.
fn java_string_order(a: &str, b: &str) -> Ordering {
    a.encode_utf16().cmp(b.encode_utf16())
}

/// Nothing for everybody.
fn empty(members: &[Member]) -> Assignments {
    members.iter().map(|m| (m.id.clone(), Vec::new())).collect()
}

#[cfg(test)]
mod tests;
