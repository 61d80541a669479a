//! What a broker refuses is an error of the right kind, with what it is about, in time.

use crate::bed::{Bed, PATIENCE, SECOND, batch, limits, options};
use crate::verdict::lacks;
use ottla_client::ErrorKind;
use ottla_types::{ErrorCode, Fate, Headers, TopicPartition};
use tokio::time::Instant;

pub(crate) async fn a_topic_that_does_not_exist_is_an_error(bed: &Bed) {
    let name = format!("nowhere-{:016x}", fastrand::u64(..));
    let topic = bed.existing(&name);
    let started = Instant::now();
    let sent = topic.send(0, batch(&["v"]), options(SECOND / 2)).await;
    // The library underneath asks in a way that creates topics where the cluster allows it.
    if bed.is_native() {
        let error = sent.unwrap_err();
        assert_eq!(
            (error.kind(), error.fate()),
            (ErrorKind::UnknownTopic, Fate::NotWritten)
        );
        assert_eq!(error.partition(), Some(&topic.p(0)));
        let answers = bed
            .transport()
            .fetch(limits(SECOND / 2), vec![topic.at(0, 0)])
            .await;
        let error = answers.into_iter().next().unwrap().1.unwrap_err();
        assert_eq!(
            (error.kind(), error.offset()),
            (ErrorKind::UnknownTopic, Some(0))
        );
        let topics = bed.client.list_topics().await.unwrap();
        assert!(topics.iter().all(|topic| *topic.name != name));
    } else {
        lacks("may create it");
    }
    assert!(started.elapsed() < 4 * SECOND);
}

pub(crate) async fn a_batch_that_is_too_large_is_an_error(bed: &Bed) {
    let topic = bed.topic(1, &[("max.message.bytes", "1000")]).await;
    topic.write(0, &["small"]).await.unwrap();
    let error = topic.write(0, &[&"v".repeat(2000)]).await.unwrap_err();
    assert_eq!(
        (error.kind(), error.fate()),
        (ErrorKind::RecordTooLarge, Fate::NotWritten)
    );
    topic.write(0, &["small"]).await.unwrap();
    assert_eq!(topic.read_to(0, 0, 2).await.len(), 2);
}

pub(crate) async fn a_position_out_of_range_is_an_error(bed: &Bed) {
    let topic = bed.topic(1, &[]).await;
    topic.write(0, &["v"]).await.unwrap();
    for _ in 0..2 {
        let error = topic.read(0, 9).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.offset()),
            (ErrorKind::OffsetOutOfRange, Some(9))
        );
        assert_eq!(error.partition(), Some(&topic.p(0)));
    }
    assert_eq!(topic.read_to(0, 0, 1).await.len(), 1);
}

pub(crate) async fn a_batch_that_the_broker_calls_invalid_is_an_error(bed: &Bed) {
    // A compacted topic takes no record without a key.
    let topic = bed.topic(1, &[("cleanup.policy", "compact")]).await;
    let sent = topic.write(0, &["no key"]).await;
    let mut builder = ottla_record_batch::BatchBuilder::new(1 << 10);
    let none = Headers::new();
    builder
        .try_append(1, Some(b"k"), Some(b"v"), &none)
        .unwrap();
    let keyed = topic.send(0, builder.finish(), options(PATIENCE)).await;
    keyed.unwrap();
    // The mock cluster is not that strict.
    if let Err(error) = sent {
        assert_eq!(error.code(), Some(ErrorCode::INVALID_RECORD));
        assert_eq!(error.fate(), Fate::NotWritten);
        assert!(!error.is_retriable());
    }
    let error = bed
        .transport()
        .fetch(
            limits(SECOND / 5),
            vec![(TopicPartition::new("a topic", 0), 0.into())],
        )
        .await;
    let error = error.into_iter().next().map(|(_, result)| result);
    if bed.is_native() {
        assert_eq!(
            error.unwrap().unwrap_err().kind(),
            ErrorKind::Config,
            "an illegal name"
        );
    }
}
