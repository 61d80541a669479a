//! Who wrote a batch: the id and the epoch that brokers tell resends and zombies by.

use std::fmt;

/// A producer's id and epoch, as InitProducerId and EndTxn give them out
/// ([KIP-98](https://cwiki.apache.org/confluence/display/KAFKA/KIP-98+-+Exactly+Once+Delivery+and+Transactional+Messaging)).
///
/// A higher epoch of the same id shuts out the lower ones; sequences start at 0 in each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProducerId {
    /// The id; not negative.
    pub id: i64,
    /// The epoch, from 0.
    pub epoch: i16,
}

impl fmt::Display for ProducerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} epoch {}", self.id, self.epoch)
    }
}
