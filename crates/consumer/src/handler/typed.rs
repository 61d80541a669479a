//! Typed handlers: the record's value is decoded before the function sees it.

#[cfg(feature = "protobuf")]
use super::decode::Protobuf;
use super::decode::{Decode, Json};
use super::{BatchHandler, BatchOutcome, Context, Handler, HandlerError, Outcome};
use metrics::counter;
use ottla_types::{ConsumedRecord, with_causes};
use std::future::Future;
use std::marker::PhantomData;

/// What happens to a record whose value cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Undecodable {
    /// It fails for good ([`Failure::Permanent`](super::Failure::Permanent), class
    /// [`CLASS_UNDECODABLE`](super::CLASS_UNDECODABLE)), so that a dead letter policy around the
    /// handler takes it (`Reliable`, or `DeadLettered` for batches). Without such a policy the
    /// partition stops at it.
    #[default]
    Fail,
    /// It is passed over, logged and counted.
    Skip,
}

/// Makes a [`Handler`] of an async function over the value, decoded by `format`.
pub fn typed_handler<T, D, F, Fut>(format: D, function: F) -> TypedHandler<T, D, F>
where
    T: Send + 'static,
    D: Decode<T>,
    F: Fn(Context, T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: Into<Outcome>> + Send,
{
    TypedHandler(Typed::new(format, function))
}

/// Makes a [`Handler`] of an async function over the value, decoded from JSON.
///
/// A null value is read as JSON `null`, so that `Option<T>` takes tombstones.
///
/// ```
/// use ottla_consumer::{HandlerError, json_handler};
///
/// #[derive(serde::Deserialize)]
/// struct Paid { order: u64 }
///
/// let handler = json_handler(|_context, paid: Paid| async move {
///     println!("order {} is paid", paid.order);
///     Ok::<_, HandlerError>(())
/// });
/// ```
pub fn json_handler<T, F, Fut>(function: F) -> TypedHandler<T, Json, F>
where
    T: Send + 'static,
    Json: Decode<T>,
    F: Fn(Context, T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: Into<Outcome>> + Send,
{
    typed_handler(Json, function)
}

/// Makes a [`Handler`] of an async function over the value, decoded from protobuf. A null value
/// cannot be decoded; an empty one is a message of default values.
#[cfg(feature = "protobuf")]
pub fn protobuf_handler<T, F, Fut>(function: F) -> TypedHandler<T, Protobuf, F>
where
    T: Send + 'static,
    Protobuf: Decode<T>,
    F: Fn(Context, T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: Into<Outcome>> + Send,
{
    typed_handler(Protobuf, function)
}

/// What the forms for single records and for batches have in common.
#[derive(Debug, Clone)]
struct Typed<T, D, F> {
    format: D,
    function: F,
    undecodable: Undecodable,
    value: PhantomData<fn() -> T>,
}

impl<T, D: Decode<T>, F> Typed<T, D, F> {
    fn new(format: D, function: F) -> Self {
        Self {
            format,
            function,
            undecodable: Undecodable::Fail,
            value: PhantomData,
        }
    }

    /// The value; none where the record is passed over.
    fn decode(
        &self,
        context: &Context,
        record: &ConsumedRecord,
    ) -> Result<Option<T>, HandlerError> {
        match self.format.decode(record.value.as_ref()) {
            Ok(value) => Ok(Some(value)),
            Err(error) if self.undecodable == Undecodable::Skip => {
                count_skipped(context, record, &error);
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// See [`typed_handler`].
#[derive(Debug, Clone)]
pub struct TypedHandler<T, D, F>(Typed<T, D, F>);

impl<T, D, F> TypedHandler<T, D, F> {
    /// Sets what happens to records that cannot be decoded.
    #[must_use]
    pub fn on_undecodable(mut self, policy: Undecodable) -> Self {
        self.0.undecodable = policy;
        self
    }
}

impl<T, D, F, Fut> Handler for TypedHandler<T, D, F>
where
    T: Send + 'static,
    D: Decode<T>,
    F: Fn(Context, T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: Into<Outcome>> + Send,
{
    async fn handle(&self, context: &Context, record: &ConsumedRecord) -> Outcome {
        match self.0.decode(context, record) {
            Ok(Some(value)) => (self.0.function)(context.clone(), value).await.into(),
            Ok(None) => Outcome::Done,
            Err(error) => Outcome::Failed(error),
        }
    }
}

/// Makes a [`BatchHandler`] of an async function over the values, decoded by `format`.
///
/// With [`Undecodable::Fail`], the values before the first undecodable one are handed over, then
/// the batch fails at that record.
pub fn typed_batch<T, D, F, Fut>(format: D, function: F) -> TypedBatch<T, D, F>
where
    T: Send + 'static,
    D: Decode<T>,
    F: Fn(Context, Vec<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: Into<BatchOutcome>> + Send,
{
    TypedBatch(Typed::new(format, function))
}

/// [`typed_batch`] for JSON.
pub fn json_batch<T, F, Fut>(function: F) -> TypedBatch<T, Json, F>
where
    T: Send + 'static,
    Json: Decode<T>,
    F: Fn(Context, Vec<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: Into<BatchOutcome>> + Send,
{
    typed_batch(Json, function)
}

/// [`typed_batch`] for protobuf.
#[cfg(feature = "protobuf")]
pub fn protobuf_batch<T, F, Fut>(function: F) -> TypedBatch<T, Protobuf, F>
where
    T: Send + 'static,
    Protobuf: Decode<T>,
    F: Fn(Context, Vec<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: Into<BatchOutcome>> + Send,
{
    typed_batch(Protobuf, function)
}

/// See [`typed_batch`].
#[derive(Debug, Clone)]
pub struct TypedBatch<T, D, F>(Typed<T, D, F>);

impl<T, D, F> TypedBatch<T, D, F> {
    /// Sets what happens to records that cannot be decoded.
    #[must_use]
    pub fn on_undecodable(mut self, policy: Undecodable) -> Self {
        self.0.undecodable = policy;
        self
    }
}

impl<T, D, F, Fut> BatchHandler for TypedBatch<T, D, F>
where
    T: Send + 'static,
    D: Decode<T>,
    F: Fn(Context, Vec<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: Into<BatchOutcome>> + Send,
{
    async fn handle_batch(&self, context: &Context, records: &[ConsumedRecord]) -> BatchOutcome {
        // The values, where each stood, and where decoding stopped.
        let mut values = Vec::with_capacity(records.len());
        let mut places = Vec::with_capacity(records.len());
        let mut stopped = None;
        for (index, record) in records.iter().enumerate() {
            match self.0.decode(context, record) {
                Ok(Some(value)) => {
                    values.push(value);
                    places.push(index);
                }
                Ok(None) => {}
                Err(error) => {
                    stopped = Some((index, error));
                    break;
                }
            }
        }
        let outcome = if values.is_empty() {
            BatchOutcome::Done
        } else {
            (self.0.function)(context.clone(), values).await.into()
        };
        let outcome = match outcome {
            BatchOutcome::FailedAt { index, error } => match places.get(index) {
                Some(&index) => BatchOutcome::FailedAt { index, error },
                // Behind the last value: all that there were are handled.
                None => BatchOutcome::Done,
            },
            outcome => outcome,
        };
        match (outcome, stopped) {
            (BatchOutcome::Done, Some((index, error))) => BatchOutcome::FailedAt { index, error },
            (outcome, _) => outcome,
        }
    }
}

pub(super) fn count_skipped(context: &Context, record: &ConsumedRecord, error: &HandlerError) {
    tracing::warn!(
        group = context.group(),
        topic = %record.topic,
        partition = record.partition,
        offset = record.offset,
        error = with_causes(error),
        "skipped a record that cannot be decoded"
    );
    let group = context.group().to_owned();
    let topic = record.topic.to_string();
    counter!("ottla_consumer_undecodable_total", "group" => group, "topic" => topic).increment(1);
}

#[cfg(test)]
mod tests {
    use super::super::{CLASS_UNDECODABLE, Failure};
    use super::*;
    use crate::test_record;
    use std::sync::{Arc, Mutex};

    fn record(value: &'static str) -> ConsumedRecord {
        let mut record = test_record("t", 0, 0);
        record.value = Some(value.into());
        record
    }

    #[tokio::test]
    async fn a_json_handler_sees_the_decoded_value() {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = seen.clone();
        let handler = json_handler(move |_, value: Option<u32>| {
            sink.lock().unwrap().push(value);
            async { Ok::<_, HandlerError>(()) }
        });
        let context = Context::new("g", "m");
        let mut null = record("");
        null.value = None;
        assert!(matches!(
            handler.handle(&context, &record("7")).await,
            Outcome::Done
        ));
        assert!(matches!(
            handler.handle(&context, &null).await,
            Outcome::Done
        ));
        assert_eq!(*seen.lock().unwrap(), [Some(7), None]);
    }

    #[tokio::test]
    async fn what_cannot_be_decoded_fails_for_good_or_is_skipped() {
        let handler = json_handler(|_, _: u32| async { Outcome::Done });
        let context = Context::new("g", "m");
        match handler.handle(&context, &record("{no")).await {
            Outcome::Failed(e) => {
                assert_eq!(
                    (e.failure(), e.class()),
                    (Failure::Permanent, CLASS_UNDECODABLE)
                );
            }
            other => panic!("{other:?}"),
        }
        let handler = handler.on_undecodable(Undecodable::Skip);
        assert!(matches!(
            handler.handle(&context, &record("{no")).await,
            Outcome::Done
        ));
    }

    #[tokio::test]
    async fn a_json_batch_fails_at_the_place_in_the_records() {
        let context = Context::new("g", "m");
        let records = ["1", "x", "2", "3"].map(record);
        let all = json_batch(|_, _: Vec<u32>| async { BatchOutcome::Done });
        let outcome = all.handle_batch(&context, &records).await;
        assert!(
            matches!(outcome, BatchOutcome::FailedAt { index: 1, .. }),
            "{outcome:?}"
        );

        let second = json_batch(|_, values: Vec<u32>| async move {
            assert_eq!(values, [1, 2, 3]);
            let error = HandlerError::transient("Busy", "later");
            BatchOutcome::FailedAt { index: 1, error }
        })
        .on_undecodable(Undecodable::Skip);
        let outcome = second.handle_batch(&context, &records).await;
        assert!(
            matches!(outcome, BatchOutcome::FailedAt { index: 2, .. }),
            "{outcome:?}"
        );
    }

    /// What was not decoded was not handed over, whatever the function says of the rest.
    #[tokio::test]
    async fn an_index_behind_the_values_does_not_go_past_what_cannot_be_decoded() {
        let records = ["1", "x", "2"].map(record);
        let all = json_batch(|_, values: Vec<u32>| async move {
            let error = HandlerError::transient("Busy", "later");
            let index = values.len();
            BatchOutcome::FailedAt { index, error }
        });
        let context = Context::new("g", "m");
        match all.handle_batch(&context, &records).await {
            BatchOutcome::FailedAt { index: 1, error } => {
                assert_eq!(error.class(), CLASS_UNDECODABLE);
            }
            other => panic!("{other:?}"),
        }
        let outcome = all.handle_batch(&context, &records[..1]).await;
        assert!(matches!(outcome, BatchOutcome::Done), "{outcome:?}");
    }

    #[cfg(feature = "protobuf")]
    mod protobuf {
        use super::super::super::{
            BatchOutcome, Dispatcher, Outcome, protobuf_batch, protobuf_handler,
        };
        use super::*;
        use ottla_types::Envelope;
        use prost::Message;

        #[derive(Clone, PartialEq, Message)]
        struct Paid {
            #[prost(uint64, tag = "1")]
            order: u64,
            #[prost(string, tag = "2")]
            by: String,
        }

        fn paid(order: u64) -> Vec<u8> {
            let by = "card".to_owned();
            Paid { order, by }.encode_to_vec()
        }

        fn of(value: Option<Vec<u8>>) -> ConsumedRecord {
            let mut record = test_record("t", 0, 0);
            record.value = value.map(Into::into);
            record
        }

        #[tokio::test]
        async fn messages_reach_handlers_batches_and_arms() {
            let seen = Arc::new(Mutex::new(Vec::new()));
            let see = || {
                let seen = seen.clone();
                move |paid: Paid| seen.lock().unwrap().push((paid.order, paid.by))
            };
            let context = Context::new("g", "m");
            let one = see();
            let handler = protobuf_handler(move |_, paid: Paid| {
                one(paid);
                async { Outcome::Done }
            });
            let many = see();
            let batch = protobuf_batch(move |_, all: Vec<Paid>| {
                all.into_iter().for_each(&many);
                async { BatchOutcome::Done }
            })
            .on_undecodable(Undecodable::Skip);
            let arm = see();
            let dispatcher = Dispatcher::new().on_protobuf("Paid", move |_, paid: Paid| {
                arm(paid);
                async { Outcome::Done }
            });
            let outcome = handler.handle(&context, &of(Some(paid(1)))).await;
            assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
            let records = [Some(paid(2)), Some(b"\xff".to_vec()), None, Some(paid(3))].map(of);
            let outcome = batch.handle_batch(&context, &records).await;
            assert!(matches!(outcome, BatchOutcome::Done), "{outcome:?}");
            let envelope = Envelope::new("Paid", paid(4)).to_json();
            let outcome = dispatcher
                .handle(&context, &of(Some(envelope.into())))
                .await;
            assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
            let expected = [1, 2, 3, 4].map(|order| (order, "card".to_owned()));
            assert_eq!(*seen.lock().unwrap(), expected);
        }

        #[tokio::test]
        async fn trap_d_null_and_truncated_messages_fail_for_good_and_empty_ones_do_not() {
            let context = Context::new("g", "m");
            let handler = protobuf_handler(|_, paid: Paid| async move {
                assert_eq!(paid, Paid::default());
                Outcome::Done
            });
            let mut cut = paid(7);
            cut.pop();
            for value in [None, Some(cut)] {
                match handler.handle(&context, &of(value)).await {
                    Outcome::Failed(error) => assert_eq!(error.class(), CLASS_UNDECODABLE),
                    other => panic!("{other:?}"),
                }
            }
            let outcome = handler.handle(&context, &of(Some(Vec::new()))).await;
            assert!(matches!(outcome, Outcome::Done), "{outcome:?}");
        }
    }
}
