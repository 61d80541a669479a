//! Long polls: shared, left in flight, and ended by close.

use crate::bed::*;
use ottla_client::ErrorKind;
use ottla_client::transport::Transport;
use ottla_mock_cluster::ApiKey;
use std::sync::Arc;
use tokio::task::JoinSet;
use tokio::time::Instant;

#[tokio::test]
async fn one_partition_answers_while_the_polls_of_the_others_stay_in_flight() {
    let (cluster, transport) = one_broker(2).await;
    produce(&transport, 0, &["a"], PATIENCE).await.unwrap();
    let positions = |first| vec![at(0, first), at(1, 0)];
    let answers = transport.fetch(limits(PATIENCE), positions(0)).await;
    assert_eq!(answers.len(), 1);
    assert_eq!(answers[0].0, p(0));

    let (fetched, produced) = tokio::join!(
        transport.fetch(limits(PATIENCE), positions(1)),
        produce(&transport, 1, &["b"], PATIENCE)
    );
    produced.unwrap();
    assert_eq!(fetched.len(), 1);
    assert_eq!(fetched[0].0, p(1));
    assert_eq!(values(fetched[0].1.as_ref().unwrap()), ["b"]);
    assert_eq!(
        cluster.requests(ApiKey::Fetch),
        3,
        "the second partition was polled once"
    );
}

#[tokio::test]
async fn a_fetch_that_is_dropped_or_finds_nothing_loses_nothing() {
    let (cluster, transport) = one_broker(1).await;
    let started = Instant::now();
    let wait = SECOND / 4;
    assert!(
        transport
            .fetch(limits(wait), vec![at(0, 0)])
            .await
            .is_empty()
    );
    assert!(started.elapsed() >= wait);

    let asked = cluster.requests(ApiKey::Fetch);
    {
        let dropped = transport.fetch(limits(PATIENCE), vec![at(0, 0)]);
        tokio::pin!(dropped);
        tokio::select! {
            _ = &mut dropped => panic!("there is nothing to fetch"),
            () = until("the poll is out", || cluster.requests(ApiKey::Fetch) > asked) => {}
        }
    }
    produce(&transport, 0, &["a"], PATIENCE).await.unwrap();
    assert_eq!(values(&fetch_one(&transport, 0, 0).await.unwrap()), ["a"]);
}

#[tokio::test]
async fn a_long_poll_delays_neither_a_write_nor_another_reader() {
    let (_cluster, transport) = one_broker(1).await;
    produce(&transport, 0, &["a"], PATIENCE).await.unwrap();
    let started = Instant::now();
    let (polled, ()) = tokio::join!(transport.fetch(limits(PATIENCE), vec![at(0, 1)]), async {
        let behind = transport.fetch(limits(PATIENCE), vec![at(0, 0)]).await;
        assert_eq!(values(behind[0].1.as_ref().unwrap()), ["a"]);
        produce(&transport, 0, &["b"], PATIENCE).await.unwrap();
    });
    assert_eq!(values(polled[0].1.as_ref().unwrap()), ["b"]);
    assert!(started.elapsed() < PATIENCE / 4);
}

#[tokio::test]
async fn many_readers_of_one_position_all_get_the_records() {
    let (_cluster, transport) = one_broker(1).await;
    let transport = Arc::new(transport);
    let mut readers = JoinSet::new();
    for _ in 0..20 {
        let transport = transport.clone();
        readers.spawn(async move { values(&fetch_one(&transport, 0, 0).await.unwrap()) });
    }
    produce(&transport, 0, &["a"], PATIENCE).await.unwrap();
    while let Some(read) = readers.join_next().await {
        assert_eq!(read.unwrap(), ["a"]);
    }
}

#[tokio::test]
async fn closing_ends_polls_and_connections() {
    let (cluster, transport) = one_broker(2).await;
    produce(&transport, 0, &["a"], PATIENCE).await.unwrap();
    let asked = cluster.requests(ApiKey::Fetch);
    let (answers, ()) = tokio::join!(transport.fetch(limits(PATIENCE), vec![at(1, 0)]), async {
        until("the poll is out", || {
            cluster.requests(ApiKey::Fetch) > asked
        })
        .await;
        transport.close().await;
    });
    assert_eq!(answers[0].1.as_ref().unwrap_err().kind(), ErrorKind::Closed);
    let error = produce(&transport, 0, &["b"], PATIENCE).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Closed);
    let answers = transport.fetch(limits(PATIENCE), vec![at(0, 0)]).await;
    assert_eq!(answers[0].1.as_ref().unwrap_err().kind(), ErrorKind::Closed);
    drop(transport);
    until("no connection is left", || cluster.connections() == 0).await;
}
