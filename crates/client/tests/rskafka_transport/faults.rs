//! What breaks: addresses, silent sockets, leaders that move, brokers that die, lost answers.

use crate::bed::*;
use ottla_client::ErrorKind;
use ottla_client::transport::{OffsetSpec, RskafkaTransport, Transport};
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster};
use ottla_types::{ErrorCode, Fate};
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

#[tokio::test]
async fn trap_a8_a_wrong_address_is_an_error_within_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let started = Instant::now();
    let error = RskafkaTransport::connect(settings(&address), started + SECOND / 2)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert_eq!(error.broker(), Some(&*address));
    assert!(std::error::Error::source(&error).is_some());
    assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());
}

#[tokio::test]
async fn trap_a7_a_socket_that_never_answers_is_an_error_within_the_deadline() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let started = Instant::now();
    let error = RskafkaTransport::connect(settings(&address), started + SECOND / 2)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect);
    assert!(started.elapsed() < SECOND, "{:?}", started.elapsed());

    let cluster = MockCluster::builder().start().await.unwrap();
    let both = format!("{address},{}", cluster.bootstrap());
    let started = Instant::now();
    RskafkaTransport::connect(settings(&both), started + PATIENCE)
        .await
        .unwrap();
    assert!(started.elapsed() < SECOND, "the silent one delays nothing");
}

#[tokio::test]
async fn trap_a7_a_request_without_an_answer_ends_and_is_made_again() {
    let (cluster, transport) = one_broker(1).await;
    produce(&transport, 0, &["a"], PATIENCE).await.unwrap();
    for api in [
        ApiKey::Produce,
        ApiKey::Fetch,
        ApiKey::ListOffsets,
        ApiKey::Metadata,
    ] {
        let hang = cluster.faults().add(Fault::on(api).action(Action::Hang));
        let before = written(&cluster).len();
        produce(&transport, 0, &["b"], PATIENCE).await.unwrap();
        assert_eq!(written(&cluster).len(), before + 1);
        fetch_again(&transport, 0, 0).await;
        let wanted = vec![(p(0), OffsetSpec::Earliest)];
        let offset = transport.list_offsets(PATIENCE, wanted).await.remove(0).1;
        assert_eq!(offset.unwrap().offset, 0);
        if api != ApiKey::Metadata {
            assert_eq!(hang.hits(), 1, "{api:?}");
        }
        cluster.faults().clear();
    }

    cluster
        .faults()
        .add(Fault::on(ApiKey::Produce).forever().action(Action::Hang));
    let started = Instant::now();
    let error = produce(&transport, 0, &["c"], 2 * SECOND)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
    assert_eq!(error.fate(), Fate::MaybeWritten);
    assert!(started.elapsed() < 3 * SECOND, "{:?}", started.elapsed());
}

#[tokio::test]
async fn trap_a6_a_leader_that_moves_is_found() {
    let cluster = MockCluster::builder().brokers(3).start().await.unwrap();
    cluster.create_topic("t", 1).unwrap();
    let transport = transport(&cluster).await;
    let mut position = 0;
    for (round, broker) in [1, 2, 3, 1, 3].into_iter().enumerate() {
        cluster.move_leader("t", 0, broker).unwrap();
        let value = format!("{round}");
        let produced = produce(&transport, 0, &[&value], PATIENCE).await.unwrap();
        assert_eq!(produced.base_offset, Some(position));
        let fetched = fetch_one(&transport, 0, position).await.unwrap();
        assert_eq!(values(&fetched), [value]);
        position = fetched.next_offset;
    }
    assert_eq!(
        written(&cluster).len(),
        5,
        "a refused batch is not written twice"
    );
}

#[tokio::test]
async fn trap_a6_a_broker_that_dies_and_comes_back_is_found() {
    let cluster = MockCluster::builder()
        .replicated(false)
        .start()
        .await
        .unwrap();
    cluster.create_topic("t", 1).unwrap();
    let transport = Arc::new(transport(&cluster).await);
    produce(&transport, 0, &["a"], PATIENCE).await.unwrap();
    assert_eq!(fetch_one(&transport, 0, 0).await.unwrap().next_offset, 1);

    cluster.kill(1).await.unwrap();
    let error = produce(&transport, 0, &["x"], SECOND / 2)
        .await
        .unwrap_err();
    assert!(error.is_retriable(), "{error}");
    let error = fetch_one(&transport, 0, 1).await.unwrap_err();
    assert!(error.is_retriable(), "{error}");
    assert_eq!(error.offset(), Some(1));

    let mut tasks = JoinSet::new();
    let writer = transport.clone();
    tasks.spawn(async move { produce(&writer, 0, &["b"], PATIENCE).await.map(drop) });
    cluster.restart(1).await.unwrap();
    tasks.join_next().await.unwrap().unwrap().unwrap();
    let fetched = fetch_again(&transport, 0, 1).await;
    assert!(values(&fetched).contains(&"b".to_owned()));
}

#[tokio::test]
async fn trap_a6_the_partitions_of_a_dead_broker_are_found_at_the_others() {
    let cluster = MockCluster::builder().brokers(3).start().await.unwrap();
    cluster.create_topic("t", 3).unwrap();
    let transport = transport(&cluster).await;
    for n in 0..3 {
        produce(&transport, n, &["a"], PATIENCE).await.unwrap();
        fetch_one(&transport, n, 0).await.unwrap();
    }
    cluster.kill(2).await.unwrap();
    for n in 0..3 {
        produce(&transport, n, &["b"], PATIENCE).await.unwrap();
        let fetched = fetch_one(&transport, n, 1).await.unwrap();
        assert_eq!(values(&fetched), ["b"]);
    }
}

#[tokio::test]
async fn trap_a6_nothing_is_lost_or_reordered_while_leaders_move_and_brokers_die() {
    const PARTITIONS: i32 = 4;
    const RECORDS: usize = 150;
    let cluster = MockCluster::builder().brokers(3).start().await.unwrap();
    cluster.create_topic("t", PARTITIONS).unwrap();
    let transport = Arc::new(transport(&cluster).await);
    let mut work = JoinSet::new();
    for partition in 0..PARTITIONS {
        let writer = transport.clone();
        work.spawn(async move {
            for n in 0..RECORDS {
                let value = n.to_string();
                produce(&writer, partition, &[&value], PATIENCE)
                    .await
                    .unwrap();
            }
        });
        let reader = transport.clone();
        work.spawn(async move {
            let (mut seen, mut position) = (0, 0);
            while seen < RECORDS {
                let fetched = fetch_again(&reader, partition, position).await;
                position = fetched.next_offset;
                for value in values(&fetched) {
                    let n: usize = value.parse().unwrap();
                    // A copy of the last one, where an answer was lost; never a step back or ahead.
                    assert!(n == seen || n + 1 == seen, "{n} after {seen} records");
                    seen = n + 1;
                }
            }
        });
    }
    let mut seed = 7u32;
    let mut random = move |below: i32| {
        seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (seed >> 16) as i32 % below
    };
    let chaos = async {
        for _ in 0..12 {
            let broker = 1 + random(3);
            cluster.kill(broker).await.unwrap();
            let at = cluster.requests(ApiKey::Produce);
            until("writing goes on", || {
                cluster.requests(ApiKey::Produce) > at + 3
            })
            .await;
            cluster.restart(broker).await.unwrap();
            for _ in 0..3 {
                let to = 1 + random(3);
                cluster.move_leader("t", random(PARTITIONS), to).unwrap();
                tokio::task::yield_now().await;
            }
        }
    };
    let done = async {
        while let Some(task) = work.join_next().await {
            task.unwrap()
        }
    };
    let both = async {
        tokio::pin!(done);
        tokio::select! {
            () = &mut done => {}
            () = chaos => done.await,
        }
    };
    timeout(3 * PATIENCE, both)
        .await
        .expect("everything is read");
}

#[tokio::test]
async fn trap_a9_codes_that_pass_are_retried() {
    let (cluster, transport) = one_broker(1).await;
    for code in [3, 5, 6, 7, 13, 19, 20, 56, 74, 75] {
        let refuse = Fault::on(ApiKey::Produce)
            .times(2)
            .action(Action::Refuse(code));
        let refused = cluster.faults().add(refuse);
        let before = written(&cluster).len();
        let produced = produce(&transport, 0, &["v"], PATIENCE).await;
        produced.unwrap_or_else(|e| panic!("code {code}: {e}"));
        assert_eq!(refused.hits(), 2, "code {code}");
        assert_eq!(written(&cluster).len(), before + 1);
    }
    for (code, fate) in [(19, Fate::NotWritten), (20, Fate::MaybeWritten)] {
        let refuse = Fault::on(ApiKey::Produce)
            .forever()
            .action(Action::Refuse(code));
        let refused = cluster.faults().add(refuse);
        let error = produce(&transport, 0, &["v"], SECOND / 2)
            .await
            .unwrap_err();
        assert_eq!(error.code(), Some(ErrorCode(code)));
        assert_eq!(error.fate(), fate);
        assert!((2..60).contains(&refused.hits()), "{} hits", refused.hits());
        refused.remove();
    }
    let refuse = Fault::on(ApiKey::Produce).action(Action::Refuse(10));
    let refused = cluster.faults().add(refuse);
    let error = produce(&transport, 0, &["v"], PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::RecordTooLarge);
    assert_eq!(refused.hits(), 1, "what does not pass is not retried");
}

#[tokio::test]
async fn trap_a10_a_lost_answer_means_a_second_copy_or_an_unknown_fate() {
    let (cluster, transport) = one_broker(1).await;
    cluster
        .faults()
        .add(Fault::on(ApiKey::Produce).action(Action::DropReply));
    produce(&transport, 0, &["a"], PATIENCE).await.unwrap();
    assert_eq!(written(&cluster), ["a", "a"]);

    let lost = Fault::on(ApiKey::Produce)
        .forever()
        .action(Action::DropReply);
    cluster.faults().add(lost);
    let error = produce(&transport, 0, &["b"], SECOND / 2)
        .await
        .unwrap_err();
    assert_eq!(error.fate(), Fate::MaybeWritten);
    assert!(error.is_retriable());
    assert!(written(&cluster).contains(&"b".to_owned()));
}
