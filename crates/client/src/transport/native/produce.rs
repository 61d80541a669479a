//! Batches to their leaders: each is handed to its leader's sender, where need be after
//! the cluster was asked who that is.
//!
//! What must hold: while a topic is asked for, its later batches wait behind the earlier ones; every
//! batch is answered by its deadline.

use super::failure::{Failure, share};
use super::leaders::{Leader, Leaders};
use super::outbox::{Order, Terms, expired, first_deadline, time_out_all};
use super::produce_message::NAME;
use super::sender::Sender;
use crate::transport::{AnswerSink, Outgoing, ProduceOptions, Together};
use crate::{Error, ErrorKind, TopicMetadata};
use ottla_record_batch::{Compression, Compressor, EncodedBatch};
use ottla_types::{Fate, TopicPartition, at_most_a_year};
use smallvec::SmallVec;
use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

/// The senders, and what waits until it is known which one it is for. Cloning is cheap.
#[derive(Clone)]
pub(super) struct Senders(Arc<Inner>);

struct Inner {
    leaders: Arc<Leaders>,
    closed: CancellationToken,
    routes: Mutex<Routes>,
    /// Kept from batch to batch; one a codec.
    compressors: Mutex<Vec<Compressor>>,
}

#[derive(Default)]
struct Routes {
    senders: HashMap<i32, Arc<Sender>>,
    /// Batches whose topic is being asked for, in order.
    lost: HashMap<Arc<str>, VecDeque<Order>>,
}

/// Batches by the broker that they are for. Brokers are few.
#[derive(Default)]
struct Ready(SmallVec<[(i32, Vec<Order>); 1]>);

impl Ready {
    fn add(&mut self, broker: i32, order: Order) {
        match self.0.iter_mut().find(|(known, _)| *known == broker) {
            Some((_, orders)) => orders.push(order),
            None => self.0.push((broker, vec![order])),
        }
    }
}

/// What was handed over under the lock, and is seen to without it.
#[derive(Default)]
struct Put {
    senders: SmallVec<[Arc<Sender>; 1]>,
    /// What no sender takes, for the client is closed: each batch says when it is dropped that the transport is closed.
    refused: Vec<Vec<Order>>,
}

impl Put {
    fn send(self) {
        for sender in self.senders {
            sender.send();
        }
    }
}

impl Senders {
    pub(super) fn new(leaders: Arc<Leaders>, closed: CancellationToken) -> Self {
        Self(Arc::new(Inner {
            leaders,
            closed,
            routes: Mutex::default(),
            compressors: Mutex::default(),
        }))
    }

    /// Sends the batches on their way.
    pub(super) fn deliver(
        &self,
        options: &ProduceOptions,
        batches: Vec<Outgoing>,
        answers: &AnswerSink,
    ) {
        let deadline = Instant::now() + at_most_a_year(options.timeout);
        let terms = Terms {
            acks: options.acks,
            transactional_id: options.transactional_id.clone(),
            transaction_version_2: options.transaction_version_2,
        };
        let mut orders = Vec::with_capacity(batches.len());
        for Outgoing {
            token,
            partition,
            batch,
        } in batches
        {
            let reply = answers.reply(token, partition.clone());
            if self.0.closed.is_cancelled() {
                drop(reply);
                continue;
            }
            match self.compressed(batch, options.compression) {
                Ok(batch) => orders.push(Order {
                    partition,
                    terms: terms.clone(),
                    batch,
                    deadline,
                    reply,
                }),
                Err(error) => reply.send(Err(error.with_partition(partition))),
            }
        }
        self.route(orders);
    }

    fn route(&self, orders: Vec<Order>) {
        let leaders = &self.0.leaders;
        let mut routes = self.0.routes();
        let mut ready = Ready::default();
        let mut asked = Vec::new();
        for order in orders {
            if let Some(lost) = routes.lost.get_mut(&order.partition.topic) {
                lost.push_back(order);
                continue;
            }
            let doubted = leaders.take_doubt(&order.partition);
            match leaders.cached(&order.partition).filter(|_| !doubted) {
                Some(leader) => ready.add(leader.broker, order),
                None => {
                    let topic = order.partition.topic.clone();
                    asked.push(topic.clone());
                    routes.lost.insert(topic, VecDeque::from([order]));
                }
            }
        }
        let put = self.put(&mut routes, ready);
        drop(routes);
        put.send();
        for topic in asked {
            let tasks = &self.0.leaders.cluster.connector.tasks;
            if !tasks.spawn(self.clone().ask(topic.clone())) {
                let lost = self.0.routes().lost.remove(&topic);
                drop(lost);
            }
        }
    }

    /// Hands batches to the senders of their brokers, which are started if need be. While the routes are
    /// locked, so that none overtakes another; nothing is sent yet.
    fn put(&self, routes: &mut Routes, ready: Ready) -> Put {
        let mut put = Put::default();
        for (broker, mut orders) in ready.0 {
            if let Some(sender) = routes.senders.get(&broker) {
                match sender.put(orders) {
                    Ok(()) => {
                        put.senders.push(sender.clone());
                        continue;
                    }
                    // It has ended: with the client, or by a panic.
                    Err(refused) => orders = refused,
                }
            }
            let (leaders, closed) = (self.0.leaders.clone(), self.0.closed.clone());
            let sender = Sender::start(broker, leaders, closed);
            match sender.put(orders) {
                Ok(()) => put.senders.push(sender.clone()),
                Err(refused) => put.refused.push(refused),
            }
            routes.senders.insert(broker, sender);
        }
        put
    }

    /// Asks the cluster for a topic, then sends on what waits for it.
    async fn ask(self, topic: Arc<str>) {
        let mut question = Question {
            senders: &self.0,
            topic: &topic,
            is_open: true,
        };
        let cluster = &self.0.leaders.cluster;
        let mut asking = pin!(cluster.refresh_topic(&topic));
        let closed = self.0.closed.clone();
        let answer = loop {
            let Some(first) = question.first_deadline() else {
                return;
            };
            match closed
                .run_until_cancelled(timeout_at(first, &mut asking))
                .await
            {
                Some(Ok(answer)) => break answer,
                Some(Err(_)) => question.expire(),
                None => return,
            }
        };
        let answer = answer.map_err(Arc::new);
        let mut routes = self.0.routes();
        let lost = routes.lost.remove(&topic).unwrap_or_default();
        question.is_open = false;
        let mut ready = Ready::default();
        let mut failed = Vec::new();
        for order in lost {
            match self.0.leader(&answer, &order.partition) {
                Ok(leader) => ready.add(leader.broker, order),
                Err(error) => failed.push((order, error)),
            }
        }
        let put = self.put(&mut routes, ready);
        drop(routes);
        put.send();
        let mut answers = Together::default();
        for (order, error) in failed {
            order.fail(Failure::new(error), &self.0.leaders, &mut answers);
        }
    }

    /// The batch with the codec that is asked for, unless it has one already.
    fn compressed(
        &self,
        batch: EncodedBatch,
        compression: Compression,
    ) -> Result<EncodedBatch, Error> {
        if compression == Compression::None || batch.compression() != Compression::None {
            return Ok(batch);
        }
        let kept = {
            let mut kept = lock(&self.0.compressors);
            let at = kept.iter().position(|c| c.compression() == compression);
            at.map(|at| kept.swap_remove(at))
        };
        let mut compressor = match kept {
            Some(compressor) => compressor,
            None => Compressor::new(compression)
                .map_err(|cause| Error::new(ErrorKind::Unsupported, NAME).with_source(cause))?,
        };
        let batch = batch.compressed(&mut compressor);
        let mut kept = lock(&self.0.compressors);
        if kept.iter().all(|c| c.compression() != compression) {
            kept.push(compressor);
        }
        Ok(batch)
    }
}

impl Inner {
    fn routes(&self) -> MutexGuard<'_, Routes> {
        lock(&self.routes)
    }

    fn leader(
        &self,
        answer: &Result<Arc<TopicMetadata>, Arc<Error>>,
        partition: &TopicPartition,
    ) -> Result<Leader, Error> {
        match answer {
            Ok(topic) => self.leaders.of(topic, partition, NAME),
            Err(error) => Err(share(error, partition)),
        }
    }
}

/// A question for a topic: however it ends, nothing waits for it any longer.
struct Question<'a> {
    senders: &'a Inner,
    topic: &'a str,
    is_open: bool,
}

impl Question<'_> {
    /// When the first batch that waits has to be answered. When none waits the question is over.
    fn first_deadline(&mut self) -> Option<Instant> {
        let mut routes = self.senders.routes();
        let first = routes.lost.get(self.topic).and_then(first_deadline);
        if first.is_none() {
            routes.lost.remove(self.topic);
            self.is_open = false;
        }
        first
    }

    fn expire(&self) {
        let late = self.senders.routes().lost.get_mut(self.topic).map(expired);
        time_out_all(late.into_iter().flatten(), Fate::NotWritten);
    }
}

impl Drop for Question<'_> {
    fn drop(&mut self) {
        if self.is_open {
            let left = self.senders.routes().lost.remove(self.topic);
            drop(left);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
