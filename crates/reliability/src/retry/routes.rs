//! The topics of a retried handler: main topics, a retry topic for each delay, dead letters.

use super::RetryPolicy;
use crate::durations::label;
use ottla_types::{ConfigError, names, validate_topic_name};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

/// What a topic is for this handler.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Route {
    /// The main topic that it belongs to.
    pub(super) main: Arc<str>,
    /// The delay of a retry topic; `None` for the main topic itself.
    pub(super) tier: Option<Duration>,
}

/// All topics of the handler, by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Routes {
    by_topic: HashMap<String, Route>,
    /// Main topics first, each with its retry topics behind it.
    subscriptions: Vec<String>,
}

impl Routes {
    pub(super) fn new(
        mains: &[String],
        group: &str,
        policy: &RetryPolicy,
    ) -> Result<Self, ConfigError> {
        if mains.is_empty() {
            return Err(ConfigError::new("topics", "", "one topic or more"));
        }
        let mut routes = Self::default();
        for main in mains {
            let name: Arc<str> = main.as_str().into();
            routes.add(
                main.clone(),
                Route {
                    main: name.clone(),
                    tier: None,
                },
            )?;
            for delay in policy.tiers() {
                let tier = Some(delay);
                let main = name.clone();
                routes.add(retry_topic(&main, group, delay), Route { main, tier })?;
            }
            validate_topic_name(&names::dead_letter_topic(main))?;
        }
        Ok(routes)
    }

    fn add(&mut self, topic: String, route: Route) -> Result<(), ConfigError> {
        validate_topic_name(&topic)?;
        if self.by_topic.insert(topic.clone(), route).is_some() {
            return Err(ConfigError::new("topics", topic, "each topic once"));
        }
        self.subscriptions.push(topic);
        Ok(())
    }

    pub(super) fn of(&self, topic: &str) -> Option<&Route> {
        self.by_topic.get(topic)
    }

    pub(super) fn subscriptions(&self) -> &[String] {
        &self.subscriptions
    }

    /// Each main topic with the topics that are made after it: retry topics and dead letters.
    pub(super) fn derived(&self) -> Vec<(&str, Vec<String>)> {
        let mut derived: Vec<(&str, Vec<String>)> = Vec::new();
        for topic in &self.subscriptions {
            match self.by_topic.get(topic) {
                Some(Route { tier: Some(_), .. }) => {
                    if let Some((_, topics)) = derived.last_mut() {
                        topics.push(topic.clone());
                    }
                }
                _ => derived.push((topic, vec![names::dead_letter_topic(topic)])),
            }
        }
        derived
    }
}

pub(super) fn retry_topic(main: &str, group: &str, delay: Duration) -> String {
    names::retry_topic(main, group, &label(delay))
}
