//! Whether what was read still stands in the leader's log: OffsetForLeaderEpoch (KIP-320), for
//! versions of Fetch that do not compare, and for a position that the leader says is out of range.
//!
//! What must hold: only an answer about the partition itself decides; whatever fails is asked again,
//! and no position is given up for it (C6).

use super::cursor::{Outcome, Picked};
use super::failure::{Cure, Failure};
use super::table::Job;
use crate::connection::{Api, Connection};
use crate::{Error, ErrorKind};
use kafka_protocol::messages::offset_for_leader_epoch_request::{
    OffsetForLeaderPartition, OffsetForLeaderTopic,
};
use kafka_protocol::messages::offset_for_leader_epoch_response::EpochEndOffset;
use kafka_protocol::messages::{
    OffsetForLeaderEpochRequest, OffsetForLeaderEpochResponse, TopicName,
};
use kafka_protocol::protocol::StrBytes;
use ottla_types::{ErrorCode, Offset};
use tokio::time::Instant;

/// Whether the broker can be asked.
pub(super) fn can_ask(connection: &Connection) -> bool {
    let api = OffsetForLeaderEpochRequest::NAME;
    let (key, versions) = (
        OffsetForLeaderEpochRequest::KEY,
        OffsetForLeaderEpochRequest::VERSIONS,
    );
    connection.agreed(key, api, versions).is_ok()
}

/// Compares the positions of those cursors that want it. An outcome for each cursor of the job, in
/// their order: those that want nothing are asked for again.
///
/// # Errors
/// Of the whole request.
pub(super) async fn check(
    connection: &Connection,
    job: &Job,
    is_wanted: impl Fn(&Picked) -> bool,
    deadline: Instant,
) -> Result<Vec<Outcome>, Error> {
    let wanted: Vec<_> = job.cursors.iter().filter(|p| is_wanted(p)).collect();
    let call = connection.call(deadline, |_| request(&wanted));
    let (answer, _): (OffsetForLeaderEpochResponse, _) = call.await?;
    let outcome = |picked: &Picked| {
        if !is_wanted(picked) {
            return Outcome::Again;
        }
        match find(&answer, picked) {
            Some(part) => judge(part, picked, connection),
            None => Outcome::Lost {
                why: error(ErrorKind::Protocol, picked, connection),
                refresh: true,
            },
        }
    };
    Ok(job.cursors.iter().map(outcome).collect())
}

fn request(wanted: &[&Picked]) -> OffsetForLeaderEpochRequest {
    // Ordered by partition, as the job is.
    let topics = wanted.chunk_by(|a, b| a.partition.topic == b.partition.topic);
    let topics = topics.filter_map(|of_topic| {
        let name = of_topic.first()?.partition.topic.as_ref().to_owned();
        let partitions = of_topic.iter().map(|picked| {
            OffsetForLeaderPartition::default()
                .with_partition(picked.partition.partition)
                .with_current_leader_epoch(picked.leader.epoch)
                .with_leader_epoch(picked.epoch)
        });
        let topic = OffsetForLeaderTopic::default()
            .with_topic(TopicName(StrBytes::from_string(name)))
            .with_partitions(partitions.collect());
        Some(topic)
    });
    OffsetForLeaderEpochRequest::default()
        .with_replica_id((-1).into())
        .with_topics(topics.collect())
}

fn find<'a>(
    answer: &'a OffsetForLeaderEpochResponse,
    picked: &Picked,
) -> Option<&'a EpochEndOffset> {
    let partition = &picked.partition;
    let mut topics = answer.topics.iter();
    let topic = topics.find(|topic| topic.topic.as_str() == &*partition.topic)?;
    let mut parts = topic.partitions.iter();
    parts.find(|part| part.partition == partition.partition)
}

fn judge(part: &EpochEndOffset, picked: &Picked, connection: &Connection) -> Outcome {
    let code = ErrorCode(part.error_code);
    if code != ErrorCode::NONE {
        let error = Error::from_code(code, OffsetForLeaderEpochRequest::NAME)
            .with_partition(picked.partition.clone())
            .with_broker(&**connection.broker());
        let Failure { error, cure } = Failure::new(error);
        return match cure {
            Cure::None if error.kind() == ErrorKind::Authorization => Outcome::Done(Err(error)),
            // Whatever it is, it says nothing about the log.
            _ => Outcome::Lost {
                why: error,
                refresh: true,
            },
        };
    }
    match part.end_offset {
        // The leader's log knows no epoch up to that one.
        end if end < 0 || part.leader_epoch < 0 => {
            Outcome::Done(Err(error(ErrorKind::Truncated, picked, connection)))
        }
        end => compare(part.leader_epoch, end, picked, connection),
    }
}

/// What the end of an epoch in the leader's log means for a position: `epoch` is the last one up to
/// that of the position.
///
/// Where it ends below the position, what was read between is not in the log any more. Where not, an
/// older epoch says nothing else: an epoch in which no record was written leaves no trace.
pub(super) fn compare(
    epoch: i32,
    end: Offset,
    picked: &Picked,
    connection: &Connection,
) -> Outcome {
    if end < picked.position.offset {
        let error = error(ErrorKind::Truncated, picked, connection);
        return Outcome::Done(Err(error.with_diverging_offset(end)));
    }
    if epoch < picked.epoch {
        Outcome::Adopted(epoch)
    } else {
        Outcome::Checked
    }
}

fn error(kind: ErrorKind, picked: &Picked, connection: &Connection) -> Error {
    Error::new(kind, OffsetForLeaderEpochRequest::NAME)
        .with_partition(picked.partition.clone())
        .with_offset(picked.position.offset)
        .with_broker(&**connection.broker())
}
