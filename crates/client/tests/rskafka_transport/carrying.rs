//! What is carried: records, partitions on their own, offsets, and what is refused by name.

use crate::bed::*;
use ottla_client::ErrorKind;
use ottla_client::transport::{
    Acks, Compression, OffsetSpec, ProduceOptions, Transport, produce_all,
};
use ottla_mock_cluster::{ApiKey, MockCluster};
use ottla_record_batch::BatchBuilder;
use ottla_types::{Fate, Headers};

#[tokio::test]
async fn what_is_produced_is_fetched() {
    let cluster = MockCluster::builder().brokers(3).start().await.unwrap();
    cluster.create_topic("t", 6).unwrap();
    let transport = transport(&cluster).await;
    let headers = Headers::new().with("a", "1").with("b", "");
    for (partition, compression) in [
        (0, Compression::None),
        (1, Compression::Gzip),
        (2, Compression::Snappy),
        (3, Compression::None),
    ] {
        let mut builder = BatchBuilder::new(1 << 20);
        builder
            .try_append(5, Some(b"k"), Some(b"v"), &headers)
            .unwrap();
        builder.try_append(-1, None, None, &Headers::new()).unwrap();
        builder
            .try_append(7, Some(b""), Some(b""), &Headers::new())
            .unwrap();
        let options = ProduceOptions {
            compression,
            ..options(PATIENCE)
        };
        let batches = vec![(p(partition), builder.finish())];
        let produced = produce_all(&transport, &options, batches)
            .await
            .remove(0)
            .1
            .unwrap();
        assert_eq!(produced.base_offset, Some(0));

        let fetched = fetch_one(&transport, partition, 0).await.unwrap();
        assert_eq!((fetched.next_offset, fetched.high_watermark), (3, 3));
        let batch = fetched.records.batches().next().unwrap().unwrap();
        let records: Vec<_> = batch.records().map(Result::unwrap).collect();
        assert_eq!(records[0].headers().unwrap(), headers);
        let fields: Vec<_> = records
            .iter()
            .map(|r| {
                (
                    r.offset,
                    r.timestamp_ms,
                    r.key.as_deref(),
                    r.value.as_deref(),
                )
            })
            .collect();
        assert_eq!(
            fields,
            [
                (0, 5, Some(&b"k"[..]), Some(&b"v"[..])),
                (1, -1, None, None),
                (2, 7, Some(&b""[..]), Some(&b""[..])),
            ]
        );
        let from_the_middle = fetch_one(&transport, partition, 2).await.unwrap();
        let batch = from_the_middle.records.batches().next().unwrap().unwrap();
        assert_eq!(batch.records().next().unwrap().unwrap().offset, 2);
    }
}

#[tokio::test]
async fn partitions_are_answered_on_their_own_and_in_order() {
    let (cluster, transport) = one_broker(3).await;
    let batches = [2, 9, 0, 1].map(|n| (p(n), batch(&["v"])));
    let results = produce_all(&transport, &options(SECOND / 2), batches.into()).await;
    let partitions: Vec<_> = results.iter().map(|(p, _)| p.partition).collect();
    assert_eq!(partitions, [2, 9, 0, 1]);
    for (partition, result) in results {
        match result {
            Ok(_) => assert_ne!(partition.partition, 9),
            Err(e) => {
                assert_eq!(partition.partition, 9);
                assert_eq!(e.kind(), ErrorKind::UnknownTopic);
                assert_eq!(e.partition(), Some(&p(9)));
                assert_eq!(e.fate(), Fate::NotWritten);
            }
        }
    }
    assert_eq!(written(&cluster), ["v", "v", "v"]);
}

#[tokio::test]
async fn trap_a11_headers_that_cannot_be_carried_are_refused_before_anything_is_sent() {
    let (cluster, transport) = one_broker(1).await;
    let twice = Headers::new().with("k", "1").with("k", "2");
    assert!(transport.capabilities().check_record(&twice, 0).is_err());
    let mut builder = BatchBuilder::new(1 << 10);
    builder.try_append(0, None, None, &twice).unwrap();
    let batches = vec![(p(0), builder.finish())];
    let results = produce_all(&transport, &options(PATIENCE), batches).await;
    let error = results[0].1.as_ref().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRecord);
    assert_eq!(error.fate(), Fate::NotWritten);
    assert_eq!(error.partition(), Some(&p(0)));
    assert_eq!(cluster.requests(ApiKey::Produce), 0);
}

#[tokio::test]
async fn what_the_transport_cannot_do_is_refused() {
    let (cluster, transport) = one_broker(1).await;
    for (acks, compression) in [
        (Acks::None, Compression::None),
        (Acks::Leader, Compression::None),
        (Acks::All, Compression::Lz4),
        (Acks::All, Compression::Zstd),
    ] {
        let options = ProduceOptions {
            acks,
            compression,
            ..options(PATIENCE)
        };
        let results = produce_all(&transport, &options, vec![(p(0), batch(&["v"]))]).await;
        let error = results[0].1.as_ref().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
    assert_eq!(cluster.requests(ApiKey::Produce), 0);
}

#[tokio::test]
async fn offsets_are_looked_up() {
    let (cluster, transport) = one_broker(1).await;
    for ts in [100, 200, 300] {
        let mut builder = BatchBuilder::new(1 << 10);
        builder
            .try_append(ts, None, Some(b"v"), &Headers::new())
            .unwrap();
        let batches = vec![(p(0), builder.finish())];
        produce_all(&transport, &options(PATIENCE), batches)
            .await
            .remove(0)
            .1
            .unwrap();
    }
    cluster.delete_records("t", 0, 1).unwrap();
    let specs = [
        (OffsetSpec::Earliest, 1),
        (OffsetSpec::Latest, 3),
        (OffsetSpec::Timestamp(150), 1),
        (OffsetSpec::Timestamp(250), 2),
        (OffsetSpec::Timestamp(301), 3),
        (OffsetSpec::Timestamp(-1), 1),
        (OffsetSpec::Timestamp(i64::MAX), 3),
    ];
    let wanted = specs.iter().map(|(spec, _)| (p(0), *spec)).collect();
    let found = transport.list_offsets(PATIENCE, wanted).await;
    for ((_, offset), (spec, expected)) in found.into_iter().zip(specs) {
        assert_eq!(offset.unwrap().offset, expected, "{spec:?}");
    }
    for position in [0, 9] {
        let error = fetch_one(&transport, 0, position).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::OffsetOutOfRange);
        assert_eq!(error.offset(), Some(position));
    }
}
