//! What a reader sees of the batches that a fetch brought: where to read on, and which batches are
//! left out.
//!
//! Pure. Left out are control batches (the ends of transactions), batches below the position,
//! batches that compaction has emptied, a last batch that is cut off, and for readers of committed
//! records the batches of aborted transactions. The position moves over all of them but the one
//! that is cut off. What does not follow the format is left in, with everything behind it: whoever
//! reads the records meets the error at its place.

use bytes::{Bytes, BytesMut};
use ottla_record_batch::{BATCH_OVERHEAD, RecordSet};
use ottla_types::Offset;
use std::collections::HashSet;
use std::ops::Range;

/// Where the fields of a batch's header stand.
const LENGTH_AT: usize = 8;
const LENGTH_END: usize = 12;
const LEADER_EPOCH_AT: usize = 12;
const MAGIC_AT: usize = 16;
const ATTRIBUTES_AT: usize = 21;
const LAST_OFFSET_DELTA_AT: usize = 23;
const PRODUCER_ID_AT: usize = 43;
const COUNT_AT: usize = 57;

const MAGIC: i8 = 2;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;
/// What a control record may be decompressed to. Brokers do not compress them, and they have ten bytes
/// or so.
const CONTROL_BYTES_MAX: usize = 4096;
/// The type of a control record that ends an aborted transaction.
const ABORT: i16 = 0;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scanned {
    pub(super) records: Bytes,
    /// Above everything in `records` and everything that was left out.
    pub(super) next_offset: Offset,
    /// The leader epoch of the last batch below `next_offset`; -1 if it has none, `None` if there
    /// was no batch.
    pub(super) leader_epoch: Option<i32>,
}

/// The transactions that a fetch's answer lists as aborted.
#[derive(Debug)]
struct Aborted {
    /// Producer id and first offset, the lowest offset last.
    to_come: Vec<(i64, Offset)>,
    /// The producers whose transaction at this point is one that was aborted.
    open: HashSet<i64>,
}

/// The fields of a header that matter here.
struct Head {
    end: usize,
    last_offset: Offset,
    leader_epoch: i32,
    attributes: i16,
    producer_id: i64,
    count: i32,
}

/// Looks through `records`, which were read from `position`. `aborted` is the answer's list of
/// aborted transactions (producer id and first offset, in any order) for a reader of committed
/// records.
pub(super) fn scan(
    records: &Bytes,
    position: Offset,
    aborted: Option<Vec<(i64, Offset)>>,
) -> Scanned {
    let mut aborted = aborted.map(Aborted::new);
    let mut kept: Vec<Range<usize>> = Vec::new();
    let mut keep = |range: Range<usize>| match kept.last_mut() {
        Some(last) if last.end == range.start => last.end = range.end,
        _ => kept.push(range),
    };
    let (mut next_offset, mut leader_epoch) = (position, None);
    let mut at = 0;
    while let Some(head) = read_head(&records[at..]) {
        let Ok(head) = head else {
            keep(at..records.len());
            break;
        };
        let batch = at..at + head.end;
        at = batch.end;
        // Also what lies below a batch that was before it: reading does not go back.
        if head.last_offset < next_offset {
            continue;
        }
        match is_shown(&records.slice(batch.clone()), &head, aborted.as_mut()) {
            Ok(true) => keep(batch),
            Ok(false) => {}
            Err(Unreadable) => {
                keep(batch.start..records.len());
                break;
            }
        }
        next_offset = head.last_offset + 1;
        leader_epoch = Some(head.leader_epoch);
    }
    Scanned {
        records: join(records, &kept),
        next_offset,
        leader_epoch,
    }
}

/// A batch that does not follow the format.
struct Unreadable;

/// The header of the first batch; `None` if there is none, or one that is cut off.
fn read_head(data: &[u8]) -> Option<Result<Head, Unreadable>> {
    let length = i32::from_be_bytes(field(data, LENGTH_AT)?);
    let Ok(length) = usize::try_from(length) else {
        return Some(Err(Unreadable));
    };
    let end = LENGTH_END + length;
    if end > data.len() {
        return None;
    }
    Some(read_whole(&data[..end]).ok_or(Unreadable))
}

fn read_whole(batch: &[u8]) -> Option<Head> {
    if batch.len() < BATCH_OVERHEAD || i8::from_be_bytes(field(batch, MAGIC_AT)?) != MAGIC {
        return None;
    }
    let base_offset = i64::from_be_bytes(field(batch, 0)?);
    let delta = i32::from_be_bytes(field(batch, LAST_OFFSET_DELTA_AT)?);
    if base_offset < 0 || delta < 0 {
        return None;
    }
    let last_offset = base_offset.checked_add(i64::from(delta))?;
    // So that there is a next one.
    last_offset.checked_add(1)?;
    Some(Head {
        end: batch.len(),
        last_offset,
        leader_epoch: i32::from_be_bytes(field(batch, LEADER_EPOCH_AT)?),
        attributes: i16::from_be_bytes(field(batch, ATTRIBUTES_AT)?),
        producer_id: i64::from_be_bytes(field(batch, PRODUCER_ID_AT)?),
        count: i32::from_be_bytes(field(batch, COUNT_AT)?),
    })
}

/// Whether a reader gets the batch. What is left out must be what it says it is: its checksum is
/// checked here, because nobody else will.
fn is_shown(batch: &Bytes, head: &Head, aborted: Option<&mut Aborted>) -> Result<bool, Unreadable> {
    let is_control = head.attributes & CONTROL != 0;
    let mut is_aborted = false;
    if let Some(aborted) = aborted {
        aborted.advance(head.last_offset);
        if is_control && control_type(batch)? == Some(ABORT) {
            aborted.open.remove(&head.producer_id);
        }
        let is_transactional = head.attributes & TRANSACTIONAL != 0;
        is_aborted = is_transactional && aborted.open.contains(&head.producer_id);
    }
    if is_control || is_aborted || head.count == 0 {
        checked(batch)?;
        return Ok(false);
    }
    Ok(true)
}

fn checked(batch: &Bytes) -> Result<ottla_record_batch::BatchView, Unreadable> {
    match RecordSet::from(batch.clone()).batches().next() {
        Some(Ok(view)) => Ok(view),
        _ => Err(Unreadable),
    }
}

/// The type in a control batch's record: its key is a version and the type.
fn control_type(batch: &Bytes) -> Result<Option<i16>, Unreadable> {
    let mut records = checked(batch)?.records_within(CONTROL_BYTES_MAX);
    let record = match records.next() {
        Some(record) => record.map_err(|_| Unreadable)?,
        None => return Ok(None),
    };
    let key = record.key.unwrap_or_default();
    Ok(field(&key, 2).map(i16::from_be_bytes))
}

fn field<const N: usize>(data: &[u8], at: usize) -> Option<[u8; N]> {
    data.get(at..)?.first_chunk().copied()
}

/// The ranges as one: shared where it is one range, else copied.
fn join(records: &Bytes, kept: &[Range<usize>]) -> Bytes {
    match kept {
        [] => Bytes::new(),
        [one] => records.slice(one.clone()),
        several => {
            let size = several.iter().map(ExactSizeIterator::len).sum();
            let mut joined = BytesMut::with_capacity(size);
            for range in several {
                joined.extend_from_slice(&records[range.clone()]);
            }
            joined.freeze()
        }
    }
}

impl Aborted {
    /// Brokers do not all sort the list.
    fn new(mut listed: Vec<(i64, Offset)>) -> Self {
        listed.sort_unstable_by_key(|(_, first)| std::cmp::Reverse(*first));
        Self {
            to_come: listed,
            open: HashSet::new(),
        }
    }

    /// Takes up the transactions that begin at or below the offset.
    fn advance(&mut self, offset: Offset) {
        while let Some((producer, _)) = self.to_come.pop_if(|(_, first)| *first <= offset) {
            self.open.insert(producer);
        }
    }
}
