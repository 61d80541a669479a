//! Leaders that move, brokers that die and come back.

use crate::bed::{Bed, MockBed, PATIENCE, SECOND, batch, options, until, values};
use crate::verdict::lacks;
use ottla_client::TransportKind;
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster};
use tokio::task::JoinSet;
use tokio::time::timeout;

async fn three(kind: TransportKind) -> MockBed {
    MockBed::on(kind, MockCluster::builder().brokers(3)).await
}

pub(crate) async fn trap_a6_a_leader_that_moves_is_found(kind: TransportKind) {
    let bed = three(kind).await;
    let topic = bed.topic(1, &[]).await;
    let mut position = 0;
    for (round, broker) in [1, 2, 3, 1, 3].into_iter().enumerate() {
        bed.mock.move_leader(&topic.name, 0, broker).unwrap();
        let value = format!("{round}");
        let produced = topic.write(0, &[&value]).await.unwrap();
        assert_eq!(produced.base_offset, Some(position));
        let fetched = topic.read(0, position).await.unwrap();
        assert_eq!(values(&fetched), [value]);
        position = fetched.next_offset;
    }
    assert_eq!(
        bed.written(&topic).len(),
        5,
        "a refused batch is not written twice"
    );
}

pub(crate) async fn trap_a6_a_broker_that_dies_and_comes_back_is_found(kind: TransportKind) {
    let bed = MockBed::on(kind, MockCluster::builder().replicated(false)).await;
    let topic = bed.topic(1, &[]).await;
    topic.write(0, &["a"]).await.unwrap();
    assert_eq!(topic.read(0, 0).await.unwrap().next_offset, 1);

    bed.mock.kill(1).await.unwrap();
    let sent = topic.send(0, batch(&["x"]), options(SECOND / 2)).await;
    let error = sent.unwrap_err();
    assert!(error.is_retriable(), "{error}");
    let error = topic.read(0, 1).await.unwrap_err();
    assert!(error.is_retriable(), "{error}");
    assert_eq!(error.offset(), Some(1));

    let (sent, ()) = tokio::join!(topic.write(0, &["b"]), async {
        bed.mock.restart(1).await.unwrap();
    });
    sent.unwrap();
    let fetched = topic.read_on(0, 1).await;
    assert!(values(&fetched).contains(&"b".to_owned()));
}

pub(crate) async fn trap_a6_nothing_is_lost_or_reordered_while_leaders_move_and_brokers_die(
    kind: TransportKind,
) {
    const PARTITIONS: i32 = 4;
    const RECORDS: usize = 150;
    let mock = MockCluster::builder().brokers(3).start().await.unwrap();
    mock.create_topic("t", PARTITIONS).unwrap();
    let bootstrap = mock.bootstrap();
    let bed = std::sync::Arc::new(Bed::at(kind, &bootstrap).await);
    let mut work = JoinSet::new();
    for partition in 0..PARTITIONS {
        let writer = bed.clone();
        work.spawn(async move {
            let topic = writer.existing("t");
            for n in 0..RECORDS {
                topic.write(partition, &[&n.to_string()]).await.unwrap();
            }
        });
        let reader = bed.clone();
        work.spawn(async move {
            let topic = reader.existing("t");
            let (mut seen, mut position) = (0, 0);
            while seen < RECORDS {
                let fetched = topic.read_on(partition, position).await;
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
    let mut random = fastrand::Rng::with_seed(7);
    let chaos = async {
        for _ in 0..12 {
            let broker = random.i32(1..=3);
            mock.kill(broker).await.unwrap();
            let at = mock.requests(ApiKey::Produce);
            until("writing goes on", || {
                mock.requests(ApiKey::Produce) > at + 3
            })
            .await;
            mock.restart(broker).await.unwrap();
            for _ in 0..3 {
                let (partition, to) = (random.i32(0..PARTITIONS), random.i32(1..=3));
                mock.move_leader("t", partition, to).unwrap();
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

pub(crate) async fn fenced_and_unknown_epochs_are_mended(kind: TransportKind) {
    let bed = three(kind).await;
    let topic = bed.topic(1, &[]).await;
    topic.write(0, &["a"]).await.unwrap();
    assert_eq!(topic.read_to(0, 0, 1).await.len(), 1);
    // Forth and back: the leader is the same, the epoch that the client knows is not.
    let (leader, _) = bed.mock.leader(&topic.name, 0).unwrap();
    let leader = leader.unwrap();
    let other = leader % 3 + 1;
    for broker in [other, leader] {
        bed.mock.move_leader(&topic.name, 0, broker).unwrap();
    }
    topic.write(0, &["b"]).await.unwrap();
    assert_eq!(topic.read_to(0, 1, 2).await, [(1, "b".to_owned())]);
}

pub(crate) async fn leader_hints_spare_a_look_at_the_metadata(kind: TransportKind) {
    let bed = three(kind).await;
    let topic = bed.topic(1, &[]).await;
    topic.write(0, &["a"]).await.unwrap();
    let (leader, _) = bed.mock.leader(&topic.name, 0).unwrap();
    let before = bed.mock.requests(ApiKey::Metadata);
    let to = leader.unwrap() % 3 + 1;
    bed.mock.move_leader(&topic.name, 0, to).unwrap();
    if bed.is_native() {
        // KIP-951: the old leader says who is the new one.
        topic.write(0, &["b"]).await.unwrap();
        topic.write(0, &["c"]).await.unwrap();
        assert_eq!(bed.mock.requests(ApiKey::Metadata), before);
        // Metadata of a broker that lags does not lead back.
        let lag = Fault::on(ApiKey::Produce).action(Action::Refuse(6));
        bed.mock.faults().add(lag);
        topic.write(0, &["d"]).await.unwrap();
        assert_eq!(bed.written(&topic), ["a", "b", "c", "d"]);
    } else {
        lacks("asks for metadata");
        // Its versions have no hints.
        topic.write(0, &["b"]).await.unwrap();
        assert!(bed.mock.requests(ApiKey::Metadata) > before);
    }
}
