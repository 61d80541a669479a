//! Batches that the Java client and kcat (librdkafka) wrote to a real Kafka with each codec, as
//! `integration/codec-vectors/generate.sh` keeps them: log segments, offsets included.

#![cfg(all(
    feature = "gzip",
    feature = "snappy",
    feature = "lz4",
    feature = "zstd"
))]
#![allow(clippy::unwrap_used, reason = "tests")]

use bytes::Bytes;
use ottla_record_batch::{Compression, RecordSet};
use ottla_types::{Headers, TimestampType};

const RECORDS: &str = include_str!("data/codecs/records.tsv");

fn check(client: &'static str, codec: Compression, segment: &'static [u8]) {
    let set = RecordSet::from(Bytes::from_static(segment));
    let headers = Headers::new().with("origin", client);
    let mut wanted = RECORDS.lines().enumerate();
    for batch in set.batches() {
        let batch = batch.unwrap();
        assert_eq!(batch.compression(), Ok(codec));
        let mut count = 0;
        for record in batch.records() {
            let record = record.unwrap();
            let (offset, line) = wanted.next().unwrap();
            let (key, value) = line.split_once('\t').unwrap();
            assert_eq!(record.offset, offset as i64);
            assert_eq!(record.key.as_deref(), Some(key.as_bytes()));
            assert_eq!(record.value.as_deref(), Some(value.as_bytes()));
            assert_eq!(record.headers().unwrap(), headers);
            assert_eq!(record.timestamp_type, TimestampType::CreateTime);
            assert!(record.timestamp_ms > 1_700_000_000_000);
            count += 1;
        }
        assert_eq!(batch.record_count(), count);
    }
    assert!(
        wanted.next().is_none(),
        "{client} {codec}: records are missing"
    );
}

macro_rules! segments {
    ($($test:ident: $client:literal, $codec:ident, $file:literal;)*) => {
        $(
            #[test]
            fn $test() {
                let segment = include_bytes!(concat!("data/codecs/", $file));
                check($client, Compression::$codec, segment);
            }
        )*
    };
}

segments! {
    java_gzip: "java", Gzip, "java-gzip.bin";
    java_snappy: "java", Snappy, "java-snappy.bin";
    java_lz4: "java", Lz4, "java-lz4.bin";
    java_zstd: "java", Zstd, "java-zstd.bin";
    kcat_gzip: "kcat", Gzip, "kcat-gzip.bin";
    kcat_snappy: "kcat", Snappy, "kcat-snappy.bin";
    kcat_lz4: "kcat", Lz4, "kcat-lz4.bin";
    kcat_zstd: "kcat", Zstd, "kcat-zstd.bin";
}
