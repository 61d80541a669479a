//! Gives partitions up in order: no new call begins, the call in progress may finish until a
//! deadline, what is handled is committed, and only then is the revocation acknowledged. Heartbeats
//! go on meanwhile (C16). Lost partitions are dropped at once, without a commit (C2, C18).

use super::core::Member;
use super::partition::Owned;
use crate::lane::LaneEnd;
use crate::{Error, ErrorKind};
use ottla_group::RevocationId;
use ottla_types::TopicPartition;
use std::time::Duration;
use tokio::task::JoinError;
use tokio::time::Instant;

/// How long a commit may take after the last call of a partition has ended.
const COMMIT_GRACE: Duration = Duration::from_millis(600);
/// How long leaving the group may take after that.
const LEAVE_GRACE: Duration = Duration::from_millis(200);

impl Member {
    /// Begins to give partitions up.
    pub(super) fn on_revoked(
        &mut self,
        id: RevocationId,
        partitions: &[TopicPartition],
        now: Instant,
    ) {
        let drain_by = self
            .closing
            .unwrap_or(now + self.spec.config.revoke_timeout);
        for partition in partitions {
            if let Some(owned) = self.partitions.get_mut(partition) {
                owned.drain_by = Some(drain_by);
                if let Some(lane) = &owned.lane {
                    lane.drain();
                }
                owned.progress.set_state(crate::PartitionState::Retiring);
            }
        }
        self.revocation = Some(id);
    }

    /// Somebody else may own these already.
    pub(super) fn on_lost(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            if let Some(owned) = self.partitions.remove(partition) {
                self.note_left_behind(partition, &owned);
                drop_at_once(&owned);
            }
        }
        self.partitions_changed();
    }

    /// Moves on what retires. True when a revocation was acknowledged.
    pub(super) fn retire(&mut self, now: Instant) -> bool {
        let mut finished = Vec::new();
        for (partition, owned) in &self.partitions {
            let Some(drain_by) = owned.drain_by else {
                continue;
            };
            match &owned.lane {
                _ if drain_by + COMMIT_GRACE <= now => finished.push(partition.clone()),
                Some(_) if drain_by <= now => owned.lease.revoke(),
                Some(_) => {}
                None if owned.progress.uncommitted().is_none() => finished.push(partition.clone()),
                None => self.committer.hurry(now),
            }
        }
        for partition in &finished {
            if let Some(owned) = self.partitions.remove(partition) {
                // A call that does not give way to others cannot even be dropped in time.
                if owned.lane.is_some() && self.closing.is_some() {
                    self.report.in_flight.push(partition.clone());
                }
                self.note_left_behind(partition, &owned);
                drop_at_once(&owned);
            }
        }
        if !finished.is_empty() {
            self.partitions_changed();
        }
        match self.revocation {
            Some(id) if !self.is_retiring() => {
                self.revocation = None;
                self.driver.revoke_completed(id, now);
                true
            }
            _ => false,
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
        if retiring.is_some_and(|owned| owned.drain_by.is_some() && owned.lane.is_none()) {
            self.on_lost(std::slice::from_ref(partition));
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
        self.closing
            .map(|deadline| deadline + COMMIT_GRACE + LEAVE_GRACE)
    }

    /// The next moment at which [`retire`](Self::retire) can do something by the clock alone.
    pub(super) fn retire_wake(&self, now: Instant) -> Option<Instant> {
        let wake = |owned: &Owned| {
            let drain_by = owned.drain_by?;
            Some(match owned.lane {
                Some(_) if drain_by > now => drain_by,
                _ => drain_by + COMMIT_GRACE,
            })
        };
        self.partitions.values().filter_map(wake).min()
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
            }
        }
    }
}

fn drop_at_once(owned: &Owned) {
    owned.progress.unassign();
    owned.lease.revoke();
}
