//! The offsets that a group committed, and those of transactions that have not ended. They outlive
//! its members.

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

    /// Keeps an offset until the producer's transaction ends (KIP-98).
    pub(crate) fn commit_pending(
        &mut self,
        producer_id: i64,
        topic: &str,
        partition: i32,
        committed: Committed,
    ) {
        self.pending_offsets
            .entry(producer_id)
            .or_default()
            .insert((topic.to_owned(), partition), committed);
    }

    /// Whether a transaction that has not ended holds an offset of this partition (KIP-447).
    pub(crate) fn is_unstable(&self, topic: &str, partition: i32) -> bool {
        let key = (topic.to_owned(), partition);
        self.pending_offsets
            .values()
            .any(|offsets| offsets.contains_key(&key))
    }

    /// The producer's transaction ended.
    pub(crate) fn end_transaction(&mut self, producer_id: i64, commit: bool) {
        let pending = self
            .pending_offsets
            .remove(&producer_id)
            .unwrap_or_default();
        if commit {
            self.offsets.extend(pending);
        }
    }

    /// Whether offsets may be deleted one by one: not while members of another protocol than that
    /// of consumers are there, because nobody knows what they read.
    pub(crate) fn may_lose_offsets(&self) -> bool {
        self.members.is_empty() || self.protocol_type() == Some("consumer")
    }

    /// Whether a member is subscribed to the topic.
    pub(crate) fn reads(&self, topic: &str) -> bool {
        let mut members = self.members.values();
        let classic = members.any(|member| {
            let mut protocols = member.protocols.iter();
            protocols.any(|(_, metadata)| subscribes(metadata, topic))
        });
        classic || self.consumer.reads(topic)
    }

    pub(crate) fn forget_offset(&mut self, topic: &str, partition: i32) {
        self.offsets.remove(&(topic.to_owned(), partition));
    }

    /// The topic is gone, and its offsets with it.
    pub(crate) fn forget_topic(&mut self, topic: &str) {
        self.offsets.retain(|(known, _), _| known != topic);
        for pending in self.pending_offsets.values_mut() {
            pending.retain(|(known, _), _| known != topic);
        }
    }
}

/// Whether a consumer's subscription, as it goes over the wire, names the topic: a version, then
/// the topics. What cannot be read names none.
fn subscribes(metadata: &[u8], topic: &str) -> bool {
    let names = || -> Option<bool> {
        let (_version, rest) = metadata.split_first_chunk::<2>()?;
        let (count, mut rest) = rest.split_first_chunk::<4>()?;
        for _ in 0..i32::from_be_bytes(*count) {
            let (length, tail) = rest.split_first_chunk::<2>()?;
            let length = usize::from(u16::from_be_bytes(*length));
            let (name, tail) = tail.split_at_checked(length)?;
            if name == topic.as_bytes() {
                return Some(true);
            }
            rest = tail;
        }
        Some(false)
    };
    names().unwrap_or(false)
}
