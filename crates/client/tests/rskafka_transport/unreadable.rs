//! Batches that the library underneath cannot read or does not show.

use crate::bed::*;
use bytes::{BufMut, BytesMut};
use ottla_client::ErrorKind;
use ottla_mock_cluster::{ApiKey, MockCluster};
use ottla_record_batch::BatchBuilder;
use ottla_types::Headers;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Appends bytes as they are, with a Produce v3 written by hand; gives the error code.
async fn produce_raw(cluster: &MockCluster, partition: i32, records: &[u8]) -> i16 {
    let (leader, _) = cluster.leader("t", partition).unwrap();
    let address = cluster.broker_addr(leader.unwrap()).unwrap();
    let mut request = BytesMut::new();
    request.put_slice(&[0, 0, 0, 3, 0, 0, 0, 1, 0xff, 0xff]); // key 0, v3, id 1, no client id
    request.put_slice(&[0xff, 0xff, 0xff, 0xff]); // no transaction, acks -1
    request.put_i32(5_000); // timeout
    request.put_slice(&[0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 1]); // one topic, one partition
    request.put_i32(partition);
    request.put_i32(records.len() as i32);
    request.put_slice(records);
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream
        .write_all(&(request.len() as i32).to_be_bytes())
        .await
        .unwrap();
    stream.write_all(&request).await.unwrap();
    let mut answer = vec![0; stream.read_i32().await.unwrap() as usize];
    stream.read_exact(&mut answer).await.unwrap();
    // Correlation id, one topic, "t", one partition, its number, then the code.
    i16::from_be_bytes(answer[4 + 4 + 3 + 4 + 4..][..2].try_into().unwrap())
}

/// A batch of one record that says it is compressed, with these bytes in place of the record.
fn compressed(codec: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = batch(&["x"]).bytes()[..61].to_vec();
    bytes[22] = codec;
    bytes.extend_from_slice(content);
    let length = (bytes.len() - 12) as i32;
    bytes[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = crc32c::crc32c(&bytes[21..]);
    bytes[17..21].copy_from_slice(&crc.to_be_bytes());
    bytes
}

#[tokio::test]
async fn trap_a4_a_batch_that_cannot_be_read_is_an_error_with_its_offset() {
    let (cluster, transport) = one_broker(2).await;
    let mut null_header = Headers::new();
    null_header.push("h", None);
    let mut builder = BatchBuilder::new(1 << 10);
    builder
        .try_append(0, None, Some(b"x"), &null_header)
        .unwrap();
    let null_header = builder.finish().bytes().to_vec();
    let zstd = compressed(4, b"whatever");
    for (partition, bad) in [(0, null_header), (1, zstd)] {
        produce(&transport, partition, &["a", "b"], PATIENCE)
            .await
            .unwrap();
        assert_eq!(produce_raw(&cluster, partition, &bad).await, 0);
        produce(&transport, partition, &["c"], PATIENCE)
            .await
            .unwrap();
        let fetched = fetch_one(&transport, partition, 0).await.unwrap();
        assert_eq!(
            values(&fetched),
            ["a", "b"],
            "what stands before it is read"
        );
        assert_eq!(fetched.next_offset, 2);
        let error = fetch_one(&transport, partition, 2).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert_eq!((error.offset(), error.is_retriable()), (Some(2), false));
        assert_eq!(error.partition(), Some(&p(partition)));
        assert_eq!(
            values(&fetch_one(&transport, partition, 3).await.unwrap()),
            ["c"]
        );
    }
}

#[tokio::test]
async fn trap_a5_records_that_are_not_shown_are_a_gap_and_no_hot_loop() {
    let (cluster, transport) = one_broker(1).await;
    produce(&transport, 0, &["a"], PATIENCE).await.unwrap();
    // rskafka takes a compressed block that ends early for a batch that was cut off, and leaves it
    // and what follows out.
    assert_eq!(produce_raw(&cluster, 0, &compressed(1, b"")).await, 0);
    produce(&transport, 0, &["c"], PATIENCE).await.unwrap();
    let fetched = fetch_one(&transport, 0, 0).await.unwrap();
    assert_eq!(
        (values(&fetched), fetched.next_offset),
        (vec!["a".to_owned()], 1)
    );
    let before = cluster.requests(ApiKey::Fetch);
    let error = fetch_one(&transport, 0, 1).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gap);
    assert_eq!((error.offset(), error.is_retriable()), (Some(1), false));
    assert!(cluster.requests(ApiKey::Fetch) - before <= 2);
    assert_eq!(values(&fetch_one(&transport, 0, 2).await.unwrap()), ["c"]);
}
