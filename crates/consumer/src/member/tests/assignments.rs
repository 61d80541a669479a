//! Partitions that go and come back between a question and its answer.

use super::super::fetch::Read;
use super::super::partition::{Lookup, Position};
use super::rig::{Rig, t0};
use crate::{Assigned, HandlerError, RebalanceListener, SeekTo};
use ottla_client::{Error, ErrorKind};
use std::sync::Arc;
use tokio::sync::Semaphore;

#[tokio::test]
async fn trap_c20_a_partition_that_is_given_up_is_not_begun_anew_where_its_log_was_cut() {
    let mut rig = Rig::open().await;
    rig.begin_at(&t0(), 5).await;
    let before = rig.owned(&t0()).incarnation;
    rig.revoke(&[t0()]);
    let cut = Error::new(ErrorKind::Truncated, "Fetch").with_diverging_offset(2);
    rig.fetched(&t0(), Read::Failed(cut));
    assert_eq!(rig.owned(&t0()).incarnation, before);
    rig.lane_ends(&t0());
    rig.member.retire(rig.now);
    assert!(!rig.member.is_retiring() && rig.member.partitions.is_empty());
}

/// Lets each call end when there is a permit, and has partitions begin at 7.
struct Slow(Arc<Semaphore>);

impl RebalanceListener for Slow {
    async fn on_assigned(&self, assigned: &Assigned) -> Result<(), HandlerError> {
        for partition in assigned.partitions() {
            assigned.start_at(partition, SeekTo::Offset(7)).unwrap();
        }
        self.0.acquire().await.unwrap().forget();
        Ok(())
    }
}

#[tokio::test]
async fn a_listener_that_was_told_of_an_earlier_assignment_does_not_begin_a_later_one() {
    let gate = Arc::new(Semaphore::new(0));
    let mut rig = Rig::listening(Slow(gate.clone())).await;
    rig.assign(&t0());
    rig.member.callbacks.start(rig.now);
    rig.member.on_lost(&[t0()]);
    rig.assign(&t0());
    // The first assignment, its loss, the second assignment.
    for (calls, position) in [
        (1, Position::Held),
        (2, Position::Held),
        (
            3,
            Position::Wanted {
                lookup: Lookup::Start(SeekTo::Offset(7)),
                not_before: rig.now,
            },
        ),
    ] {
        gate.add_permits(1);
        let called = rig.member.callbacks.next().await;
        rig.member.on_called(called, rig.now);
        assert_eq!(rig.owned(&t0()).position, position, "after {calls} calls");
        rig.member.callbacks.start(rig.now);
    }
}
