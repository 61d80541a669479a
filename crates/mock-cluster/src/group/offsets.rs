//! The offsets that a group committed. They outlive its members.

use super::Group;

/// One committed offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) metadata: String,
}

impl Group {
    /// Keeps an offset; the caller has checked the generation and that the partition exists.
    pub(crate) fn commit(&mut self, topic: &str, partition: i32, committed: Committed) {
        self.offsets
            .insert((topic.to_owned(), partition), committed);
    }

    pub(crate) fn committed(&self, topic: &str, partition: i32) -> Option<&Committed> {
        self.offsets.get(&(topic.to_owned(), partition))
    }

    pub(crate) fn all_committed(&self) -> impl Iterator<Item = (&str, i32, &Committed)> {
        self.offsets
            .iter()
            .map(|((topic, partition), kept)| (topic.as_str(), *partition, kept))
    }

    /// The topic is gone, and its offsets with it.
    pub(crate) fn forget_topic(&mut self, topic: &str) {
        self.offsets.retain(|(known, _), _| known != topic);
    }
}
