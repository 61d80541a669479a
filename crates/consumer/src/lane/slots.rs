//! [`Slots`]: the records that are handed over together, in memory that is used again. A record that
//! takes the place of another one keeps its topic's name, which all of a lane share.

use ottla_types::{ConsumedRecord, Headers, TimestampType, TopicPartition};
use std::ops::Deref;

/// Records, and room for more.
#[derive(Debug, Default)]
pub(super) struct Slots {
    records: Vec<ConsumedRecord>,
    /// How many of them are records; the others hold nothing.
    len: usize,
}

impl Slots {
    /// The slot behind the last record, to be written and then [taken](Self::take).
    #[inline]
    pub(super) fn next(&mut self, partition: &TopicPartition) -> &mut ConsumedRecord {
        if self.len == self.records.len() {
            self.records.push(ConsumedRecord {
                topic: partition.topic.clone(),
                partition: partition.partition,
                offset: 0,
                leader_epoch: None,
                timestamp_ms: 0,
                timestamp_type: TimestampType::CreateTime,
                key: None,
                value: None,
                headers: Headers::new(),
            });
        }
        &mut self.records[self.len]
    }

    /// The slot behind the last record is a record now.
    #[inline]
    pub(super) fn take(&mut self) {
        self.len += 1;
    }

    /// Room for so many records.
    pub(super) fn with_capacity(records: usize) -> Self {
        Self {
            records: Vec::with_capacity(records),
            len: 0,
        }
    }

    /// The records alone.
    pub(super) fn into_records(mut self) -> Vec<ConsumedRecord> {
        self.records.truncate(self.len);
        self.records
    }

    /// Takes out the records from `from` on that `is_out` says, and keeps their room.
    pub(super) fn remove(&mut self, from: usize, is_out: impl Fn(&ConsumedRecord) -> bool) {
        let mut kept = from;
        for at in from..self.len {
            if !is_out(&self.records[at]) {
                self.records.swap(kept, at);
                kept += 1;
            }
        }
        self.records[kept..self.len].iter_mut().for_each(let_go);
        self.len = kept;
    }

    /// Lets go of what the records hold and keeps their room.
    pub(super) fn clear(&mut self) {
        // A record that was written and not taken may be there too.
        let written = self.records.len().min(self.len + 1);
        self.records[..written].iter_mut().for_each(let_go);
        self.len = 0;
    }
}

fn let_go(record: &mut ConsumedRecord) {
    record.key = None;
    record.value = None;
    if !record.headers.is_empty() {
        record.headers = Headers::new();
    }
}

impl Deref for Slots {
    type Target = [ConsumedRecord];

    fn deref(&self) -> &[ConsumedRecord] {
        &self.records[..self.len]
    }
}
