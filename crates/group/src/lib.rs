//! Kafka group membership as state machines without IO, the assignors, and the offset tracker.
//!
//! This crate is pure: no runtime, no sockets, no clock and no randomness of its own. Time comes in
//! as milliseconds (`i64`, from any fixed start), randomness as a seed. It builds for
//! `wasm32-unknown-unknown`.
//!
//! - [`membership`]: the classic group protocol from the member's side, leader duties included,
//! - [`consumer_group`]: the consumer group protocol (KIP-848), where the coordinator assigns,
//! - [`assign`]: who reads which partition (range, round robin, sticky, cooperative-sticky),
//! - [`offsets`]: which offset of a partition may be committed while records are handled out of
//!   order.

pub mod assign;
mod assigned;
pub mod consumer_group;
mod group_membership;
pub mod membership;
pub mod offsets;

pub use assign::{Assignments, Assignor, Member, RebalanceProtocol, TopicCounts};
pub use consumer_group::{ConsumerMembership, ConsumerMembershipConfig};
pub use group_membership::{GroupMembership, GroupProtocol};
pub use membership::{
    CommitIdentity, CommitVerdict, Input, Membership, MembershipConfig, MembershipError,
    MembershipEvent, Operation, Phase, Request, RequestBody, RequestId, ResponseBody, RevocationId,
};
pub use offsets::{Admission, Gaps, METADATA_MAX, OffsetTracker, Ticket, TrackError};
pub use ottla_types::consumer_protocol::{self as protocol, Assignment, CodecError, Subscription};
