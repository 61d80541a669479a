//! `parallel`: one partition, handlers that take up to 5 ms, many calls at a time, the order of each
//! key kept. What it took is set beside the time below which nobody can get.

use super::alarm::Alarm;
use super::reader::Counter;
use ottla::Context;
use ottla::consumer::{Handler, Outcome};
use ottla::types::{ConsumedRecord, Record};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

/// Calls in progress.
pub(super) const CONCURRENCY: usize = 100;
pub(super) const KEYS: usize = 200;
pub(super) const CALL_US_MAX: u64 = 5_000;
/// Every run and every contender has the same keys and times.
const SEED: u64 = 0x0077_1a5e_ed00;

/// For each record its key and how long it is worked on.
#[derive(Debug)]
pub(super) struct Plan(Vec<(usize, Duration)>);

impl Plan {
    pub(super) fn new(records: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(SEED);
        let step = |_| {
            let micros = random.u64(0..=CALL_US_MAX);
            (random.usize(0..KEYS), Duration::from_micros(micros))
        };
        Self((0..records).map(step).collect())
    }

    /// Record `i`: its value is its number.
    pub(super) fn record(&self, topic: &Arc<str>, i: u64) -> Record {
        let (key, _) = self.0[i as usize];
        Record::new(topic.clone())
            .key(format!("key-{key:03}"))
            .value(i.to_string())
    }

    /// The longest key, or the sum over the calls in progress, whichever is larger.
    pub(super) fn ideal(&self) -> Duration {
        let mut keys = [Duration::ZERO; KEYS];
        for (key, time) in &self.0 {
            keys[*key] += *time;
        }
        let sum: Duration = keys.iter().sum();
        let longest = keys.into_iter().max().unwrap_or_default();
        longest.max(sum / CONCURRENCY as u32)
    }
}

/// What is watched of a key.
#[derive(Debug)]
struct Key {
    is_busy: AtomicBool,
    /// The number of the record that was handled last.
    last: AtomicI64,
}

/// Works on each record for the time that the plan says.
#[derive(Debug)]
pub(super) struct Worker {
    plan: Plan,
    alarm: Alarm,
    keys: Vec<Key>,
    wrong: AtomicU64,
    counter: Arc<Counter>,
}

impl Worker {
    pub(super) fn new(plan: Plan, counter: Arc<Counter>) -> std::io::Result<Self> {
        let key = || Key {
            is_busy: AtomicBool::new(false),
            last: AtomicI64::new(-1),
        };
        Ok(Self {
            plan,
            alarm: Alarm::start()?,
            keys: std::iter::repeat_with(key).take(KEYS).collect(),
            wrong: AtomicU64::new(0),
            counter,
        })
    }

    pub(super) fn ideal(&self) -> Duration {
        self.plan.ideal()
    }

    /// Calls that came out of order, or while another one of their key was in progress, or for a
    /// record that is not of the plan.
    pub(super) fn wrong(&self) -> u64 {
        self.wrong.load(Ordering::Acquire)
    }

    async fn work(&self, record: &ConsumedRecord) -> bool {
        let text = record
            .value
            .as_deref()
            .and_then(|v| std::str::from_utf8(v).ok());
        let number = text.and_then(|text| text.parse::<usize>().ok());
        let Some((number, (key, time))) = number.and_then(|n| Some((n, self.plan.0.get(n)?)))
        else {
            return false;
        };
        let key = &self.keys[*key];
        let is_alone = !key.is_busy.swap(true, Ordering::AcqRel);
        let number = number as i64;
        let is_next = key.last.swap(number, Ordering::AcqRel) < number;
        self.alarm.sleep(*time).await;
        key.is_busy.store(false, Ordering::Release);
        is_alone && is_next
    }
}

impl Handler for Worker {
    async fn handle(&self, _context: &Context, record: &ConsumedRecord) -> Outcome {
        self.counter.begin();
        if !self.work(record).await {
            self.wrong.fetch_add(1, Ordering::AcqRel);
        }
        self.counter.add(1, 0);
        Outcome::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(steps: &[(usize, u64)]) -> Plan {
        let step = |&(key, ms): &(usize, u64)| (key, Duration::from_millis(ms));
        Plan(steps.iter().map(step).collect())
    }

    #[test]
    fn the_ideal_is_the_longest_key_or_the_sum_over_the_calls() {
        let one_key = plan(&[(1, 30), (1, 30), (2, 40)]);
        assert_eq!(one_key.ideal(), Duration::from_millis(60));
        let many: Vec<(usize, u64)> = (0..2_000).map(|i| (i % KEYS, 4)).collect();
        assert_eq!(plan(&many).ideal(), Duration::from_millis(80));
        assert_eq!(plan(&[]).ideal(), Duration::ZERO);
    }

    #[test]
    fn plans_are_the_same_in_every_process() {
        let (a, b) = (Plan::new(500), Plan::new(500));
        assert_eq!(a.0, b.0);
        let within = |(key, time): &(usize, Duration)| {
            *key < KEYS && *time <= Duration::from_micros(CALL_US_MAX)
        };
        assert!(a.0.iter().all(within));
    }

    #[tokio::test]
    async fn a_call_out_of_order_is_seen() {
        let worker = Worker::new(plan(&[(0, 0), (0, 0)]), Arc::new(Counter::new(2))).unwrap();
        let topic: Arc<str> = "t".into();
        let consumed = |i: u64| {
            let record = worker.plan.record(&topic, i);
            let mut consumed = crate::bench::reader::tests::consumed(&topic);
            (consumed.key, consumed.value) = (record.key, record.value);
            consumed
        };
        assert!(worker.work(&consumed(1)).await);
        assert!(!worker.work(&consumed(0)).await, "1 was there before it");
        let mut foreign = consumed(0);
        foreign.value = Some("x".into());
        assert!(!worker.work(&foreign).await);
    }
}
