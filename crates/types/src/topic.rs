//! Topics and partitions, and the names that brokers accept.

use crate::ConfigError;
use std::fmt;
use std::sync::Arc;

/// A position in a partition. A *committed* offset is the next one to read.
pub type Offset = i64;

/// One partition of one topic. Cloning shares the name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// Partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self {
            topic: topic.into(),
            partition,
        }
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic, self.partition)
    }
}

/// Checks a topic's name as the broker does: 1 to 249 of `[a-zA-Z0-9._-]`, neither `.` nor `..`.
///
/// # Errors
/// Names the value and the rule.
pub fn validate_topic_name(name: &str) -> Result<(), ConfigError> {
    let legal = (1..=249).contains(&name.len())
        && name != "."
        && name != ".."
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
    if legal {
        Ok(())
    } else {
        Err(ConfigError::new(
            "topic",
            name,
            "1 to 249 of a-z A-Z 0-9 . _ -, neither `.` nor `..`",
        ))
    }
}

/// Checks a group id: not empty, at most 249 bytes (so that topics can be named after it), no
/// control characters.
///
/// # Errors
/// Names the value and the rule.
pub fn validate_group_id(group: &str) -> Result<(), ConfigError> {
    if (1..=249).contains(&group.len()) && !group.chars().any(char::is_control) {
        Ok(())
    } else {
        Err(ConfigError::new(
            "group.id",
            group,
            "1 to 249 bytes without control characters",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn topic_names_follow_the_brokers_rule() {
        for good in ["a", "orders_dlq", "A.b-c_9", &"x".repeat(249)] {
            assert!(validate_topic_name(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", "a b", "ä", &"x".repeat(250)] {
            assert!(validate_topic_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn group_ids_are_bounded() {
        assert!(validate_group_id("order-pay-sms").is_ok());
        assert!(validate_group_id("").is_err());
        assert!(validate_group_id("a\nb").is_err());
    }
}
