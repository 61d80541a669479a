//! Dispatch of `{type, data}` envelopes to typed handlers by the type's name.

use super::decode::{CLASS_UNDECODABLE, Decode, Json};
use super::typed::count_skipped;
use super::{Context, Handler, HandlerError, Outcome, Undecodable};
use metrics::counter;
use ottla_types::{BoxFuture, Bytes, ConsumedRecord, Envelope};
use std::collections::HashMap;
use std::future::Future;

type Arm = Box<dyn Fn(Context, Bytes) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// A [`Handler`] that reads each value as an [`Envelope`] and calls the function registered for its
/// type, with `data` decoded from JSON ([`on`](Self::on)), protobuf (`on_protobuf`, feature
/// `protobuf`) or another format ([`on_with`](Self::on_with)). Types that are not registered are
/// passed over and counted.
///
/// ```
/// use ottla_consumer::{Dispatcher, Outcome};
///
/// #[derive(serde::Deserialize)]
/// struct Paid { order: u64 }
///
/// let handler = Dispatcher::new().on("OrderPaid", |_context, paid: Paid| async move {
///     println!("order {} is paid", paid.order);
///     Outcome::Done
/// });
/// ```
#[derive(Default)]
pub struct Dispatcher {
    arms: HashMap<String, Arm>,
    undecodable: Undecodable,
}

impl Dispatcher {
    /// A dispatcher that passes every type over.
    pub fn new() -> Self {
        Self::default()
    }

    /// Calls `function` for envelopes of type `kind`, with their data decoded from JSON; a second
    /// function for the same type takes the place of the first.
    #[must_use]
    pub fn on<T, F, Fut>(self, kind: impl Into<String>, function: F) -> Self
    where
        Json: Decode<T>,
        F: Fn(Context, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Into<Outcome>> + Send + 'static,
    {
        self.on_with(kind, Json, function)
    }

    /// The same with data decoded from protobuf.
    #[cfg(feature = "protobuf")]
    #[must_use]
    pub fn on_protobuf<T, F, Fut>(self, kind: impl Into<String>, function: F) -> Self
    where
        super::Protobuf: Decode<T>,
        F: Fn(Context, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Into<Outcome>> + Send + 'static,
    {
        self.on_with(kind, super::Protobuf, function)
    }

    /// The same with data decoded by `format`.
    #[must_use]
    pub fn on_with<T, D, F, Fut>(mut self, kind: impl Into<String>, format: D, function: F) -> Self
    where
        D: Decode<T>,
        F: Fn(Context, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output: Into<Outcome>> + Send + 'static,
    {
        let arm = move |context: Context, data: Bytes| -> BoxFuture<'static, Outcome> {
            match format.decode(Some(&data)) {
                Ok(value) => {
                    let call = function(context, value);
                    Box::pin(async move { call.await.into() })
                }
                Err(error) => Box::pin(std::future::ready(Outcome::Failed(error))),
            }
        };
        self.arms.insert(kind.into(), Box::new(arm));
        self
    }

    /// Sets what happens to records that are no envelope or whose data cannot be decoded.
    #[must_use]
    pub fn on_undecodable(mut self, policy: Undecodable) -> Self {
        self.undecodable = policy;
        self
    }
}

impl Handler for Dispatcher {
    async fn handle(&self, context: &Context, record: &ConsumedRecord) -> Outcome {
        let outcome = match Envelope::from_json(record.value.as_deref().unwrap_or_default()) {
            Ok(envelope) => match self.arms.get(&envelope.kind) {
                Some(arm) => arm(context.clone(), envelope.data).await,
                None => {
                    tracing::trace!(kind = envelope.kind, "no handler for this type");
                    let group = context.group().to_owned();
                    counter!("ottla_consumer_passed_over_total", "group" => group).increment(1);
                    Outcome::Done
                }
            },
            Err(e) => Outcome::Failed(
                HandlerError::permanent(CLASS_UNDECODABLE, e.to_string()).with_source(e),
            ),
        };
        match outcome {
            Outcome::Failed(error)
                if self.undecodable == Undecodable::Skip && error.class() == CLASS_UNDECODABLE =>
            {
                count_skipped(context, record, &error);
                Outcome::Done
            }
            outcome => outcome,
        }
    }
}

impl std::fmt::Debug for Dispatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.arms.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_record;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[tokio::test]
    async fn envelopes_go_to_the_function_of_their_type_and_others_are_passed_over() {
        let sum = Arc::new(AtomicU32::new(0));
        let (a, b) = (sum.clone(), sum.clone());
        let handler = Dispatcher::new()
            .on("Add", move |_, n: u32| {
                a.fetch_add(n, Ordering::SeqCst);
                async { Outcome::Done }
            })
            .on("Add10", move |_, n: u32| {
                b.fetch_add(10 * n, Ordering::SeqCst);
                async { Ok::<_, HandlerError>(()) }
            });
        let context = Context::new("g", "m");
        for (kind, data) in [("Add", "1"), ("Add10", "2"), ("Other", "{")] {
            let mut record = test_record("t", 0, 0);
            record.value = Some(Envelope::new(kind, data).to_json());
            assert!(matches!(
                handler.handle(&context, &record).await,
                Outcome::Done
            ));
        }
        assert_eq!(sum.load(Ordering::SeqCst), 21);
    }

    #[tokio::test]
    async fn what_is_no_envelope_is_undecodable() {
        let handler = Dispatcher::new().on("Add", |_, _: u32| async { Outcome::Done });
        let context = Context::new("g", "m");
        let mut bad_data = test_record("t", 0, 0);
        bad_data.value = Some(Envelope::new("Add", "x").to_json());
        for record in [test_record("t", 0, 0), bad_data] {
            match handler.handle(&context, &record).await {
                Outcome::Failed(error) => assert_eq!(error.class(), CLASS_UNDECODABLE),
                other => panic!("{other:?}"),
            }
        }
    }
}
