//! Faults on demand: which requests go wrong, how, and how often.
//!
//! A request meets the first fault in the order of adding that matches it and has hits left; one
//! request never meets two. The check happens after the request is decoded, so a fault by topic
//! sees the topics inside.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::ApiKey;

/// What happens to a request that a fault hits.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Not applied; answered with this error code wherever the answer has room for one. A Produce
    /// with acks 0 has no answer, so its connection is closed, as Kafka does.
    Refuse(i16),
    /// Not applied; the connection is closed.
    Disconnect,
    /// Applied; then the connection is closed without an answer.
    DropReply,
    /// Applied and answered; then the connection is closed at once.
    LastReply,
    /// Applied and answered after this long.
    Delay(Duration),
    /// Applied at once, answered after this long.
    DelayReply(Duration),
    /// Applied and answered at once, with this as its throttle time; then the connection is muted
    /// for as long, as under a client quota (KIP-219). A Fetch brings no records.
    Throttle(Duration),
    /// Not applied and never answered; the connection stays open until the peer or the broker
    /// closes it.
    Hang,
}

/// A fault: the requests it hits and what it does to them. By default it hits one request, at any
/// broker, of any topic, and disconnects.
#[derive(Clone, Debug)]
pub struct Fault {
    api: ApiKey,
    broker: Option<i32>,
    topic: Option<String>,
    group: Option<String>,
    transaction: Option<String>,
    skip: u32,
    times: Option<u32>,
    action: Action,
}

impl Fault {
    /// A fault for requests of this API.
    pub fn on(api: ApiKey) -> Self {
        Self {
            api,
            broker: None,
            topic: None,
            group: None,
            transaction: None,
            skip: 0,
            times: Some(1),
            action: Action::Disconnect,
        }
    }

    /// Only at this broker.
    pub fn at_broker(mut self, broker: i32) -> Self {
        self.broker = Some(broker);
        self
    }

    /// Only requests that name this topic, alone or among others; a step of a fetch session names
    /// every topic of the session.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topic = Some(topic.into());
        self
    }

    /// Only requests that name this consumer group.
    pub fn group(mut self, group: impl Into<String>) -> Self {
        self.group = Some(group.into());
        self
    }

    /// Only requests that name this transactional id.
    pub fn transaction(mut self, id: impl Into<String>) -> Self {
        self.transaction = Some(id.into());
        self
    }

    /// The first `n` matching requests pass unharmed.
    pub fn skip(mut self, n: u32) -> Self {
        self.skip = n;
        self
    }

    /// Hits this many requests, then never again.
    pub fn times(mut self, n: u32) -> Self {
        self.times = Some(n);
        self
    }

    /// Hits every matching request until it is removed.
    pub fn forever(mut self) -> Self {
        self.times = None;
        self
    }

    /// What happens to the request.
    pub fn action(mut self, action: Action) -> Self {
        self.action = action;
        self
    }

    fn matches(&self, request: &Subject<'_>) -> bool {
        self.api == request.api
            && self.broker.is_none_or(|broker| broker == request.broker)
            && self
                .topic
                .as_ref()
                .is_none_or(|topic| request.topics.iter().any(|t| t == topic))
            && self
                .group
                .as_ref()
                .is_none_or(|group| request.groups.iter().any(|g| g == group))
            && self
                .transaction
                .as_deref()
                .is_none_or(|id| request.transaction == Some(id))
    }
}

/// What a fault looks at.
pub(crate) struct Subject<'a> {
    pub(crate) api: ApiKey,
    pub(crate) broker: i32,
    pub(crate) topics: &'a [String],
    pub(crate) groups: &'a [String],
    pub(crate) transaction: Option<&'a str>,
}

/// A fault that was added: tells how often it hit, and can be removed.
#[derive(Clone, Debug)]
pub struct FaultHandle {
    id: u64,
    hits: Arc<AtomicU32>,
    faults: Faults,
}

impl FaultHandle {
    /// How many requests it has hit.
    pub fn hits(&self) -> u32 {
        self.hits.load(Ordering::SeqCst)
    }

    /// Takes the fault away. Requests that it already hit stay hit.
    pub fn remove(&self) {
        self.faults
            .lock()
            .planned
            .retain(|planned| planned.id != self.id);
    }
}

#[derive(Debug)]
struct Planned {
    id: u64,
    fault: Fault,
    seen: u32,
    hits: Arc<AtomicU32>,
}

#[derive(Debug, Default)]
struct Plan {
    next_id: u64,
    planned: Vec<Planned>,
}

/// The faults of one cluster. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<Mutex<Plan>>);

impl Faults {
    fn lock(&self) -> std::sync::MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a fault; requests that arrive from now on can meet it.
    pub fn add(&self, fault: Fault) -> FaultHandle {
        let hits = Arc::new(AtomicU32::new(0));
        let mut plan = self.lock();
        plan.next_id += 1;
        let id = plan.next_id;
        plan.planned.push(Planned {
            id,
            fault,
            seen: 0,
            hits: Arc::clone(&hits),
        });
        FaultHandle {
            id,
            hits,
            faults: self.clone(),
        }
    }

    /// Takes all faults away.
    pub fn clear(&self) {
        self.lock().planned.clear();
    }

    /// How many faults may still hit a request.
    pub fn pending(&self) -> usize {
        self.lock().planned.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.lock().planned.is_empty()
    }

    /// The action for this request, if a fault hits it.
    pub(crate) fn pick(&self, request: &Subject<'_>) -> Option<Action> {
        let mut plan = self.lock();
        let mut hit = None;
        for (index, planned) in plan.planned.iter_mut().enumerate() {
            if !planned.fault.matches(request) {
                continue;
            }
            planned.seen = planned.seen.saturating_add(1);
            if planned.seen > planned.fault.skip {
                let hits = planned.hits.fetch_add(1, Ordering::SeqCst) + 1;
                let spent = planned.fault.times.is_some_and(|times| hits >= times);
                hit = Some((index, planned.fault.action.clone(), spent));
                break;
            }
        }
        let (index, action, spent) = hit?;
        if spent {
            plan.planned.remove(index);
        }
        Some(action)
    }
}
