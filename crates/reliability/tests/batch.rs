//! Dead letters of batch handlers, without a broker.

mod support;

use ottla_consumer::{
    BatchHandler, BatchOutcome, ConsumedRecord, HandlerError, Undecodable, json_batch,
};
use ottla_reliability::{CLASS_PUBLISH_FAILED, DeadLettered};
use ottla_types::{PublishErrorKind, names};
use std::sync::{Arc, Mutex};
use support::{FakeProducer, context, header, record};

fn records(values: &[&'static str]) -> Vec<ConsumedRecord> {
    let numbered = values.iter().zip(10..);
    let record = |(value, offset): (&&'static str, _)| ConsumedRecord {
        value: Some((*value).into()),
        ..record("orders", offset, 5)
    };
    numbered.map(record).collect()
}

/// Numbers that were handled; `13` is busy.
fn summing(seen: &Arc<Mutex<Vec<u32>>>) -> impl BatchHandler {
    let seen = Arc::clone(seen);
    json_batch(move |_, values: Vec<u32>| {
        let busy = values.iter().position(|v| *v == 13);
        seen.lock()
            .expect("no panic")
            .extend(&values[..busy.unwrap_or(values.len())]);
        std::future::ready(match busy {
            None => BatchOutcome::Done,
            Some(index) => BatchOutcome::FailedAt {
                index,
                error: HandlerError::transient("Busy", "later"),
            },
        })
    })
    .on_undecodable(Undecodable::Fail)
}

#[tokio::test]
async fn what_cannot_be_decoded_is_dead_lettered_and_the_rest_is_handled() {
    let (producer, seen) = (FakeProducer::default(), Arc::default());
    let handler = DeadLettered::new(summing(&seen), producer.arc());
    let outcome = handler
        .handle_batch(&context(), &records(&["1", "{", "2", "x", "3"]))
        .await;
    assert!(matches!(outcome, BatchOutcome::Done), "{outcome:?}");
    assert_eq!(*seen.lock().expect("no panic"), [1, 2, 3]);
    let letters = producer.take();
    let offsets = letters.iter().map(|l| header(l, names::ORIGINAL_OFFSET));
    assert_eq!(offsets.collect::<Vec<_>>(), [Some("11"), Some("13")]);
    assert_eq!(&*letters[0].topic, "orders_dlq");
    assert_eq!(letters[0].value.as_deref(), Some(&b"{"[..]));
    assert_eq!(header(&letters[0], names::ERROR_CLASS), Some("Undecodable"));
}

#[tokio::test]
async fn other_failures_are_told_at_their_place_in_the_batch() {
    let (producer, seen) = (FakeProducer::default(), Arc::default());
    let handler = DeadLettered::new(summing(&seen), producer.arc());
    let outcome = handler
        .handle_batch(&context(), &records(&["{", "1", "13", "2"]))
        .await;
    match outcome {
        BatchOutcome::FailedAt { index: 2, error } => assert_eq!(error.class(), "Busy"),
        other => panic!("{other:?}"),
    }
    assert_eq!(*seen.lock().expect("no panic"), [1]);
    assert_eq!(producer.take().len(), 1);
}

#[tokio::test]
async fn trap_d_without_its_dead_letter_topic_the_record_waits() {
    let (producer, seen) = (FakeProducer::default(), Arc::default());
    producer.breaks("_dlq", PublishErrorKind::Unavailable);
    let handler = DeadLettered::new(summing(&seen), producer.arc());
    let batch = records(&["1", "{", "2"]);
    match handler.handle_batch(&context(), &batch).await {
        BatchOutcome::FailedAt { index: 1, error } => {
            assert_eq!(error.class(), CLASS_PUBLISH_FAILED);
        }
        other => panic!("{other:?}"),
    }
    producer.heals();
    let outcome = handler.handle_batch(&context(), &batch[1..]).await;
    assert!(matches!(outcome, BatchOutcome::Done), "{outcome:?}");
    assert_eq!(*seen.lock().expect("no panic"), [1, 2]);
}
