//! Logs that are not what they were: cut by an unclean election, or of a topic made anew.

use crate::bed::{Bed, MockBed, PATIENCE, SECOND, Topic, limits, shown, until, values};
use crate::verdict::lacks;
use ottla_client::transport::{FetchPosition, OffsetSpec};
use ottla_client::{Error, ErrorKind, NewTopic, TransportKind};
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster, Versions};
use ottla_types::ErrorCode;
use std::time::Duration;
use tokio::time::timeout;

/// A mock whose brokers speak Fetch up to this version.
async fn up_to(kind: TransportKind, version: i16) -> MockBed {
    let versions = Versions::kafka_4_3().with(ApiKey::Fetch, 4, version);
    MockBed::on(kind, MockCluster::builder().brokers(3).versions(versions)).await
}

/// Reads to the end as a consumer does, and gives the position there.
async fn read_all(topic: &Topic<'_>, end: i64) -> FetchPosition {
    let mut position = FetchPosition::from(0);
    while position.offset < end {
        position = topic.read_on(0, position).await.next_position();
    }
    position
}

/// What reading on ends in, past errors that pass.
async fn error_at(topic: &Topic<'_>, position: FetchPosition) -> Error {
    loop {
        let error = topic.read(0, position).await.expect_err("no records");
        if !error.is_retriable() {
            return error;
        }
    }
}

/// The topic with five records, read to their end; then the last three are cut off, and as many
/// others stand in their place.
async fn cut_behind_the_reader<'a>(bed: &MockBed, topic: &Topic<'a>) -> FetchPosition {
    for values in [&["a", "b"][..], &["c", "d"], &["e"]] {
        topic.write(0, values).await.unwrap();
    }
    let position = read_all(topic, 5).await;
    bed.mock.truncate(&topic.name, 0, 2).unwrap();
    for values in [&["x"][..], &["y", "z", "w"]] {
        topic.write(0, values).await.unwrap();
    }
    position
}

pub(crate) async fn trap_c20_a_truncated_log_is_noticed(kind: TransportKind) {
    for version in [18, 13, 12, 11, 9] {
        let bed = up_to(kind, version).await;
        let topic = bed.topic(1, &[]).await;
        let position = cut_behind_the_reader(&bed, &topic).await;
        if !bed.is_native() {
            lacks("reads on without a word");
            let fetched = topic.read(0, position).await.unwrap();
            return assert_eq!(fetched.next_offset, 6);
        }
        assert_eq!((position.offset, position.leader_epoch), (5, Some(0)));
        let error = error_at(&topic, position).await;
        assert_eq!(error.kind(), ErrorKind::Truncated, "v{version}: {error}");
        assert_eq!(
            (error.offset(), error.diverging_offset()),
            (Some(5), Some(2))
        );
        assert_eq!(error.partition(), Some(&topic.p(0)));
        // Again for whoever asks again, and nothing is wrong with where the logs part.
        let again = error_at(&topic, position).await;
        assert_eq!(again.kind(), ErrorKind::Truncated);
        assert_eq!(topic.read_to(0, 2, 6).await.len(), 4);
        bed.mock.shutdown().await;
    }
}

pub(crate) async fn trap_c20_a_reader_at_the_end_notices_that_the_end_is_cut(kind: TransportKind) {
    for version in [18, 11] {
        let bed = up_to(kind, version).await;
        let topic = bed.topic(1, &[]).await;
        topic.write(0, &["a", "b"]).await.unwrap();
        topic.write(0, &["c", "d"]).await.unwrap();
        let wanted = vec![(topic.p(0), OffsetSpec::Latest)];
        let found = bed.transport().list_offsets(PATIENCE, wanted).await;
        let latest = found.into_iter().next().unwrap().1.unwrap();
        assert_eq!(latest.offset, 4);
        if !bed.is_native() {
            lacks("no epochs of offsets");
            return assert_eq!(latest, FetchPosition::from(4));
        }
        assert_eq!(latest.leader_epoch, Some(0));
        // It waits there, which changes nothing.
        let waiting = bed
            .transport()
            .fetch(limits(SECOND / 10), vec![(topic.p(0), latest)]);
        assert_eq!(waiting.await.len(), 0);
        bed.mock.truncate(&topic.name, 0, 2).unwrap();
        topic.write(0, &["x", "y", "z"]).await.unwrap();
        let error = error_at(&topic, latest).await;
        assert_eq!(error.diverging_offset(), Some(2), "v{version}: {error}");
        bed.mock.shutdown().await;
    }
}

pub(crate) async fn leaders_that_change_without_a_word_are_no_truncation(kind: TransportKind) {
    for version in [18, 11] {
        let bed = up_to(kind, version).await;
        let topic = bed.topic(1, &[]).await;
        topic.write(0, &["a"]).await.unwrap();
        let wanted = vec![(topic.p(0), OffsetSpec::Latest)];
        let found = bed.transport().list_offsets(PATIENCE, wanted).await;
        let mut position = found.into_iter().next().unwrap().1.unwrap();
        for broker in [2, 3, 1, 2] {
            // Epochs in which nothing is written leave no trace in the log.
            bed.mock.move_leader(&topic.name, 0, broker).unwrap();
            let waiting = vec![(topic.p(0), position)];
            for (_, answer) in bed.transport().fetch(limits(SECOND / 10), waiting).await {
                let error = answer.unwrap_err();
                assert!(error.is_retriable(), "v{version}: {error}");
            }
        }
        for value in ["b", "c"] {
            topic.write(0, &[value]).await.unwrap();
            let fetched = topic.read_on(0, position).await;
            assert_eq!(values(&fetched), [value]);
            position = fetched.next_position();
            bed.mock.move_leader(&topic.name, 0, 3).unwrap();
        }
        bed.mock.shutdown().await;
    }
}

pub(crate) async fn trap_c7_nothing_is_read_while_a_position_is_validated(kind: TransportKind) {
    let bed = up_to(kind, 11).await;
    let topic = bed.topic(1, &[]).await;
    bed.mock.move_leader(&topic.name, 0, 1).unwrap();
    topic.write(0, &["a", "b"]).await.unwrap();
    let position = read_all(&topic, 2).await;
    bed.mock.move_leader(&topic.name, 0, 2).unwrap();
    topic.write(0, &["c", "d"]).await.unwrap();
    let faults = bed.mock.faults();
    let slow = Fault::on(ApiKey::OffsetForLeaderEpoch).action(Action::Delay(SECOND / 4));
    let slow = faults.add(slow);
    // Hits nothing that it would change: it counts.
    let read = Fault::on(ApiKey::Fetch).at_broker(2).forever();
    let read = faults.add(read.action(Action::Delay(Duration::ZERO)));
    let readers = (0..2).map(|_| topic.read_on(0, position));
    let readers = futures_util::future::join_all(readers);
    let watching = async {
        if bed.is_native() {
            until("the position is validated", || slow.hits() == 1).await;
            let before = bed.mock.requests(ApiKey::OffsetForLeaderEpoch);
            assert_eq!((before, read.hits()), (1, 0));
        } else {
            lacks("reads on unvalidated");
        }
    };
    let both = async { tokio::join!(readers, watching) };
    let (both, ()) = timeout(PATIENCE, both).await.unwrap();
    for fetched in both {
        let expected = [(2, "c".to_owned()), (3, "d".to_owned())];
        assert_eq!(shown(&fetched), expected, "once, and all of it");
    }
}

pub(crate) async fn trap_c6_a_position_survives_a_validation_that_fails(kind: TransportKind) {
    let bed = up_to(kind, 11).await;
    let topic = bed.topic(1, &[]).await;
    bed.mock.move_leader(&topic.name, 0, 1).unwrap();
    topic.write(0, &["a", "b"]).await.unwrap();
    let mut position = read_all(&topic, 2).await;
    let mut broker = 1;
    for (n, action) in [
        Action::Disconnect,
        Action::DropReply,
        Action::Refuse(-1),
        Action::Refuse(6),
        Action::Refuse(75),
        Action::Hang,
    ]
    .into_iter()
    .enumerate()
    {
        broker = broker % 3 + 1;
        bed.mock.move_leader(&topic.name, 0, broker).unwrap();
        let value = format!("{n}");
        topic.write(0, &[&value]).await.unwrap();
        let fault = Fault::on(ApiKey::OffsetForLeaderEpoch).action(action.clone());
        let fault = bed.mock.faults().add(fault);
        let fetched = topic.read_on(0, position).await;
        assert_eq!(values(&fetched), [value], "{action:?}");
        position = fetched.next_position();
        if bed.is_native() {
            assert_eq!(fault.hits(), 1, "{action:?}");
        } else {
            lacks("validates nothing");
        }
        fault.remove();
    }
}

pub(crate) async fn trap_c6_a_broker_that_cannot_be_reached_is_no_reset(kind: TransportKind) {
    let versions = Versions::kafka_4_3().with(ApiKey::Fetch, 4, 11);
    let builder = MockCluster::builder().replicated(false).versions(versions);
    let bed = MockBed::on(kind, builder).await;
    let topic = bed.topic(1, &[]).await;
    topic.write(0, &["a", "b"]).await.unwrap();
    let position = read_all(&topic, 2).await;
    bed.mock.kill(1).await.unwrap();
    let answers = bed
        .transport()
        .fetch(limits(SECOND / 2), vec![(topic.p(0), position)]);
    for (_, answer) in answers.await {
        let error = answer.unwrap_err();
        assert!(error.is_retriable(), "{error}");
    }
    // It comes back as a new leader, with the next epoch.
    bed.mock.restart(1).await.unwrap();
    topic.write(0, &["c"]).await.unwrap();
    assert_eq!(values(&topic.read_on(0, position).await), ["c"]);
    if bed.is_native() {
        assert!(bed.mock.requests(ApiKey::OffsetForLeaderEpoch) >= 1);
    } else {
        lacks("validates nothing");
    }
}

pub(crate) async fn trap_c15_a_topic_made_anew_is_noticed(kind: TransportKind) {
    for version in [18, 13, 12, 11, 4] {
        for records in [0, 2, 20] {
            let bed = up_to(kind, version).await;
            let topic = bed.topic(1, &[]).await;
            topic.write(0, &["a", "b"]).await.unwrap();
            topic.write(0, &["c", "d", "e"]).await.unwrap();
            let position = read_all(&topic, 5).await;
            bed.mock.delete_topic(&topic.name).unwrap();
            bed.mock.create_topic(&topic.name, 1).unwrap();
            for _ in 0..records {
                topic.write(0, &["x"]).await.unwrap();
            }
            if !bed.is_native() {
                lacks("takes the new one for the old");
                assert_eq!(position.topic_id, None);
                return;
            }
            if version < 13 && records == 20 {
                // Nothing in such a request tells the topics apart, only the metadata.
                bed.client.refresh_topic(&topic.name).await.unwrap();
            }
            let error = error_at(&topic, position).await;
            let context = format!("v{version}, {records} records: {error}");
            assert_eq!(error.kind(), ErrorKind::TopicRecreated, "{context}");
            if records > 0 {
                assert_eq!(topic.read_to(0, 0, records).await.len() as i64, records);
            }
            bed.mock.shutdown().await;
        }
    }
}

pub(crate) async fn trap_c15_a_waiting_reader_notices_a_topic_made_anew(kind: TransportKind) {
    let bed = MockBed::new(kind).await;
    let topic = bed.topic(1, &[]).await;
    topic.write(0, &["a", "b"]).await.unwrap();
    let position = read_all(&topic, 2).await;
    if !bed.is_native() {
        return lacks("takes the new one for the old");
    }
    let before = bed.mock.requests(ApiKey::Fetch);
    let reader = error_at(&topic, position);
    let anew = async {
        until("it waits", || bed.mock.requests(ApiKey::Fetch) > before).await;
        bed.mock.delete_topic(&topic.name).unwrap();
        bed.mock.create_topic(&topic.name, 1).unwrap();
    };
    let both = async { tokio::join!(reader, anew) };
    let (error, ()) = timeout(PATIENCE, both).await.unwrap();
    assert_eq!(error.kind(), ErrorKind::TopicRecreated, "{error}");
}

pub(crate) async fn trap_c15_a_topic_that_is_deleted_and_created_again(bed: &Bed) {
    let topic = bed.topic(1, &[]).await;
    topic.write(0, &["a", "b"]).await.unwrap();
    let position = read_all(&topic, 2).await;
    let name = topic.name.clone();
    for (_, deleted) in bed.client.delete_topics(vec![name.clone()]).await.unwrap() {
        deleted.unwrap();
    }
    // The brokers delete it in their own time.
    let again = async {
        loop {
            let new = vec![NewTopic::new(&name, 1).replication(1)];
            let created = bed.client.create_topics(new).await.unwrap();
            match &created[0].1 {
                Ok(()) => break,
                Err(error) => assert_eq!(error.code(), Some(ErrorCode::TOPIC_ALREADY_EXISTS)),
            }
        }
        let new = vec![NewTopic::new(&name, 1).replication(1)];
        bed.client.ensure_topics(new).await.unwrap();
    };
    timeout(PATIENCE, again).await.unwrap();
    for value in ["v", "w", "x"] {
        topic.write(0, &[value]).await.unwrap();
    }
    if bed.is_native() {
        let error = timeout(PATIENCE, error_at(&topic, position)).await.unwrap();
        assert_eq!(error.kind(), ErrorKind::TopicRecreated, "{error}");
    } else {
        lacks("takes the new one for the old");
        let fetched = topic.read_on(0, position).await;
        assert_eq!(values(&fetched).last().unwrap(), "x");
    }
    assert_eq!(topic.read_to(0, 0, 3).await.len(), 3);
}

pub(crate) async fn topics_with_and_without_ids_are_read_together(kind: TransportKind) {
    // Metadata below 10 has no ids; the versions of Fetch that need them are not used then.
    for metadata in [12, 9] {
        let versions = Versions::kafka_4_3().with(ApiKey::Metadata, 0, metadata);
        let bed = MockBed::on(kind, MockCluster::builder().versions(versions)).await;
        let topic = bed.topic(2, &[]).await;
        for n in 0..2 {
            topic.write(n, &["a", "b"]).await.unwrap();
            assert_eq!(topic.read_to(n, 0, 2).await.len(), 2);
        }
        for code in [100, 103] {
            let fault = Fault::on(ApiKey::Fetch)
                .times(2)
                .action(Action::Refuse(code));
            let fault = bed.mock.faults().add(fault);
            topic.write(0, &["c"]).await.unwrap();
            let fetched = topic.read_on(0, 2).await;
            assert_eq!(shown(&fetched)[0], (2, "c".to_owned()), "{code}");
            fault.remove();
        }
        bed.mock.shutdown().await;
    }
}
