//! Whether a topic can lose what was acknowledged, and what of its settings says so.
//!
//! The judgement is pure; what it needs are the topic's description, its settings and the number of
//! brokers.

use super::{Admin, ConfigEntry, ConfigResource, Each};
use crate::connection::Api;
use crate::transport::Acks;
use crate::{Error, ErrorKind, TopicMetadata};
use kafka_protocol::messages::DescribeConfigsRequest;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// How bad a [`Finding`] is. Greater is worse.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The failure of one broker stops writing; nothing acknowledged is lost.
    Availability,
    /// The failure of one broker, or waiting alone, can lose what was acknowledged.
    Loss,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Availability => "availability",
            Self::Loss => "loss",
        })
    }
}

/// What of a topic, or of how it is written to, can lose data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// There is one copy.
    OneCopy,
    /// Records count as written while fewer copies exist than the topic has; with acks below `all`
    /// the leader alone, or nobody.
    Acks(Acks),
    /// `min.insync.replicas` is 1: with every follower out of sync the leader alone acknowledges.
    MinInsyncReplicasOne {
        /// The number of copies.
        replication: usize,
    },
    /// `min.insync.replicas` is the number of copies or more: without one of them no write with
    /// acks `all` is taken.
    MinInsyncReplicasAll {
        /// The setting.
        min_insync: usize,
        /// The number of copies.
        replication: usize,
    },
    /// `unclean.leader.election.enable`: a copy that lags may become the leader.
    UncleanElection,
    /// Fewer brokers are up than the topic has copies.
    TooFewBrokers {
        /// The brokers that are up.
        brokers: usize,
        /// The number of copies.
        replication: usize,
    },
    /// Records are deleted sooner than was asked for.
    Retention {
        /// `retention.ms`.
        retention: Duration,
        /// What was asked for.
        window: Duration,
    },
    /// Redpanda's `write.caching`: writes are acknowledged before they are on disk.
    WriteCaching,
}

impl Finding {
    /// How bad it is.
    pub fn severity(&self) -> Severity {
        match self {
            Self::OneCopy
            | Self::Acks(_)
            | Self::MinInsyncReplicasOne { .. }
            | Self::UncleanElection
            | Self::Retention { .. }
            | Self::WriteCaching => Severity::Loss,
            Self::MinInsyncReplicasAll { .. } | Self::TooFewBrokers { .. } => {
                Severity::Availability
            }
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OneCopy => f.write_str("one copy only (replication factor 1)"),
            Self::Acks(acks) => {
                let who = match acks {
                    Acks::None => "acks=0: nobody confirms a record",
                    Acks::Leader | Acks::All => "acks=1: only the leader confirms a record",
                };
                f.write_str(who)
            }
            Self::MinInsyncReplicasOne { replication } => write!(
                f,
                "min.insync.replicas=1 of {replication}: the leader alone may confirm a record"
            ),
            Self::MinInsyncReplicasAll {
                min_insync,
                replication,
            } => write!(
                f,
                "min.insync.replicas={min_insync} of {replication}: without one broker no write \
                 is taken"
            ),
            Self::UncleanElection => f.write_str(
                "unclean.leader.election.enable=true: a copy that lags may become the leader",
            ),
            Self::TooFewBrokers {
                brokers,
                replication,
            } => {
                write!(f, "{brokers} brokers are up for {replication} copies")
            }
            Self::Retention { retention, window } => write!(
                f,
                "retention.ms={}: shorter than the {} ms asked for",
                retention.as_millis(),
                window.as_millis()
            ),
            Self::WriteCaching => f.write_str("write.caching=true: confirmed before it is on disk"),
        }
    }
}

/// How a topic is written to, and how long its records must stay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DurabilityDemands {
    /// Who confirms a record.
    pub acks: Acks,
    /// How long a record must be there, such as the longest that a consumer may be down. `None`
    /// does not look at retention.
    pub retention: Option<Duration>,
}

impl From<Acks> for DurabilityDemands {
    fn from(acks: Acks) -> Self {
        Self {
            acks,
            retention: None,
        }
    }
}

/// What was found about each topic, in the order that was asked.
#[derive(Debug)]
#[non_exhaustive]
pub struct DurabilityReport {
    /// Each topic with its findings, the worst first, or with the error that kept it from being
    /// judged.
    pub topics: Each<String, Vec<Finding>>,
}

impl DurabilityReport {
    /// The worst that was found; `None` if nothing was.
    pub fn worst(&self) -> Option<Severity> {
        let judged = self
            .topics
            .iter()
            .filter_map(|(_, found)| found.as_ref().ok());
        judged.flatten().map(Finding::severity).max()
    }

    /// Whether every topic was judged and nothing was found.
    pub fn is_clean(&self) -> bool {
        self.topics
            .iter()
            .all(|(_, found)| found.as_ref().is_ok_and(Vec::is_empty))
    }
}

/// A line for each finding: topic, severity, what it is.
impl fmt::Display for DurabilityReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (topic, found) in &self.topics {
            match found {
                Err(error) => write!(f, "{separator}{topic}: not judged: {error}")?,
                Ok(found) if found.is_empty() => write!(f, "{separator}{topic}: durable")?,
                Ok(found) => {
                    for finding in found {
                        let severity = finding.severity();
                        write!(f, "{separator}{topic}: {severity}: {finding}")?;
                        separator = "\n";
                    }
                }
            }
            separator = "\n";
        }
        Ok(())
    }
}

impl std::error::Error for DurabilityReport {}

/// `durability.check`: what a producer does about a topic that can lose data, when it is first used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DurabilityMode {
    /// Nothing is asked.
    #[default]
    Off,
    /// The findings are logged.
    Warn,
    /// A topic that can lose what was acknowledged ([`Severity::Loss`]) is not written to, nor is
    /// one that could not be judged.
    Refuse,
}

impl Admin {
    /// Judges whether topics can lose what is acknowledged. The settings are asked for, so the
    /// principal must be allowed to describe the topics' configs.
    pub async fn check_durability(
        &self,
        topics: Vec<String>,
        demands: DurabilityDemands,
    ) -> DurabilityReport {
        let brokers = match self.describe_cluster().await {
            Ok(cluster) => Ok(cluster.brokers.iter().filter(|b| !b.is_fenced).count()),
            Err(error) => Err(Arc::new(error)),
        };
        let described = self.describe_topics(topics).await;
        let exist = described.iter().filter(|(_, described)| described.is_ok());
        let resources = exist
            .map(|(topic, _)| ConfigResource::Topic(topic.clone()))
            .collect();
        let names = SETTINGS.iter().map(|name| (*name).to_owned()).collect();
        let mut settings = self
            .describe_configs_named(resources, names)
            .await
            .into_iter();
        let mut judge = |described: Result<Arc<TopicMetadata>, Error>| {
            let topic = described?;
            let missing = || Error::new(ErrorKind::Protocol, DescribeConfigsRequest::NAME);
            let (_, entries) = settings.next().ok_or_else(missing)?;
            let brokers = brokers.as_ref().map_err(super::ask::shared)?;
            Ok(findings(&topic, *brokers, &entries?, demands))
        };
        let judged = described.into_iter().map(|(topic, described)| {
            let judged = judge(described);
            (topic, judged)
        });
        DurabilityReport {
            topics: judged.collect(),
        }
    }

    /// Does what `mode` says about one topic before it is written to. Asks the cluster each time:
    /// call it once a topic.
    ///
    /// # Errors
    /// Only in mode `refuse`: of kind `NotDurable`, with the [`DurabilityReport`] as its source, or
    /// the error that kept the topic from being judged.
    pub async fn ensure_durable(
        &self,
        topic: &str,
        mode: DurabilityMode,
        demands: DurabilityDemands,
    ) -> Result<(), Error> {
        if mode == DurabilityMode::Off {
            return Ok(());
        }
        let mut report = self.check_durability(vec![topic.to_owned()], demands).await;
        if mode == DurabilityMode::Warn {
            if !report.is_clean() {
                tracing::warn!(topic, %report, "the topic may lose data");
            }
            return Ok(());
        }
        if report.topics.iter().any(|(_, found)| found.is_err())
            && let Some((_, Err(error))) = report.topics.pop()
        {
            return Err(error);
        }
        if report.worst() >= Some(Severity::Loss) {
            let refused = Error::new(ErrorKind::NotDurable, "durability.check");
            return Err(refused.with_topic(topic).with_source(report));
        }
        Ok(())
    }
}

/// The settings that are looked at.
const SETTINGS: [&str; 5] = [
    "cleanup.policy",
    "min.insync.replicas",
    "retention.ms",
    "unclean.leader.election.enable",
    "write.caching",
];

/// A setting that the broker does not have (Redpanda has no `min.insync.replicas`) says nothing.
fn findings(
    topic: &TopicMetadata,
    brokers: usize,
    settings: &[ConfigEntry],
    demands: DurabilityDemands,
) -> Vec<Finding> {
    let value = |name: &str| {
        let entry = settings.iter().find(|entry| entry.name == name);
        entry.and_then(|entry| entry.value.as_deref())
    };
    let is_on = |name: &str| value(name).is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let copies = topic.partitions.iter().map(|p| p.replicas.len());
    let replication = copies.min().unwrap_or(0);
    let min_insync = value("min.insync.replicas").and_then(|value| value.parse::<usize>().ok());
    let mut found = Vec::new();
    if replication <= 1 {
        found.push(Finding::OneCopy);
    }
    if demands.acks != Acks::All {
        found.push(Finding::Acks(demands.acks));
    }
    match min_insync {
        Some(..=1) if replication > 1 => {
            found.push(Finding::MinInsyncReplicasOne { replication });
        }
        Some(min_insync) if min_insync > 1 && min_insync >= replication => {
            found.push(Finding::MinInsyncReplicasAll {
                min_insync,
                replication,
            });
        }
        _ => {}
    }
    if is_on("unclean.leader.election.enable") {
        found.push(Finding::UncleanElection);
    }
    if is_on("write.caching") {
        found.push(Finding::WriteCaching);
    }
    if brokers < replication {
        found.push(Finding::TooFewBrokers {
            brokers,
            replication,
        });
    }
    let deletes = value("cleanup.policy").is_none_or(|policy| policy.contains("delete"));
    // -1 is for ever.
    let retention = value("retention.ms").and_then(|value| value.parse::<u64>().ok());
    let retention = retention.map(Duration::from_millis);
    if let (true, Some(retention), Some(window)) = (deletes, retention, demands.retention)
        && retention < window
    {
        found.push(Finding::Retention { retention, window });
    }
    found.sort_by_key(|finding| std::cmp::Reverse(finding.severity()));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PartitionMetadata;
    use crate::admin::ConfigSource;

    fn topic(copies: &[usize]) -> TopicMetadata {
        let partition = |(id, copies): (i32, &usize)| PartitionMetadata {
            id,
            leader: Some(1),
            leader_epoch: None,
            replicas: (1..).take(*copies).collect(),
            isr: vec![1],
        };
        TopicMetadata {
            name: "orders".into(),
            topic_id: None,
            partitions: (0..).zip(copies).map(partition).collect(),
            is_internal: false,
        }
    }

    fn judge(
        copies: &[usize],
        brokers: usize,
        settings: &[(&str, &str)],
        acks: Acks,
    ) -> Vec<Finding> {
        let entry = |(name, value): &(&str, &str)| ConfigEntry {
            name: (*name).to_owned(),
            value: Some((*value).to_owned()),
            source: ConfigSource::Default,
            is_read_only: false,
            is_sensitive: false,
            synonyms: Vec::new(),
        };
        let settings: Vec<_> = settings.iter().map(entry).collect();
        let demands = DurabilityDemands {
            acks,
            retention: Some(Duration::from_secs(60)),
        };
        findings(&topic(copies), brokers, &settings, demands)
    }

    const GOOD: &[(&str, &str)] = &[
        ("min.insync.replicas", "2"),
        ("unclean.leader.election.enable", "false"),
        ("retention.ms", "60000"),
        ("cleanup.policy", "delete"),
    ];

    #[test]
    fn three_copies_of_which_two_confirm_are_durable() {
        assert_eq!(judge(&[3, 3], 3, GOOD, Acks::All), []);
        let for_ever = [("retention.ms", "-1"), GOOD[0]];
        assert_eq!(judge(&[3], 3, &for_ever, Acks::All), []);
        let never_by_age = [
            ("cleanup.policy", "compact"),
            ("retention.ms", "1"),
            GOOD[0],
        ];
        assert_eq!(judge(&[3], 3, &never_by_age, Acks::All), []);
        // Redpanda has no such settings: a majority always confirms.
        assert_eq!(judge(&[3], 3, &[], Acks::All), []);
    }

    #[test]
    fn each_weakness_is_found_with_its_severity() {
        use Finding as F;
        let mut cases: Vec<(Vec<Finding>, Finding, Severity)> = Vec::new();
        let mut case = |found, finding, severity| cases.push((found, finding, severity));
        case(
            judge(&[3, 1], 3, &GOOD[1..], Acks::All),
            F::OneCopy,
            Severity::Loss,
        );
        case(
            judge(&[3], 3, GOOD, Acks::Leader),
            F::Acks(Acks::Leader),
            Severity::Loss,
        );
        case(
            judge(&[3], 3, GOOD, Acks::None),
            F::Acks(Acks::None),
            Severity::Loss,
        );
        let one = [("min.insync.replicas", "1")];
        let weak = F::MinInsyncReplicasOne { replication: 3 };
        case(judge(&[3], 3, &one, Acks::All), weak, Severity::Loss);
        let stiff = F::MinInsyncReplicasAll {
            min_insync: 2,
            replication: 2,
        };
        case(
            judge(&[2], 3, GOOD, Acks::All),
            stiff,
            Severity::Availability,
        );
        let few = F::TooFewBrokers {
            brokers: 2,
            replication: 3,
        };
        case(judge(&[3], 2, GOOD, Acks::All), few, Severity::Availability);
        let unclean = [("unclean.leader.election.enable", "TRUE"), GOOD[0]];
        case(
            judge(&[3], 3, &unclean, Acks::All),
            F::UncleanElection,
            Severity::Loss,
        );
        let caching = [("write.caching", "true")];
        case(
            judge(&[3], 3, &caching, Acks::All),
            F::WriteCaching,
            Severity::Loss,
        );
        let short = F::Retention {
            retention: Duration::from_millis(59_999),
            window: Duration::from_secs(60),
        };
        let settings = [("retention.ms", "59999"), GOOD[0]];
        case(judge(&[3], 3, &settings, Acks::All), short, Severity::Loss);
        for (found, finding, severity) in cases {
            assert_eq!(found, [finding]);
            assert_eq!(found[0].severity(), severity);
        }
    }

    #[test]
    fn a_report_is_readable_and_the_worst_stands_first() {
        let unknown = Error::new(ErrorKind::UnknownTopic, "Metadata").with_topic("gone");
        let topics = vec![
            (
                "orders".to_owned(),
                Ok(judge(&[2], 1, &GOOD[..1], Acks::Leader)),
            ),
            ("good".to_owned(), Ok(Vec::new())),
            ("gone".to_owned(), Err(unknown)),
        ];
        let report = DurabilityReport { topics };
        let expected = "orders: loss: acks=1: only the leader confirms a record\n\
            orders: availability: min.insync.replicas=2 of 2: without one broker no write is taken\n\
            orders: availability: 1 brokers are up for 2 copies\n\
            good: durable\n\
            gone: not judged: Metadata for topic gone: the topic or partition does not exist";
        assert_eq!(report.to_string(), expected);
        assert_eq!(
            (report.worst(), report.is_clean()),
            (Some(Severity::Loss), false)
        );
    }
}
