//! The gauge of what waits for its result.

use super::*;
use metrics::{
    Counter, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};

/// Keeps the gauge of the buffered bytes, and the most that it has shown.
#[derive(Default)]
struct Buffered {
    now: Mutex<f64>,
    most: Mutex<f64>,
}

impl GaugeFn for Buffered {
    fn increment(&self, value: f64) {
        let mut now = self.now.lock().expect("no panic");
        *now += value;
        let mut most = self.most.lock().expect("no panic");
        *most = most.max(*now);
    }

    fn decrement(&self, value: f64) {
        self.increment(-value);
    }

    fn set(&self, value: f64) {
        let now = *self.now.lock().expect("no panic");
        self.increment(value - now);
    }
}

struct Only(Arc<Buffered>);

impl Recorder for Only {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        assert_eq!(key.name(), "ottla_producer_buffered_bytes");
        Gauge::from_arc(Arc::clone(&self.0))
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

/// Runs producers on this thread's own metrics; at the end nothing may be said to be buffered. Gives the
/// most that was.
fn most_buffered<F: Future<Output = ()>>(run: impl FnOnce(Arc<Buffered>) -> F) -> f64 {
    let gauge = Arc::new(Buffered::default());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .expect("a runtime");
    metrics::with_local_recorder(&Only(Arc::clone(&gauge)), || {
        runtime.block_on(run(Arc::clone(&gauge)));
        // What the sender's task does at its end counts, too.
        drop(runtime);
    });
    assert_eq!(*gauge.now.lock().expect("no panic"), 0.0);
    *gauge.most.lock().expect("no panic")
}

fn value(gauge: &Buffered) -> f64 {
    *gauge.now.lock().expect("no panic")
}

/// So that callers send themselves, or the task does.
fn config(is_direct: bool) -> ProducerConfig {
    ProducerConfig {
        linger: ms(if is_direct { 0 } else { 20 }),
        ..ProducerConfig::default()
    }
}

#[test]
fn nothing_is_buffered_after_success() {
    for is_direct in [true, false] {
        let most = most_buffered(|gauge| async move {
            let (producer, _fake) = written().start(config(is_direct));
            for n in 0..3 {
                producer
                    .send(to(n % 2, "x".repeat(100)))
                    .await
                    .expect("written");
                assert_eq!(value(&gauge), 0.0, "as soon as the result is there");
            }
            drop(producer);
        });
        assert!(most >= 100.0, "{most}");
    }
}

#[test]
fn nothing_is_buffered_after_failure() {
    let too_large = Reply::Refuse(ErrorCode::MESSAGE_TOO_LARGE);
    for reply in [too_large, Reply::Panic, Reply::Hang] {
        let most = most_buffered(|gauge| async move {
            let config = ProducerConfig {
                delivery_timeout: ms(4_000),
                ..config(true)
            };
            let (producer, _fake) = Fake::new(move |_, _, _| (ms(1), reply)).start(config);
            producer
                .send(to(0, "x".repeat(100)))
                .await
                .expect_err("failed");
            assert_eq!(value(&gauge), 0.0, "{reply:?}");
            drop(producer);
        });
        assert!(most >= 100.0, "{most}");
    }
}

#[test]
fn nothing_is_buffered_after_a_close_or_a_drop_with_records_under_way() {
    for is_closed in [true, false] {
        let most = most_buffered(|gauge| async move {
            let (producer, _fake) = Fake::new(|_, _, _| (ms(0), Reply::Hang)).start(config(true));
            // One whose topic is never known, and two of a batch that is never answered.
            let silent = producer.enqueue(Record::new("silent").value("x".repeat(100)));
            let sent = [0, 1].map(|_| producer.enqueue(to(0, "x".repeat(100))));
            tokio::time::sleep(ms(50)).await;
            assert!(value(&gauge) >= 300.0, "{}", value(&gauge));
            if is_closed {
                assert!(!producer.close(ms(100)).await.is_clean());
                assert_eq!(value(&gauge), 0.0);
            }
            drop(producer);
            assert_eq!(value(&gauge), 0.0);
            for handle in sent.into_iter().chain([silent]) {
                handle.await.expect_err("closed");
            }
        });
        assert!(most >= 300.0, "{most}");
    }
}

#[test]
fn reports_weigh_until_they_are_read_or_dropped() {
    for is_read in [true, false] {
        most_buffered(|gauge| async move {
            let (producer, _fake) = written().start(config(true));
            let mut reports = producer.reports().expect("not taken yet");
            producer
                .send(to(0, "x".repeat(100)))
                .await
                .expect("written");
            assert!(value(&gauge) >= 100.0);
            match is_read {
                true => drop(reports.recv().await.expect("a report")),
                false => drop(reports),
            }
            assert_eq!(value(&gauge), 0.0);
            drop(producer);
        });
    }
}

#[test]
fn producers_share_the_gauge() {
    most_buffered(|gauge| async move {
        let (slow, _slow) = Fake::new(|_, _, _| (ms(1_000), Reply::Write)).start(config(true));
        let (quick, _quick) = written().start(config(true));
        let waiting = slow.enqueue(to(0, "x".repeat(100)));
        tokio::time::sleep(ms(50)).await;
        let before = value(&gauge);
        quick.send(to(0, "y")).await.expect("written");
        assert_eq!(value(&gauge), before);
        waiting.await.expect("written");
        drop((slow, quick));
    });
}
