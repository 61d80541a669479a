//! Gives partitions up in order: no new call begins, the call in progress may finish until a
//! deadline, the listener is called, what is handled is committed, and only then is the revocation
//! acknowledged. Heartbeats go on meanwhile (C16). Lost partitions are dropped at once, without a
//! commit (C2, C18).

use super::core::Member;
use super::partition::Owned;
use super::transact::Transactor;
use crate::lane::LaneEnd;
use crate::{Error, ErrorKind};
use ottla_group::RevocationId;
use ottla_types::TopicPartition;
use std::time::Duration;
use tokio::task::JoinError;
use tokio::time::Instant;

/// How long a commit may take at the least after the last call of a partition has ended,
const COMMIT_GRACE: Duration = Duration::from_millis(600);
/// and at the most.
const COMMIT_GRACE_MAX: Duration = Duration::from_secs(5);
/// How long leaving the group may take after that.
const LEAVE_GRACE: Duration = Duration::from_millis(200);

/// How long a lane may need to end once its call was dropped.
const LANE_GRACE: Duration = Duration::from_millis(50);
/// What a listener's call has at least when the member closes.
const CALLBACK_GRACE: Duration = Duration::from_millis(150);

/// What commits get beyond the time that calls have to end: a tenth of that, so that who allows much
/// for the one gets time for a new connection, and who is in a hurry is not held up.
fn commit_grace(calls: Duration) -> Duration {
    (calls / 10).clamp(COMMIT_GRACE, COMMIT_GRACE_MAX)
}

/// How long a member that is to end within `deadline` may need beyond it, at the most.
pub(crate) fn closing_grace(deadline: Duration) -> Duration {
    commit_grace(deadline) + LEAVE_GRACE + LANE_GRACE + CALLBACK_GRACE
}

/// Partitions that are being given up.
pub(super) struct Revocation {
    id: RevocationId,
    /// When calls in progress are dropped.
    drain_by: Instant,
    stage: Stage,
}

/// With a listener the stages follow each other for all partitions together; without one, each
/// partition goes as soon as it can.
#[derive(Clone, Copy)]
enum Stage {
    /// Calls in progress may finish; then the listener is called.
    Draining,
    /// The listener's call may go on until then.
    Calling(Instant),
    /// What is handled is committed, until then.
    Committing(Instant),
}

impl Revocation {
    /// The member is to end by then, and its commits `grace` later.
    pub(super) fn hasten(&mut self, by: Instant, grace: Duration) {
        self.drain_by = self.drain_by.min(by);
        self.stage = match self.stage {
            Stage::Draining => Stage::Draining,
            Stage::Calling(at) => Stage::Calling(at.min(by + CALLBACK_GRACE)),
            Stage::Committing(at) => Stage::Committing(at.min(by + grace)),
        };
    }
}

/// The end of a member.
#[derive(Debug, Clone, Copy)]
pub(super) struct Closing {
    /// Until when calls may go on.
    pub(super) by: Instant,
    /// How long commits may take after that.
    pub(super) commit_grace: Duration,
}

impl Closing {
    pub(super) fn new(by: Instant, now: Instant) -> Self {
        let commit_grace = commit_grace(by.saturating_duration_since(now));
        Self { by, commit_grace }
    }
}

impl Member {
    fn commit_grace(&self) -> Duration {
        let rebalance = || commit_grace(self.spec.config.revoke_timeout);
        self.closing
            .map_or_else(rebalance, |closing| closing.commit_grace)
    }

    /// Begins to give partitions up.
    pub(super) fn on_revoked(
        &mut self,
        id: RevocationId,
        partitions: &[TopicPartition],
        now: Instant,
    ) {
        let drain_by = self
            .closing
            .map_or(now + self.spec.config.revoke_timeout, |closing| closing.by);
        for partition in partitions {
            if let Some(owned) = self.partitions.get_mut(partition) {
                owned.drain_by = Some(drain_by);
                if let Some(lane) = &owned.lane {
                    lane.drain();
                }
                owned.progress.set_state(crate::PartitionState::Retiring);
            }
        }
        let stage = match self.callbacks.is_listening() {
            true => Stage::Draining,
            false => Stage::Committing(drain_by + self.commit_grace()),
        };
        self.revocation = Some(Revocation {
            id,
            drain_by,
            stage,
        });
    }

    /// Somebody else may own these already.
    pub(super) fn on_lost(&mut self, partitions: &[TopicPartition]) {
        if self.callbacks.is_listening() {
            let owned = partitions.iter().filter_map(|partition| {
                let owned = self.partitions.get(partition)?;
                Some((partition.clone(), owned.progress.clone()))
            });
            let lost = self.rebalance(owned.collect());
            self.callbacks.lost(lost);
        }
        self.forget(partitions);
    }

    /// Nothing of these is handled or committed any more.
    pub(super) fn forget(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            if let Some(owned) = self.partitions.remove(partition) {
                self.let_go(partition, &owned);
            }
        }
        self.partitions_changed();
    }

    fn let_go(&mut self, partition: &TopicPartition, owned: &Owned) {
        self.note_left_behind(partition, owned);
        if let Some(transactor) = &mut self.transactor {
            transactor.lost(partition, owned.incarnation);
        }
    }

    /// Moves on what retires. True when a revocation was acknowledged.
    pub(super) fn retire(&mut self, now: Instant) -> bool {
        let Some(mut revocation) = self.revocation.take() else {
            return false;
        };
        self.move_on(&mut revocation, now);
        let commits = match revocation.stage {
            Stage::Committing(by) => Some(by),
            _ => None,
        };
        let (mut finished, mut needs_commit) = (Vec::new(), false);
        for (partition, owned) in &self.partitions {
            let Some(drain_by) = owned.drain_by else {
                continue;
            };
            let is_late = commits.is_some_and(|by| by <= now);
            match &owned.lane {
                _ if is_late => finished.push(partition.clone()),
                Some(_) if drain_by <= now => owned.lease.revoke(),
                Some(_) => {}
                None if commits.is_none() => {}
                None if owned.progress.uncommitted().is_none() => finished.push(partition.clone()),
                None => needs_commit = true,
            }
        }
        if needs_commit {
            self.hurry_commit(now);
        }
        for partition in &finished {
            if let Some(owned) = self.partitions.remove(partition) {
                // A call that does not give way to others cannot even be dropped in time.
                if owned.lane.is_some() && self.closing.is_some() {
                    self.report.in_flight.push(partition.clone());
                }
                self.let_go(partition, &owned);
            }
        }
        if !finished.is_empty() {
            self.partitions_changed();
        }
        let is_ending = self.transactor.as_ref().is_some_and(Transactor::is_ending);
        if commits.is_some() && !self.is_retiring() && !is_ending {
            self.driver.revoke_completed(revocation.id, now);
            return true;
        }
        self.revocation = Some(revocation);
        false
    }

    /// From one stage to the next.
    fn move_on(&mut self, revocation: &mut Revocation, now: Instant) {
        if let Stage::Draining = revocation.stage {
            let retiring = || self.partitions.iter().filter(|(_, o)| o.drain_by.is_some());
            let is_drained = retiring().all(|(_, owned)| owned.lane.is_none());
            if is_drained || revocation.drain_by + LANE_GRACE <= now {
                let told = retiring().map(|(p, o)| (p.clone(), o.progress.clone()));
                let told = self.rebalance(told.collect());
                self.callbacks.revoked(told);
                let by = now + self.spec.config.rebalance_callback_timeout;
                let by = self
                    .closing
                    .map_or(by, |closing| by.min(closing.by.max(now + CALLBACK_GRACE)));
                revocation.stage = Stage::Calling(by);
            }
        }
        if let Stage::Calling(by) = revocation.stage {
            while by <= now && self.callbacks.has_revoked() {
                if let Some(called) = self.callbacks.give_up_next() {
                    self.on_called(called, now);
                }
            }
            if !self.callbacks.has_revoked() {
                revocation.stage = Stage::Committing(now + self.commit_grace());
            }
        }
    }

    pub(super) fn is_retiring(&self) -> bool {
        self.partitions
            .values()
            .any(|owned| owned.drain_by.is_some())
    }

    /// The commit of a retiring partition was refused for good.
    pub(super) fn abandon_retiring(&mut self, partition: &TopicPartition) {
        let retiring = self.partitions.get(partition);
        let commits = |revocation: &Revocation| matches!(revocation.stage, Stage::Committing(_));
        if self.revocation.as_ref().is_some_and(commits)
            && retiring.is_some_and(|owned| owned.drain_by.is_some() && owned.lane.is_none())
        {
            self.forget(std::slice::from_ref(partition));
        }
    }

    /// Takes the end of a lane.
    ///
    /// # Errors
    /// When a lane ended that nobody told to: the member has to begin anew.
    pub(super) fn on_lane_end(&mut self, end: Result<LaneEnd, JoinError>) -> Result<(), Error> {
        let end = end.map_err(|e| Error::new(ErrorKind::MemberFailed).with_source(e))?;
        if end.call_dropped && self.closing.is_some() {
            self.report.in_flight.push(end.partition.clone());
        }
        let Some(owned) = self.partitions.get_mut(&end.partition) else {
            return Ok(());
        };
        if owned.incarnation != end.incarnation {
            return Ok(());
        }
        owned.lane = None;
        if owned.drain_by.is_some() {
            Ok(())
        } else {
            Err(Error::new(ErrorKind::MemberFailed).with_partition(end.partition))
        }
    }

    /// How long the member's parts may still need, at the most, once it is closing.
    pub(super) fn give_up_at(&self) -> Option<Instant> {
        let telling = match self.callbacks.is_listening() {
            true => LANE_GRACE + CALLBACK_GRACE,
            false => Duration::ZERO,
        };
        self.closing
            .map(|closing| closing.by + telling + closing.commit_grace + LEAVE_GRACE)
    }

    /// The next moment at which [`retire`](Self::retire) can do something by the clock alone.
    pub(super) fn retire_wake(&self, now: Instant) -> Option<Instant> {
        let revocation = self.revocation.as_ref()?;
        let stage = match revocation.stage {
            Stage::Draining => Some(revocation.drain_by + LANE_GRACE),
            Stage::Calling(by) => Some(by),
            // Past that, only the end of a transaction is waited for, which wakes by itself.
            Stage::Committing(by) => Some(by).filter(|by| *by > now),
        };
        let draining = |owned: &Owned| {
            owned
                .drain_by
                .filter(|at| owned.lane.is_some() && *at > now)
        };
        let draining = self.partitions.values().filter_map(draining);
        draining.chain(stage).min()
    }

    fn note_left_behind(&mut self, partition: &TopicPartition, owned: &Owned) {
        if let Some(offset) = owned.progress.uncommitted() {
            tracing::warn!(
                group = %self.spec.group,
                %partition,
                offset,
                "gave the partition up with handled records that are not committed"
            );
            if self.closing.is_some() {
                self.report.uncommitted.push((partition.clone(), offset));
                owned.progress.unassign(&Error::new(ErrorKind::Closed));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_get_a_tenth_of_what_the_calls_may_take() {
        let grace = |seconds| commit_grace(Duration::from_secs(seconds));
        assert_eq!(grace(0), COMMIT_GRACE);
        assert_eq!(grace(30), Duration::from_secs(3));
        assert_eq!(grace(3600), COMMIT_GRACE_MAX);
        // What `RunningApp::shutdown` promises.
        assert_eq!(closing_grace(Duration::ZERO), Duration::from_secs(1));
    }
}
