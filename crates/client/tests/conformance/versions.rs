//! Brokers of every age.

use crate::bed::{Bed, MockBed, PATIENCE, SECOND, batch, limits, options};
use crate::verdict::lacks;
use ottla_client::TransportKind;
use ottla_client::transport::{OffsetSpec, produce_all};
use ottla_mock_cluster::{ApiKey, MockCluster, Versions};

async fn use_everything(bed: &Bed) {
    let topic = bed.topic(3, &[]).await;
    let batches = (0..3).map(|n| (topic.p(n), batch(&["a", "b"])));
    let options = options(PATIENCE);
    let written = produce_all(bed.transport(), &options, batches.collect());
    for (_, result) in written.await {
        assert_eq!(result.unwrap().base_offset, Some(0));
    }
    for n in 0..3 {
        assert_eq!(topic.read_to(n, 0, 2).await.len(), 2);
        topic.write(n, &["c"]).await.unwrap();
        assert_eq!(topic.read_to(n, 2, 3).await, [(2, "c".to_owned())]);
    }
    let wanted = vec![topic.at(0, 3)];
    let answers = bed.transport().fetch(limits(SECOND / 20), wanted).await;
    assert_eq!(answers.len(), 0);
    let wanted = vec![
        (topic.p(0), OffsetSpec::Earliest),
        (topic.p(1), OffsetSpec::Latest),
        (topic.p(2), OffsetSpec::Timestamp(2_000)),
    ];
    let found = bed.transport().list_offsets(PATIENCE, wanted).await;
    let offsets: Vec<_> = found.into_iter().map(|(_, o)| o.unwrap().offset).collect();
    assert_eq!(offsets, [0, 3, 3]);
    let error = topic.read(0, 9).await.unwrap_err();
    assert_eq!(error.kind(), ottla_client::ErrorKind::OffsetOutOfRange);
}

async fn use_with(kind: TransportKind, versions: Versions) {
    let builder = MockCluster::builder().brokers(2).versions(versions);
    let bed = MockBed::on(kind, builder).await;
    use_everything(&bed).await;
    bed.client.close().await;
    bed.mock.shutdown().await;
}

pub(crate) async fn every_kind_of_broker_is_spoken_to(kind: TransportKind) {
    for versions in [
        Versions::kafka_3_9(),
        Versions::kafka_4_0(),
        Versions::kafka_4_3(),
        Versions::redpanda(),
    ] {
        use_with(kind, versions).await;
    }
}

/// Up to the newest that this client speaks.
pub(crate) async fn trap_a15_every_version_of_the_data_path_works(kind: TransportKind) {
    if kind == TransportKind::Rskafka {
        lacks("versions of its own");
        // Its versions are its own.
        return;
    }
    let newest = Versions::kafka_4_3;
    for version in 3..=12 {
        use_with(kind, newest().with(ApiKey::Produce, 3, version)).await;
    }
    for version in 4..=18 {
        use_with(kind, newest().with(ApiKey::Fetch, 4, version)).await;
    }
    for version in 1..=7 {
        use_with(kind, newest().with(ApiKey::ListOffsets, 1, version)).await;
    }
}
