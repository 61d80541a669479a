//! ListOffsets: one request to each leader, partitions that fail asked for again.

use super::failure::{Cure, Failure, share};
use super::leaders::{Leader, Leaders};
use crate::broker::Purpose;
use crate::connection::Api;
use crate::transport::{FetchPosition, OffsetSpec};
use crate::{Error, ErrorKind};
use futures_util::future::join_all;
use kafka_protocol::messages::list_offsets_request::{ListOffsetsPartition, ListOffsetsTopic};
use kafka_protocol::messages::{ListOffsetsRequest, ListOffsetsResponse, TopicName};
use kafka_protocol::protocol::StrBytes;
use ottla_types::{ErrorCode, TopicPartition};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::{Instant, sleep, timeout_at};

const LATEST: i64 = -1;
const EARLIEST: i64 = -2;
const LEADER_EPOCH_FROM: i16 = 4;
const ISOLATION_FROM: i16 = 2;

/// One entry of the call.
struct Lookup {
    partition: TopicPartition,
    timestamp: i64,
    /// There is no record that young: the end is to be asked for, at once.
    is_at_end: bool,
    result: Option<Result<FetchPosition, Error>>,
    /// Why the last attempt failed.
    last: Option<Error>,
    leader: Leader,
}

/// Looks everything up, with retries until the deadline. The answers stand in the order of `wanted`.
pub(super) async fn list(
    leaders: &Leaders,
    read_committed: bool,
    wanted: Vec<(TopicPartition, OffsetSpec)>,
    deadline: Instant,
) -> Vec<(TopicPartition, Result<FetchPosition, Error>)> {
    let mut lookups: Vec<_> = wanted.into_iter().map(lookup).collect();
    let mut backoff = leaders.cluster.backoff();
    loop {
        attempt(leaders, read_committed, &mut lookups, deadline).await;
        let open = || lookups.iter().filter(|lookup| lookup.result.is_none());
        if open().any(|lookup| lookup.is_at_end) {
            for lookup in &mut lookups {
                lookup.is_at_end = false;
            }
            continue;
        }
        let delay = backoff.next_delay();
        if open().next().is_none() || Instant::now() + delay >= deadline {
            break;
        }
        sleep(delay).await;
        let mut topics: Vec<_> = open().map(|l| l.partition.topic.clone()).collect();
        topics.dedup();
        let refreshed = topics
            .iter()
            .map(|topic| leaders.cluster.refresh_topic(topic));
        // What it fails with, the next attempt fails with too.
        let _ = timeout_at(deadline, join_all(refreshed)).await;
    }
    let answer = |lookup: Lookup| {
        let timed_out = || {
            Error::new(ErrorKind::TimedOut, ListOffsetsRequest::NAME)
                .with_partition(lookup.partition.clone())
        };
        let failed = || Err(lookup.last.unwrap_or_else(timed_out));
        let result = lookup.result.unwrap_or_else(failed);
        (lookup.partition, result)
    };
    lookups.into_iter().map(answer).collect()
}

fn lookup((partition, spec): (TopicPartition, OffsetSpec)) -> Lookup {
    Lookup {
        partition,
        timestamp: match spec {
            OffsetSpec::Earliest => EARLIEST,
            OffsetSpec::Latest => LATEST,
            // Below zero the number means something else.
            OffsetSpec::Timestamp(ms) => ms.max(0),
        },
        is_at_end: false,
        result: None,
        last: None,
        leader: Leader {
            broker: -1,
            epoch: -1,
            topic_id: None,
        },
    }
}

async fn attempt(
    leaders: &Leaders,
    read_committed: bool,
    lookups: &mut [Lookup],
    deadline: Instant,
) {
    let mut by_leader: BTreeMap<i32, Vec<&mut Lookup>> = BTreeMap::new();
    for lookup in lookups.iter_mut().filter(|lookup| lookup.result.is_none()) {
        let found = leaders.find(&lookup.partition, ListOffsetsRequest::NAME, deadline);
        match found.await {
            Ok(leader) => {
                lookup.leader = leader;
                by_leader.entry(leader.broker).or_default().push(lookup);
            }
            Err(error) => lookup.fail(error),
        }
    }
    let asked = by_leader.into_iter().map(|(broker, lookups)| async move {
        for lookups in one_a_partition(lookups) {
            ask(leaders, broker, read_committed, lookups, deadline).await;
        }
    });
    join_all(asked).await;
}

/// Brokers refuse requests that name a partition twice.
fn one_a_partition(mut lookups: Vec<&mut Lookup>) -> Vec<Vec<&mut Lookup>> {
    lookups.sort_by(|a, b| a.partition.cmp(&b.partition));
    let mut requests: Vec<Vec<&mut Lookup>> = Vec::new();
    let mut nth = 0;
    let mut last: Option<TopicPartition> = None;
    for lookup in lookups {
        nth = if last.as_ref() == Some(&lookup.partition) {
            nth + 1
        } else {
            0
        };
        last = Some(lookup.partition.clone());
        match requests.get_mut(nth) {
            Some(request) => request.push(lookup),
            None => requests.push(vec![lookup]),
        }
    }
    requests
}

async fn ask(
    leaders: &Leaders,
    broker: i32,
    read_committed: bool,
    lookups: Vec<&mut Lookup>,
    deadline: Instant,
) {
    let cluster = &leaders.cluster;
    let broker = match cluster.known_broker(broker, ListOffsetsRequest::NAME) {
        Ok(broker) => broker,
        Err(error) => return fail_all(lookups, error),
    };
    let asked: Vec<_> = lookups
        .iter()
        .map(|l| (l.partition.clone(), l.timestamp, l.leader.epoch))
        .collect();
    // A part of the time, so that a broker that is silent leaves some for another leader.
    let left = deadline.saturating_duration_since(Instant::now());
    let limit = (Instant::now() + left / 2).min(Instant::now() + cluster.config.request_timeout);
    let call = broker.call(&cluster.connector, Purpose::Control, limit, |version| {
        request(version, read_committed, &asked)
    });
    match call.await {
        Ok((answer, _)) => take(&broker.name, lookups, &answer),
        Err(error) => fail_all(lookups, error),
    }
}

fn request(
    version: i16,
    read_committed: bool,
    asked: &[(TopicPartition, i64, i32)],
) -> ListOffsetsRequest {
    let topics = asked
        .chunk_by(|a, b| a.0.topic == b.0.topic)
        .filter_map(|of_topic| {
            let name = of_topic.first()?.0.topic.as_ref().to_owned();
            let partitions = of_topic.iter().map(|(partition, timestamp, epoch)| {
                let known = version >= LEADER_EPOCH_FROM;
                ListOffsetsPartition::default()
                    .with_partition_index(partition.partition)
                    .with_timestamp(*timestamp)
                    .with_current_leader_epoch(if known { *epoch } else { -1 })
            });
            let topic = ListOffsetsTopic::default()
                .with_name(TopicName(StrBytes::from_string(name)))
                .with_partitions(partitions.collect());
            Some(topic)
        });
    let isolated = read_committed && version >= ISOLATION_FROM;
    ListOffsetsRequest::default()
        .with_replica_id((-1).into())
        .with_isolation_level(i8::from(isolated))
        .with_topics(topics.collect())
}

fn take(broker: &str, mut lookups: Vec<&mut Lookup>, answer: &ListOffsetsResponse) {
    for topic in &answer.topics {
        for part in &topic.partitions {
            let wanted = (topic.name.as_str(), part.partition_index);
            let at = lookups.binary_search_by(|lookup| {
                let partition = &lookup.partition;
                (&*partition.topic, partition.partition).cmp(&wanted)
            });
            let Ok(at) = at else { continue };
            let lookup = &mut lookups[at];
            match ErrorCode(part.error_code) {
                ErrorCode::NONE if part.offset >= 0 => {
                    let epoch = Some(part.leader_epoch).filter(|epoch| *epoch >= 0);
                    lookup.result = Some(Ok(FetchPosition {
                        offset: part.offset,
                        leader_epoch: epoch,
                        topic_id: lookup.leader.topic_id,
                    }));
                }
                ErrorCode::NONE if lookup.timestamp >= 0 => {
                    lookup.timestamp = LATEST;
                    lookup.is_at_end = true;
                }
                ErrorCode::NONE => {
                    let error = Error::new(ErrorKind::Protocol, ListOffsetsRequest::NAME);
                    lookup.fail(
                        error
                            .with_broker(broker)
                            .with_source("a log without an end"),
                    );
                }
                code => {
                    let error = Error::from_code(code, ListOffsetsRequest::NAME);
                    lookup.fail(error.with_broker(broker));
                }
            }
        }
    }
}

fn fail_all(lookups: Vec<&mut Lookup>, error: Error) {
    let error = Arc::new(error);
    for lookup in lookups {
        lookup.fail(share(&error, &lookup.partition));
    }
}

impl Lookup {
    /// Takes an error: for good, unless it is one that passes.
    fn fail(&mut self, error: Error) {
        let error = error.with_partition(self.partition.clone());
        let Failure { error, cure } = Failure::new(error);
        if cure == Cure::None {
            self.result = Some(Err(error));
        } else {
            self.last = Some(error);
        }
    }
}
