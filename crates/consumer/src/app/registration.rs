//! [`Registration`]: which handler gets which topics in which group, and how many members read them.

use crate::handler::{BatchHandler, BoxBatchHandler, BoxHandler, Handler};
use crate::lane::Desk;
use crate::listener::BoxListener;
use crate::output::OutputMode;
use crate::subscription::Subscription;
use crate::work::Work;
use crate::{AutoOffsetReset, ConsumerConfig, Error, ProcessingGuarantee, RebalanceListener};
use ottla_types::ConfigError;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

/// The most members that one registration may start.
const INSTANCES_MAX: usize = 1024;
/// The most calls that a partition may have in progress.
const CONCURRENCY_MAX: usize = 4096;
/// The most records that a batch handler may ask for.
const BATCH_RECORDS_MAX: usize = 1_000_000;

/// One group's subscription: topics, handler, number of members.
///
/// A group stands for one business logic: it may be registered once in an [`App`](crate::App), and
/// all its topics go to the one handler (a retry policy adds its retry topics here).
#[derive(Debug, Clone)]
#[must_use = "a registration does nothing until it is given to an App"]
pub struct Registration {
    pub(crate) group: String,
    pub(crate) topics: BTreeSet<String>,
    pub(crate) topic_pattern: Option<String>,
    pub(crate) work: Work,
    pub(crate) instances: usize,
    /// What was asked for with a batch handler; only 1 is allowed.
    batch_concurrency: usize,
    pub(crate) listener: Option<BoxListener>,
    config: Option<ConsumerConfig>,
    max_processing_time: Option<Duration>,
    auto_offset_reset: Option<AutoOffsetReset>,
    guarantee: Option<ProcessingGuarantee>,
}

/// A registration's settings, as they are in force.
pub(crate) struct Resolved {
    pub(crate) config: ConsumerConfig,
    pub(crate) subscription: Subscription,
    pub(crate) mode: OutputMode,
}

impl Registration {
    /// `handler` gets the records of `topics` in the group `group`, one at a time for a partition.
    pub fn new<T: Into<String>>(
        group: impl Into<String>,
        topics: impl IntoIterator<Item = T>,
        handler: impl Handler,
    ) -> Self {
        let work = Work::Each {
            handler: BoxHandler::new(handler),
            concurrency: 1,
        };
        Self::with_work(group, topics, work)
    }

    /// `handler` gets the records of a partition together: up to `max_records` of them, or those that
    /// came within `max_wait` of the first.
    pub fn batch<T: Into<String>>(
        group: impl Into<String>,
        topics: impl IntoIterator<Item = T>,
        max_records: usize,
        max_wait: Duration,
        handler: impl BatchHandler,
    ) -> Self {
        let work = Work::Batch {
            handler: BoxBatchHandler::new(handler),
            max_records,
            max_wait,
        };
        Self::with_work(group, topics, work)
    }

    /// A plain consumer's, who takes its records from the desk.
    pub(crate) fn pulled(group: String, topics: BTreeSet<String>, desk: Arc<Desk>) -> Self {
        Self::with_work(group, topics, Work::Pull(desk))
    }

    fn with_work<T: Into<String>>(
        group: impl Into<String>,
        topics: impl IntoIterator<Item = T>,
        work: Work,
    ) -> Self {
        Self {
            group: group.into(),
            topics: topics.into_iter().map(Into::into).collect(),
            topic_pattern: None,
            work,
            instances: 1,
            batch_concurrency: 1,
            listener: None,
            config: None,
            max_processing_time: None,
            auto_offset_reset: None,
            guarantee: None,
        }
    }

    /// Reads, besides the topics that are named (of which there may be none then), every topic whose
    /// whole name matches this regular expression, also one that is created later. A later call
    /// replaces an earlier one.
    ///
    /// With `group.protocol=consumer` (KIP-848) the broker matches: the syntax is RE2/J's, Apache
    /// Kafka 4.0 is needed, a new topic is found within some ten seconds, and what the cluster keeps
    /// for itself (such as `__consumer_offsets`) matches, too. An expression that the broker cannot
    /// read ends the member with an error of kind [`Config`](crate::ErrorKind::Config).
    ///
    /// With the classic protocol each member matches what it may see, every `metadata.max.age.ms`,
    /// leaving out what the cluster keeps for itself. The syntax is
    /// that of the [`regex`](https://docs.rs/regex/1/regex/#syntax) crate, which agrees with RE2/J on
    /// nearly everything; of what people write, `\Q...\E` is RE2/J's alone, and `[a-z&&[^b]]` is
    /// `regex`'s alone. With `auto` an expression has to be good for both.
    ///
    /// Retry and dead letter topics begin with the name of their topic: `orders.*` matches them, too;
    /// `orders-[0-9]+` does not.
    pub fn topic_pattern(mut self, pattern: impl Into<String>) -> Self {
        self.topic_pattern = Some(pattern.into());
        self
    }

    /// How many members of the group this process runs (1 by default, at most 1024). Members beyond
    /// the number of partitions stand by.
    pub fn instances(mut self, instances: usize) -> Self {
        self.instances = instances;
        self
    }

    /// How many calls of the handler may be in progress for one partition (1 by default, at most
    /// 4096). Above 1, records with the same key are still handled one after the other in the order
    /// of the log; those of different keys, and those without one, are not. An offset is committed
    /// when everything below it is handled.
    ///
    /// A record that waits to be handed over again keeps its place among the calls, and those of its
    /// key behind it. Not for batch handlers.
    pub fn concurrency(mut self, calls: usize) -> Self {
        match &mut self.work {
            Work::Each { concurrency, .. } => *concurrency = calls,
            Work::Batch { .. } => self.batch_concurrency = calls,
            Work::Pull(_) => {}
        }
        self
    }

    /// Takes this configuration instead of the app's; its `group.id` is set by the registration.
    pub fn config(mut self, config: ConsumerConfig) -> Self {
        self.config = Some(config);
        self
    }

    /// Overrides `max.processing.time.ms`: the time limit of one call of the handler, or of one batch.
    /// A middleware that limits the inner handler needs a larger limit here.
    pub fn max_processing_time(mut self, limit: Duration) -> Self {
        self.max_processing_time = Some(limit);
        self
    }

    /// Overrides `auto.offset.reset`.
    pub fn auto_offset_reset(mut self, reset: AutoOffsetReset) -> Self {
        self.auto_offset_reset = Some(reset);
        self
    }

    /// Who is told when partitions come and go; one for all members of the registration. A later
    /// call replaces an earlier one.
    pub fn listener(mut self, listener: impl RebalanceListener) -> Self {
        self.listener = Some(BoxListener::new(listener));
        self
    }

    /// Overrides `processing.guarantee`: [`ExactlyOnce`](ProcessingGuarantee::ExactlyOnce) commits
    /// what the handler publishes and the offsets of what it handled in one transaction.
    ///
    /// When a call fails after it has published, the transaction is aborted and all of its records are
    /// handled again; a call that published nothing only waits and is tried again. For a batch handler
    /// [`BatchOutcome::FailedAt`](crate::BatchOutcome::FailedAt) says that what it published belongs to
    /// the records before the failed one. Effects outside of Kafka are not part of a transaction, and
    /// a store that remembers what was handled must not be used inside: an abort would not be known
    /// to it.
    pub fn guarantee(mut self, guarantee: ProcessingGuarantee) -> Self {
        self.guarantee = Some(guarantee);
        self
    }

    /// The group.
    pub fn group(&self) -> &str {
        &self.group
    }

    /// The topics that are named, in order.
    pub fn topics(&self) -> impl Iterator<Item = &str> {
        self.topics.iter().map(String::as_str)
    }

    /// The configuration in force and what is subscribed, if everything about the registration is
    /// allowed.
    pub(crate) fn resolve(
        &self,
        defaults: &ConsumerConfig,
    ) -> Result<(ConsumerConfig, Subscription), Error> {
        let refused = |e: ConfigError| Error::from(e).with_group(&self.group);
        let mut config = self.config.as_ref().unwrap_or(defaults).clone();
        config.group_id.clone_from(&self.group);
        if let Some(limit) = self.max_processing_time {
            config.max_processing_time = limit;
        }
        if let Some(reset) = self.auto_offset_reset {
            config.auto_offset_reset = reset;
        }
        if let Some(guarantee) = self.guarantee {
            config.processing_guarantee = guarantee;
        }
        config.validate_times_and_sizes().map_err(refused)?;
        self.validate_kind(&config).map_err(refused)?;
        if self.listener.is_some() {
            config.validate_callbacks().map_err(refused)?;
        }
        self.validate().map_err(refused)?;
        let topics = self.topics();
        let pattern = self.topic_pattern.as_deref();
        let subscription = Subscription::new(topics, pattern, config.group_protocol);
        Ok((config, subscription.map_err(refused)?))
    }

    /// What a runner and a plain consumer do not have in common.
    fn validate_kind(&self, config: &ConsumerConfig) -> Result<(), ConfigError> {
        let desk = self.work.desk();
        let is_assigned = desk.is_some_and(|desk| desk.assigned().is_some());
        // Who names its partitions needs no group.
        if !(is_assigned && config.group_id.is_empty()) {
            config.validate_group()?;
        }
        let may_commit = desk.is_some() && !config.group_id.is_empty();
        if config.enable_auto_commit && !may_commit {
            let expected = "false, except for a plain consumer with a group";
            return Err(ConfigError::new("enable.auto.commit", true, expected));
        }
        let guarantee = config.processing_guarantee;
        if desk.is_some() && guarantee != ProcessingGuarantee::AtLeastOnce {
            let (key, given) = ("processing.guarantee", format!("{guarantee:?}"));
            return Err(ConfigError::new(
                key,
                given,
                "at_least_once for a plain consumer",
            ));
        }
        Ok(())
    }

    fn validate(&self) -> Result<(), ConfigError> {
        if !(1..=INSTANCES_MAX).contains(&self.instances) {
            let expected = format!("1 to {INSTANCES_MAX}");
            return Err(ConfigError::new("instances", self.instances, expected));
        }
        match &self.work {
            Work::Batch { max_records, .. } if !(1..=BATCH_RECORDS_MAX).contains(max_records) => {
                let expected = format!("1 to {BATCH_RECORDS_MAX}");
                Err(ConfigError::new("batch records", max_records, expected))
            }
            Work::Each { concurrency, .. } if !(1..=CONCURRENCY_MAX).contains(concurrency) => {
                let expected = format!("1 to {CONCURRENCY_MAX}");
                Err(ConfigError::new("concurrency", concurrency, expected))
            }
            Work::Batch { .. } if self.batch_concurrency != 1 => {
                let expected = "1 with a batch handler";
                Err(ConfigError::new(
                    "concurrency",
                    self.batch_concurrency,
                    expected,
                ))
            }
            _ => Ok(()),
        }
    }
}
