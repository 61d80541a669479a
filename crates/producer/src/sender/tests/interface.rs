//! Typed sends, and what is refused at build.

use super::*;

#[tokio::test(start_paused = true)]
async fn typed_sends_write_what_they_say() {
    #[derive(serde::Serialize)]
    struct Order {
        id: u32,
    }
    let (producer, fake) = written().start(ProducerConfig::default());
    let json = producer.send_json("t", "k", &Order { id: 7 }).await;
    let partition = json.expect("written").partition;
    let envelope = Envelope::new("OrderPaid", &b"{}"[..]);
    producer
        .send_envelope("t", "k", &envelope)
        .await
        .expect("written");
    let order = Order { id: 7 };
    let event = producer.send_event("t", "k", "OrderPaid", &order).await;
    event.expect("written");
    let expected = [
        r#"{"id":7}"#,
        r#"{"type":"OrderPaid","data":"e30="}"#,
        r#"{"type":"OrderPaid","data":"eyJpZCI6N30="}"#,
    ];
    assert_eq!(fake.log(partition), expected);
    let no_json = HashMap::from([(vec![1], 1)]);
    let error = producer
        .send_json("t", "k", &no_json)
        .await
        .expect_err("no JSON");
    assert_eq!(error.kind(), PublishErrorKind::InvalidRecord);
}

#[tokio::test(start_paused = true)]
#[cfg(feature = "protobuf")]
async fn protobuf_is_written_as_its_bytes() {
    let (producer, fake) = written().start(ProducerConfig::default());
    // prost reads and writes a string as the well-known StringValue.
    let value = "paid".to_owned();
    let sent = producer.send_protobuf("t", "k", &value).await;
    let event = producer.send_protobuf_event("t", "k", "Paid", &value).await;
    event.expect("written");
    let expected = ["\n\u{4}paid", r#"{"type":"Paid","data":"CgRwYWlk"}"#];
    assert_eq!(fake.log(sent.expect("written").partition), expected);
}

#[tokio::test(start_paused = true)]
async fn trap_d_what_cannot_work_is_refused_when_the_producer_is_built() {
    let refused = |config: ProducerConfig| {
        let error = Arc::new(written()).try_start(config).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Config);
        std::error::Error::source(&error)
            .expect("a cause")
            .to_string()
    };
    let text = refused(ProducerConfig {
        linger: ms(10_000_000),
        ..ProducerConfig::default()
    });
    assert!(
        text.contains("linger.ms") && text.contains("119999"),
        "{text}"
    );
    let text = refused(ProducerConfig {
        compression: Compression::Lz4,
        ..ProducerConfig::default()
    });
    assert!(text.contains("codecs") && text.contains("fake"), "{text}");
    let text = refused(ProducerConfig {
        acks: Acks::Leader,
        ..ProducerConfig::default()
    });
    assert!(text.contains("capability `acks`"), "{text}");

    let spread = ProducerConfig {
        partitioner: "round_robin".parse().expect("a name"),
        ..ProducerConfig::default()
    };
    let (producer, _fake) = written().start(spread);
    let error = producer.require_key_order().expect_err("no order");
    assert_eq!((error.key, &*error.value), ("partitioner", "round_robin"));
    let (producer, _fake) = written().start(ProducerConfig::default());
    assert!(producer.require_key_order().is_ok());
}
