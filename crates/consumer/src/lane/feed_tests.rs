//! What a lane gets of what was fetched.

use super::feed::Feed;
use super::slots::Slots;
use super::{Chunk, LaneHandle, LaneLimits, LaneSetup, Progress};
use crate::handler::{BoxHandler, Context, Outcome, handler_fn};
use crate::latch::Latch;
use crate::status::MemberBoard;
use crate::work::Work;
use bytes::Bytes;
use ottla_group::{Gaps, METADATA_MAX};
use ottla_record_batch::{
    BatchBuilder, Compression, Compressor, DecodeError, RecordSet, RecordSetBuilder,
};
use ottla_types::{ConsumedRecord, Headers, Offset, TimestampType, TopicPartition};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;

const PART: usize = 256 << 10;

/// A feed, and the member's side of it.
struct Bed {
    feed: Feed,
    lane: LaneHandle,
    progress: Arc<Progress>,
}

impl Bed {
    fn at(position: Offset) -> Self {
        let progress = Arc::new(Progress::new(1, Arc::default()));
        progress.located(position, Some(position));
        let done = handler_fn(|_, _| async { Outcome::Done });
        let setup = LaneSetup {
            partition: TopicPartition::new("t", 0),
            incarnation: 1,
            position,
            work: Work::Each {
                handler: BoxHandler::new(done),
                concurrency: 1,
            },
            context: Context::new("g", "m"),
            outputs: crate::output::Outputs::Plain,
            progress: progress.clone(),
            board: Arc::new(MemberBoard::new("m".into())),
            limits: LaneLimits {
                processing: Duration::from_secs(1),
                backoff: Duration::from_secs(1),
                backoff_max: Duration::from_secs(1),
                part_bytes: PART,
            },
        };
        let (sender, inbox) = mpsc::channel(16);
        let drain = Latch::default();
        let lane = LaneHandle {
            inbox: sender,
            drain: drain.clone(),
            desk: None,
        };
        Self {
            feed: Feed::new(&setup, inbox, drain),
            lane,
            progress,
        }
    }

    fn send(&self, records: RecordSet, next_offset: Offset, reading: u64) {
        let chunk = Chunk {
            records,
            next_offset,
            reading,
        };
        self.progress.add_buffered(chunk.bytes());
        assert!(self.lane.send(chunk));
    }

    /// The records that one call of the handler may get; all before them are handled.
    fn next(&mut self, max: usize) -> Vec<ConsumedRecord> {
        self.feed.handled();
        let mut records = Slots::default();
        self.feed.fill(&mut records, max);
        while records.is_empty() && self.feed.take_next() {
            self.feed.fill(&mut records, max);
        }
        records.to_vec()
    }

    /// The offsets of all records that are there.
    fn rest(&mut self) -> Vec<Offset> {
        let mut offsets = Vec::new();
        loop {
            let records = self.next(3);
            if records.is_empty() {
                self.feed.handled();
                return offsets;
            }
            offsets.extend(records.iter().map(|record| record.offset));
        }
    }
}

fn records(offsets: &[Offset]) -> RecordSet {
    let mut set = RecordSetBuilder::new();
    for offset in offsets {
        let create = TimestampType::CreateTime;
        let headers = Headers::new();
        set.push(*offset, 1, create, None, Some(b"v"), &headers)
            .unwrap();
    }
    set.finish()
}

/// Batches at offset 0, the last one with a wrong checksum.
fn with_a_bad_end(values: &[&str]) -> RecordSet {
    let mut bytes = Vec::new();
    for value in values {
        let mut batch = BatchBuilder::new(1 << 10);
        let value = Some(value.as_bytes());
        batch.try_append(1, None, value, &Headers::new()).unwrap();
        bytes.extend_from_slice(&batch.finish().bytes());
    }
    *bytes.last_mut().unwrap() ^= 1;
    Bytes::from(bytes).into()
}

#[test]
fn records_below_the_position_are_left_out_and_all_bytes_are_given_back() {
    let mut bed = Bed::at(7);
    bed.send(records(&[5, 6, 7, 9]), 10, 0);
    assert!(bed.progress.buffered() > 0);
    assert_eq!(bed.rest(), [7, 9]);
    assert_eq!(bed.progress.handled(), Some(10));
    assert_eq!(bed.progress.buffered(), 0);
}

#[test]
fn what_holds_no_records_still_moves_the_position() {
    let mut bed = Bed::at(7);
    bed.send(RecordSet::default(), 12, 0);
    assert_eq!(bed.rest(), [0; 0]);
    assert_eq!(bed.progress.handled(), Some(12));
    bed.send(records(&[12]), 20, 0);
    assert_eq!(bed.rest(), [12]);
    assert_eq!(bed.progress.handled(), Some(20));
}

#[test]
fn nothing_counts_as_handled_before_it_is() {
    let mut bed = Bed::at(0);
    bed.send(records(&[0, 1, 2, 3]), 9, 0);
    assert_eq!(bed.next(2).len(), 2);
    assert_eq!(bed.progress.handled(), Some(0));
    assert_eq!(bed.next(2).len(), 2);
    assert_eq!(bed.progress.handled(), Some(2));
    assert_eq!(bed.next(2).len(), 0);
    bed.feed.handled();
    assert_eq!(bed.progress.handled(), Some(9));
}

#[test]
fn trap_c4_an_error_moves_nothing_and_what_was_behind_it_is_read_anew() {
    let mut bed = Bed::at(0);
    bed.send(with_a_bad_end(&["good", "bad"]), 5, 0);
    bed.send(records(&[5, 6]), 7, 0);
    assert_eq!(bed.next(9).len(), 1);
    assert!(bed.progress.take_trouble().is_none(), "not before the good");
    assert_eq!(bed.rest(), [0; 0]);
    let trouble = bed.progress.take_trouble().unwrap();
    assert_eq!(trouble.offset, 1);
    assert!(matches!(trouble.error, DecodeError::BadCrc { .. }));
    assert_eq!(bed.progress.handled(), Some(1));
    assert_eq!(bed.progress.buffered(), 0);
    bed.send(records(&[1, 2]), 3, 1);
    assert_eq!(bed.rest(), [1, 2]);
    assert!(bed.progress.take_trouble().is_none());
}

#[test]
fn trap_d_what_is_behind_a_marker_that_cannot_be_read_is_not_handed_out() {
    let marker = |key: &[u8], offset: Offset, cut: usize| {
        let mut batch = BatchBuilder::new(1 << 10);
        batch
            .try_append(1, Some(key), Some(b"v"), &Headers::new())
            .unwrap();
        let mut bytes = batch.finish().bytes().to_vec();
        bytes[..8].copy_from_slice(&offset.to_be_bytes());
        // A control batch, whose record may be shorter than it says.
        bytes[22] |= 1 << 5;
        bytes.truncate(bytes.len() - cut);
        let length = bytes.len() as i32 - 12;
        bytes[8..12].copy_from_slice(&length.to_be_bytes());
        let crc = crc32c::crc32c(&bytes[21..]);
        bytes[17..21].copy_from_slice(&crc.to_be_bytes());
        bytes
    };
    let around = |marker: Vec<u8>| {
        let mut all = marker;
        all.extend_from_slice(records(&[1, 2]).bytes());
        RecordSet::from(Bytes::from(all))
    };
    let mut bed = Bed::at(0);
    bed.send(around(marker(&[0; 4], 0, 0)), 3, 0);
    assert_eq!(bed.rest(), [1, 2]);
    assert!(bed.progress.take_trouble().is_none());

    let mut bed = Bed::at(0);
    bed.send(around(marker(&[0; 4], 0, 2)), 0, 0);
    assert_eq!(bed.rest(), [0; 0]);
    assert_eq!(bed.progress.take_trouble().map(|t| t.offset), Some(0));
    assert_eq!(bed.progress.buffered(), 0);
}

#[test]
fn trap_d_a_large_compressed_batch_is_worked_off_in_parts() {
    const RECORDS: usize = 64 << 10;
    let mut batch = BatchBuilder::new(80 << 20);
    for _ in 0..RECORDS {
        let value = Some(&[0; 1 << 10][..]);
        batch.try_append(1, None, value, &Headers::new()).unwrap();
    }
    let mut zstd = Compressor::new(Compression::Zstd).unwrap();
    let set = batch.finish_with(&mut zstd).into_record_set();
    let size = set.size();
    let mut bed = Bed::at(0);
    bed.send(set, RECORDS as i64, 0);
    let mut next = 0;
    loop {
        let records = bed.next(usize::MAX);
        if records.is_empty() {
            break;
        }
        for record in &records {
            assert_eq!(record.offset, next);
            assert_eq!(record.value.as_ref().map(Bytes::len), Some(1 << 10));
            next += 1;
        }
        let buffered = bed.progress.buffered();
        assert!(buffered <= size + 3 * PART, "{buffered}");
    }
    assert_eq!(next, RECORDS as i64);
    bed.feed.handled();
    assert_eq!(bed.progress.handled(), Some(next));
    assert_eq!(bed.progress.buffered(), 0);
}

#[test]
fn a_commit_names_the_leader_epoch_of_its_last_record() {
    let progress = Progress::new(1, Arc::default());
    progress.located(10, Some(10));
    progress.epoch_begins(10, 3);
    progress.epoch_begins(15, 4);
    let commit = |handled| {
        progress.mark_handled(handled);
        let commit = progress.start_commit().unwrap();
        progress.committed(commit.offset);
        (commit.offset, commit.leader_epoch)
    };
    assert_eq!(commit(15), (15, Some(3)));
    assert_eq!(commit(16), (16, Some(4)));
    progress.epoch_begins(20, 9);
    assert_eq!(commit(20), (20, Some(4)));
    assert_eq!(commit(30), (30, Some(9)));
}

/// Nobody has read what was handled before a restart, and its last record may be of a later epoch: to
/// name an earlier one makes the next reader believe that the log was cut.
#[test]
fn a_commit_that_goes_past_what_was_read_names_no_leader_epoch() {
    let before = Progress::new(4, Arc::default());
    before.located(10, Some(10));
    let tickets = before.dispatch(&[10, 11, 12].map(|at| crate::test_record("t", 0, at)));
    for ticket in tickets.unwrap().into_iter().skip(1).flatten() {
        before.done(ticket);
    }
    let text = before.start_commit().unwrap().metadata;
    let progress = Progress::new(1, Arc::default());
    progress.located_with(10, &text);
    progress.epoch_begins(10, 3);
    progress.mark_handled(11);
    let commit = progress.start_commit().unwrap();
    assert_eq!((commit.offset, commit.leader_epoch), (13, None));
    progress.commit_failed();
    progress.epoch_begins(12, 4);
    progress.mark_handled(13);
    let commit = progress.start_commit().unwrap();
    assert_eq!((commit.offset, commit.leader_epoch), (13, Some(4)));
}

/// Far apart, as compaction leaves them, offsets need long numbers: what a commit could not remember
/// waits.
#[test]
fn trap_c9_nothing_is_dispatched_that_a_commit_could_not_remember() {
    let progress = Progress::new(1 << 20, Arc::default());
    progress.located(0, Some(0));
    let mut random = fastrand::Rng::with_seed(3);
    let (mut offset, mut done, mut is_full) = (0, Vec::new(), false);
    while !is_full {
        let far = std::iter::repeat_with(|| {
            offset += 1 + random.i64(0..1 << 50);
            crate::test_record("t", 0, offset)
        });
        let records: Vec<_> = far.take(64).collect();
        let tickets = progress.dispatch(&records).unwrap();
        is_full = tickets.len() < records.len();
        // Every second one is handled.
        for ticket in tickets.into_iter().skip(1).step_by(2).flatten() {
            done.push(ticket.offset());
            progress.done(ticket);
        }
    }
    let commit = progress.start_commit().unwrap();
    assert!(commit.metadata.len() <= METADATA_MAX && commit.metadata.len() > METADATA_MAX / 2);
    let gaps = Gaps::decode(&commit.metadata, commit.offset).unwrap();
    assert!(done.iter().all(|offset| gaps.contains(*offset)));
}
