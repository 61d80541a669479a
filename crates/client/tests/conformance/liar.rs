//! A broker that answers what a test says, whatever that is.

use crate::bed::Bed;
use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::fetch_response::{FetchableTopicResponse, PartitionData};
use kafka_protocol::messages::metadata_response::{
    MetadataResponseBroker, MetadataResponsePartition, MetadataResponseTopic,
};
use kafka_protocol::messages::{BrokerId, FetchResponse, MetadataResponse, TopicName};
use kafka_protocol::protocol::{Encodable, StrBytes};
use ottla_client::TransportKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What goes over the wire for a request.
pub(crate) enum Answer {
    /// What stands behind the correlation id.
    Body(BytesMut),
    /// The bytes as they are, without any frame.
    Raw(Vec<u8>),
}

impl From<BytesMut> for Answer {
    fn from(body: BytesMut) -> Self {
        Self::Body(body)
    }
}

/// What it answers to a Produce v3 (key 0) or a Fetch v4 (key 1), from behind the correlation id.
type Lie = dyn Fn(i16, &[u8]) -> Answer + Send + Sync;

/// The one broker of a cluster with topic `t` of two partitions.
pub(crate) struct Liar {
    pub(crate) bed: Bed,
    requests: Arc<AtomicUsize>,
    /// Connections on which a lie was told and which the client has closed.
    closed: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Liar {
    /// For the native transport.
    pub(crate) async fn start<A: Into<Answer>>(
        lie: impl Fn(i16, &[u8]) -> A + Send + Sync + 'static,
    ) -> Self {
        Self::on(TransportKind::Native, lie).await
    }

    pub(crate) async fn on<A: Into<Answer>>(
        kind: TransportKind,
        lie: impl Fn(i16, &[u8]) -> A + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let lie: Arc<Lie> = Arc::new(move |key, request| lie(key, request).into());
        let (requests, closed) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = JoinSet::new();
        let (counter, ends) = (requests.clone(), closed.clone());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (lie, counter, ends) = (lie.clone(), counter.clone(), ends.clone());
                connections.spawn(async move {
                    // A connection that the client closes ends with an error here.
                    let before = counter.load(Ordering::SeqCst);
                    serve(stream, port, &*lie, &counter).await.unwrap_or(());
                    if counter.load(Ordering::SeqCst) > before {
                        ends.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
        });
        let address = format!("127.0.0.1:{port}");
        let bed = Bed::with(kind, &address, |config| {
            config.max_response_bytes = 1 << 20;
        });
        Self {
            bed: bed.await,
            requests,
            closed,
            _tasks: tasks,
        }
    }

    /// Connections that the client has closed after a lie.
    pub(crate) fn closed(&self) -> usize {
        self.closed.load(Ordering::SeqCst)
    }

    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn serve(
    mut stream: TcpStream,
    port: u16,
    lie: &Lie,
    requests: &AtomicUsize,
) -> std::io::Result<()> {
    loop {
        let length = stream.read_i32().await?;
        let mut request = vec![0; usize::try_from(length).unwrap()];
        stream.read_exact(&mut request).await?;
        let mut answer = BytesMut::from(&request[4..8]);
        match request[1] {
            key @ (0 | 1) => {
                requests.fetch_add(1, Ordering::SeqCst);
                match lie(key.into(), &request) {
                    Answer::Body(body) => answer.unsplit(body),
                    Answer::Raw(bytes) => {
                        stream.write_all(&bytes).await?;
                        continue;
                    }
                }
            }
            3 => metadata(port)
                .encode(&mut answer, request[3].into())
                .unwrap(),
            _ => versions(&mut answer),
        }
        stream.write_i32(answer.len() as i32).await?;
        stream.write_all(&answer).await?;
    }
}

pub(crate) fn text(text: &'static str) -> StrBytes {
    StrBytes::from_static_str(text)
}

fn metadata(port: u16) -> MetadataResponse {
    let broker = MetadataResponseBroker::default()
        .with_node_id(BrokerId(1))
        .with_host(text("127.0.0.1"))
        .with_port(port.into());
    let partition = |n| {
        MetadataResponsePartition::default()
            .with_partition_index(n)
            .with_leader_id(BrokerId(1))
    };
    let topic = MetadataResponseTopic::default()
        .with_name(Some(TopicName(text("t"))))
        .with_partitions(vec![partition(0), partition(1)]);
    MetadataResponse::default()
        .with_brokers(vec![broker])
        .with_controller_id(BrokerId(1))
        .with_topics(vec![topic])
}

/// ApiVersions v3: Produce 3, Fetch 4, Metadata 1 to 4, ApiVersions 0 to 3.
fn versions(answer: &mut BytesMut) {
    answer.put_slice(&[0, 0, 5]);
    for (key, min, max) in [(0, 3, 3), (1, 4, 4), (3, 1, 4), (18, 0, 3)] {
        answer.put_slice(&[0, key, 0, min, 0, max, 0]);
    }
    answer.put_slice(&[0, 0, 0, 0, 0]);
}

/// The answer to a Fetch v4: these bytes as the records of partition 0 of `t`.
pub(crate) fn fetched(records: Bytes) -> BytesMut {
    let part = PartitionData::default()
        .with_high_watermark(i64::MAX)
        .with_records(Some(records));
    let topic = FetchableTopicResponse::default()
        .with_topic(TopicName(text("t")))
        .with_partitions(vec![part]);
    let whole = FetchResponse::default().with_responses(vec![topic]);
    let mut answer = BytesMut::new();
    whole.encode(&mut answer, 4).unwrap();
    answer
}
