//! Fetch, versions 4 to 18: the request, and an answer whose record sets share its frame.

use super::produce_message::{Endpoint, read_endpoint};
use super::wire::{Reader, Text, WireError, Writer};
use crate::connection::{Meters, RequestFrame, api_label};
use bytes::Bytes;
use ottla_types::{ErrorCode, Offset, TopicPartition};
use std::ops::RangeInclusive;

pub(super) const KEY: i16 = 1;
pub(super) const NAME: &str = "Fetch";
pub(super) static METERS: Meters = Meters::new(NAME, &LABEL);
static LABEL: [metrics::Label; 1] = api_label(NAME);
pub(super) const VERSIONS: RangeInclusive<i16> = 4..=18;
/// The last version that names topics by their names; later ones have their ids (KIP-516).
pub(super) const NAMES_UNTIL: i16 = 12;
/// The first version in which the leader says that the reader's log is another one (KIP-595).
pub(super) const DIVERGENCE_FROM: i16 = 12;
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

/// The id of a topic that has none; goes into versions that have names.
pub(super) const NO_ID: [u8; 16] = [0; 16];

/// One partition of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) offset: Offset,
    /// The leader's epoch as it is known here, -1 if it is not (KIP-320).
    pub(super) leader_epoch: i32,
    /// The epoch of the last batch that was read, -1 if it is not known (KIP-595).
    pub(super) last_epoch: i32,
    pub(super) max_bytes: i32,
    pub(super) topic_id: [u8; 16],
}

/// About how many bytes a request for so many partitions takes behind its header.
pub(super) const fn about_bytes(wanted: usize) -> usize {
    64 + 40 * wanted
}

/// Writes the request behind its header. Both lists are ordered, so that the partitions of a topic
/// stand together.
pub(super) fn write(
    frame: &mut RequestFrame,
    version: i16,
    terms: Terms,
    wanted: &[(&TopicPartition, Wanted)],
    forgotten: &[(TopicPartition, [u8; 16])],
    rack: &str,
) {
    let name = |w: &mut Writer<'_>, topic: &str, id: &[u8; 16]| {
        if version > NAMES_UNTIL {
            w.uuid(id);
        } else {
            w.text(topic);
        }
    };
    let mut w = Writer {
        frame,
        flexible: is_flexible(version),
    };
    if version < 15 {
        // Not a replica.
        w.i32(-1);
    }
    w.i32(terms.max_wait_ms);
    w.i32(terms.min_bytes);
    w.i32(terms.max_bytes);
    w.i8(i8::from(terms.read_committed));
    if version >= SESSIONS_FROM {
        w.i32(terms.session_id);
        w.i32(terms.session_epoch);
    }
    let topics = wanted.chunk_by(|a, b| a.0.topic == b.0.topic && a.1.topic_id == b.1.topic_id);
    w.count(topics.clone().count());
    for of_topic in topics {
        let Some((first, wanted)) = of_topic.first() else {
            continue;
        };
        name(&mut w, &first.topic, &wanted.topic_id);
        w.count(of_topic.len());
        for (partition, wanted) in of_topic {
            write_wanted(&mut w, version, partition.partition, *wanted);
        }
        w.no_tags();
    }
    if version >= SESSIONS_FROM {
        let topics = forgotten.chunk_by(|a, b| a.0.topic == b.0.topic && a.1 == b.1);
        w.count(topics.clone().count());
        for of_topic in topics {
            let Some((first, id)) = of_topic.first() else {
                continue;
            };
            name(&mut w, &first.topic, id);
            w.count(of_topic.len());
            for (partition, _) in of_topic {
                w.i32(partition.partition);
            }
            w.no_tags();
        }
    }
    if version >= 11 {
        // Without one always the leader.
        w.text(rack);
    }
    w.no_tags();
}

fn write_wanted(w: &mut Writer<'_>, version: i16, partition: i32, wanted: Wanted) {
    w.i32(partition);
    if version >= 9 {
        w.i32(wanted.leader_epoch);
    }
    w.i64(wanted.offset);
    if version >= DIVERGENCE_FROM {
        w.i32(wanted.last_epoch);
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
    /// Where the leaders are that `partitions` name (KIP-951).
    pub(super) endpoints: Vec<Endpoint>,
}

/// How an answer names a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Topic {
    Name(Text),
    Id([u8; 16]),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct PartitionAnswer {
    pub(super) topic: Topic,
    pub(super) partition: i32,
    pub(super) code: ErrorCode,
    pub(super) high_watermark: Offset,
    pub(super) last_stable_offset: Offset,
    pub(super) log_start_offset: Offset,
    /// Aborted transactions: the producer's id and the first offset.
    pub(super) aborted: Vec<(i64, Offset)>,
    pub(super) records: Bytes,
    /// The replica to read from, for a client that names its rack (KIP-392).
    pub(super) preferred: Option<i32>,
    /// The reader's log is another one: the last epoch that they have in common, and where it ends.
    pub(super) diverging: Option<(i32, Offset)>,
    /// The leader's id and epoch (KIP-951).
    pub(super) leader: Option<(i32, i32)>,
}

/// Reads an answer of `version` from behind the correlation id, to a request (or session) for `asked`
/// partitions. Bytes that follow are ignored.
pub(super) fn read(body: Bytes, version: i16, asked: usize) -> Result<Answer, WireError> {
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
    let topic = |r: &mut Reader| {
        Ok(if version > NAMES_UNTIL {
            Topic::Id(r.uuid()?)
        } else {
            Topic::Name(r.text()?.ok_or(WireError::Negative(-1))?)
        })
    };
    let partition = |r: &mut Reader, topic: &Topic| read_partition(r, version, topic.clone());
    let partitions = r.partitions(24, asked, topic, partition)?;
    let mut endpoints = Vec::new();
    r.tags(|tag, field| {
        if tag == 0 && version >= 16 {
            endpoints = field.array(10, asked, read_endpoint)?;
        }
        Ok(())
    })?;
    Ok(Answer {
        throttle_ms,
        code,
        session_id,
        partitions,
        endpoints,
    })
}

fn read_partition(
    r: &mut Reader,
    version: i16,
    topic: Topic,
) -> Result<PartitionAnswer, WireError> {
    let partition = r.i32()?;
    let code = ErrorCode(r.i16()?);
    let high_watermark = r.i64()?;
    let last_stable_offset = r.i64()?;
    let log_start_offset = if version >= 5 { r.i64()? } else { -1 };
    let aborted = r.array(16, usize::MAX, |r| {
        let aborted = (r.i64()?, r.i64()?);
        r.skip_tags()?;
        Ok(aborted)
    })?;
    let preferred = if version >= 11 { r.i32()? } else { -1 };
    let records = r.blob()?.unwrap_or_default();
    let (mut diverging, mut leader) = (None, None);
    r.tags(|tag, field| {
        match tag {
            0 => diverging = Some((field.i32()?, field.i64()?)).filter(|(_, end)| *end >= 0),
            1 => leader = Some((field.i32()?, field.i32()?)).filter(|(id, _)| *id >= 0),
            _ => {}
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
        preferred: (preferred >= 0).then_some(preferred),
        diverging,
        leader,
    })
}
