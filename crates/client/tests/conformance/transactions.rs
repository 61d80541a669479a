//! Transactions of another producer, read.

use crate::bed::{Bed, MockBed, PATIENCE, SECOND, Topic, batch, limits, options};
use crate::txn::TxnProducer;
use crate::verdict::lacks;
use ottla_client::transport::OffsetSpec;
use ottla_client::{ErrorKind, IsolationLevel, TransportKind};
use ottla_record_batch::BatchBuilder;
use ottla_types::Headers;

/// Waits for a marker, which takes an offset and comes a little after the answer.
async fn ends_at(topic: &Topic<'_>, end: i64) {
    let marker = async {
        loop {
            let wanted = vec![(topic.p(0), OffsetSpec::Latest)];
            let found = topic.bed.transport().list_offsets(PATIENCE, wanted).await;
            if found.into_iter().next().unwrap().1.unwrap().offset == end {
                break;
            }
        }
    };
    tokio::time::timeout(PATIENCE, marker).await.unwrap();
}

/// Writes committed, aborted and plain records; the offsets and values that are committed, and the
/// end.
async fn write_everything(bed: &Bed, topic: &Topic<'_>) -> (Vec<(i64, String)>, i64) {
    let id = format!("{}-txn", topic.name);
    let mut producer = TxnProducer::new(&bed.bootstrap, &topic.name, &id).await;
    let (mut committed, mut offset) = (Vec::new(), 0);
    let mut say = |count: i64, word: &str, is_committed: bool| {
        let values: Vec<_> = (0..count).map(|n| format!("{word}-{n}")).collect();
        for (n, value) in (offset..).zip(&values) {
            if is_committed {
                committed.push((n, value.clone()));
            }
        }
        offset += count;
        let values: Vec<_> = values.iter().map(|value| &**value).collect();
        batch(&values)
    };
    for (round, is_committed) in (1..).zip([true, false, false, true, false]) {
        let word = format!("txn-{round}");
        producer.write(say(2, &word, is_committed)).await;
        let plain = say(1, "plain", true);
        let sent = topic.send(0, plain, options(PATIENCE)).await;
        sent.unwrap();
        producer.write(say(1, &word, is_committed)).await;
        producer.end(is_committed).await;
        say(1, "marker", false);
        ends_at(topic, 5 * round).await;
    }
    (committed, offset)
}

pub(crate) async fn trap_a2_a3_a5_only_committed_records_are_read(bed: &Bed) {
    let topic = bed.topic(1, &[]).await;
    let (committed, end) = write_everything(bed, &topic).await;
    if bed.transport().capabilities().read_committed {
        assert_eq!(topic.read_to(0, 0, end).await, committed);
        // From everywhere, also from within a transaction and from a marker.
        for position in 1..end {
            let expected = committed.iter().filter(|(o, _)| *o >= position).cloned();
            let expected: Vec<_> = expected.collect();
            let seen = topic.read_to(0, position, end).await;
            assert_eq!(seen, expected, "from {position}");
        }
    } else {
        lacks("error at the first marker");
        // The first marker cannot be read, and says so with its offset.
        let mut position = 0;
        let error = loop {
            match topic.read(0, position).await {
                Ok(fetched) => position = fetched.next_offset,
                Err(error) => break error,
            }
        };
        assert_eq!(
            (error.kind(), error.offset()),
            (ErrorKind::Unsupported, Some(4))
        );
    }
}

pub(crate) async fn an_open_transaction_holds_committed_readers_back(bed: &Bed) {
    let topic = bed.topic(1, &[]).await;
    topic.write(0, &["before"]).await.unwrap();
    let id = format!("{}-txn", topic.name);
    let mut producer = TxnProducer::new(&bed.bootstrap, &topic.name, &id).await;
    producer.write(batch(&["in it"])).await;
    topic.write(0, &["behind"]).await.unwrap();
    assert_eq!(topic.read_to(0, 0, 1).await, [(0, "before".to_owned())]);
    let wanted = vec![topic.at(0, 1)];
    let answers = bed.transport().fetch(limits(SECOND / 3), wanted).await;
    assert_eq!(answers.len(), 0);
    let wanted = vec![(topic.p(0), OffsetSpec::Latest)];
    let latest = bed.transport().list_offsets(PATIENCE, wanted).await;
    let latest = latest.into_iter().next().unwrap().1.unwrap().offset;
    assert_eq!(latest, 1, "the end of what is stable");
    producer.end(true).await;
    let fetched = topic.read_on(0, 1).await;
    assert_eq!(crate::bed::values(&fetched)[0], "in it");
    if bed.is_native() {
        assert_eq!(topic.read_to(0, 2, 4).await, [(2, "behind".to_owned())]);
    } else {
        lacks("up to the marker");
    }
}

pub(crate) async fn uncommitted_records_are_read_by_those_who_ask_for_them(bed: &Bed) {
    if !bed.is_native() {
        lacks("refuses the setting");
        let mut config = ottla_client::ClientConfig::new(&bed.bootstrap);
        config.isolation_level = IsolationLevel::ReadUncommitted;
        config.transport = bed.kind;
        let error = ottla_client::Client::connect(config).await.unwrap_err();
        return assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
    let reader = Bed::with(bed.kind, &bed.bootstrap, |config| {
        config.isolation_level = IsolationLevel::ReadUncommitted;
    });
    let reader = reader.await;
    let topic = bed.topic(1, &[]).await;
    let id = format!("{}-txn", topic.name);
    let mut producer = TxnProducer::new(&bed.bootstrap, &topic.name, &id).await;
    producer.write(batch(&["open"])).await;
    let there = reader.existing(&topic.name);
    assert_eq!(there.read_to(0, 0, 1).await, [(0, "open".to_owned())]);
    producer.end(false).await;
    ends_at(&there, 2).await;
    topic.write(0, &["behind"]).await.unwrap();
    let seen = there.read_to(0, 0, 3).await;
    assert_eq!(seen, [(0, "open".to_owned()), (2, "behind".to_owned())]);
    reader.client.close().await;
}

pub(crate) async fn trap_a5_positions_move_over_compacted_batches(kind: TransportKind) {
    let bed = MockBed::new(kind).await;
    let topic = bed.topic(1, &[]).await;
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3"), ("a", "4"), ("c", "5")] {
        let mut builder = BatchBuilder::new(1 << 10);
        let none = Headers::new();
        builder
            .try_append(1, Some(key.as_bytes()), Some(value.as_bytes()), &none)
            .unwrap();
        let batch = builder.finish().with_producer(7, 0, sequence(value));
        topic.send(0, batch, options(PATIENCE)).await.unwrap();
    }
    bed.mock.compact(&topic.name, 0).unwrap();
    let kept = [(1, "2"), (3, "4"), (4, "5")].map(|(o, v)| (o, v.to_owned()));
    for position in 0..5 {
        let expected = kept.iter().filter(|(o, _)| *o >= position).cloned();
        let expected: Vec<_> = expected.collect();
        assert_eq!(topic.read_to(0, position, 5).await, expected);
    }
}

fn sequence(value: &str) -> i32 {
    value.parse::<i32>().unwrap() - 1
}
