//! Connections that end at the wrong time, and code that panics in the connection's task: every batch
//! is answered once, and the broker is tried again when its caller does.

use super::NativeTransport;
use super::leaders_tests::{PATIENCE, Writer, batch, endpoint, p};
use crate::transport::{Answer, Outgoing, ProduceOptions, Transport};
use crate::{Error, ErrorKind};
use metrics::{
    Counter, CounterFn, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit,
};
use ottla_mock_cluster::{Action, ApiKey, Fault};
use ottla_types::Fate;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;

impl Writer {
    /// The same on one broker for both partitions, with no connection to it yet.
    async fn fresh() -> Self {
        let mut writer = Self::new().await;
        let (leader, _) = writer.bed.mock.leader("t", 0).unwrap();
        let mock = &writer.bed.mock;
        mock.move_leader("t", 1, leader.unwrap()).unwrap();
        writer.bed.cluster.refresh_topic("t").await.unwrap();
        writer.transport = NativeTransport::new(writer.bed.cluster.clone());
        writer
    }

    /// Hands batches for these partitions over, all in one call; their tokens count from 0. Gives the
    /// answers in that order.
    async fn write(&mut self, partitions: &[i32]) -> Vec<Answer> {
        let outgoing = |(token, partition): (usize, &i32)| Outgoing {
            token: token as u64,
            partition: p(*partition),
            batch: batch(&token.to_string()),
        };
        let options = ProduceOptions {
            timeout: PATIENCE,
            ..ProduceOptions::default()
        };
        let batches: Vec<_> = partitions.iter().enumerate().map(outgoing).collect();
        self.transport.produce(&options, batches, &self.sink);
        let mut arrived = Vec::new();
        while arrived.len() < partitions.len() {
            let receiving = self.answers.recv(&mut arrived);
            timeout(PATIENCE, receiving).await.unwrap();
        }
        arrived.sort_by_key(|answer| answer.token);
        let tokens: Vec<_> = arrived.iter().map(|answer| answer.token).collect();
        assert_eq!(tokens, Vec::from_iter(0..partitions.len() as u64));
        arrived
    }

    /// All of them, which were refused by the way to the broker.
    async fn write_in_vain(&mut self, partitions: &[i32]) {
        for answer in self.write(partitions).await {
            let error = answer.result.unwrap_err();
            assert!(error.is_retriable(), "{error:?}");
            assert_eq!(error.fate(), Fate::NotWritten);
        }
    }

    /// Nothing but the last batch is left to be answered for.
    async fn write_last(&mut self) {
        self.put(&p(0), "last", PATIENCE);
        self.answer().await.result.unwrap();
    }

    fn connects(&self) -> u64 {
        self.bed.mock.requests(ApiKey::ApiVersions)
    }
}

/// Panics when a counter goes up, once.
pub(super) struct Trap {
    pub(super) counter: &'static str,
    pub(super) is_set: Arc<AtomicBool>,
}

struct Spring(Arc<AtomicBool>);

impl CounterFn for Spring {
    fn increment(&self, _: u64) {
        assert!(!self.0.swap(false, Ordering::SeqCst), "the trap");
    }
    fn absolute(&self, _: u64) {}
}

impl Recorder for Trap {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        if key.name() == self.counter {
            Counter::from_arc(Arc::new(Spring(self.is_set.clone())))
        } else {
            Counter::noop()
        }
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test]
async fn a_panic_on_the_way_of_an_answer_loses_no_batch() {
    // Before the answer is read, and while it is handed out.
    for counter in [
        "ottla_client_requests_total",
        "ottla_client_produced_records_total",
    ] {
        let mut writer = Writer::fresh().await;
        writer.write_last().await;
        let before = writer.connects();
        let is_set = Arc::new(AtomicBool::new(true));
        let trap = Trap {
            counter,
            is_set: is_set.clone(),
        };
        // All that is here runs on this thread.
        let _guard = metrics::set_default_local_recorder(&trap);
        // Five requests at once, the first for two batches, and two that wait.
        let answers = writer.write(&[0, 1, 0, 0, 0, 0, 0, 0]).await;
        assert!(!is_set.load(Ordering::SeqCst), "{counter}");
        let state = |answer: Answer| {
            answer.result.map(drop).map_err(|error: Error| {
                assert_eq!(error.fate(), Fate::MaybeWritten, "{counter}: {error:?}");
                error.kind()
            })
        };
        let states: Vec<_> = answers.into_iter().map(state).collect();
        let (closed, lost) = (Err(ErrorKind::Closed), Err(ErrorKind::ConnectionLost));
        assert_eq!(states[..2], [closed, closed], "{counter}");
        assert_eq!(states[2..6], [lost; 4], "{counter}");
        assert_eq!(states[6..], [Ok(()); 2], "{counter}");
        writer.write_last().await;
        assert_eq!(writer.connects(), before + 1, "{counter}");
    }
}

#[tokio::test]
async fn a_panic_of_the_last_request_in_flight_holds_nothing_up() {
    let mut writer = Writer::fresh().await;
    writer.write_last().await;
    let trap = Trap {
        counter: "ottla_client_requests_total",
        is_set: Arc::new(AtomicBool::new(true)),
    };
    let _guard = metrics::set_default_local_recorder(&trap);
    let [one, other] = writer.write(&[0, 1]).await.try_into().unwrap();
    for answer in [one, other] {
        let error = answer.result.unwrap_err();
        assert_eq!(
            (error.kind(), error.fate()),
            (ErrorKind::Closed, Fate::MaybeWritten)
        );
    }
    writer.write_last().await;
}

#[tokio::test]
async fn a_connection_that_ends_at_once_answers_its_batches_and_is_made_again_for_the_next() {
    for action in [Action::Disconnect, Action::DropReply, Action::LastReply] {
        let mut writer = Writer::fresh().await;
        let fault = Fault::on(ApiKey::ApiVersions).times(3);
        let fault = writer.bed.mock.faults().add(fault.action(action));
        for round in 1..=3 {
            writer.write_in_vain(&[0, 1, 0, 1]).await;
            assert_eq!(fault.hits(), round, "one attempt for one call");
        }
        let connects = writer.connects();
        for answer in writer.write(&[0, 1, 0, 1]).await {
            answer.result.unwrap();
        }
        writer.write_last().await;
        assert_eq!(writer.connects(), connects + 1);
    }
}

#[tokio::test]
async fn a_port_that_closes_its_connections_unheard_is_tried_once_a_call() {
    let mut writer = Writer::fresh().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let accepted = Arc::new(AtomicUsize::new(0));
    let counter = accepted.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            drop(stream);
        }
    });
    // It is said to be the new leader of partition 0.
    let (_, epoch) = writer.bed.mock.leader("t", 0).unwrap();
    let endpoints = [endpoint(9, "127.0.0.1", port.into())];
    let leaders = writer.transport.leaders.clone();
    assert!(leaders.hint(&p(0), (9, epoch + 1), &endpoints));
    writer.write_in_vain(&[0, 0, 0]).await;
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
    // The cluster knows better.
    for broker in [1, 2, 3] {
        writer.bed.mock.move_leader("t", 0, broker).unwrap();
    }
    writer.write_last().await;
    assert_eq!(accepted.load(Ordering::SeqCst), 1);
}
