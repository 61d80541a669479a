//! The same key lands where the Java client, sarama and librdkafka put it. The vectors were made by
//! running those clients: see `integration/partitioner-vectors/generate.sh` in the repository.

use ottla_producer::partition::{PartitionerKind, Partitions};
use ottla_types::{AsRecord, Record};
use std::collections::BTreeSet;

const VECTORS: &str = include_str!("data/partitioner_vectors.tsv");
const COUNTS: [usize; 6] = [1, 2, 3, 7, 12, 100];

fn record(key: &str) -> Record {
    let record = Record::new("t").value("v");
    match key {
        "null" => record,
        "empty" => record.key(""),
        hex => {
            let byte = |i| u8::from_str_radix(&hex[i..i + 2], 16).expect("hex");
            let key: Vec<u8> = (0..hex.len()).step_by(2).map(byte).collect();
            record.key(key)
        }
    }
}

#[test]
fn every_key_lands_where_the_named_client_puts_it() {
    let all: Vec<i32> = (0..100).collect();
    let mut rules = BTreeSet::new();
    let mut vectors = 0;
    for line in VECTORS.lines().filter(|line| !line.starts_with('#')) {
        let fields: Vec<_> = line.split('\t').collect();
        let [client, rule, key, results @ ..] = &fields[..] else {
            panic!("bad line: {line}");
        };
        let kind: PartitionerKind = rule.parse().unwrap();
        let record = record(key);
        assert_eq!(results.len(), COUNTS.len());
        for (count, expected) in COUNTS.into_iter().zip(results) {
            let mut partitioner = kind.build(7).for_topic("t");
            // Hashing is over all partitions, whether or not they have a leader.
            let partitions = Partitions::new(&all[..count], &all[..1]);
            let spread = Partitions::new(&all[..count], &all[..count]);
            if *expected == "random" {
                let mut seen = BTreeSet::new();
                for _ in 0..400 {
                    let chosen = partitioner.partition(&record.as_record(), &spread).unwrap();
                    partitioner.batch_closed(chosen);
                    seen.insert(chosen);
                }
                let enough = count.min(12);
                assert!(
                    seen.len() >= enough,
                    "{client} {rule} {key} {count}: {seen:?}"
                );
            } else {
                let chosen = partitioner
                    .partition(&record.as_record(), &partitions)
                    .unwrap();
                assert_eq!(
                    chosen.to_string(),
                    **expected,
                    "{client} {rule} {key} {count}"
                );
            }
            vectors += 1;
        }
        rules.insert((client.to_string(), rule.to_string()));
    }
    assert_eq!(rules.len(), 11, "{rules:?}");
    assert_eq!(vectors, 440 * COUNTS.len());
}
