//! Fetch, versions 4 to 12: the request, and an answer whose record sets share its frame.

use super::wire::{Reader, Text, WireError, Writer};
use bytes::{Bytes, BytesMut};
use ottla_types::{ErrorCode, Offset, TopicPartition};
use std::ops::RangeInclusive;

pub(super) const KEY: i16 = 1;
pub(super) const NAME: &str = "Fetch";
/// Version 13 names topics by id.
pub(super) const VERSIONS: RangeInclusive<i16> = 4..=12;
/// The first version with sessions (KIP-227).
pub(super) const SESSIONS_FROM: i16 = 7;
const FLEXIBLE_FROM: i16 = 12;

pub(super) fn is_flexible(version: i16) -> bool {
    version >= FLEXIBLE_FROM
}

/// What is the same for all partitions of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Terms {
    pub(super) max_wait_ms: i32,
    pub(super) min_bytes: i32,
    pub(super) max_bytes: i32,
    pub(super) read_committed: bool,
    pub(super) session_id: i32,
    pub(super) session_epoch: i32,
}

/// One partition of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) offset: Offset,
    /// The leader's epoch as it is known here, -1 if it is not (KIP-320).
    pub(super) leader_epoch: i32,
    pub(super) max_bytes: i32,
}

/// Writes the request behind its header. Both lists are ordered, so that the partitions of a topic
/// stand together.
pub(super) fn write(
    frame: &mut BytesMut,
    version: i16,
    terms: Terms,
    wanted: &[(&TopicPartition, Wanted)],
    forgotten: &[TopicPartition],
) {
    frame.reserve(64 + 40 * wanted.len());
    let mut w = Writer {
        frame,
        flexible: is_flexible(version),
    };
    // Not a replica.
    w.i32(-1);
    w.i32(terms.max_wait_ms);
    w.i32(terms.min_bytes);
    w.i32(terms.max_bytes);
    w.i8(i8::from(terms.read_committed));
    if version >= SESSIONS_FROM {
        w.i32(terms.session_id);
        w.i32(terms.session_epoch);
    }
    let topics = wanted.chunk_by(|a, b| a.0.topic == b.0.topic);
    w.count(topics.clone().count());
    for of_topic in topics {
        let Some((first, _)) = of_topic.first() else {
            continue;
        };
        w.text(&first.topic);
        w.count(of_topic.len());
        for (partition, wanted) in of_topic {
            write_wanted(&mut w, version, partition.partition, *wanted);
        }
        w.no_tags();
    }
    if version >= SESSIONS_FROM {
        let topics = forgotten.chunk_by(|a, b| a.topic == b.topic);
        w.count(topics.clone().count());
        for of_topic in topics {
            let Some(first) = of_topic.first() else {
                continue;
            };
            w.text(&first.topic);
            w.count(of_topic.len());
            for partition in of_topic {
                w.i32(partition.partition);
            }
            w.no_tags();
        }
    }
    if version >= 11 {
        // No rack: always the leader.
        w.text("");
    }
    w.no_tags();
}

fn write_wanted(w: &mut Writer<'_>, version: i16, partition: i32, wanted: Wanted) {
    w.i32(partition);
    if version >= 9 {
        w.i32(wanted.leader_epoch);
    }
    w.i64(wanted.offset);
    if version >= 12 {
        // The epoch of the last batch that was read: not known.
        w.i32(-1);
    }
    if version >= 5 {
        // Only replicas have a first offset.
        w.i64(-1);
    }
    w.i32(wanted.max_bytes);
    w.no_tags();
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) throttle_ms: i32,
    /// About the whole request, such as a session that the broker does not know.
    pub(super) code: ErrorCode,
    /// The session; 0 if there is none.
    pub(super) session_id: i32,
    pub(super) partitions: Vec<PartitionAnswer>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct PartitionAnswer {
    pub(super) topic: Text,
    pub(super) partition: i32,
    pub(super) code: ErrorCode,
    pub(super) high_watermark: Offset,
    pub(super) last_stable_offset: Offset,
    pub(super) log_start_offset: Offset,
    /// Aborted transactions: the producer's id and the first offset.
    pub(super) aborted: Vec<(i64, Offset)>,
    pub(super) records: Bytes,
    /// The leader's id and epoch (KIP-951).
    pub(super) leader: Option<(i32, i32)>,
}

/// Reads an answer of `version` from behind the correlation id. Bytes that follow are ignored.
pub(super) fn read(body: Bytes, version: i16) -> Result<Answer, WireError> {
    let mut r = Reader::new(body, is_flexible(version));
    if is_flexible(version) {
        // The header's.
        r.skip_tags()?;
    }
    let throttle_ms = r.i32()?;
    let (mut code, mut session_id) = (ErrorCode::NONE, 0);
    if version >= SESSIONS_FROM {
        code = ErrorCode(r.i16()?);
        session_id = r.i32()?;
    }
    let mut partitions = Vec::new();
    r.array(3, |r| {
        let topic = r.text()?.ok_or(WireError::Negative(-1))?;
        r.array(24, |r| {
            partitions.push(read_partition(r, version, topic.clone())?);
            Ok(())
        })?;
        r.skip_tags()
    })?;
    r.skip_tags()?;
    Ok(Answer {
        throttle_ms,
        code,
        session_id,
        partitions,
    })
}

fn read_partition(r: &mut Reader, version: i16, topic: Text) -> Result<PartitionAnswer, WireError> {
    let partition = r.i32()?;
    let code = ErrorCode(r.i16()?);
    let high_watermark = r.i64()?;
    let last_stable_offset = r.i64()?;
    let log_start_offset = if version >= 5 { r.i64()? } else { -1 };
    let aborted = r.array(16, |r| {
        let aborted = (r.i64()?, r.i64()?);
        r.skip_tags()?;
        Ok(aborted)
    })?;
    if version >= 11 {
        // The replica to read from, for clients that name their rack.
        r.i32()?;
    }
    let records = r.blob()?.unwrap_or_default();
    let mut leader = None;
    r.tags(|tag, field| {
        if tag == 1 {
            leader = Some((field.i32()?, field.i32()?)).filter(|(id, _)| *id >= 0);
        }
        Ok(())
    })?;
    Ok(PartitionAnswer {
        topic,
        partition,
        code,
        high_watermark,
        last_stable_offset,
        log_start_offset,
        aborted,
        records,
        leader,
    })
}
