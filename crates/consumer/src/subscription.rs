//! [`Subscription`]: what a member of a group reads, by name and by a regular expression.

use crate::GroupProtocol;
use ottla_types::{ConfigError, validate_topic_name};
use regex::Regex;
use std::collections::BTreeSet;
use std::sync::Arc;

/// The topics that a member wants.
#[derive(Debug, Clone, Default)]
pub(crate) struct Subscription {
    pub(crate) topics: BTreeSet<Arc<str>>,
    /// Topics that match are read besides those that are named.
    pub(crate) pattern: Option<TopicPattern>,
}

/// A regular expression over the names of topics, which the whole name has to match.
#[derive(Debug, Clone)]
pub(crate) struct TopicPattern {
    text: Arc<str>,
    /// For a member that may have to match the names itself.
    regex: Option<Regex>,
}

impl Subscription {
    /// Checks the names, and the expression unless only the broker will read it.
    pub(crate) fn new<'a>(
        topics: impl IntoIterator<Item = &'a str>,
        pattern: Option<&str>,
        protocol: GroupProtocol,
    ) -> Result<Self, ConfigError> {
        let topics: BTreeSet<Arc<str>> = topics.into_iter().map(Arc::from).collect();
        if topics.is_empty() && pattern.is_none() {
            return Err(ConfigError::new("topics", "", "one topic or more"));
        }
        topics.iter().try_for_each(|t| validate_topic_name(t))?;
        let pattern = pattern.map(|text| TopicPattern::new(text, protocol));
        Ok(Self {
            topics,
            pattern: pattern.transpose()?,
        })
    }

    /// Whether nothing is wanted.
    pub(crate) fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.pattern.is_none()
    }

    /// The names, as the membership takes them.
    pub(crate) fn names(&self) -> Vec<Arc<str>> {
        self.topics.iter().cloned().collect()
    }

    /// The expression; empty for none, as the membership takes it.
    pub(crate) fn pattern_text(&self) -> &str {
        self.pattern.as_ref().map_or("", TopicPattern::text)
    }

    /// Whether it is known that the topic is not wanted. Where there is an expression, nobody but
    /// the membership knows.
    pub(crate) fn is_without(&self, topic: &str) -> bool {
        self.pattern.is_none() && !self.topics.contains(topic)
    }
}

impl TopicPattern {
    fn new(text: &str, protocol: GroupProtocol) -> Result<Self, ConfigError> {
        let refused = |why: String| ConfigError::new("topic pattern", text, why);
        if text.is_empty() {
            return Err(refused("an expression".to_owned()));
        }
        let regex = match protocol {
            GroupProtocol::Consumer => None,
            GroupProtocol::Classic | GroupProtocol::Auto => {
                // On its own first: inside of the group a stray parenthesis would be taken for its end.
                let whole = Regex::new(text).and_then(|_| Regex::new(&format!("^(?:{text})$")));
                let expected = |error| format!("an expression of the `regex` crate: {error}");
                Some(whole.map_err(|error| refused(expected(error)))?)
            }
        };
        Ok(Self {
            text: text.into(),
            regex,
        })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether the whole name matches.
    pub(crate) fn matches(&self, topic: &str) -> bool {
        self.regex.as_ref().is_some_and(|r| r.is_match(topic))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Result<TopicPattern, ConfigError> {
        TopicPattern::new(text, GroupProtocol::Classic)
    }

    #[test]
    fn the_whole_name_has_to_match() {
        for (text, yes, no) in [
            ("orders", "orders", "orders2"),
            ("a|ab", "ab", "abc"),
            ("orders-[0-9]+", "orders-17", "orders-17_dlq"),
            (r"(?i)eu\.\w+", "EU.Orders", "eu_orders"),
            (".*", "anything", "new\nline"),
        ] {
            let pattern = pattern(text).unwrap();
            assert!(pattern.matches(yes), "{text}");
            assert!(!pattern.matches(no), "{text}");
        }
    }

    #[test]
    fn a_bad_expression_is_refused_unless_only_the_broker_reads_it() {
        for text in ["", "a(", "a)|(?:b", "[z-a]", r"\Qa.b\E"] {
            let error = pattern(text).unwrap_err();
            assert_eq!((error.key, &*error.value), ("topic pattern", text));
        }
        let told = TopicPattern::new(r"\Qa.b\E", GroupProtocol::Consumer).unwrap();
        assert_eq!(told.text(), r"\Qa.b\E");
        assert!(TopicPattern::new("", GroupProtocol::Consumer).is_err());
    }

    #[test]
    fn a_topic_is_unwanted_for_sure_only_without_an_expression() {
        let of = |pattern| Subscription::new(["a"], pattern, GroupProtocol::Classic).unwrap();
        assert!(of(None).is_without("b") && !of(None).is_without("a"));
        assert!(!of(Some("c")).is_without("b"));
        assert!(Subscription::new([], None, GroupProtocol::Classic).is_err());
    }
}
