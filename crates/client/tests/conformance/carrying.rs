//! What goes in comes out: records with all their parts, codecs, acks, offsets.

use crate::bed::{Bed, PATIENCE, Topic, batch, limits, options, shown, values};
use crate::verdict::lacks;
use ottla_client::ErrorKind;
use ottla_client::transport::{
    Acks, Compression, FetchLimits, OffsetSpec, ProduceOptions, produce_all,
};
use ottla_record_batch::{BatchBuilder, RecordView};
use ottla_types::{Fate, Header, Headers, TimestampType};

fn records(fetched: &ottla_client::transport::Fetched) -> Vec<RecordView> {
    let batches = fetched.records.batches().map(Result::unwrap);
    batches
        .flat_map(|batch| batch.records().collect::<Vec<_>>())
        .map(Result::unwrap)
        .collect()
}

pub(crate) async fn what_is_written_is_read(bed: &Bed) {
    let topic = bed.topic(1, &[]).await;
    let headers = Headers::new().with("a", "1").with("b", "");
    let now = 1_700_000_000_000;
    let mut builder = BatchBuilder::new(1 << 20);
    for (time, key, value) in [
        (now + 5, Some(&b"k"[..]), Some(&b"v"[..])),
        (now, None, None),
        (now + 7, Some(b""), Some(b"")),
    ] {
        builder.try_append(time, key, value, &headers).unwrap();
    }
    let produced = topic.send(0, builder.finish(), options(PATIENCE)).await;
    let produced = produced.unwrap();
    assert_eq!(
        (produced.base_offset, produced.log_append_time_ms),
        (Some(0), None)
    );

    let fetched = topic.read(0, 0).await.unwrap();
    assert_eq!((fetched.next_offset, fetched.high_watermark), (3, 3));
    let records = records(&fetched);
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
            (0, now + 5, Some(&b"k"[..]), Some(&b"v"[..])),
            (1, now, None, None),
            (2, now + 7, Some(&b""[..]), Some(&b""[..])),
        ]
    );
    for record in records {
        assert_eq!(record.headers().unwrap(), headers);
        assert_eq!(record.timestamp_type, TimestampType::CreateTime);
    }
}

/// Order, repeated names, null values, names that are no UTF-8.
fn odd_headers() -> Headers {
    let mut headers = Headers::new().with("z", "1").with("a", "2").with("z", "3");
    headers.push("none", None);
    headers.push_raw(Header {
        key: bytes::Bytes::from_static(b"\xff\xfe"),
        value: Some("x".into()),
    });
    headers
}

pub(crate) async fn trap_a11_headers_keep_order_repetition_and_bytes(bed: &Bed) {
    let topic = bed.topic(1, &[]).await;
    let headers = odd_headers();
    let mut builder = BatchBuilder::new(1 << 20);
    builder.try_append(0, None, Some(b"v"), &headers).unwrap();
    let written = topic.send(0, builder.finish(), options(PATIENCE)).await;
    let allowed = bed.transport().capabilities().check_record(&headers, 0);
    if !bed.transport().capabilities().header_fidelity {
        lacks("refuses the record");
        assert!(allowed.is_err());
        let error = written.unwrap_err();
        assert_eq!(
            (error.kind(), error.fate()),
            (ErrorKind::InvalidRecord, Fate::NotWritten)
        );
        return;
    }
    allowed.unwrap();
    written.unwrap();
    let fetched = topic.read(0, 0).await.unwrap();
    assert_eq!(records(&fetched)[0].headers().unwrap(), headers);
}

pub(crate) async fn trap_a4_null_header_values_are_read(bed: &Bed) {
    let topic = bed.topic(1, &[]).await;
    topic.write(0, &["before"]).await.unwrap();
    // Written by one that can.
    let native = Bed::at(ottla_client::TransportKind::Native, &bed.bootstrap).await;
    let mut headers = Headers::new();
    headers.push("none", None);
    let mut builder = BatchBuilder::new(1 << 20);
    builder.try_append(0, None, Some(b"odd"), &headers).unwrap();
    let there = native.existing(&topic.name);
    let sent = there.send(0, builder.finish(), options(PATIENCE)).await;
    assert_eq!(sent.unwrap().base_offset, Some(1));

    let first = topic.read(0, 0).await.unwrap();
    assert_eq!(values(&first)[0], "before");
    if bed.is_native() {
        let odd = topic.read_to(0, 1, 2).await;
        assert_eq!(odd, [(1, "odd".to_owned())]);
        let fetched = topic.read(0, 1).await.unwrap();
        let record = &records(&fetched)[0];
        let header = record.headers().unwrap().iter().next().cloned();
        let expected = Header {
            key: "none".into(),
            value: None,
        };
        assert_eq!(header, Some(expected));
    } else {
        lacks("error at the offset");
        let error = topic.read(0, 1).await.unwrap_err();
        assert_eq!(
            (error.kind(), error.offset()),
            (ErrorKind::Unsupported, Some(1))
        );
    }
    native.client.close().await;
}

pub(crate) async fn trap_a12_the_brokers_time_is_seen(bed: &Bed) {
    let topic = bed
        .topic(1, &[("message.timestamp.type", "LogAppendTime")])
        .await;
    let produced = topic.write(0, &["a", "b"]).await.unwrap();
    let fetched = topic.read(0, 0).await.unwrap();
    for record in records(&fetched) {
        if bed.is_native() {
            assert_eq!(record.timestamp_type, TimestampType::LogAppendTime);
            assert_eq!(Some(record.timestamp_ms), produced.log_append_time_ms);
            assert!(record.timestamp_ms > 1_000);
        } else {
            lacks("the writer's time");
            // The library underneath does not see it.
            assert_eq!(produced.log_append_time_ms, None);
            assert_eq!(record.timestamp_ms, 1_000);
        }
    }
}

pub(crate) async fn trap_a14_every_codec_is_carried_or_refused(bed: &Bed) {
    let topic = bed.topic(Compression::ALL.len() as i32, &[]).await;
    let text = "the same again and again ".repeat(50);
    for (n, compression) in (0..).zip(Compression::ALL) {
        let with_codec = ProduceOptions {
            compression,
            ..options(PATIENCE)
        };
        let sent = topic.send(n, batch(&[&text, "b", &text]), with_codec).await;
        if bed.transport().capabilities().codecs.contains(&compression) {
            sent.unwrap();
            let fetched = topic.read(n, 0).await.unwrap();
            assert_eq!(values(&fetched), [&text, "b", &text], "{compression:?}");
            if bed.is_native() {
                let batch = fetched.records.batches().next().unwrap().unwrap();
                assert_eq!(batch.compression(), Ok(compression));
            }
        } else {
            lacks("refuses lz4 and zstd");
            let error = sent.unwrap_err();
            assert_eq!(
                (error.kind(), error.fate()),
                (ErrorKind::Unsupported, Fate::NotWritten)
            );
        }
    }
}

pub(crate) async fn partitions_are_answered_on_their_own_and_in_order(bed: &Bed) {
    let topic = bed.topic(3, &[]).await;
    let batches = [2, 9, 0, 1].map(|n| (topic.p(n), batch(&["v"])));
    let half = std::time::Duration::from_millis(500);
    let results = produce_all(bed.transport(), &options(half), batches.into()).await;
    let order: Vec<_> = results.iter().map(|(p, _)| p.partition).collect();
    assert_eq!(order, [2, 9, 0, 1]);
    for (partition, result) in results {
        match (partition.partition, result) {
            (9, result) => {
                let error = result.unwrap_err();
                assert_eq!(error.kind(), ErrorKind::UnknownTopic);
                assert_eq!(error.partition(), Some(&topic.p(9)));
                assert_eq!(error.fate(), Fate::NotWritten);
            }
            (_, result) => assert_eq!(result.unwrap().base_offset, Some(0)),
        }
    }
}

pub(crate) async fn every_kind_of_acks_is_carried_or_refused(bed: &Bed) {
    let topic = bed.topic(1, &[]).await;
    let mut written = 0;
    for acks in [Acks::None, Acks::Leader, Acks::All] {
        let options = ProduceOptions {
            acks,
            ..options(PATIENCE)
        };
        let sent = topic.send(0, batch(&["v"]), options).await;
        if acks == Acks::All || bed.transport().capabilities().acks {
            let offset = (acks != Acks::None).then_some(written);
            assert_eq!(sent.unwrap().base_offset, offset, "{acks:?}");
            written += 1;
        } else {
            lacks("refuses none and leader");
            assert_eq!(sent.unwrap_err().kind(), ErrorKind::Unsupported);
        }
    }
    assert_eq!(topic.read_to(0, 0, written).await.len() as i64, written);
}

pub(crate) async fn offsets_are_looked_up(bed: &Bed) {
    let topic = bed.topic(2, &[]).await;
    for time in [100, 200, 300] {
        let mut builder = BatchBuilder::new(1 << 10);
        let none = Headers::new();
        builder.try_append(time, None, Some(b"v"), &none).unwrap();
        let sent = topic.send(0, builder.finish(), options(PATIENCE)).await;
        sent.unwrap();
    }
    let specs = [
        (0, OffsetSpec::Earliest, 0),
        (0, OffsetSpec::Latest, 3),
        (1, OffsetSpec::Latest, 0),
        (0, OffsetSpec::Timestamp(150), 1),
        (0, OffsetSpec::Timestamp(250), 2),
        (0, OffsetSpec::Timestamp(301), 3),
        (0, OffsetSpec::Timestamp(-1), 0),
        (0, OffsetSpec::Timestamp(i64::MAX), 3),
        (1, OffsetSpec::Timestamp(5), 0),
    ];
    let wanted = specs.iter().map(|(n, spec, _)| (topic.p(*n), *spec));
    let found = bed.transport().list_offsets(PATIENCE, wanted.collect());
    for ((partition, offset), (n, spec, expected)) in found.await.into_iter().zip(specs) {
        assert_eq!(partition, topic.p(n));
        assert_eq!(offset.unwrap().offset, expected, "{spec:?}");
    }
    let nowhere = vec![(topic.p(7), OffsetSpec::Latest)];
    let limit = std::time::Duration::from_millis(300);
    let found = bed.transport().list_offsets(limit, nowhere).await;
    let error = found.into_iter().next().unwrap().1.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::UnknownTopic);
    assert_eq!(error.partition(), Some(&topic.p(7)));
}

pub(crate) async fn reading_starts_within_a_batch(bed: &Bed) {
    let topic = bed.topic(1, &[]).await;
    topic.write(0, &["0", "1", "2"]).await.unwrap();
    topic.write(0, &["3"]).await.unwrap();
    let fetched = topic.read(0, 2).await.unwrap();
    let from_2: Vec<_> = shown(&fetched)
        .into_iter()
        .filter(|(o, _)| *o >= 2)
        .collect();
    assert_eq!(from_2[0], (2, "2".to_owned()));
    assert_eq!(topic.read_to(0, 2, 4).await.len(), 2);
}

async fn read_with(topic: &Topic<'_>, limits: FetchLimits, partitions: i32, each: i64) -> usize {
    let mut positions: Vec<_> = (0..partitions).map(|n| (topic.p(n), 0)).collect();
    let mut calls = 0;
    while positions.iter().any(|(_, position)| *position < each) {
        let open = positions
            .iter()
            .filter(|(_, at)| *at < each)
            .map(|(p, at)| (p.clone(), (*at).into()));
        let answers = topic.bed.transport().fetch(limits, open.collect()).await;
        calls += 1;
        for (partition, answer) in answers {
            let fetched = answer.unwrap();
            let (_, position) = &mut positions[partition.partition as usize];
            let mut expected = *position;
            for (offset, value) in shown(&fetched) {
                if offset >= expected {
                    assert_eq!((offset, value.len()), (expected, 500));
                    expected += 1;
                }
            }
            assert_eq!(fetched.next_offset, expected);
            *position = expected;
        }
    }
    calls
}

pub(crate) async fn small_limits_slow_down_but_lose_nothing(bed: &Bed) {
    let topic = bed.topic(4, &[]).await;
    let value = "v".repeat(500);
    for n in 0..4 {
        for _ in 0..5 {
            topic.write(n, &[&value, &value]).await.unwrap();
        }
    }
    for (max_partition_bytes, max_bytes) in [(1, 1), (1500, 2000), (700, 1 << 20)] {
        let limits = FetchLimits {
            max_partition_bytes,
            max_bytes,
            ..limits(PATIENCE / 30)
        };
        assert!(read_with(&topic, limits, 4, 10).await >= 1);
    }
}
