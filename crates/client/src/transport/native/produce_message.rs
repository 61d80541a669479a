//! Produce, versions 3 to 12: the request from batches as they are, and what the answer says.

use super::outbox::{Order, Terms};
use super::wire::{Reader, Text, WireError, Writer};
use crate::connection::{Meters, RequestFrame, api_label};
use crate::transport::Acks;
use bytes::Bytes;
use ottla_types::ErrorCode;
use std::ops::RangeInclusive;

pub(super) const KEY: i16 = 0;
pub(super) const NAME: &str = "Produce";
pub(super) static METERS: Meters = Meters::new(NAME, &LABEL);
static LABEL: [metrics::Label; 1] = api_label(NAME);
/// Version 13 names topics by id, which would spare nothing: in a topic made anew a producer's numbers go
/// on either way, because a log that does not know it takes any (KIP-360).
pub(super) const VERSIONS: RangeInclusive<i16> = 3..=12;
/// With this version a batch takes its partition into the transaction (KIP-890).
const TRANSACTION_V2_FROM: i16 = 12;
const FLEXIBLE_FROM: i16 = 9;

/// The versions that batches on these terms can be sent with.
pub(super) fn versions(terms: &Terms) -> RangeInclusive<i16> {
    let (first, last) = VERSIONS.into_inner();
    match (&terms.transactional_id, terms.transaction_version_2) {
        (None, _) => VERSIONS,
        (Some(_), false) => first..=TRANSACTION_V2_FROM - 1,
        (Some(_), true) => TRANSACTION_V2_FROM..=last,
    }
}

pub(super) fn is_flexible(version: i16) -> bool {
    version >= FLEXIBLE_FROM
}

/// About how many bytes [`write`] puts into the frame, without the batches that it does not copy.
pub(super) fn about_bytes(terms: &Terms, orders: &[Order]) -> usize {
    let id = terms.transactional_id.as_ref().map_or(0, |id| id.len());
    let of_order = |order: &Order| {
        let pieces = order.batch.pieces().map(RequestFrame::copied_bytes);
        order.partition.topic.len() + 24 + pieces.sum::<usize>()
    };
    24 + id + orders.iter().map(of_order).sum::<usize>()
}

/// Writes the request behind its header. `orders` are sorted by partition, so that those of a topic
/// stand together.
pub(super) fn write(
    frame: &mut RequestFrame,
    version: i16,
    terms: &Terms,
    timeout_ms: i32,
    orders: &[Order],
) {
    let mut w = Writer {
        frame,
        flexible: is_flexible(version),
    };
    match &terms.transactional_id {
        Some(id) => w.text(id),
        None => w.null_text(),
    }
    w.i16(match terms.acks {
        Acks::None => 0,
        Acks::Leader => 1,
        Acks::All => -1,
    });
    w.i32(timeout_ms);
    let topics = orders.chunk_by(|a, b| a.partition.topic == b.partition.topic);
    w.count(topics.clone().count());
    for of_topic in topics {
        let Some(first) = of_topic.first() else {
            continue;
        };
        w.text(&first.partition.topic);
        w.count(of_topic.len());
        for order in of_topic {
            w.i32(order.partition.partition);
            w.batch(&order.batch);
            w.no_tags();
        }
        w.no_tags();
    }
    w.no_tags();
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) partitions: Vec<PartitionAnswer>,
    pub(super) throttle_ms: i32,
    /// Where the leaders are that `partitions` name (KIP-951).
    pub(super) endpoints: Vec<Endpoint>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct PartitionAnswer {
    pub(super) topic: Text,
    pub(super) partition: i32,
    pub(super) code: ErrorCode,
    pub(super) base_offset: i64,
    pub(super) log_append_time_ms: i64,
    /// The first offset that is still there, -1 if the broker does not know; `None` in versions that
    /// do not say.
    pub(super) log_start_offset: Option<i64>,
    pub(super) message: Option<Text>,
    /// The leader's id and epoch (KIP-951).
    pub(super) leader: Option<(i32, i32)>,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) id: i32,
    pub(super) host: Text,
    pub(super) port: i32,
}

/// Reads an answer of `version` from behind the correlation id, to a request with `asked` batches. Bytes
/// that follow are ignored.
pub(super) fn read(body: Bytes, version: i16, asked: usize) -> Result<Answer, WireError> {
    let mut r = Reader::new(body, is_flexible(version));
    if is_flexible(version) {
        // The header's.
        r.skip_tags()?;
    }
    let topic = |r: &mut Reader| r.text()?.ok_or(WireError::Negative(-1));
    let partition = |r: &mut Reader, topic: &Text| read_partition(r, version, topic.clone());
    let partitions = r.partitions(22, asked, topic, partition)?;
    let throttle_ms = r.i32()?;
    let mut endpoints = Vec::new();
    r.tags(|tag, field| {
        if tag == 0 && version >= 10 {
            endpoints = field.array(10, asked, read_endpoint)?;
        }
        Ok(())
    })?;
    Ok(Answer {
        partitions,
        throttle_ms,
        endpoints,
    })
}

fn read_partition(r: &mut Reader, version: i16, topic: Text) -> Result<PartitionAnswer, WireError> {
    let partition = r.i32()?;
    let code = ErrorCode(r.i16()?);
    let base_offset = r.i64()?;
    let log_append_time_ms = r.i64()?;
    let log_start_offset = (version >= 5).then(|| r.i64()).transpose()?;
    let mut message = None;
    if version >= 8 {
        // KIP-467: which records were refused, and why.
        let mut first = None;
        for _ in 0..r.count(5, usize::MAX)? {
            r.i32()?;
            let message = r.text()?;
            first = first.or(message);
            r.skip_tags()?;
        }
        message = r.text()?.or(first);
    }
    let mut leader = None;
    r.tags(|tag, field| {
        if tag == 0 && version >= 10 {
            leader = Some((field.i32()?, field.i32()?)).filter(|(id, _)| *id >= 0);
        }
        Ok(())
    })?;
    Ok(PartitionAnswer {
        topic,
        partition,
        code,
        base_offset,
        log_append_time_ms,
        log_start_offset,
        message,
        leader,
    })
}

pub(super) fn read_endpoint(r: &mut Reader) -> Result<Endpoint, WireError> {
    let id = r.i32()?;
    let host = r.text()?.ok_or(WireError::Negative(-1))?;
    let port = r.i32()?;
    // The rack.
    r.text()?;
    r.skip_tags()?;
    Ok(Endpoint { id, host, port })
}
