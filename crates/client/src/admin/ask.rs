//! One question about many items: each is sent to the broker that can answer for it, and asked
//! again there or elsewhere while its error is one that passes.
//!
//! What must hold: every item gets exactly one result; a change whose request may have been carried
//! out is not sent again, and its error says so; nothing waits beyond the deadline.

use super::places::{Places, Route};
use crate::broker::{Broker, Purpose};
use crate::cluster::Cluster;
use crate::connection::Api;
use crate::{Error, ErrorKind};
use futures_util::future::join_all;
use kafka_protocol::protocol::StrBytes;
use ottla_types::{ErrorCode, Fate};
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What a broker says about an item.
pub(super) type Answer<D> = Result<D, Refusal>;
/// The answers to one request.
pub(super) type Answers<T> = HashMap<<T as Task>::Key, Answer<<T as Task>::Done>>;
/// Each item with its result, in the order that was asked.
pub(super) type Results<T> = Vec<(<T as Task>::Item, Result<<T as Task>::Done, Error>)>;

/// A broker's error, with its words for it.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    code: ErrorCode,
    message: Option<String>,
}

impl Refusal {
    /// The answer that these fields are; `done` is what success means.
    pub(super) fn read<D>(code: i16, message: Option<StrBytes>, done: D) -> Answer<D> {
        match ErrorCode(code).into_result() {
            Ok(()) => Ok(done),
            Err(code) => Err(Self {
                code,
                message: message.map(|message| message.to_string()),
            }),
        }
    }
}

/// What the broker said beside its code.
#[derive(Debug, Clone, PartialEq, Eq)]
struct BrokerMessage(String);

impl fmt::Display for BrokerMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for BrokerMessage {}

/// A question that is asked about many items.
pub(super) trait Task: Sync {
    type Item: Send + Sync;
    /// What an answer names an item by.
    type Key: Hash + Eq + Send + Sync;
    type Done: Send;
    /// The API's name.
    const NAME: &'static str;
    /// Whether the answer changes something.
    const CHANGES: bool;

    fn key(&self, item: &Self::Item) -> Self::Key;
    fn route(&self, item: &Self::Item) -> Route;
    /// Names the item in its error.
    fn mark(&self, item: &Self::Item, error: Error) -> Error;

    /// Refuses an item that no broker need be asked about.
    fn check(&self, _: &Self::Item) -> Result<(), Error> {
        Ok(())
    }

    /// Asks one broker about some of the items.
    fn ask(
        &self,
        call: Call<'_>,
        items: &[&Self::Item],
    ) -> impl Future<Output = Result<Answers<Self>, Error>> + Send
    where
        Self: Sized;
}

/// One request to one broker.
#[derive(Clone, Copy)]
pub(super) struct Call<'a> {
    cluster: &'a Cluster,
    broker: &'a Broker,
    deadline: Instant,
}

impl Call<'_> {
    pub(super) async fn send<A: Api>(
        self,
        build: impl FnOnce(i16) -> A,
    ) -> Result<(A::Answer, i16), Error> {
        let connector = &self.cluster.connector;
        let purpose = Purpose::Control;
        self.broker
            .call(connector, purpose, self.deadline, build)
            .await
    }

    /// The broker's time limit: a little below ours, so that its answer is not too late.
    pub(super) fn timeout_ms(self) -> i32 {
        let left = self.deadline.saturating_duration_since(Instant::now());
        let slack = Duration::min(left / 10, Duration::from_secs(1));
        i32::try_from(left.saturating_sub(slack).as_millis()).unwrap_or(i32::MAX)
    }
}

/// An item on its way.
struct Slot<T: Task> {
    item: T::Item,
    result: Option<Result<T::Done, Error>>,
    /// The last error that may pass.
    last: Option<Error>,
}

impl<T: Task> Slot<T> {
    fn finish(&mut self, task: &T, result: Result<T::Done, Error>) {
        self.result = Some(result.map_err(|error| task.mark(&self.item, error)));
    }

    fn take(&mut self, task: &T, broker: &str, answer: Option<Answer<T::Done>>) {
        let refusal = match answer {
            Some(Ok(done)) => return self.finish(task, Ok(done)),
            Some(Err(refusal)) => refusal,
            None => {
                let error = Error::new(ErrorKind::Protocol, T::NAME).with_broker(broker);
                let error = doubtful(error, T::CHANGES).with_source(NotAnswered);
                return self.finish(task, Err(error));
            }
        };
        let code = refusal.code;
        let mut error = Error::from_code(code, T::NAME).with_broker(broker);
        if let Some(message) = refusal.message {
            error = error.with_source(BrokerMessage(message));
        }
        let unclear = matches!(
            code,
            ErrorCode::UNKNOWN_SERVER_ERROR | ErrorCode::REQUEST_TIMED_OUT
        );
        let passes = passes(&task.route(&self.item), code) || (unclear && !T::CHANGES);
        if passes && code != ErrorCode::UNKNOWN_SERVER_ERROR {
            self.last = Some(task.mark(&self.item, error));
        } else {
            let error = doubtful(error, unclear && T::CHANGES);
            self.finish(task, Err(error));
        }
    }

    /// No broker was found to ask.
    fn unplaced(&mut self, task: &T, error: Error) {
        // Whether a topic exists the cluster was asked by then.
        if error.is_retriable() && error.kind() != ErrorKind::UnknownTopic {
            self.last = Some(task.mark(&self.item, error));
        } else {
            self.finish(task, Err(error));
        }
    }

    /// The request failed as a whole.
    fn fail(&mut self, task: &T, error: Error) {
        let is_sent = !matches!(error.kind(), ErrorKind::Connect | ErrorKind::Unsupported);
        if error.is_retriable() && !(is_sent && T::CHANGES) {
            self.last = Some(task.mark(&self.item, error));
        } else {
            self.finish(task, Err(doubtful(error, is_sent && T::CHANGES)));
        }
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the answer says nothing about it")]
struct NotAnswered;

fn doubtful(error: Error, in_doubt: bool) -> Error {
    if in_doubt {
        error.with_fate(Fate::MaybeWritten)
    } else {
        error
    }
}

/// Codes that say that nothing was done, here or yet.
fn passes(route: &Route, code: ErrorCode) -> bool {
    match code {
        ErrorCode::NOT_CONTROLLER
        | ErrorCode::COORDINATOR_LOAD_IN_PROGRESS
        | ErrorCode::COORDINATOR_NOT_AVAILABLE
        | ErrorCode::NOT_COORDINATOR
        | ErrorCode::UNSTABLE_OFFSET_COMMIT
        | ErrorCode::THROTTLING_QUOTA_EXCEEDED
        | ErrorCode::LEADER_NOT_AVAILABLE
        | ErrorCode::NOT_LEADER_OR_FOLLOWER
        | ErrorCode::FENCED_LEADER_EPOCH
        | ErrorCode::KAFKA_STORAGE_ERROR => true,
        // A leader that does not know its partition has stepped down or is not told yet; whether
        // the topic exists the metadata says.
        ErrorCode::UNKNOWN_TOPIC_OR_PARTITION => matches!(route, Route::Leader(_)),
        _ => false,
    }
}

/// Asks about every item until each has a result or the deadline is there. The results stand in the
/// order of `items`. An item that is named twice is asked about once; the later ones get
/// INVALID_REQUEST, which is what a broker makes of them.
pub(super) async fn each<T: Task>(
    cluster: &Cluster,
    task: &T,
    items: Vec<T::Item>,
    deadline: Instant,
) -> Results<T> {
    let mut slots = slots(task, items);
    let mut backoff = cluster.backoff();
    let mut places = Places::default();
    loop {
        attempt(cluster, task, &mut slots, &mut places, deadline).await;
        let delay = backoff.next_delay();
        let is_open = slots.iter().any(|slot| slot.result.is_none());
        if !is_open || Instant::now() + delay >= deadline {
            break;
        }
        sleep(delay).await;
        let open = slots.iter().filter(|slot| slot.result.is_none());
        let routes: Vec<_> = open.map(|slot| task.route(&slot.item)).collect();
        places.look_again(cluster, &routes, deadline).await;
    }
    let result = |slot: Slot<T>| {
        let timed_out = || task.mark(&slot.item, Error::new(ErrorKind::TimedOut, T::NAME));
        let failed = || Err(slot.last.unwrap_or_else(timed_out));
        let result = slot.result.unwrap_or_else(failed);
        (slot.item, result)
    };
    slots.into_iter().map(result).collect()
}

/// The same about one item.
pub(super) async fn one<T: Task>(
    cluster: &Cluster,
    task: &T,
    item: T::Item,
    deadline: Instant,
) -> Result<T::Done, Error> {
    let mut results = each(cluster, task, vec![item], deadline).await;
    let timed_out = || Err(Error::new(ErrorKind::TimedOut, T::NAME));
    results.pop().map_or_else(timed_out, |(_, result)| result)
}

fn slots<T: Task>(task: &T, items: Vec<T::Item>) -> Vec<Slot<T>> {
    let mut named = HashSet::new();
    let slot = |item: T::Item| {
        let mut slot = Slot {
            item,
            result: None,
            last: None,
        };
        if let Err(error) = task.check(&slot.item) {
            slot.finish(task, Err(error));
        } else if !named.insert(task.key(&slot.item)) {
            let twice = Error::from_code(ErrorCode::INVALID_REQUEST, T::NAME);
            slot.finish(task, Err(twice.with_source("it is named twice")));
        }
        slot
    };
    items.into_iter().map(slot).collect()
}

/// A broker, and what it is asked about.
type Share<'a, T> = (Arc<Broker>, Vec<&'a mut Slot<T>>);

async fn attempt<T: Task>(
    cluster: &Cluster,
    task: &T,
    slots: &mut [Slot<T>],
    places: &mut Places,
    deadline: Instant,
) {
    let open = slots.iter().filter(|slot| slot.result.is_none());
    let routes: Vec<_> = open.map(|slot| task.route(&slot.item)).collect();
    places.find(cluster, &routes, deadline).await;
    let mut by_broker: BTreeMap<Arc<str>, Share<'_, T>> = BTreeMap::new();
    let open = slots.iter_mut().filter(|slot| slot.result.is_none());
    for (slot, route) in open.zip(&routes) {
        match places.of(cluster, route, T::NAME) {
            Ok(broker) => {
                let place = by_broker.entry(broker.name.clone());
                place.or_insert_with(|| (broker, Vec::new())).1.push(slot);
            }
            Err(error) => slot.unplaced(task, error),
        }
    }
    let asked = by_broker
        .into_values()
        .map(|(broker, mut slots)| async move {
            let call = Call {
                cluster,
                broker: &broker,
                deadline: limit::<T>(deadline),
            };
            let items: Vec<_> = slots.iter().map(|slot| &slot.item).collect();
            match task.ask(call, &items).await {
                Ok(mut answers) => {
                    for slot in slots {
                        let answer = answers.remove(&task.key(&slot.item));
                        slot.take(task, &broker.name, answer);
                    }
                }
                Err(error) => {
                    let error = Arc::new(error);
                    for slot in &mut slots {
                        slot.fail(task, shared(&error));
                    }
                }
            }
        });
    join_all(asked).await;
}

/// What may be asked again gets a part of the time, so that a silent broker leaves some for another.
fn limit<T: Task>(deadline: Instant) -> Instant {
    if T::CHANGES {
        return deadline;
    }
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
}

/// One failure of several items.
pub(super) fn shared(error: &Arc<Error>) -> Error {
    let copy = match error.code() {
        Some(code) => Error::from_code(code, error.operation()),
        None => Error::new(error.kind(), error.operation()),
    };
    let copy = match error.broker() {
        Some(broker) => copy.with_broker(broker),
        None => copy,
    };
    copy.with_fate(error.fate()).with_source(error.clone())
}
