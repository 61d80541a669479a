//! How fetches wait, and what is read in advance.

use crate::bed::{Bed, MockBed, PATIENCE, SECOND, limits, shown, until, values};
use crate::verdict::lacks;
use ottla_client::TransportKind;
use ottla_client::transport::FetchLimits;
use ottla_mock_cluster::ApiKey;
use tokio::time::{Instant, timeout};

pub(crate) async fn a_fetch_ends_with_its_waiting_time(bed: &Bed) {
    let topic = bed.topic(2, &[]).await;
    // A partition that is new may have no leader yet, which would be told at the end.
    for n in 0..2 {
        topic.write(n, &["a"]).await.unwrap();
    }
    let started = Instant::now();
    let wanted = vec![topic.at(0, 1), topic.at(1, 1)];
    let answers = bed.transport().fetch(limits(SECOND / 2), wanted.clone());
    let answers = answers.await;
    assert!(answers.is_empty(), "{answers:?}");
    let waited = started.elapsed();
    assert!((SECOND / 3..2 * SECOND).contains(&waited), "{waited:?}");
    // And at once when there is something.
    let started = Instant::now();
    let fetching = bed.transport().fetch(limits(PATIENCE), wanted);
    let (answers, written) = tokio::join!(fetching, topic.write(1, &["b"]));
    written.unwrap();
    let (partition, fetched) = answers.into_iter().next().unwrap();
    assert_eq!(partition, topic.p(1));
    assert_eq!(values(&fetched.unwrap()), ["b"]);
    assert!(started.elapsed() < PATIENCE / 2);
}

pub(crate) async fn readers_at_different_positions_do_not_disturb_each_other(bed: &Bed) {
    let topic = bed.topic(1, &[]).await;
    for n in 0..20 {
        topic.write(0, &[&n.to_string()]).await.unwrap();
    }
    let readers = (0..4).map(|n| {
        let topic = &topic;
        async move {
            let seen = topic.read_to(0, 5 * n, 20).await;
            let expected: Vec<_> = (5 * n..20).map(|o| (o, o.to_string())).collect();
            assert_eq!(seen, expected);
        }
    });
    let all = futures_util::future::join_all(readers);
    timeout(PATIENCE, all).await.unwrap();
    // Back to where one was before.
    assert_eq!(topic.read_to(0, 0, 20).await.len(), 20);
}

/// Each reader leaves a position at the end behind, at which nothing comes.
pub(crate) async fn readers_that_went_do_not_hold_up_those_that_are_there(bed: &Bed) {
    let topic = bed.topic(1, &[]).await;
    for n in 0..3 {
        topic.write(0, &[&n.to_string()]).await.unwrap();
    }
    let one_batch = FetchLimits {
        max_partition_bytes: 1,
        ..limits(SECOND / 5)
    };
    for reader in 0..12 {
        let mut position = 0;
        let started = Instant::now();
        while position < 3 {
            let wanted = vec![(topic.p(0), position.into())];
            for (_, fetched) in bed.transport().fetch(one_batch, wanted).await {
                position = fetched.unwrap().next_offset;
            }
        }
        let took = started.elapsed();
        assert!(took < 5 * SECOND, "reader {reader}: {took:?}");
    }
}

pub(crate) async fn the_next_records_are_fetched_in_advance(kind: TransportKind) {
    let bed = MockBed::new(kind).await;
    let topic = bed.topic(1, &[]).await;
    topic.write(0, &["a"]).await.unwrap();
    let first = topic.read(0, 0).await.unwrap();
    assert_eq!(first.next_offset, 1);
    if !bed.is_native() {
        lacks("no");
        return;
    }
    // Nobody asks for it, and it is fetched all the same.
    let before = bed.mock.requests(ApiKey::Fetch);
    until("a fetch is under way", || {
        bed.mock.requests(ApiKey::Fetch) > before.min(1)
    })
    .await;
    topic.write(0, &["b"]).await.unwrap();
    let wanted = vec![topic.at(0, 1)];
    let answers = bed.transport().fetch(limits(PATIENCE), wanted).await;
    let fetched = answers.into_iter().next().unwrap().1.unwrap();
    assert_eq!(shown(&fetched), [(1, "b".to_owned())]);
}

pub(crate) async fn a_partition_that_becomes_ready_does_not_wait_for_the_others(
    kind: TransportKind,
) {
    let bed = MockBed::new(kind).await;
    let topic = bed.topic(2, &[]).await;
    topic.write(1, &["a"]).await.unwrap();
    let started = Instant::now();
    let quiet = bed
        .transport()
        .fetch(limits(PATIENCE), vec![topic.at(0, 0)]);
    let busy = async {
        until("the quiet one is in a long poll", || {
            bed.mock.requests(ApiKey::Fetch) >= 1
        })
        .await;
        let wanted = vec![topic.at(1, 0)];
        let answers = bed.transport().fetch(limits(PATIENCE), wanted).await;
        assert_eq!(answers.into_iter().next().unwrap().0, topic.p(1));
        assert!(started.elapsed() < PATIENCE / 3);
        topic.write(0, &["b"]).await.unwrap();
    };
    let (answers, ()) = tokio::join!(quiet, busy);
    let (partition, fetched) = answers.into_iter().next().unwrap();
    assert_eq!(partition, topic.p(0));
    assert_eq!(values(&fetched.unwrap()), ["b"]);
}

pub(crate) async fn a_partition_does_not_wait_for_three_long_polls(kind: TransportKind) {
    let bed = MockBed::new(kind).await;
    let topic = bed.topic(5, &[]).await;
    let started = Instant::now();
    let polls = (0..4).map(|n: i32| {
        let (bed, topic) = (&bed, &topic);
        async move {
            let asked = || bed.mock.requests(ApiKey::Fetch) >= u64::from(n.unsigned_abs());
            until("the ones before are in a long poll", asked).await;
            let answers = bed
                .transport()
                .fetch(limits(PATIENCE), vec![topic.at(n, 0)]);
            answers.await
        }
    });
    let ready = async {
        until("three are in a long poll", || {
            bed.mock.requests(ApiKey::Fetch) >= 3
        })
        .await;
        topic.write(4, &["a"]).await.unwrap();
        let answers = bed
            .transport()
            .fetch(limits(PATIENCE), vec![topic.at(4, 0)]);
        assert_eq!(answers.await[0].0, topic.p(4));
        assert!(started.elapsed() < PATIENCE / 3);
        for n in 0..4 {
            topic.write(n, &["b"]).await.unwrap();
        }
    };
    let polls = futures_util::future::join_all(polls);
    let both = async { tokio::join!(polls, ready) };
    let (polls, ()) = timeout(PATIENCE, both).await.unwrap();
    for (answers, n) in polls.into_iter().zip(0..) {
        assert_eq!(answers[0].0, topic.p(n));
    }
}

pub(crate) async fn sessions_are_used_and_lost_ones_begin_anew(kind: TransportKind) {
    let bed = MockBed::new(kind).await;
    let topic = bed.topic(3, &[]).await;
    for round in 0..6 {
        for n in 0..3 {
            topic.write(n, &[&format!("{n}-{round}")]).await.unwrap();
        }
        let mut open: Vec<_> = (0..3).map(|n| topic.at(n, round)).collect();
        while !open.is_empty() {
            let answers = bed.transport().fetch(limits(PATIENCE), open.clone()).await;
            for (partition, result) in answers {
                let expected = format!("{}-{round}", partition.partition);
                assert_eq!(shown(&result.unwrap()), [(round, expected)]);
                open.retain(|(p, _)| *p != partition);
            }
        }
        if bed.transport().capabilities().fetch_sessions {
            assert!((1..=3).contains(&bed.mock.fetch_sessions(1)));
            if round % 2 == 1 {
                bed.mock.evict_fetch_sessions(1);
            }
        } else {
            lacks("no sessions");
            assert_eq!(bed.mock.fetch_sessions(1), 0);
        }
    }
}
