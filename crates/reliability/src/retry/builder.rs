//! Putting a [`Reliable`] together.

use super::routes::Routes;
use super::taken_back::TakenBack;
use super::{Reliable, RetryPolicy};
use ottla_store::SystemClock;
use ottla_types::{Clock, ConfigError, Publish, validate_group_id};
use std::sync::{Arc, Mutex};

/// See [`Reliable::builder`].
#[must_use = "nothing is wrapped before build"]
pub struct ReliableBuilder<H> {
    group: String,
    handler: H,
    publish: Arc<dyn Publish>,
    topics: Vec<String>,
    policy: RetryPolicy,
    clock: Arc<dyn Clock>,
    seed: u64,
}

impl<H> ReliableBuilder<H> {
    pub(super) fn new(group: String, handler: H, publish: Arc<dyn Publish>) -> Self {
        Self {
            group,
            handler,
            publish,
            topics: Vec::new(),
            policy: RetryPolicy::default(),
            clock: Arc::new(SystemClock),
            seed: fastrand::u64(..),
        }
    }

    /// Adds a main topic.
    pub fn topic(mut self, topic: impl Into<String>) -> Self {
        self.topics.push(topic.into());
        self
    }

    /// Sets the policy.
    pub fn policy(mut self, policy: RetryPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Takes the time from `clock`.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes the jitter repeatable.
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Checks the policy and every topic's name, and wraps the handler.
    ///
    /// # Errors
    /// Names the value that is not allowed: a policy's, a topic or group name that no retry topic
    /// can be named after, or no topic at all.
    pub fn build(self) -> Result<Reliable<H>, ConfigError> {
        validate_group_id(&self.group)?;
        self.policy.validate()?;
        let routes = Routes::new(&self.topics, &self.group, &self.policy)?;
        Ok(Reliable {
            inner: Arc::new(self.handler),
            group: self.group.into(),
            policy: self.policy,
            routes,
            publish: self.publish,
            clock: self.clock,
            random: Mutex::new(fastrand::Rng::with_seed(self.seed)),
            taken_back: TakenBack::default(),
        })
    }
}

impl<H> std::fmt::Debug for ReliableBuilder<H> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReliableBuilder")
            .field("group", &self.group)
            .field("topics", &self.topics)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}
