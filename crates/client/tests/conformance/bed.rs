//! A cluster, a client with one of the transports on it, and what the tests ask of both.

use ottla_client::transport::{
    FetchLimits, FetchPosition, Fetched, ProduceOptions, Produced, Transport, produce_all,
};
use ottla_client::{Client, ClientConfig, Error, NewTopic, TransportKind};
use ottla_mock_cluster::{MockCluster, MockClusterBuilder};
use ottla_record_batch::{BatchBuilder, EncodedBatch};
use ottla_types::{Headers, Offset, TopicPartition};
use std::time::Duration;
use tokio::time::timeout;

pub(crate) const SECOND: Duration = Duration::from_secs(1);
/// Nothing here takes longer unless it hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A client on a cluster that somebody else has started.
pub(crate) struct Bed {
    pub(crate) kind: TransportKind,
    pub(crate) client: Client,
    pub(crate) bootstrap: String,
}

impl Bed {
    pub(crate) async fn at(kind: TransportKind, bootstrap: &str) -> Self {
        Self::with(kind, bootstrap, |_| {}).await
    }

    pub(crate) async fn with(
        kind: TransportKind,
        bootstrap: &str,
        change: impl FnOnce(&mut ClientConfig),
    ) -> Self {
        let mut config = ClientConfig {
            transport: kind,
            connect_timeout: 2 * SECOND,
            request_timeout: 2 * SECOND,
            retry_backoff: Duration::from_millis(10),
            retry_backoff_max: Duration::from_millis(200),
            ..ClientConfig::new(bootstrap)
        };
        change(&mut config);
        Self {
            kind,
            client: Client::connect(config).await.unwrap(),
            bootstrap: bootstrap.to_owned(),
        }
    }

    pub(crate) fn is_native(&self) -> bool {
        self.kind == TransportKind::Native
    }

    pub(crate) fn transport(&self) -> &dyn Transport {
        &**self.client.transport()
    }

    /// A new topic with a name of its own, whose partitions have leaders.
    pub(crate) async fn topic(&self, partitions: i32, configs: &[(&str, &str)]) -> Topic<'_> {
        let name = format!("conformance-{:016x}", fastrand::u64(..));
        let mut new = NewTopic::new(&name, partitions).replication(1);
        for (key, value) in configs {
            new = new.config(*key, *value);
        }
        self.client.ensure_topics(vec![new]).await.unwrap();
        self.existing(&name)
    }

    pub(crate) fn existing(&self, name: &str) -> Topic<'_> {
        Topic {
            bed: self,
            name: name.to_owned(),
        }
    }
}

/// A mock cluster with a client on it.
pub(crate) struct MockBed {
    pub(crate) mock: MockCluster,
    pub(crate) bed: Bed,
}

impl std::ops::Deref for MockBed {
    type Target = Bed;

    fn deref(&self) -> &Bed {
        &self.bed
    }
}

impl MockBed {
    pub(crate) async fn new(kind: TransportKind) -> Self {
        Self::on(kind, MockCluster::builder()).await
    }

    pub(crate) async fn on(kind: TransportKind, builder: MockClusterBuilder) -> Self {
        let mock = builder.start().await.unwrap();
        let bed = Bed::at(kind, &mock.bootstrap()).await;
        Self { mock, bed }
    }

    /// The values in the topic's log.
    pub(crate) fn written(&self, topic: &Topic<'_>) -> Vec<String> {
        let records = self.mock.records(&topic.name);
        records
            .iter()
            .map(|r| r.value_text().unwrap_or_default())
            .collect()
    }
}

/// A topic of a test.
pub(crate) struct Topic<'a> {
    pub(crate) bed: &'a Bed,
    pub(crate) name: String,
}

impl Topic<'_> {
    pub(crate) fn p(&self, partition: i32) -> TopicPartition {
        TopicPartition::new(&*self.name, partition)
    }

    /// A bare offset of a partition.
    pub(crate) fn at(&self, partition: i32, offset: Offset) -> (TopicPartition, FetchPosition) {
        (self.p(partition), offset.into())
    }

    pub(crate) async fn send(
        &self,
        partition: i32,
        batch: EncodedBatch,
        options: ProduceOptions,
    ) -> Result<Produced, Error> {
        let batches = vec![(self.p(partition), batch)];
        let mut results = produce_all(self.bed.transport(), &options, batches).await;
        assert_eq!(results.len(), 1);
        let (back, result) = results.remove(0);
        assert_eq!(back, self.p(partition));
        result
    }

    /// Writes a batch of these values.
    pub(crate) async fn write(&self, partition: i32, values: &[&str]) -> Result<Produced, Error> {
        self.send(partition, batch(values), options(PATIENCE)).await
    }

    /// What a reader gets at the position: records, a later position, or an error.
    pub(crate) async fn read(
        &self,
        partition: i32,
        position: impl Into<FetchPosition>,
    ) -> Result<Fetched, Error> {
        let position = position.into();
        let reading = async {
            loop {
                let wanted = vec![(self.p(partition), position)];
                let mut answers = self.bed.transport().fetch(limits(SECOND / 2), wanted).await;
                if let Some((back, result)) = answers.pop() {
                    assert_eq!(back, self.p(partition));
                    return result;
                }
            }
        };
        let limit = timeout(PATIENCE, reading).await;
        limit.expect("records or an error")
    }

    /// Reads as a consumer does: errors that pass are reported, and then it asks again.
    pub(crate) async fn read_on(
        &self,
        partition: i32,
        position: impl Into<FetchPosition>,
    ) -> Fetched {
        let position = position.into();
        loop {
            match self.read(partition, position).await {
                Ok(fetched) => return fetched,
                Err(error) => assert!(error.is_retriable(), "{error}"),
            }
        }
    }

    /// Offsets and values from the position up to `end`.
    pub(crate) async fn read_to(
        &self,
        partition: i32,
        mut position: Offset,
        end: Offset,
    ) -> Vec<(Offset, String)> {
        let mut seen = Vec::new();
        while position < end {
            let fetched = self.read_on(partition, position).await;
            assert!(fetched.next_offset > position, "reading stands still");
            seen.extend(shown(&fetched).into_iter().filter(|(o, _)| *o >= position));
            position = fetched.next_offset;
        }
        assert_eq!(position, end);
        seen
    }
}

pub(crate) fn builder_of(values: &[&str]) -> BatchBuilder {
    let mut builder = BatchBuilder::new(1 << 20);
    for value in values {
        builder
            .try_append(1_000, None, Some(value.as_bytes()), &Headers::new())
            .unwrap();
    }
    builder
}

pub(crate) fn batch(values: &[&str]) -> EncodedBatch {
    builder_of(values).finish()
}

pub(crate) fn options(timeout: Duration) -> ProduceOptions {
    ProduceOptions {
        timeout,
        ..ProduceOptions::default()
    }
}

pub(crate) fn limits(max_wait: Duration) -> FetchLimits {
    FetchLimits {
        max_wait,
        min_bytes: 1,
        max_partition_bytes: 1 << 20,
        max_bytes: 50 << 20,
        read_ahead_bytes: 1 << 20,
    }
}

/// Offsets and values of what a fetch shows.
pub(crate) fn shown(fetched: &Fetched) -> Vec<(Offset, String)> {
    let mut all = Vec::new();
    for batch in fetched.records.batches() {
        for record in batch.unwrap().records() {
            let record = record.unwrap();
            let value = record.value.unwrap_or_default();
            all.push((record.offset, String::from_utf8(value.to_vec()).unwrap()));
        }
    }
    all
}

pub(crate) fn values(fetched: &Fetched) -> Vec<String> {
    shown(fetched).into_iter().map(|(_, value)| value).collect()
}

/// Waits for what a test has caused, at most [`PATIENCE`].
pub(crate) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::task::yield_now().await;
        }
    };
    assert!(
        timeout(PATIENCE, waiting).await.is_ok(),
        "waited in vain: {what}"
    );
}
