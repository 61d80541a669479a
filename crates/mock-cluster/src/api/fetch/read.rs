//! What a Fetch reads of each partition: leadership and epochs (KIP-320), a diverging log (KIP-595),
//! the isolation level and its aborted list (KIP-98), the closest replica (KIP-392).

use bytes::Bytes;
use kafka_protocol::messages::fetch_response::{
    AbortedTransaction, EpochEndOffset, LeaderIdAndEpoch, PartitionData,
};
use kafka_protocol::messages::{BrokerId, FetchRequest, ProducerId};

use super::super::Call;
use super::{HINTS_FROM, IDS_FROM, refused};
use crate::codes;
use crate::fetch_session::{TopicKey, Wanted};
use crate::shared::Data;
use crate::topics::{Partition, Topic, Topics};

/// The first version that can be sent to another replica.
const RACKS_FROM: i16 = 11;

/// The topic's name; `None` for an id that is unknown.
pub(super) fn name_of<'a>(data: &'a Data, topic: &'a TopicKey) -> Option<&'a str> {
    if topic.id.is_nil() {
        return Some(&topic.name);
    }
    data.topics.name_of(topic.id)
}

/// What a partition has for a reader.
enum Found<'a> {
    Readable(&'a Partition),
    /// The reader's log is not ours beyond this epoch and offset.
    Diverges(&'a Partition, (i32, i64)),
    /// Another replica is closer.
    Closer(&'a Partition, i32),
}

/// Reads for one request.
pub(super) struct Reader {
    broker: i32,
    version: i16,
    read_committed: bool,
    min_bytes: usize,
    max_bytes: usize,
    /// The reader's rack; empty when it has none.
    rack: String,
    racks: Vec<(i32, String)>,
}

impl Reader {
    pub(super) fn new(call: &Call<'_>, request: &FetchRequest) -> Self {
        let config = &call.shared.config;
        let racks = (1..=config.brokers)
            .filter_map(|broker| Some((broker, config.rack(broker)?.to_owned())));
        Self {
            broker: call.broker,
            version: call.version,
            read_committed: request.isolation_level == 1,
            min_bytes: usize::try_from(request.min_bytes).unwrap_or_default(),
            max_bytes: usize::try_from(request.max_bytes).unwrap_or_default(),
            rack: request.rack_id.to_string(),
            racks: racks.collect(),
        }
    }

    /// Whether there is enough to send, or something to tell at once.
    pub(super) fn is_ready(&self, data: &Data, wanted: &[Wanted]) -> bool {
        let mut available = 0;
        for wanted in wanted {
            let Ok(Found::Readable(partition)) = self.find(data, wanted) else {
                return true;
            };
            let end = partition.log.readable_end(self.read_committed);
            available += partition.log.available(wanted.offset, end, self.min_bytes);
            if available >= self.min_bytes {
                return true;
            }
        }
        wanted.is_empty()
    }

    /// An answer for each partition, in their order.
    pub(super) fn read_all(&self, data: &Data, wanted: &[Wanted]) -> Vec<PartitionData> {
        let mut left = self.max_bytes;
        // KIP-74: the first batch of a response comes whatever its size.
        let mut is_first = true;
        let read = wanted.iter().map(|wanted| {
            let answer = self.read(data, wanted, left, is_first);
            let size = answer.records.as_ref().map_or(0, Bytes::len);
            is_first &= size == 0;
            left = left.saturating_sub(size);
            answer
        });
        read.collect()
    }

    fn read(&self, data: &Data, wanted: &Wanted, left: usize, is_first: bool) -> PartitionData {
        match self.find(data, wanted) {
            Ok(Found::Readable(partition)) => self.records(partition, wanted, left, is_first),
            Ok(Found::Diverges(partition, (epoch, end))) => {
                let diverging = EpochEndOffset::default()
                    .with_epoch(epoch)
                    .with_end_offset(end);
                marks(partition).with_diverging_epoch(diverging)
            }
            Ok(Found::Closer(partition, replica)) => {
                marks(partition).with_preferred_read_replica(BrokerId(replica))
            }
            Err(code) => self.refuse(data, wanted, code),
        }
    }

    fn records(
        &self,
        partition: &Partition,
        wanted: &Wanted,
        left: usize,
        is_first: bool,
    ) -> PartitionData {
        let log = &partition.log;
        let limit = usize::try_from(wanted.max_bytes)
            .unwrap_or_default()
            .min(left);
        let end = log.readable_end(self.read_committed);
        let read = match log.read(wanted.offset, end, limit, is_first) {
            Ok(read) => read,
            Err(code) => return refused(code),
        };
        let aborted = self.read_committed.then(|| {
            let aborted = log.aborted(wanted.offset, read.next).map(|one| {
                AbortedTransaction::default()
                    .with_producer_id(ProducerId(one.producer_id))
                    .with_first_offset(one.first_offset)
            });
            aborted.collect()
        });
        marks(partition)
            .with_aborted_transactions(aborted)
            .with_records(Some(read.records))
    }

    /// KIP-951: from version 16 on, with the leader as it is known here.
    fn refuse(&self, data: &Data, wanted: &Wanted, code: i16) -> PartitionData {
        let is_stale = matches!(
            code,
            codes::NOT_LEADER_OR_FOLLOWER | codes::FENCED_LEADER_EPOCH
        );
        let name = name_of(data, &wanted.topic).filter(|_| is_stale && self.version >= HINTS_FROM);
        let topic = name.and_then(|name| data.topics.by_name.get(name));
        let partition = topic.and_then(|topic| topic.partition(wanted.index));
        let known = partition.and_then(|known| Some((known.leader?, known.leader_epoch)));
        match known {
            Some((leader, epoch)) => {
                let hint = LeaderIdAndEpoch::default()
                    .with_leader_id(BrokerId(leader))
                    .with_leader_epoch(epoch);
                refused(code).with_current_leader(hint)
            }
            None => refused(code),
        }
    }

    fn find<'a>(&self, data: &'a Data, wanted: &Wanted) -> Result<Found<'a>, i16> {
        let unknown = if self.version >= IDS_FROM {
            codes::UNKNOWN_TOPIC_ID
        } else {
            codes::UNKNOWN_TOPIC_OR_PARTITION
        };
        let name = name_of(data, &wanted.topic).ok_or(unknown)?;
        let topic = data.topics.by_name.get(name).ok_or(unknown)?;
        let partition = topic
            .partition(wanted.index)
            .ok_or(codes::UNKNOWN_TOPIC_OR_PARTITION)?;
        Topics::check_epoch(partition, wanted.leader_epoch)?;
        if partition.leader == Some(self.broker) {
            if let Some(replica) = self.closer(data, topic, partition) {
                return Ok(Found::Closer(partition, replica));
            }
        } else if !self.may_follow(data, topic, partition) {
            return Err(codes::NOT_LEADER_OR_FOLLOWER);
        }
        let log = &partition.log;
        if wanted.last_fetched_epoch >= 0 {
            let (epoch, end) = log
                .end_of_epoch(wanted.last_fetched_epoch)
                .ok_or(codes::OFFSET_OUT_OF_RANGE)?;
            let is_readable = wanted.offset >= log.start();
            if is_readable && (epoch < wanted.last_fetched_epoch || end < wanted.offset) {
                return Ok(Found::Diverges(partition, (epoch, end)));
            }
        }
        if !(log.start()..=log.high_watermark()).contains(&wanted.offset) {
            return Err(codes::OFFSET_OUT_OF_RANGE);
        }
        Ok(Found::Readable(partition))
    }

    fn rack_of(&self, broker: i32) -> Option<&str> {
        let known = self.racks.iter().find(|(id, _)| *id == broker);
        known.map(|(_, rack)| rack.as_str())
    }

    /// A live replica in the reader's rack, when the leader is not in it.
    fn closer(&self, data: &Data, topic: &Topic, partition: &Partition) -> Option<i32> {
        let is_asked = self.version >= RACKS_FROM && !self.rack.is_empty();
        if !is_asked || self.rack_of(self.broker) == Some(self.rack.as_str()) {
            return None;
        }
        let replicas = data.topics.replicas(topic, partition);
        replicas
            .into_iter()
            .filter(|replica| data.topics.is_up(*replica))
            .find(|replica| self.rack_of(*replica) == Some(self.rack.as_str()))
    }

    fn may_follow(&self, data: &Data, topic: &Topic, partition: &Partition) -> bool {
        self.version >= RACKS_FROM
            && !self.racks.is_empty()
            && partition.leader.is_some()
            && data
                .topics
                .replicas(topic, partition)
                .contains(&self.broker)
    }
}

/// An answer without records.
fn marks(partition: &Partition) -> PartitionData {
    let log = &partition.log;
    PartitionData::default()
        .with_high_watermark(log.high_watermark())
        .with_last_stable_offset(log.last_stable_offset())
        .with_log_start_offset(log.start())
        .with_aborted_transactions(None)
        .with_records(Some(Bytes::new()))
}
