//! Typed handlers: the record's value is decoded from JSON before the function sees it.

use super::{BatchHandler, BatchOutcome, Context, Handler, HandlerError, Outcome};
use metrics::counter;
use ottla_types::ConsumedRecord;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::marker::PhantomData;

/// The class of the error when a record's value cannot be decoded.
pub const CLASS_UNDECODABLE: &str = "Undecodable";

/// What happens to a record whose value cannot be decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Undecodable {
    /// It fails for good ([`Failure::Permanent`](super::Failure::Permanent), class
    /// [`CLASS_UNDECODABLE`]), so that a dead letter policy around the handler takes it. Without
    /// such a policy the partition waits at it.
    #[default]
    Fail,
    /// It is passed over, logged and counted.
    Skip,
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
pub fn json_handler<T, F, Fut>(function: F) -> JsonHandler<T, F>
where
    T: DeserializeOwned + Send + 'static,
    F: Fn(Context, T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: Into<Outcome>> + Send,
{
    JsonHandler {
        function,
        undecodable: Undecodable::Fail,
        value: PhantomData,
    }
}

/// See [`json_handler`].
#[derive(Debug, Clone)]
pub struct JsonHandler<T, F> {
    function: F,
    undecodable: Undecodable,
    value: PhantomData<fn() -> T>,
}

impl<T, F> JsonHandler<T, F> {
    /// Sets what happens to records that cannot be decoded.
    #[must_use]
    pub fn on_undecodable(mut self, policy: Undecodable) -> Self {
        self.undecodable = policy;
        self
    }
}

impl<T, F, Fut> Handler for JsonHandler<T, F>
where
    T: DeserializeOwned + Send + 'static,
    F: Fn(Context, T) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: Into<Outcome>> + Send,
{
    async fn handle(&self, context: &Context, record: &ConsumedRecord) -> Outcome {
        match decode_json::<T>(record) {
            Ok(value) => (self.function)(context.clone(), value).await.into(),
            Err(error) if self.undecodable == Undecodable::Skip => {
                count_skipped(context, record, &error);
                Outcome::Done
            }
            Err(error) => Outcome::Failed(error),
        }
    }
}

/// Makes a [`BatchHandler`] of an async function over the values, decoded from JSON.
///
/// With [`Undecodable::Fail`], the values before the first undecodable one are handed over, then
/// the batch fails at that record.
pub fn json_batch<T, F, Fut>(function: F) -> JsonBatch<T, F>
where
    T: DeserializeOwned + Send + 'static,
    F: Fn(Context, Vec<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: Into<BatchOutcome>> + Send,
{
    JsonBatch {
        function,
        undecodable: Undecodable::Fail,
        value: PhantomData,
    }
}

/// See [`json_batch`].
#[derive(Debug, Clone)]
pub struct JsonBatch<T, F> {
    function: F,
    undecodable: Undecodable,
    value: PhantomData<fn() -> T>,
}

impl<T, F> JsonBatch<T, F> {
    /// Sets what happens to records that cannot be decoded.
    #[must_use]
    pub fn on_undecodable(mut self, policy: Undecodable) -> Self {
        self.undecodable = policy;
        self
    }
}

impl<T, F, Fut> BatchHandler for JsonBatch<T, F>
where
    T: DeserializeOwned + Send + 'static,
    F: Fn(Context, Vec<T>) -> Fut + Send + Sync + 'static,
    Fut: Future<Output: Into<BatchOutcome>> + Send,
{
    async fn handle_batch(&self, context: &Context, records: &[ConsumedRecord]) -> BatchOutcome {
        let decoded = decode_until::<T>(context, records, self.undecodable);
        let Decoded {
            values,
            places,
            stopped,
        } = decoded;
        let outcome = if values.is_empty() {
            BatchOutcome::Done
        } else {
            (self.function)(context.clone(), values).await.into()
        };
        match (outcome, stopped) {
            (BatchOutcome::Done, Some((index, error))) => BatchOutcome::FailedAt { index, error },
            (BatchOutcome::FailedAt { index, error }, _) => BatchOutcome::FailedAt {
                index: places.get(index).copied().unwrap_or(records.len()),
                error,
            },
            (outcome, _) => outcome,
        }
    }
}

/// The values of a batch, where each stood, and where decoding stopped.
struct Decoded<T> {
    values: Vec<T>,
    places: Vec<usize>,
    stopped: Option<(usize, HandlerError)>,
}

fn decode_until<T: DeserializeOwned>(
    context: &Context,
    records: &[ConsumedRecord],
    undecodable: Undecodable,
) -> Decoded<T> {
    let mut decoded = Decoded {
        values: Vec::with_capacity(records.len()),
        places: Vec::with_capacity(records.len()),
        stopped: None,
    };
    for (index, record) in records.iter().enumerate() {
        match decode_json(record) {
            Ok(value) => {
                decoded.values.push(value);
                decoded.places.push(index);
            }
            Err(error) if undecodable == Undecodable::Skip => {
                count_skipped(context, record, &error);
            }
            Err(error) => {
                decoded.stopped = Some((index, error));
                break;
            }
        }
    }
    decoded
}

pub(super) fn decode_json<T: DeserializeOwned>(record: &ConsumedRecord) -> Result<T, HandlerError> {
    decode_bytes(record.value.as_deref().unwrap_or(b"null"))
}

pub(super) fn decode_bytes<T: DeserializeOwned>(value: &[u8]) -> Result<T, HandlerError> {
    serde_json::from_slice(value).map_err(|e| {
        HandlerError::permanent(
            CLASS_UNDECODABLE,
            format!("the value is no valid JSON: {e}"),
        )
        .with_source(e)
    })
}

pub(super) fn count_skipped(context: &Context, record: &ConsumedRecord, error: &HandlerError) {
    tracing::warn!(
        group = context.group(),
        topic = %record.topic,
        partition = record.partition,
        offset = record.offset,
        %error,
        "skipped a record that cannot be decoded"
    );
    let group = context.group().to_owned();
    let topic = record.topic.to_string();
    counter!("ottla_consumer_undecodable_total", "group" => group, "topic" => topic).increment(1);
}

#[cfg(test)]
mod tests {
    use super::super::Failure;
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
}
