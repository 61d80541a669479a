//! What a broker's answer means for each cursor that was in the request.

use super::cursor::{Outcome, Picked, is_copied};
use super::epochs::compare;
use super::failure::{Cure, Failure, share};
use super::fetch_message::{self as message, NAME, PartitionAnswer, Topic};
use super::leaders::Leaders;
use super::produce_message::Endpoint;
use super::scan::scan;
use super::table::Job;
use crate::connection::Connection;
use crate::transport::Fetched;
use crate::{Error, ErrorKind};
use bytes::Bytes;
use ottla_record_batch::RecordSet;
use ottla_types::ErrorCode;
use std::sync::Arc;

/// Who judges the answer to one request.
pub(super) struct Judge<'a> {
    pub(super) leaders: &'a Leaders,
    pub(super) connection: &'a Connection,
    pub(super) read_committed: bool,
    pub(super) frame_bytes: usize,
}

impl Judge<'_> {
    /// An outcome for each cursor, in their order; a partition that is not in the answer has nothing
    /// new.
    pub(super) fn judge(&self, job: &Job, answer: message::Answer) -> Vec<Outcome> {
        let mut outcomes: Vec<_> = job.cursors.iter().map(|_| Outcome::Nothing).collect();
        for part in answer.partitions {
            if let Some(at) = place(job, &part) {
                outcomes[at] = self.part(part, &job.cursors[at], &answer.endpoints);
            }
        }
        outcomes
    }

    fn part(&self, part: PartitionAnswer, picked: &Picked, endpoints: &[Endpoint]) -> Outcome {
        if part.code != ErrorCode::NONE {
            return self.error(&part, picked, endpoints);
        }
        if let Some((epoch, end)) = part.diverging {
            return compare(epoch, end, picked, self.connection);
        }
        if let Some(replica) = part.preferred.filter(|_| part.records.is_empty()) {
            return Outcome::Elsewhere(replica);
        }
        let position = picked.position;
        let aborted = self.read_committed.then_some(part.aborted);
        let scanned = scan(&part.records, position.offset, aborted);
        if scanned.records.is_empty() && scanned.next_offset == position.offset {
            return Outcome::Nothing;
        }
        let at_least_0 = |number| (number >= 0).then_some(number);
        // A batch that does not name its epoch is none of a later one than the leader's: taking none
        // would hide that the log is cut (C20).
        let epochs = [scanned.leader_epoch.unwrap_or(-1), picked.leader.epoch];
        let leader_epoch = epochs.into_iter().find(|epoch| *epoch >= 0);
        Outcome::Done(Ok(Fetched {
            records: RecordSet::from(unpinned(scanned.records, self.frame_bytes)),
            next_offset: scanned.next_offset,
            leader_epoch: leader_epoch.or(position.leader_epoch),
            topic_id: picked.leader.topic_id.or(position.topic_id),
            high_watermark: part.high_watermark,
            last_stable_offset: at_least_0(part.last_stable_offset),
            log_start_offset: at_least_0(part.log_start_offset),
        }))
    }

    fn error(&self, part: &PartitionAnswer, picked: &Picked, endpoints: &[Endpoint]) -> Outcome {
        let error = Error::from_code(part.code, NAME)
            .with_partition(picked.partition.clone())
            .with_offset(picked.position.offset)
            .with_broker(&**self.connection.broker());
        let Failure { error, cure } = Failure::new(error);
        match cure {
            // Only the leader's word counts: a replica may lag (C5).
            _ if picked.is_elsewhere => Outcome::Lost {
                why: error,
                refresh: cure == Cure::Refresh,
            },
            // Perhaps it is another log by now.
            Cure::None if error.kind() == ErrorKind::OffsetOutOfRange && may_be_another(picked) => {
                Outcome::Doubted(error)
            }
            Cure::None => Outcome::Done(Err(error)),
            Cure::Wait | Cure::AtOnce => Outcome::Lost {
                why: error,
                refresh: false,
            },
            Cure::Refresh => match part.leader {
                Some(leader) if self.leaders.hint(&picked.partition, leader, endpoints) => {
                    Outcome::Moved
                }
                _ => Outcome::Lost {
                    why: error,
                    refresh: true,
                },
            },
        }
    }
}

/// Whether it is known which log the position was in, and that it is the same was not looked at yet.
fn may_be_another(picked: &Picked) -> bool {
    let is_known = picked.epoch >= 0 || picked.position.topic_id.is_some();
    is_known && !picked.is_doubted
}

/// Where the cursor stands that an answer is for.
fn place(job: &Job, part: &PartitionAnswer) -> Option<usize> {
    let cursors = &job.cursors;
    let of = |topic: &str| {
        let wanted = (topic, part.partition);
        let at = cursors.binary_search_by(|picked| {
            let partition = &picked.partition;
            (&*partition.topic, partition.partition).cmp(&wanted)
        });
        at.ok()
    };
    match &part.topic {
        Topic::Name(name) => of(name.as_str()),
        Topic::Id(id) => {
            let has_id = |picked: &Picked| picked.leader.topic_id == Some(*id);
            // Topics are few.
            let first = cursors.iter().find(|picked| has_id(picked))?;
            of(&first.partition.topic).filter(|at| has_id(&cursors[*at]))
        }
    }
}

/// The outcomes of a request that failed as a whole.
pub(super) fn fail_all(job: &Job, error: Error) -> Vec<Outcome> {
    let Failure { error, cure } = Failure::new(error);
    let error = Arc::new(error);
    let outcome = |picked: &Picked| {
        let why = share(&error, &picked.partition).with_offset(picked.position.offset);
        match cure {
            Cure::None if error.kind() == ErrorKind::Protocol => Outcome::Unreadable(why),
            Cure::None => Outcome::Done(Err(why)),
            _ => Outcome::Lost {
                why,
                refresh: cure == Cure::Refresh,
            },
        }
    };
    job.cursors.iter().map(outcome).collect()
}

/// The records, copied if they are a small part of a frame that is not small.
fn unpinned(records: Bytes, frame_bytes: usize) -> Bytes {
    if is_copied(records.len(), frame_bytes) {
        Bytes::copy_from_slice(&records)
    } else {
        records
    }
}
