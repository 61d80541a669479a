//! What every scenario stands on: a mock cluster, a client, a way to write records and a log of what
//! handlers saw. Nothing sleeps to wait: [`wait_for`] looks until the thing is there, with a limit.

use bytes::{BufMut, BytesMut};
use ottla_client::transport::{ProduceOptions, produce_all};
use ottla_client::{Client, ClientConfig, TransportKind};
use ottla_consumer::{
    App, AutoOffsetReset, ConsumedRecord, ConsumerConfig, Handler, Outcome, RunningApp, handler_fn,
};
use ottla_mock_cluster::{MockCluster, MockClusterBuilder};
use ottla_record_batch::BatchBuilder;
use ottla_types::{Headers, TopicPartition};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::Instant;

const LIMIT: Duration = Duration::from_secs(20);
pub const SHUTDOWN: Duration = Duration::from_secs(10);

pub struct Bed {
    pub cluster: MockCluster,
    pub client: Client,
}

impl Bed {
    pub async fn start() -> Self {
        Self::start_with(MockCluster::builder()).await
    }

    pub async fn start_with(builder: MockClusterBuilder) -> Self {
        let cluster = builder.auto_create_topics(false).start().await.unwrap();
        let client = connect(&cluster).await;
        Self { cluster, client }
    }

    /// One broker, and a client with this transport.
    pub async fn over(transport: TransportKind) -> Self {
        let bed = Self::start().await;
        let mut config = client_config(&bed.cluster);
        config.transport = transport;
        let client = Client::connect(config).await.unwrap();
        Self { client, ..bed }
    }

    /// Another client, with a change of its settings.
    pub async fn connect_with(&self, change: impl FnOnce(&mut ClientConfig)) -> Client {
        let mut config = client_config(&self.cluster);
        change(&mut config);
        Client::connect(config).await.unwrap()
    }

    /// Another client, which shares nothing with the first.
    pub async fn connect(&self) -> Client {
        connect(&self.cluster).await
    }

    /// Writes one batch of text values.
    pub async fn write<V: AsRef<str>>(
        &self,
        topic: &str,
        partition: i32,
        values: impl IntoIterator<Item = V>,
    ) {
        write(&self.client, topic, partition, values).await;
    }

    /// Appends a batch of one record that says it is compressed with zstd and is not: no client would
    /// send it.
    pub async fn write_unreadable(&self, topic: &str, partition: i32) {
        let mut builder = BatchBuilder::new(1 << 10);
        builder
            .try_append(1, None, Some(b"x"), &Headers::new())
            .unwrap();
        let mut batch = builder.finish().bytes().to_vec();
        batch[22] = 4;
        let crc = crc32c::crc32c(&batch[21..]);
        batch[17..21].copy_from_slice(&crc.to_be_bytes());
        self.write_raw(topic, partition, &batch).await;
    }

    /// Appends a batch as it is, by a Produce request (v3) written by hand.
    pub async fn write_raw(&self, topic: &str, partition: i32, batch: &[u8]) {
        let mut request = BytesMut::new();
        request.put_slice(&[0, 0, 0, 3, 0, 0, 0, 1, 0xff, 0xff]); // Produce, v3, id 1, no client id
        request.put_slice(&[0xff, 0xff, 0xff, 0xff]); // no transaction, acks -1
        request.put_i32(5_000); // timeout
        request.put_i32(1);
        request.put_i16(i16::try_from(topic.len()).unwrap());
        request.put_slice(topic.as_bytes());
        request.put_i32(1);
        request.put_i32(partition);
        request.put_i32(i32::try_from(batch.len()).unwrap());
        request.put_slice(batch);
        let (leader, _) = self.cluster.leader(topic, partition).unwrap();
        let address = self.cluster.broker_addr(leader.unwrap()).unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_i32(i32::try_from(request.len()).unwrap())
            .await
            .unwrap();
        stream.write_all(&request).await.unwrap();
        let mut answer = vec![0; usize::try_from(stream.read_i32().await.unwrap()).unwrap()];
        stream.read_exact(&mut answer).await.unwrap();
        // Correlation id, one topic, its name, one partition, its number, then the code.
        let code = 4 + 4 + 2 + topic.len() + 4 + 4;
        assert_eq!(answer[code..code + 2], [0, 0]);
    }

    pub fn app(&self) -> App {
        App::new(&self.client, config())
    }

    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        let committed = self.cluster.committed(group, topic, partition);
        committed.map(|(offset, _)| offset)
    }
}

/// Writes one batch of text values.
pub async fn write<V: AsRef<str>>(
    client: &Client,
    topic: &str,
    partition: i32,
    values: impl IntoIterator<Item = V>,
) {
    let mut batch = BatchBuilder::new(1 << 20);
    for value in values {
        let value = value.as_ref().as_bytes();
        batch
            .try_append(1, None, Some(value), &Headers::new())
            .unwrap();
    }
    let options = ProduceOptions {
        timeout: LIMIT,
        ..ProduceOptions::default()
    };
    let batches = vec![(TopicPartition::new(topic, partition), batch.finish())];
    let results = produce_all(&**client.transport(), &options, batches).await;
    for (_, result) in results {
        result.unwrap();
    }
}

async fn connect(cluster: &MockCluster) -> Client {
    Client::connect(client_config(cluster)).await.unwrap()
}

fn client_config(cluster: &MockCluster) -> ClientConfig {
    let mut config = ClientConfig::new(&cluster.bootstrap());
    config.request_timeout = Duration::from_secs(5);
    config
}

/// A configuration with short times.
pub fn config() -> ConsumerConfig {
    ConsumerConfig {
        session_timeout: Duration::from_secs(10),
        heartbeat_interval: Duration::from_millis(100),
        max_poll_interval: Duration::from_secs(20),
        auto_offset_reset: AutoOffsetReset::Earliest,
        fetch_max_wait: Duration::from_millis(50),
        commit_interval: Duration::from_millis(20),
        handler_backoff: Duration::from_millis(5),
        handler_backoff_max: Duration::from_millis(20),
        revoke_timeout: Duration::from_secs(5),
        start_timeout: Duration::from_secs(5),
        ..ConsumerConfig::default()
    }
}

/// The same with a session that ends soon after the last heartbeat.
pub fn short_session() -> ConsumerConfig {
    ConsumerConfig {
        session_timeout: Duration::from_millis(1500),
        ..config()
    }
}

/// Looks until `condition` holds; panics with `what` after 20 s.
pub async fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < limit, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What handlers saw, in the order of the calls.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Vec<Entry>>>);

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub member: String,
    pub partition: i32,
    pub offset: i64,
    pub value: String,
}

impl Seen {
    pub fn push(&self, member: &str, record: &ConsumedRecord) {
        self.0.lock().unwrap().push(Entry {
            member: member.to_owned(),
            partition: record.partition,
            offset: record.offset,
            value: text(record),
        });
    }

    pub fn all(&self) -> Vec<Entry> {
        self.0.lock().unwrap().clone()
    }

    pub fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }

    pub fn offsets(&self, partition: i32) -> Vec<i64> {
        let all = self.all().into_iter();
        all.filter(|e| e.partition == partition)
            .map(|e| e.offset)
            .collect()
    }

    pub fn values(&self) -> Vec<String> {
        self.all().into_iter().map(|e| e.value).collect()
    }

    pub async fn wait_len(&self, len: usize) {
        wait_for(&format!("{len} handled records"), || self.len() >= len).await;
    }

    /// A handler that notes each record and is done.
    pub fn handler(&self) -> impl Handler + use<> {
        let seen = self.clone();
        handler_fn(move |context, record| {
            seen.push(context.member(), &record);
            async { Outcome::Done }
        })
    }
}

pub fn text(record: &ConsumedRecord) -> String {
    String::from_utf8(record.value.clone().unwrap_or_default().to_vec()).unwrap()
}

/// Values `from..to` as text.
pub fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|n| n.to_string()).collect()
}

/// Shuts down and expects that nothing was left behind.
pub async fn stop(running: RunningApp) {
    let report = running.shutdown(SHUTDOWN).await;
    assert!(report.clean, "{report:?}");
}

/// The partitions that each member of the first registration owns.
pub fn owned(running: &RunningApp) -> Vec<usize> {
    let status = running.status();
    let members = &status.registrations[0].members;
    members.iter().map(|m| m.partitions.len()).collect()
}
