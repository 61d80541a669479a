//! Our own contender reading in a group: a batch handler, a handler that does nothing, and one that
//! works on many records at a time.

use super::parallel::{CONCURRENCY, Plan, Worker};
use super::workload::touch;
use super::{Mode, Task};
use crate::Failure;
use ottla::client::Client;
use ottla::consumer::{
    App, AutoOffsetReset, BatchHandler, BatchOutcome, Handler, Outcome, Registration, RunningApp,
};
use ottla::types::ConsumedRecord;
use ottla::{ConsumerConfig, Context};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};
use tokio::sync::Notify;

/// Records of one call of the batch handler: the default of `max.poll.records` in the Java client.
const BATCH_RECORDS_MAX: usize = 500;
/// Where offsets are committed by the clock, in every client; see `integration/peers/README.md`.
pub(super) const COMMIT_EVERY: Duration = Duration::from_millis(100);

/// A group that reads.
pub(super) struct Reader {
    app: RunningApp,
    counter: Arc<Counter>,
    worker: Option<Arc<Worker>>,
}

impl Reader {
    pub(super) async fn start(client: &Client, task: &Task) -> Result<Self, Failure> {
        let counter = Arc::new(Counter::new(task.records));
        let mut config = ConsumerConfig {
            auto_offset_reset: AutoOffsetReset::Earliest,
            queued_max_bytes: task.buffer_bytes,
            ..ConsumerConfig::default()
        };
        if task.mode != Mode::Consume {
            config.commit_interval = COMMIT_EVERY;
        }
        let (topics, group) = ([task.topic.as_str()], task.group.as_str());
        let mut worker = None;
        let registration = match task.mode {
            Mode::Parallel => {
                let plan = Plan::new(task.records);
                let handler = Arc::new(Worker::new(plan, counter.clone())?);
                worker = Some(handler.clone());
                Registration::new(group, topics, handler).concurrency(CONCURRENCY)
            }
            Mode::Runner => Registration::new(group, topics, Count(counter.clone())),
            _ => {
                let handler = Touch(counter.clone());
                Registration::batch(group, topics, BATCH_RECORDS_MAX, Duration::ZERO, handler)
            }
        };
        let mut app = App::new(client, config);
        app.register(registration);
        let app = app.start().await?;
        Ok(Self {
            app,
            counter,
            worker,
        })
    }

    /// Returns what is to be told when all records were read.
    pub(super) async fn finished(&self) -> Result<Value, Failure> {
        let (seconds, sum) = self.counter.finished(&self.app).await?;
        let mut line = json!({"records": self.counter.wanted, "seconds": seconds, "sum": sum});
        if let Some(worker) = &self.worker {
            if worker.wrong() > 0 {
                return Err(format!("{} calls were out of order", worker.wrong()).into());
            }
            line["ideal_s"] = json!(worker.ideal().as_secs_f64());
        }
        Ok(line)
    }

    /// Commits and leaves the group.
    pub(super) async fn close(self, within: Duration) -> Result<(), Failure> {
        let report = self.app.shutdown(within).await;
        if report.clean {
            Ok(())
        } else {
            Err(format!("the group was not left in order: {report:?}").into())
        }
    }
}

/// What has been handled, and when.
#[derive(Debug)]
pub(super) struct Counter {
    wanted: u64,
    first: OnceLock<Instant>,
    last: OnceLock<Instant>,
    records: AtomicU64,
    sum: AtomicU64,
    done: Notify,
}

impl Counter {
    pub(super) fn new(wanted: u64) -> Self {
        Self {
            wanted,
            first: OnceLock::new(),
            last: OnceLock::new(),
            records: AtomicU64::new(0),
            sum: AtomicU64::new(0),
            done: Notify::new(),
        }
    }

    /// A call begins; the first one is when the clock starts.
    pub(super) fn begin(&self) {
        self.first.get_or_init(Instant::now);
    }

    /// So many records more are handled.
    pub(super) fn add(&self, count: u64, sum: u64) {
        // Who only counts shares one number between its threads, not two.
        if sum != 0 {
            self.sum.fetch_add(sum, Ordering::AcqRel);
        }
        if self.records.fetch_add(count, Ordering::AcqRel) + count >= self.wanted {
            self.last.get_or_init(Instant::now);
            self.done.notify_one();
        }
    }

    async fn finished(&self, app: &RunningApp) -> Result<(f64, u64), Failure> {
        tokio::select! {
            () = self.done.notified() => {}
            error = app.failed() => return Err(error.into()),
        }
        let (Some(first), Some(last)) = (self.first.get(), self.last.get()) else {
            return Err("the end came before the beginning".into());
        };
        let read = self.records.load(Ordering::Acquire);
        if read != self.wanted {
            return Err(format!("{read} records were read, not {}", self.wanted).into());
        }
        let seconds = last.duration_since(*first).as_secs_f64();
        Ok((seconds, self.sum.load(Ordering::Acquire)))
    }
}

struct Touch(Arc<Counter>);

impl BatchHandler for Touch {
    async fn handle_batch(&self, _context: &Context, records: &[ConsumedRecord]) -> BatchOutcome {
        self.0.begin();
        let touched = records.iter().map(|record| {
            let key = record.key.as_deref().unwrap_or_default();
            touch(key, record.value.as_deref().unwrap_or_default())
        });
        self.0.add(records.len() as u64, touched.sum());
        BatchOutcome::Done
    }
}

struct Count(Arc<Counter>);

impl Handler for Count {
    async fn handle(&self, _context: &Context, _record: &ConsumedRecord) -> Outcome {
        self.0.begin();
        self.0.add(1, 0);
        Outcome::Done
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::client::{connect, fill};
    use super::super::workload::Workload;
    use super::*;
    use ottla::mock_cluster::MockCluster;
    use ottla::types::{Headers, TimestampType};

    /// A record of `topic` with nothing in it.
    pub(in super::super) fn consumed(topic: &Arc<str>) -> ConsumedRecord {
        ConsumedRecord {
            topic: topic.clone(),
            partition: 0,
            offset: 0,
            leader_epoch: None,
            timestamp_ms: 0,
            timestamp_type: TimestampType::CreateTime,
            key: None,
            value: None,
            headers: Headers::new(),
        }
    }

    /// Writes the records of `mode`, reads them in the group, and returns what is told of it and
    /// what the group has committed.
    async fn read_back(mode: Mode, records: u64) -> (Task, Value, i64) {
        let cluster = MockCluster::builder().brokers(1).start().await.unwrap();
        let mut task = Task::new(mode, cluster.bootstrap(), "t");
        task.records = records;
        cluster.create_topic("t", task.partitions).unwrap();
        let client = connect(ottla_client::TransportKind::default(), &task)
            .await
            .unwrap();
        fill(&client, &task).await.unwrap();
        assert_eq!(cluster.records("t").len() as u64, records);

        let reader = Reader::start(&client, &task).await.unwrap();
        let read = tokio::time::timeout(Duration::from_secs(30), reader.finished());
        let line = read.await.unwrap().unwrap();
        reader.close(Duration::from_secs(10)).await.unwrap();
        let committed = client
            .admin()
            .group_offsets(&task.group, None)
            .await
            .unwrap();
        let offsets = committed
            .into_iter()
            .map(|(_, offset)| offset.unwrap().unwrap().offset);
        let committed = offsets.sum();
        client.close().await;
        cluster.shutdown().await;
        (task, line, committed)
    }

    #[tokio::test]
    async fn what_is_written_is_read_and_adds_up() {
        let (task, line, _) = read_back(Mode::Consume, 2_500).await;
        assert_eq!(
            line["sum"],
            Workload::new(task.value_bytes).sum(task.records)
        );
    }

    #[tokio::test]
    async fn a_handler_that_does_nothing_leaves_everything_committed() {
        let (_, line, committed) = read_back(Mode::Runner, 2_500).await;
        assert_eq!(line["records"], 2_500);
        assert_eq!(committed, 2_500);
    }

    #[tokio::test]
    async fn parallel_takes_the_ideal_time_or_more_and_keeps_the_order() {
        let (_, line, committed) = read_back(Mode::Parallel, 1_000).await;
        let of = |name: &str| line[name].as_f64().unwrap();
        assert!(
            of("ideal_s") > 0.0 && of("seconds") >= of("ideal_s"),
            "{line}"
        );
        assert_eq!(committed, 1_000);
    }
}
