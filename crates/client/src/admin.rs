//! Topic administration: creating topics, and waiting until they can be used.

use std::collections::BTreeMap;

/// A topic to be created.
///
/// ```
/// use ottla_client::NewTopic;
///
/// let topic = NewTopic::new("orders", 6).replication(3).config("retention.ms", "86400000");
/// assert_eq!(topic.partitions, 6);
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct NewTopic {
    /// The topic's name.
    pub name: String,
    /// The number of partitions; -1 for the broker's default.
    pub partitions: i32,
    /// The number of copies; -1, the preset, for the broker's default.
    pub replication: i16,
    /// Settings of the topic, such as `cleanup.policy`.
    pub configs: BTreeMap<String, String>,
}

impl NewTopic {
    /// A topic with the broker's default replication and settings.
    pub fn new(name: impl Into<String>, partitions: i32) -> Self {
        Self {
            name: name.into(),
            partitions,
            replication: -1,
            configs: BTreeMap::new(),
        }
    }

    /// Asks for this number of copies.
    #[must_use]
    pub fn replication(mut self, copies: i16) -> Self {
        self.replication = copies;
        self
    }

    /// Adds a setting of the topic.
    #[must_use]
    pub fn config(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.configs.insert(key.into(), value.into());
        self
    }
}
