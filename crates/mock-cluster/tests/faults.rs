//! Faults, kills, moves, and what a stranger may send.
#![allow(clippy::unwrap_used, reason = "a helper of a test may end it")]

mod support;

use std::time::{Duration, Instant};

use kafka_protocol::messages::metadata_request::MetadataRequestTopic;
use kafka_protocol::messages::{
    ApiVersionsRequest, FindCoordinatorRequest, MetadataRequest, MetadataResponse, ProduceRequest,
};
use ottla_mock_cluster::{Action, ApiKey, Fault, MockCluster, MockError};
use support::{Peer, TestBatch, eventually, produce_request, text, topic};
use tokio::io::AsyncWriteExt;

async fn cluster(brokers: i32) -> MockCluster {
    let cluster = MockCluster::builder()
        .brokers(brokers)
        .start()
        .await
        .unwrap();
    cluster.create_topic("t", brokers).unwrap();
    cluster
}

fn one() -> bytes::Bytes {
    TestBatch::of(&["v"]).encode()
}

async fn metadata(peer: &mut Peer, name: &str) -> MetadataResponse {
    let named = MetadataRequestTopic::default().with_name(Some(topic(name)));
    peer.call(
        8,
        &MetadataRequest::default().with_topics(Some(vec![named])),
    )
    .await
}

#[tokio::test]
async fn refuse_answers_the_code_and_applies_nothing() {
    let cluster = cluster(1).await;
    let mut peer = Peer::connect(&cluster, 1).await;
    let refuse = Fault::on(ApiKey::Produce)
        .times(2)
        .action(Action::Refuse(19));
    let fault = cluster.faults().add(refuse);
    assert_eq!(peer.produce("t", 0, one()).await, (19, -1));
    assert_eq!(peer.produce("t", 0, one()).await, (19, -1));
    assert_eq!(peer.produce("t", 0, one()).await, (0, 0));
    assert_eq!((fault.hits(), cluster.faults().pending()), (2, 0));
    assert_eq!(cluster.requests(ApiKey::Produce), 3);
}

#[tokio::test]
async fn disconnect_applies_nothing_and_drop_reply_applies() {
    let cluster = cluster(1).await;
    for (action, end) in [(Action::Disconnect, 0), (Action::DropReply, 1)] {
        cluster
            .faults()
            .add(Fault::on(ApiKey::Produce).action(action));
        let mut peer = Peer::connect(&cluster, 1).await;
        assert!(
            peer.try_call(7, &produce_request("t", 0, one()))
                .await
                .is_none()
        );
        assert_eq!(cluster.high_watermark("t", 0), Some(end));
    }
    eventually("both closed", || cluster.connections() == 0).await;
}

#[tokio::test]
async fn a_last_reply_comes_before_the_connection_is_closed() {
    let cluster = cluster(1).await;
    let last = Fault::on(ApiKey::Produce).action(Action::LastReply);
    cluster.faults().add(last);
    let mut peer = Peer::connect(&cluster, 1).await;
    assert_eq!(peer.produce("t", 0, one()).await, (0, 0));
    let again = peer.try_call(7, &produce_request("t", 0, one())).await;
    assert!(again.is_none());
    assert_eq!(cluster.high_watermark("t", 0), Some(1));
}

#[tokio::test]
async fn delays_hold_the_answer_and_only_one_of_them_the_append() {
    let cluster = cluster(1).await;
    let delay = Duration::from_millis(80);
    let mut peer = Peer::connect(&cluster, 1).await;
    cluster
        .faults()
        .add(Fault::on(ApiKey::Produce).action(Action::Delay(delay)));
    let started = Instant::now();
    assert_eq!(peer.produce("t", 0, one()).await, (0, 0));
    assert!(started.elapsed() >= delay);
    let long = Action::DelayReply(Duration::from_secs(60));
    cluster
        .faults()
        .add(Fault::on(ApiKey::Produce).action(long));
    peer.send(7, &produce_request("t", 0, one())).await;
    eventually("the append", || cluster.high_watermark("t", 0) == Some(2)).await;
}

#[tokio::test]
async fn a_delayed_request_is_applied_even_when_its_client_gave_up() {
    let cluster = cluster(1).await;
    let mut peer = Peer::connect(&cluster, 1).await;
    let delay = Action::Delay(Duration::from_millis(80));
    let fault = cluster
        .faults()
        .add(Fault::on(ApiKey::Produce).action(delay));
    peer.send(7, &produce_request("t", 0, one())).await;
    eventually("the fault", || fault.hits() == 1).await;
    drop(peer);
    eventually("the client left", || cluster.connections() == 0).await;
    eventually("the append", || cluster.high_watermark("t", 0) == Some(1)).await;
}

#[tokio::test]
async fn hang_never_answers_and_ends_with_the_client() {
    let cluster = cluster(1).await;
    let mut peer = Peer::connect(&cluster, 1).await;
    let fault = cluster
        .faults()
        .add(Fault::on(ApiKey::Metadata).action(Action::Hang));
    peer.send(8, &MetadataRequest::default()).await;
    peer.send(3, &ApiVersionsRequest::default()).await;
    eventually("the fault", || fault.hits() == 1).await;
    let silence = tokio::time::timeout(Duration::from_millis(50), peer.stream.readable()).await;
    assert!(silence.is_err());
    assert_eq!(cluster.connections(), 1);
    drop(peer);
    eventually("it ended", || cluster.connections() == 0).await;
}

#[tokio::test]
async fn a_fault_hits_only_what_it_names() {
    let cluster = cluster(2).await;
    cluster.create_topic("other", 1).unwrap();
    cluster.move_leader("t", 0, 1).unwrap();
    cluster.move_leader("other", 0, 1).unwrap();
    let mut first = Peer::connect(&cluster, 1).await;
    let mut second = Peer::connect(&cluster, 2).await;
    let add = |fault: Fault| cluster.faults().add(fault.action(Action::Refuse(7)));
    let by_broker = add(Fault::on(ApiKey::Metadata).at_broker(2).forever());
    assert_eq!(metadata(&mut first, "t").await.topics[0].error_code, 0);
    assert_eq!(metadata(&mut second, "t").await.topics[0].error_code, 7);
    by_broker.remove();
    assert_eq!(metadata(&mut second, "t").await.topics[0].error_code, 0);

    let by_topic = add(Fault::on(ApiKey::Produce).topic("other").skip(1));
    assert_eq!(first.produce("t", 0, one()).await.0, 0);
    assert_eq!(first.produce("other", 0, one()).await.0, 0);
    assert_eq!(first.produce("other", 0, one()).await.0, 7);
    assert_eq!(first.produce("other", 0, one()).await.0, 0);
    assert_eq!(by_topic.hits(), 1);

    add(Fault::on(ApiKey::FindCoordinator).group("a"));
    let find = |group: &str| FindCoordinatorRequest::default().with_key(text(group));
    assert_eq!(first.call(3, &find("b")).await.error_code, 0);
    assert_eq!(first.call(3, &find("a")).await.error_code, 7);
    cluster.faults().clear();
}

#[tokio::test]
async fn a_moved_leader_has_a_new_epoch_and_the_old_one_refuses() {
    let cluster = cluster(2).await;
    cluster.move_leader("t", 0, 1).unwrap();
    let (_, epoch) = cluster.leader("t", 0).unwrap();
    let mut first = Peer::connect(&cluster, 1).await;
    assert_eq!(first.produce("t", 0, one()).await, (0, 0));
    cluster.move_leader("t", 0, 2).unwrap();
    assert_eq!(first.produce("t", 0, one()).await.0, 6);
    // KIP-951: version 10 and up says who leads, and where.
    let answer = first.call(10, &produce_request("t", 0, one())).await;
    let leader = &answer.responses[0].partition_responses[0].current_leader;
    assert_eq!((leader.leader_id.0, leader.leader_epoch), (2, epoch + 1));
    assert_eq!(answer.node_endpoints[0].node_id.0, 2);
    let mut second = Peer::connect(&cluster, 2).await;
    assert_eq!(second.produce("t", 0, one()).await, (0, 1));
    assert_eq!(cluster.batches("t", 0)[1].leader_epoch, epoch + 1);
    assert!(matches!(
        cluster.move_leader("t", 0, 9),
        Err(MockError::UnknownBroker(9))
    ));
    assert!(matches!(
        cluster.move_leader("x", 0, 1),
        Err(MockError::UnknownPartition { .. })
    ));
}

#[tokio::test]
async fn a_killed_broker_is_gone_at_once_and_its_partitions_move() {
    let cluster = cluster(3).await;
    let addr = cluster.broker_addr(2).unwrap();
    let mut doomed = Peer::connect(&cluster, 2).await;
    let mut other = Peer::connect(&cluster, 1).await;
    let led: Vec<i32> = (0..3)
        .filter(|p| cluster.leader("t", *p).unwrap().0 == Some(2))
        .collect();
    assert_eq!(doomed.produce("t", led[0], one()).await, (0, 0));
    cluster.kill(2).await.unwrap();
    assert!(doomed.is_closed().await);
    assert!(tokio::net::TcpStream::connect(&addr).await.is_err());
    assert!(matches!(
        cluster.kill(2).await,
        Err(MockError::BrokerDown(2))
    ));
    let answer = metadata(&mut other, "t").await;
    assert_eq!(answer.brokers.len(), 2);
    assert!(
        answer.topics[0]
            .partitions
            .iter()
            .all(|partition| partition.leader_id.0 != 2)
    );
    assert_eq!(cluster.leader("t", led[0]), Some((Some(3), 1)));

    cluster.restart(2).await.unwrap();
    assert_eq!(cluster.broker_addr(2), Some(addr));
    assert!(matches!(
        cluster.restart(2).await,
        Err(MockError::BrokerUp(2))
    ));
    let mut back = Peer::connect(&cluster, 2).await;
    assert_eq!(back.produce("t", led[0], one()).await.0, 6);
    cluster.move_leader("t", led[0], 2).unwrap();
    assert_eq!(back.produce("t", led[0], one()).await, (0, 1));
    cluster.shutdown().await;
    assert_eq!((cluster.connections(), cluster.failed_tasks()), (0, 0));
    assert!(matches!(cluster.restart(2).await, Err(MockError::ShutDown)));
    assert_eq!(cluster.high_watermark("t", led[0]), Some(2));
}

#[tokio::test]
async fn without_replicas_partitions_and_groups_wait_for_their_broker() {
    let cluster = MockCluster::builder()
        .brokers(2)
        .replicated(false)
        .start()
        .await
        .unwrap();
    cluster.create_topic("t", 1).unwrap();
    cluster.move_leader("t", 0, 1).unwrap();
    cluster.move_coordinator("g", 1).unwrap();
    let mut first = Peer::connect(&cluster, 1).await;
    assert_eq!(first.produce("t", 0, one()).await, (0, 0));
    cluster.kill(1).await.unwrap();
    let mut second = Peer::connect(&cluster, 2).await;
    let partition = metadata(&mut second, "t").await.topics[0].partitions[0].clone();
    assert_eq!((partition.error_code, partition.leader_id.0), (5, -1));
    assert_eq!(second.produce("t", 0, one()).await.0, 6);
    let find = FindCoordinatorRequest::default().with_key(text("g"));
    assert_eq!(second.call(3, &find).await.error_code, 15);
    cluster.restart(1).await.unwrap();
    assert_eq!(second.call(3, &find).await.node_id.0, 1);
    let mut first = Peer::connect(&cluster, 1).await;
    assert_eq!(first.produce("t", 0, one()).await, (0, 1));
}

#[tokio::test]
async fn all_brokers_down_and_up_again() {
    let cluster = cluster(2).await;
    cluster.kill(1).await.unwrap();
    cluster.kill(2).await.unwrap();
    assert_eq!(cluster.leader("t", 0).unwrap().0, None);
    cluster.restart(2).await.unwrap();
    assert_eq!(cluster.leader("t", 0).unwrap().0, Some(2));
    assert_eq!(cluster.coordinator("g"), Some(2));
}

#[tokio::test]
async fn metadata_creates_topics_only_when_it_may() {
    let cluster = MockCluster::builder()
        .default_partitions(5)
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(&cluster, 1).await;
    assert_eq!(
        metadata(&mut peer, "made").await.topics[0].partitions.len(),
        5
    );
    let named = MetadataRequestTopic::default().with_name(Some(topic("unmade")));
    let request = MetadataRequest::default()
        .with_topics(Some(vec![named]))
        .with_allow_auto_topic_creation(false);
    assert_eq!(peer.call(8, &request).await.topics[0].error_code, 3);
    assert_eq!(
        metadata(&mut peer, "bad name").await.topics[0].error_code,
        17
    );

    let cluster = MockCluster::builder()
        .auto_create_topics(false)
        .start()
        .await
        .unwrap();
    let mut peer = Peer::connect(&cluster, 1).await;
    assert_eq!(metadata(&mut peer, "unmade").await.topics[0].error_code, 3);
}

#[tokio::test]
async fn garbage_closes_the_connection_and_nothing_else() {
    let cluster = MockCluster::builder()
        .max_frame_bytes(10_000)
        .start()
        .await
        .unwrap();
    cluster.create_topic("t", 1).unwrap();
    let frame = |body: &[u8]| [&(body.len() as i32).to_be_bytes()[..], body].concat();
    // Metadata version 8 and 9 that announce more topics than there are bytes.
    let greedy = [0, 3, 0, 8, 0, 0, 0, 1, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff];
    let greedy_compact = [
        0, 3, 0, 9, 0, 0, 0, 1, 0xff, 0xff, 0, 0xff, 0xff, 0xff, 0xff, 0x0f,
    ];
    let cases: Vec<Vec<u8>> = vec![
        b"GET / HTTP/1.1\r\nhost: x\r\n\r\n".to_vec(),
        vec![0x16, 0x03, 0x01, 0x02, 0x00, 0x01],
        vec![0xff; 64],
        frame(&[]),
        frame(&[0, 3]),
        frame(&[0x7f, 0xff, 0, 0, 0, 0, 0, 0]),
        frame(&[0, 3, 0xff, 0xff, 0, 0, 0, 0]),
        frame(&[0, 3, 0, 8, 0, 0, 0, 1, 0x7f, 0xff]),
        frame(&greedy),
        frame(&greedy_compact),
        10_001_i32.to_be_bytes().to_vec(),
    ];
    for bytes in cases {
        let mut peer = Peer::connect(&cluster, 1).await;
        peer.stream.write_all(&bytes).await.unwrap();
        assert!(peer.is_closed().await, "{bytes:?}");
    }
    // Every prefix and every flipped byte of a good request ends in an answer or a close.
    let good = whole_frame(&produce_request("t", 0, one()));
    for at in 4..good.len() {
        for byte in [0x00, 0x7f, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            let mut peer = Peer::connect(&cluster, 1).await;
            peer.stream.write_all(&bytes).await.unwrap();
            peer.stream.shutdown().await.unwrap();
            let mut rest = Vec::new();
            let read = tokio::io::AsyncReadExt::read_to_end(&mut peer.stream, &mut rest);
            let _ = tokio::time::timeout(support::LIMIT, read)
                .await
                .expect("an end");
        }
    }
    let mut peer = Peer::connect(&cluster, 1).await;
    assert_eq!(peer.produce("t", 0, one()).await.0, 0);
    cluster.shutdown().await;
    assert_eq!(cluster.failed_tasks(), 0);
}

fn whole_frame(request: &ProduceRequest) -> Vec<u8> {
    use kafka_protocol::protocol::Encodable;
    let mut body = bytes::BytesMut::from(&[0, 0, 0, 7, 0, 0, 0, 1, 0xff, 0xff][..]);
    request.encode(&mut body, 7).unwrap();
    [&(body.len() as i32).to_be_bytes()[..], &body].concat()
}

#[tokio::test]
async fn settings_outside_their_range_are_refused_by_name() {
    let builder = MockCluster::builder;
    let cases = [
        (builder().brokers(0), "brokers"),
        (builder().default_partitions(0), "default_partitions"),
        (builder().max_message_bytes(60), "max_message_bytes"),
        (builder().max_frame_bytes(0), "max_frame_bytes"),
        (builder().max_connections(0), "max_connections"),
        (builder().brokers(2).port(65_535), "port"),
        (
            builder().initial_rebalance_delay(Duration::from_secs(301)),
            "initial_rebalance_delay",
        ),
    ];
    for (builder, name) in cases {
        match builder.start().await {
            Err(MockError::Setting { setting, .. }) => assert_eq!(setting, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn connections_are_counted_and_bounded() {
    let cluster = MockCluster::builder()
        .max_connections(2)
        .start()
        .await
        .unwrap();
    let first = Peer::connect(&cluster, 1).await;
    let _second = Peer::connect(&cluster, 1).await;
    eventually("two", || cluster.connections() == 2).await;
    let mut third = Peer::connect(&cluster, 1).await;
    assert!(third.is_closed().await);
    drop(first);
    eventually("one", || cluster.connections() == 1).await;
}

#[tokio::test]
async fn dropping_the_cluster_closes_everything() {
    let cluster = cluster(2).await;
    let addr = cluster.broker_addr(1).unwrap();
    let mut peer = Peer::connect(&cluster, 1).await;
    metadata(&mut peer, "t").await;
    drop(cluster);
    assert!(peer.is_closed().await);
    let started = Instant::now();
    while tokio::net::TcpStream::connect(&addr).await.is_ok() {
        assert!(started.elapsed() < support::LIMIT);
        tokio::task::yield_now().await;
    }
}
