//! The accumulator on a virtual clock.

mod batching;
mod ending;
mod failing;
mod property;
mod sequences;

use super::*;
use crate::handle::DeliveryHandle;
use crate::partition::from_fn;
use futures_util::FutureExt as _;
use ottla_client::PartitionMetadata;
use ottla_client::transport::Produced;
use ottla_record_batch::EncodedBatch;
use ottla_types::{ErrorCode, Fate, PublishErrorKind, Record, RecordMetadata};
use std::num::NonZeroU32;
use std::time::Duration;

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn described(topic: &str, partitions: i32) -> Arc<TopicMetadata> {
    let partition = |id| PartitionMetadata {
        id,
        leader: Some(0),
        leader_epoch: None,
        replicas: vec![0],
        isr: vec![0],
    };
    Arc::new(TopicMetadata {
        name: topic.into(),
        topic_id: None,
        partitions: (0..partitions).map(partition).collect(),
        is_internal: false,
    })
}

/// The system's clock shows second 1 for ever.
struct At(Instant);

impl Clocks for At {
    fn now(&self) -> Instant {
        self.0
    }

    fn since_epoch(&self) -> Duration {
        Duration::from_secs(1)
    }
}

struct Bed {
    acc: Accumulator,
    now: Instant,
    next_offset: i64,
    gate: Option<Instant>,
}

impl Bed {
    /// A topic `t` with so many partitions, known.
    fn new(config: ProducerConfig, partitions: i32) -> Self {
        let mut bed = Self::unknown(config);
        let (handle, topic) = (bed.put(Record::new("t").partition(0)), Arc::from("t"));
        assert_eq!(bed.acc.take_wanted(), [Arc::clone(&topic)]);
        let next = bed
            .acc
            .apply_topic(&topic, Ok(described("t", partitions)), bed.now);
        assert_eq!(next, TopicNext::Known);
        bed.acc.flush();
        let first = bed.drain();
        bed.write(first);
        assert!(bed.result(handle).is_some_and(|r| r.is_ok()));
        bed.next_offset = 0;
        bed
    }

    fn unknown(config: ProducerConfig) -> Self {
        config.validate().expect("a valid configuration");
        let partitioner = config.partitioner.build(1);
        let mut capabilities = Capabilities::minimal();
        capabilities.idempotence = config.idempotence == Some(true);
        Self {
            acc: Accumulator::new(config, &capabilities, partitioner, 1),
            now: Instant::now(),
            next_offset: 0,
            gate: None,
        }
    }

    fn put(&mut self, record: Record) -> DeliveryHandle {
        self.try_put(record).expect("room in the buffer")
    }

    fn try_put(&mut self, record: Record) -> Option<DeliveryHandle> {
        self.acc.enqueue(&record, Caller::Insists, At(self.now))
    }

    fn drain(&mut self) -> Vec<Dispatch> {
        let gate = self.gate;
        self.acc.expire(self.now);
        self.acc.drain(self.now, &mut |_| gate)
    }

    fn write(&mut self, dispatches: Vec<Dispatch>) {
        for dispatch in dispatches {
            let produced = Produced {
                base_offset: Some(self.next_offset),
                log_append_time_ms: None,
            };
            self.next_offset += i64::from(dispatch.batch.record_count());
            let token = dispatch.token;
            // As a transport does before it answers.
            drop(dispatch);
            self.acc.complete(token, Ok(produced), false, self.now);
        }
    }

    fn fail(&mut self, dispatch: Dispatch, error: Error) -> Completed {
        let token = dispatch.token;
        self.acc.complete(token, Err(error), false, self.now)
    }

    /// Resolves the handles.
    fn settle(&mut self) {
        if let Some(effects) = self.acc.take_effects() {
            effects.apply();
        }
    }

    fn result(
        &mut self,
        mut handle: DeliveryHandle,
    ) -> Option<Result<RecordMetadata, PublishError>> {
        self.settle();
        (&mut handle).now_or_never()
    }

    fn error(&mut self, handle: DeliveryHandle) -> PublishError {
        let result = self.result(handle).expect("a result");
        result.expect_err("an error")
    }
}

fn to_zero(value: usize) -> Record {
    Record::new("t").partition(0).value(vec![b'x'; value])
}

/// Whether the batch is sent again, and whether its topic is looked up anew.
fn is_sent_again(completed: &Completed) -> Option<bool> {
    match completed {
        Completed::Again { refresh, .. } => Some(*refresh),
        _ => None,
    }
}

fn values(batch: &EncodedBatch) -> Vec<String> {
    let mut values = Vec::new();
    for view in batch.clone().into_record_set().batches() {
        for record in view.expect("a batch").records() {
            let value = record.expect("a record").value.unwrap_or_default();
            values.push(String::from_utf8_lossy(&value).into_owned());
        }
    }
    values
}

fn config() -> ProducerConfig {
    ProducerConfig {
        linger: ms(10),
        delivery_timeout: ms(1_000),
        topic_unknown_timeout: ms(200),
        ..ProducerConfig::default()
    }
}

fn lost() -> Error {
    Error::new(ErrorKind::ConnectionLost, "Produce").with_fate(Fate::MaybeWritten)
}
