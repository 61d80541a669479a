//! The requests that a broker answers: one file an API key, each with the versions it speaks.
//!
//! The way of a request: its header, its version, the shape of its body, decoding, a fault if one
//! hits, the handler, encoding. What does not fit closes the connection.

mod add_offsets_to_txn;
mod add_partitions_to_txn;
mod api_versions;
mod consumer_group_describe;
mod consumer_group_heartbeat;
mod create_partitions;
mod create_topics;
mod delete_groups;
mod delete_records;
mod delete_topics;
mod describe_cluster;
mod describe_configs;
mod describe_groups;
mod end_txn;
mod fetch;
mod find_coordinator;
mod heartbeat;
mod incremental_alter_configs;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_groups;
mod list_offsets;
mod metadata;
mod offset_commit;
mod offset_delete;
mod offset_fetch;
mod offset_for_leader_epoch;
mod produce;
mod sasl_authenticate;
mod sasl_handshake;
mod shape;
mod sync_group;
mod throttle;
mod txn_offset_commit;

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use tokio::time::sleep;
use uuid::Uuid;

use crate::fault::{Action, Subject};
use crate::sasl::Session;
use crate::shared::Shared;
use crate::versions::{Range, Versions};
use crate::{ApiKey, codes};
use shape::Field;
use throttle::Throttle;

/// What a connection does after a request.
pub(crate) enum Reply {
    /// Sends this frame, then takes nothing for a while (KIP-219).
    Answer { frame: Bytes, mute: Duration },
    /// Sends this frame, then closes the connection.
    Last { frame: Bytes },
    /// Goes on without an answer (acks 0), after a while.
    Silence { mute: Duration },
    /// Closes the connection.
    Close,
    /// Never answers; stays open until the peer leaves.
    Hang,
}

/// What a handler made of a request.
pub(crate) enum Outcome<R> {
    Answer(R),
    Silence,
    Close,
}

/// A request and where it came from.
pub(crate) struct Call<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) broker: i32,
    pub(crate) version: i16,
    pub(crate) client_id: &'a str,
    pub(crate) host: &'a str,
    pub(crate) session: &'a Session,
    /// Whether a quota holds the client back after this request.
    pub(crate) is_throttled: bool,
}

impl Call<'_> {
    /// PRODUCER_FENCED as this version and this kind of broker say it.
    fn fenced(&self, code: i16, says_fenced_from: i16) -> i16 {
        let is_known =
            self.version >= says_fenced_from && self.shared.config.versions.says_producer_fenced;
        match code {
            codes::PRODUCER_FENCED if !is_known => codes::INVALID_PRODUCER_EPOCH,
            code => code,
        }
    }
}

/// The names inside a request that a fault may ask for.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) topics: Vec<String>,
    /// Topics that are named by their id alone.
    pub(crate) topic_ids: Vec<Uuid>,
    pub(crate) groups: Vec<String>,
    pub(crate) transaction: Option<String>,
    /// The session whose topics the request means, too; 0 for none.
    pub(crate) fetch_session: i32,
}

impl Names {
    fn topics<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        Self {
            topics: names.map(str::to_owned).collect(),
            ..Self::default()
        }
    }

    fn group(name: &str) -> Self {
        Self::groups(std::iter::once(name))
    }

    fn groups<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        Self {
            groups: names.map(str::to_owned).collect(),
            ..Self::default()
        }
    }

    fn and_transaction(mut self, name: Option<&str>) -> Self {
        self.transaction = name.map(str::to_owned);
        self
    }

    fn and_fetch_session(self, id: i32) -> Self {
        Self {
            fetch_session: id,
            ..self
        }
    }

    fn and_topic_ids(mut self, ids: impl Iterator<Item = Uuid>) -> Self {
        self.topic_ids.extend(ids.filter(|id| !id.is_nil()));
        self
    }

    fn and_topics<'a>(mut self, names: impl Iterator<Item = &'a str>) -> Self {
        self.topics.extend(names.map(str::to_owned));
        self
    }
}

/// One API key.
pub(crate) trait Api {
    const KEY: ApiKey;
    const VERSIONS: Range;
    /// The first version with compact lengths and tagged fields (KIP-482).
    const FLEXIBLE: i16;
    /// The fields of the request.
    const SHAPE: &'static [Field];
    type Request: Decodable + HeaderVersion + Send + Sync;
    type Response: Encodable + HeaderVersion + Throttle + Send;

    fn names(_request: &Self::Request) -> Names {
        Names::default()
    }

    /// The answer that says `code` for everything asked; `None` where there is no room for it, and
    /// the connection is closed instead.
    fn refuse(request: &Self::Request, version: i16, code: i16) -> Option<Self::Response>;

    fn handle(
        call: &Call<'_>,
        request: Self::Request,
    ) -> impl Future<Output = Outcome<Self::Response>> + Send;
}

/// The versions of an API that this cluster takes.
fn taken<A: Api>(versions: &Versions) -> Option<Range> {
    versions.range(A::KEY)?.and(A::VERSIONS)
}

/// The versions that ApiVersions tells: key, lowest, highest.
fn advertised(versions: &Versions) -> Vec<(i16, i16, i16)> {
    let mut all = Vec::new();
    macro_rules! list {
        ($($api:ty),* $(,)?) => {
            $(if let Some(range) = taken::<$api>(versions) {
                all.push((<$api>::KEY.key(), range.min, range.max));
            })*
        };
    }
    list!(
        produce::Produce,
        fetch::Fetch,
        list_offsets::ListOffsets,
        metadata::Metadata,
        offset_commit::OffsetCommit,
        offset_fetch::OffsetFetch,
        find_coordinator::FindCoordinator,
        join_group::JoinGroup,
        heartbeat::Heartbeat,
        leave_group::LeaveGroup,
        sync_group::SyncGroup,
        describe_groups::DescribeGroups,
        list_groups::ListGroups,
        sasl_handshake::SaslHandshake,
        api_versions::ApiVersions,
        create_topics::CreateTopics,
        delete_topics::DeleteTopics,
        delete_records::DeleteRecords,
        init_producer_id::InitProducerId,
        offset_for_leader_epoch::OffsetForLeaderEpoch,
        add_partitions_to_txn::AddPartitionsToTxn,
        add_offsets_to_txn::AddOffsetsToTxn,
        end_txn::EndTxn,
        txn_offset_commit::TxnOffsetCommit,
        describe_configs::DescribeConfigs,
        sasl_authenticate::SaslAuthenticate,
        create_partitions::CreatePartitions,
        delete_groups::DeleteGroups,
        incremental_alter_configs::IncrementalAlterConfigs,
        offset_delete::OffsetDelete,
        describe_cluster::DescribeCluster,
        consumer_group_heartbeat::ConsumerGroupHeartbeat,
        consumer_group_describe::ConsumerGroupDescribe,
    );
    // Kafka 4 says 0 here and speaks from 3 on: librdkafka reads a higher minimum as a broker
    // without compression.
    let promised = versions.range(ApiKey::Produce).map(|range| range.min);
    if let (Some((key, min, _)), Some(promised)) = (all.first_mut(), promised)
        && *key == ApiKey::Produce.key()
    {
        *min = promised.min(*min);
    }
    all
}

/// Handles one frame.
pub(crate) async fn dispatch(
    shared: &Arc<Shared>,
    broker: i32,
    host: &str,
    session: &Session,
    frame: Bytes,
) -> Reply {
    let Some(&[k0, k1, v0, v1, ..]) = frame.first_chunk::<8>() else {
        return Reply::Close;
    };
    let key = i16::from_be_bytes([k0, k1]);
    let version = i16::from_be_bytes([v0, v1]);
    let Some(api) = ApiKey::from_wire(key) else {
        tracing::warn!(broker, key, "unknown api key");
        return Reply::Close;
    };
    let incoming = Incoming {
        shared,
        broker,
        host,
        session,
        version,
        frame,
    };
    if !session.admits(api) {
        tracing::debug!(broker, ?api, "not authenticated");
        return Reply::Close;
    }
    // Boxed: the futures of all handlers would otherwise add up in every connection.
    match api {
        ApiKey::Produce => Box::pin(incoming.run::<produce::Produce>()).await,
        ApiKey::Fetch => Box::pin(incoming.run::<fetch::Fetch>()).await,
        ApiKey::ListOffsets => Box::pin(incoming.run::<list_offsets::ListOffsets>()).await,
        ApiKey::Metadata => Box::pin(incoming.run::<metadata::Metadata>()).await,
        ApiKey::OffsetCommit => Box::pin(incoming.run::<offset_commit::OffsetCommit>()).await,
        ApiKey::OffsetFetch => Box::pin(incoming.run::<offset_fetch::OffsetFetch>()).await,
        ApiKey::FindCoordinator => {
            Box::pin(incoming.run::<find_coordinator::FindCoordinator>()).await
        }
        ApiKey::JoinGroup => Box::pin(incoming.run::<join_group::JoinGroup>()).await,
        ApiKey::Heartbeat => Box::pin(incoming.run::<heartbeat::Heartbeat>()).await,
        ApiKey::LeaveGroup => Box::pin(incoming.run::<leave_group::LeaveGroup>()).await,
        ApiKey::SyncGroup => Box::pin(incoming.run::<sync_group::SyncGroup>()).await,
        ApiKey::DescribeGroups => Box::pin(incoming.run::<describe_groups::DescribeGroups>()).await,
        ApiKey::ListGroups => Box::pin(incoming.run::<list_groups::ListGroups>()).await,
        ApiKey::SaslHandshake => Box::pin(incoming.run::<sasl_handshake::SaslHandshake>()).await,
        ApiKey::SaslAuthenticate => {
            Box::pin(incoming.run::<sasl_authenticate::SaslAuthenticate>()).await
        }
        ApiKey::ApiVersions if incoming.is_unknown::<api_versions::ApiVersions>() => {
            incoming.answer_unknown_api_versions()
        }
        ApiKey::ApiVersions => Box::pin(incoming.run::<api_versions::ApiVersions>()).await,
        ApiKey::CreateTopics => Box::pin(incoming.run::<create_topics::CreateTopics>()).await,
        ApiKey::DeleteTopics => Box::pin(incoming.run::<delete_topics::DeleteTopics>()).await,
        ApiKey::DeleteRecords => Box::pin(incoming.run::<delete_records::DeleteRecords>()).await,
        ApiKey::InitProducerId => {
            Box::pin(incoming.run::<init_producer_id::InitProducerId>()).await
        }
        ApiKey::OffsetForLeaderEpoch => {
            Box::pin(incoming.run::<offset_for_leader_epoch::OffsetForLeaderEpoch>()).await
        }
        ApiKey::AddPartitionsToTxn => {
            Box::pin(incoming.run::<add_partitions_to_txn::AddPartitionsToTxn>()).await
        }
        ApiKey::AddOffsetsToTxn => {
            Box::pin(incoming.run::<add_offsets_to_txn::AddOffsetsToTxn>()).await
        }
        ApiKey::EndTxn => Box::pin(incoming.run::<end_txn::EndTxn>()).await,
        ApiKey::TxnOffsetCommit => {
            Box::pin(incoming.run::<txn_offset_commit::TxnOffsetCommit>()).await
        }
        ApiKey::DescribeConfigs => {
            Box::pin(incoming.run::<describe_configs::DescribeConfigs>()).await
        }
        ApiKey::CreatePartitions => {
            Box::pin(incoming.run::<create_partitions::CreatePartitions>()).await
        }
        ApiKey::DeleteGroups => Box::pin(incoming.run::<delete_groups::DeleteGroups>()).await,
        ApiKey::IncrementalAlterConfigs => {
            Box::pin(incoming.run::<incremental_alter_configs::IncrementalAlterConfigs>()).await
        }
        ApiKey::OffsetDelete => Box::pin(incoming.run::<offset_delete::OffsetDelete>()).await,
        ApiKey::ConsumerGroupDescribe => {
            Box::pin(incoming.run::<consumer_group_describe::ConsumerGroupDescribe>()).await
        }
        ApiKey::ConsumerGroupHeartbeat => {
            Box::pin(incoming.run::<consumer_group_heartbeat::ConsumerGroupHeartbeat>()).await
        }
        ApiKey::DescribeCluster => {
            Box::pin(incoming.run::<describe_cluster::DescribeCluster>()).await
        }
    }
}

struct Incoming<'a> {
    shared: &'a Arc<Shared>,
    broker: i32,
    host: &'a str,
    session: &'a Session,
    version: i16,
    frame: Bytes,
}

impl Incoming<'_> {
    async fn run<A: Api>(self) -> Reply {
        let version = self.version;
        let taken = taken::<A>(&self.shared.config.versions);
        if !taken.is_some_and(|taken| taken.contains(version)) {
            tracing::warn!(broker = self.broker, api = ?A::KEY, version, "unsupported version");
            return Reply::Close;
        }
        let Some((header, request)) = self.decode::<A>() else {
            tracing::warn!(broker = self.broker, api = ?A::KEY, version, "malformed request");
            return Reply::Close;
        };
        self.shared.count(A::KEY);
        let fault = pick::<A>(self.shared, self.broker, &request);
        let call = Call {
            shared: self.shared,
            broker: self.broker,
            version,
            client_id: header.client_id.as_deref().unwrap_or_default(),
            host: self.host,
            session: self.session,
            is_throttled: matches!(fault, Some(Action::Throttle(_))),
        };
        let outcome = match &fault {
            Some(Action::Disconnect) => Outcome::Close,
            Some(Action::Hang) => return Reply::Hang,
            Some(Action::Refuse(code)) => match A::refuse(&request, version, *code) {
                Some(response) => Outcome::Answer(response),
                None => Outcome::Close,
            },
            Some(Action::Delay(time)) => {
                sleep(*time).await;
                A::handle(&call, request).await
            }
            Some(
                Action::DropReply | Action::LastReply | Action::DelayReply(_) | Action::Throttle(_),
            )
            | None => A::handle(&call, request).await,
        };
        let is_last = fault == Some(Action::LastReply);
        let mut mute = Duration::ZERO;
        match fault {
            Some(Action::DropReply) => return Reply::Close,
            Some(Action::DelayReply(time)) => sleep(time).await,
            Some(Action::Throttle(time)) => mute = time,
            _ => {}
        }
        match outcome {
            Outcome::Answer(mut response) => {
                let ms = i32::try_from(mute.as_millis()).unwrap_or(i32::MAX);
                response.set_throttle_time_ms(ms);
                match encode(header.correlation_id, version, &response) {
                    Some(frame) if is_last => Reply::Last { frame },
                    Some(frame) => Reply::Answer { frame, mute },
                    None => Reply::Close,
                }
            }
            Outcome::Silence => Reply::Silence { mute },
            Outcome::Close => Reply::Close,
        }
    }

    /// Whether the version is above those that this cluster takes.
    fn is_unknown<A: Api>(&self) -> bool {
        taken::<A>(&self.shared.config.versions).is_some_and(|taken| self.version > taken.max)
    }

    fn decode<A: Api>(&self) -> Option<(RequestHeader, A::Request)> {
        let mut frame = self.frame.clone();
        let header_version = A::Request::header_version(self.version);
        let header = RequestHeader::decode(&mut frame, header_version).ok()?;
        // The decoder reserves whatever an array announces, so the counts are checked before.
        shape::check(A::SHAPE, &frame, self.version, A::FLEXIBLE)?;
        let request = A::Request::decode(&mut frame, self.version).ok()?;
        Some((header, request))
    }

    fn answer_unknown_api_versions(self) -> Reply {
        self.shared.count(ApiKey::ApiVersions);
        let Some(&[_, _, _, _, c0, c1, c2, c3]) = self.frame.first_chunk::<8>() else {
            return Reply::Close;
        };
        let correlation_id = i32::from_be_bytes([c0, c1, c2, c3]);
        let response = api_versions::unsupported(&self.shared.config.versions);
        match encode(correlation_id, 0, &response) {
            Some(frame) => Reply::Answer {
                frame,
                mute: Duration::ZERO,
            },
            None => Reply::Close,
        }
    }
}

fn pick<A: Api>(shared: &Shared, broker: i32, request: &A::Request) -> Option<Action> {
    if shared.faults.is_empty() {
        return None;
    }
    let mut names = A::names(request);
    if !names.topic_ids.is_empty() || names.fetch_session != 0 {
        let mut data = shared.data();
        let session = data.fetch_sessions(broker).topics(names.fetch_session);
        for topic in session {
            if topic.id.is_nil() {
                names.topics.push(topic.name.to_string());
            } else {
                names.topic_ids.push(topic.id);
            }
        }
        let known = names.topic_ids.iter();
        let known = known.filter_map(|id| data.topics.name_of(*id));
        names.topics.extend(known.map(str::to_owned));
    }
    let subject = Subject {
        api: A::KEY,
        broker,
        topics: &names.topics,
        groups: &names.groups,
        transaction: names.transaction.as_deref(),
    };
    shared.faults.pick(&subject)
}

fn encode<R: Encodable + HeaderVersion>(
    correlation_id: i32,
    version: i16,
    response: &R,
) -> Option<Bytes> {
    let mut frame = BytesMut::new();
    frame.put_i32(0);
    let header = ResponseHeader::default().with_correlation_id(correlation_id);
    let encoded = header
        .encode(&mut frame, R::header_version(version))
        .and_then(|()| response.encode(&mut frame, version));
    if let Err(error) = encoded {
        tracing::error!(%error, version, "an answer could not be encoded");
        return None;
    }
    let length = i32::try_from(frame.len() - 4).ok()?;
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Some(frame.freeze())
}

fn text(value: &str) -> StrBytes {
    StrBytes::from_string(value.to_owned())
}

/// The text of an optional field.
fn owned(value: Option<&StrBytes>) -> Option<String> {
    value.map(|value| value.to_string())
}

/// What a join or sync is answered that its group will never answer.
const NEVER_ANSWERED: i16 = codes::COORDINATOR_NOT_AVAILABLE;
