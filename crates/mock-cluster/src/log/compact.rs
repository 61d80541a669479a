//! Compaction: the last record of each key stays, at its offset. Pure.
//!
//! Kafka leaves the active segment alone; here that is the last batch, and what lies above the last
//! stable offset. Markers stay, aborted data goes, compressed batches are not looked into. A batch
//! that lost every record stays as an empty one while it is the last of its producer, so that the
//! producer's sequence is not lost; others go, and leave a gap.

use std::collections::HashMap;

use bytes::Bytes;

use super::Log;

impl Log {
    pub(crate) fn compact(&mut self) {
        let end = self.last_stable_offset();
        let tail = self.batches.last().map_or(0, |last| last.base_offset);
        let mut last_of_key: HashMap<Bytes, i64> = HashMap::new();
        for batch in &self.batches {
            if batch.is_control() || batch.base_offset >= end || self.producers.is_aborted(batch) {
                continue;
            }
            for record in batch.records(0).into_iter().flatten() {
                if let Some(key) = record.key {
                    last_of_key.insert(key, record.offset);
                }
            }
        }
        let mut kept = Vec::with_capacity(self.batches.len());
        for batch in std::mem::take(&mut self.batches) {
            let clean = batch.base_offset < end.min(tail) && batch.codec() == 0;
            if batch.is_control() || !clean {
                kept.push(batch);
                continue;
            }
            let is_aborted = self.producers.is_aborted(&batch);
            let slim = batch.filtered(|key, offset| {
                !is_aborted && key.is_some_and(|key| last_of_key.get(key) == Some(&offset))
            });
            let holds_sequence = self
                .producers
                .ends_at(batch.producer_id, batch.last_offset());
            if slim.record_count > 0 || holds_sequence {
                kept.push(slim);
            }
        }
        self.batches = kept;
        self.bytes = self.batches.iter().map(|batch| batch.bytes.len()).sum();
    }
}
