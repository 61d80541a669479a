//! How many connections and requests there are.

use crate::bed::{MockBed, PATIENCE, SECOND, batch, limits, options, until};
use crate::verdict::lacks;
use ottla_client::TransportKind;
use ottla_client::transport::produce_all;
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster};

pub(crate) async fn trap_a13_many_partitions_need_few_connections(kind: TransportKind) {
    let bed = MockBed::new(kind).await;
    let partitions = if bed.is_native() { 1000 } else { 50 };
    let topic = bed.topic(partitions, &[]).await;
    let batches = (0..partitions).map(|n| (topic.p(n), batch(&["v"])));
    let options = options(PATIENCE);
    let written = produce_all(bed.transport(), &options, batches.collect());
    for (_, result) in written.await {
        result.unwrap();
    }
    let mut open: Vec<_> = (0..partitions).map(|n| topic.at(n, 0)).collect();
    while !open.is_empty() {
        let fetching = bed.transport().fetch(limits(PATIENCE), open.clone());
        for (partition, result) in fetching.await {
            assert_eq!(result.unwrap().next_offset, 1);
            open.retain(|(p, _)| *p != partition);
        }
    }
    let connections = bed.mock.connections();
    if bed.is_native() {
        // Bootstrap, metadata, writing, reading.
        assert!(connections <= 4, "{connections}");
        assert!(bed.mock.requests(ApiKey::Produce) <= 3);
    } else {
        lacks("two for each partition");
        // The library underneath takes one for each.
        assert!(connections > 2 * partitions as usize, "{connections}");
    }
}

pub(crate) async fn one_request_is_for_all_partitions_of_a_broker(kind: TransportKind) {
    let bed = MockBed::on(kind, MockCluster::builder().brokers(2)).await;
    let topic = bed.topic(8, &[]).await;
    for n in 0..8 {
        bed.mock.move_leader(&topic.name, n, n % 2 + 1).unwrap();
    }
    bed.client.refresh_topic(&topic.name).await.unwrap();
    let batches = (0..8).map(|n| (topic.p(n), batch(&["v"])));
    let options = options(PATIENCE);
    let written = produce_all(bed.transport(), &options, batches.collect());
    for (_, result) in written.await {
        result.unwrap();
    }
    let requests = bed.mock.requests(ApiKey::Produce);
    if !bed.is_native() {
        lacks("one for each partition");
        return assert_eq!(requests, 8);
    }
    assert_eq!(requests, 2);
    // With the end of the last transaction in sight nothing is asked twice: all that is there comes
    // with the first answer of each broker.
    let mut open: Vec<_> = (0..8).map(|n| topic.at(n, 0)).collect();
    let mut calls = 0;
    while !open.is_empty() {
        calls += 1;
        let answers = bed.transport().fetch(limits(PATIENCE), open.clone()).await;
        for (partition, result) in answers {
            assert_eq!(result.unwrap().next_offset, 1);
            open.retain(|(p, _)| *p != partition);
        }
    }
    assert!(calls <= 2, "{calls}");
}

pub(crate) async fn batches_that_wait_share_a_request(kind: TransportKind) {
    const CALLS: i32 = 200;
    let bed = MockBed::new(kind).await;
    let topic = bed.topic(CALLS, &[]).await;
    topic.write(0, &["v"]).await.unwrap();
    let before = bed.mock.requests(ApiKey::Produce);
    // The answers come slowly, so that the calls have to wait.
    let slow = Action::Delay(SECOND / 20);
    bed.mock
        .faults()
        .add(Fault::on(ApiKey::Produce).times(5).action(slow));
    let calls = (0..CALLS).map(|n| {
        let topic = &topic;
        async move { topic.write(n, &["v"]).await.unwrap() }
    });
    futures_util::future::join_all(calls).await;
    assert_eq!(bed.written(&topic).len() as i32, CALLS + 1);
    let requests = bed.mock.requests(ApiKey::Produce) - before;
    if bed.is_native() {
        assert!(requests <= 20, "{requests}");
    } else {
        lacks("one for each call");
        assert_eq!(requests, CALLS as u64);
    }
}

pub(crate) async fn a_dropped_client_leaves_no_connection(kind: TransportKind) {
    let bed = MockBed::new(kind).await;
    let topic = bed.topic(1, &[]).await;
    topic.write(0, &["v"]).await.unwrap();
    topic.read(0, 0).await.unwrap();
    drop(topic);
    let MockBed { mock, bed } = bed;
    assert!(mock.connections() > 0);
    drop(bed);
    until("all connections are closed", || mock.connections() == 0).await;
}
