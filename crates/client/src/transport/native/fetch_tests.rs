//! Code that panics in the tasks that read: nobody waits for what no task looks after.

use super::NativeTransport;
use super::leaders_tests::{Bed, PATIENCE, batch, p};
use super::sender_tests::Trap;
use crate::transport::{FetchLimits, ProduceOptions, Transport, produce_all};
use crate::{Error, ErrorKind};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::Instant;

struct Reader {
    bed: Bed,
    transport: NativeTransport,
}

impl Reader {
    /// Both partitions on one broker, a record in each, and nothing known of them.
    async fn new() -> Self {
        let bed = Bed::new().await;
        let (leader, _) = bed.mock.leader("t", 0).unwrap();
        bed.mock.move_leader("t", 1, leader.unwrap()).unwrap();
        let writer = NativeTransport::new(bed.cluster.clone());
        let options = ProduceOptions {
            timeout: PATIENCE,
            ..ProduceOptions::default()
        };
        let batches = [0, 1].map(|n| (p(n), batch("a")));
        for (_, written) in produce_all(&writer, &options, batches.into()).await {
            written.unwrap();
        }
        let transport = NativeTransport::new(bed.cluster.clone());
        Self { bed, transport }
    }

    fn trap(counter: &'static str) -> Trap {
        Trap {
            counter,
            is_set: Arc::new(AtomicBool::new(true)),
        }
    }

    /// Reads these partitions from their front until each has been answered.
    async fn read(&self, partitions: &[i32]) -> BTreeMap<i32, Result<usize, Error>> {
        let limits = FetchLimits {
            max_wait: Duration::from_secs(1),
            min_bytes: 1,
            max_partition_bytes: 1 << 20,
            max_bytes: 1 << 20,
            read_ahead_bytes: 0,
        };
        let mut left = partitions.to_vec();
        let mut read = BTreeMap::new();
        let end = Instant::now() + PATIENCE;
        while !left.is_empty() {
            assert!(Instant::now() < end, "{left:?} are left");
            let wanted = left.iter().map(|n| (p(*n), 0.into())).collect();
            for (partition, result) in self.transport.fetch(limits, wanted).await {
                left.retain(|n| *n != partition.partition);
                let result = result.map(|fetched| fetched.records.size());
                read.insert(partition.partition, result);
            }
        }
        read
    }
}

#[tokio::test]
async fn a_panic_of_a_channel_is_an_error_for_who_reads_alone_and_none_for_the_others() {
    for partitions in [&[0][..], &[0, 1]] {
        let reader = Reader::new().await;
        let trap = Reader::trap("ottla_client_connects_total");
        let is_set = trap.is_set.clone();
        let guard = metrics::set_default_local_recorder(&trap);
        let read = reader.read(partitions).await;
        assert!(!is_set.load(Ordering::SeqCst));
        drop(guard);
        for result in read.values() {
            match result {
                Ok(bytes) => assert!(*bytes > 0 && partitions.len() > 1),
                Err(error) => {
                    assert_eq!((error.kind(), partitions.len()), (ErrorKind::Protocol, 1));
                }
            }
        }
        let again = reader.read(&[0, 1]).await;
        assert!(again.values().all(|result| result.is_ok()), "{again:?}");
    }
}

#[tokio::test]
async fn a_panic_of_who_looks_for_leaders_holds_nobody_up() {
    let reader = Reader::new().await;
    // What is known was learnt by another client.
    let reader = Reader {
        transport: NativeTransport::new(reader.bed.stranger().await),
        bed: reader.bed,
    };
    let trap = Reader::trap("ottla_client_requests_total");
    let is_set = trap.is_set.clone();
    let _guard = metrics::set_default_local_recorder(&trap);
    let read = reader.read(&[0, 1]).await;
    assert!(!is_set.load(Ordering::SeqCst));
    assert!(read.values().all(|result| result.is_ok()), "{read:?}");
}
