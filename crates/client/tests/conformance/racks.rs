//! Reading from the replica that is in the reader's rack (KIP-392).

use crate::bed::{Bed, MockBed, SECOND, Topic, limits, values};
use crate::verdict::lacks;
use ottla_client::TransportKind;
use ottla_mock_cluster::{Action, ApiKey, Fault, FaultHandle, MockCluster, Versions};
use std::time::Duration;

/// A mock of three brokers in the racks a, b and c, and a client in rack b; a topic that broker 1
/// leads. `None` where a transport refuses to be built with a rack.
async fn in_rack_b(kind: TransportKind, version: i16, replica_age: Duration) -> Option<MockBed> {
    let versions = Versions::kafka_4_3().with(ApiKey::Fetch, 4, version);
    let builder = MockCluster::builder().brokers(3).racks(&["a", "b", "c"]);
    let mock = builder.versions(versions).start().await.unwrap();
    mock.create_topic("near", 1).unwrap();
    mock.move_leader("near", 0, 1).unwrap();
    if kind == TransportKind::Rskafka {
        let mut config = ottla_client::ClientConfig::new(&mock.bootstrap());
        config.transport = kind;
        config.client_rack = "b".into();
        let error = config.validate().unwrap_err();
        assert_eq!(error.key, "transport");
        lacks("refused when it is built");
        return None;
    }
    let bed = Bed::with(kind, &mock.bootstrap(), |config| {
        config.client_rack = "b".into();
        config.metadata_max_age = replica_age;
    })
    .await;
    Some(MockBed { mock, bed })
}

/// Counts the Fetch requests at a broker, and changes nothing.
fn count(bed: &MockBed, broker: i32) -> FaultHandle {
    let nothing = Action::Delay(Duration::ZERO);
    let fault = Fault::on(ApiKey::Fetch).at_broker(broker).forever();
    bed.mock.faults().add(fault.action(nothing))
}

/// Writes a record and reads it; gives the next offset.
async fn pass(topic: &Topic<'_>, offset: i64) -> i64 {
    let value = format!("{offset}");
    topic.write(0, &[&value]).await.unwrap();
    let fetched = topic.read_on(0, offset).await;
    assert_eq!(values(&fetched), [value]);
    fetched.next_offset
}

pub(crate) async fn the_replica_in_the_readers_rack_is_read_from(kind: TransportKind) {
    for version in [18, 13, 12, 11] {
        let Some(bed) = in_rack_b(kind, version, SECOND * 300).await else {
            return;
        };
        let (leader, replica) = (count(&bed, 1), count(&bed, 2));
        let topic = bed.existing("near");
        let mut offset = 0;
        for _ in 0..5 {
            offset = pass(&topic, offset).await;
        }
        assert!(replica.hits() >= 5, "v{version}: {}", replica.hits());
        // It has been asked once, and has sent us on.
        assert_eq!(leader.hits(), 1, "v{version}");
        bed.mock.shutdown().await;
    }
}

pub(crate) async fn a_replica_is_read_from_for_a_while_only(kind: TransportKind) {
    let Some(bed) = in_rack_b(kind, 18, SECOND / 4).await else {
        return;
    };
    let leader = count(&bed, 1);
    let topic = bed.existing("near");
    let mut offset = pass(&topic, 0).await;
    assert_eq!(leader.hits(), 1);
    while leader.hits() < 3 {
        offset = pass(&topic, offset).await;
    }
}

pub(crate) async fn trap_c5_out_of_range_from_a_replica_is_asked_at_the_leader(
    kind: TransportKind,
) {
    let Some(bed) = in_rack_b(kind, 18, SECOND * 300).await else {
        return;
    };
    let topic = bed.existing("near");
    let mut offset = pass(&topic, 0).await;
    // OFFSET_OUT_OF_RANGE, NOT_LEADER_OR_FOLLOWER, REPLICA_NOT_AVAILABLE, an unknown one.
    for code in [1, 6, 9, -1] {
        let refused = Fault::on(ApiKey::Fetch).at_broker(2).times(2);
        let refused = refused.action(Action::Refuse(code));
        let refused = bed.mock.faults().add(refused);
        let leader = count(&bed, 1);
        offset = pass(&topic, offset).await;
        offset = pass(&topic, offset).await;
        assert!(refused.hits() >= 1 && leader.hits() >= 1, "{code}");
        refused.remove();
        leader.remove();
    }
    // What is out of range at the leader, too, is told to the caller, and looked up there.
    bed.mock.delete_records("near", 0, offset).unwrap();
    let error = topic.read(0, 0).await.unwrap_err();
    assert_eq!(error.kind(), ottla_client::ErrorKind::OffsetOutOfRange);
    let leader = Fault::on(ApiKey::ListOffsets).at_broker(1);
    let leader = bed
        .mock
        .faults()
        .add(leader.action(Action::Delay(Duration::ZERO)));
    let wanted = vec![(topic.p(0), ottla_client::transport::OffsetSpec::Earliest)];
    let found = bed.transport().list_offsets(SECOND, wanted).await;
    assert_eq!(found[0].1.as_ref().unwrap().offset, offset);
    assert_eq!(leader.hits(), 1);
}

pub(crate) async fn a_replica_that_dies_leads_back_to_the_leader(kind: TransportKind) {
    let Some(bed) = in_rack_b(kind, 18, SECOND * 300).await else {
        return;
    };
    let topic = bed.existing("near");
    let mut offset = pass(&topic, 0).await;
    let replica = count(&bed, 2);
    let before = replica.hits();
    offset = pass(&topic, offset).await;
    assert!(replica.hits() > before);
    bed.mock.kill(2).await.unwrap();
    offset = pass(&topic, offset).await;
    offset = pass(&topic, offset).await;
    // Back again, it is sent to again. That the metadata does not list it yet is an error that passes.
    bed.client.refresh_topic("near").await.unwrap();
    let slow = Fault::on(ApiKey::Metadata).action(Action::Delay(SECOND));
    bed.mock.faults().add(slow);
    bed.mock.restart(2).await.unwrap();
    let before = replica.hits();
    while replica.hits() == before {
        offset = pass(&topic, offset).await;
    }
    // And a leader that moves into the rack is read from itself.
    bed.mock.move_leader("near", 0, 2).unwrap();
    offset = pass(&topic, offset).await;
    bed.mock.move_leader("near", 0, 3).unwrap();
    offset = pass(&topic, offset).await;
    let waiting = bed
        .transport()
        .fetch(limits(SECOND / 20), vec![topic.at(0, offset)]);
    assert_eq!(waiting.await.len(), 0);
}
