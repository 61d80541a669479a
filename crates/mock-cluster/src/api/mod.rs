//! The requests that a broker answers: one file an API key, each with the versions it speaks.
//!
//! The way of a request: its header, its version, the shape of its body, decoding, a fault if one
//! hits, the handler, encoding. What does not fit closes the connection.

mod api_versions;
mod create_topics;
mod delete_records;
mod delete_topics;
mod describe_groups;
mod fetch;
mod find_coordinator;
mod heartbeat;
mod init_producer_id;
mod join_group;
mod leave_group;
mod list_groups;
mod list_offsets;
mod metadata;
mod offset_commit;
mod offset_fetch;
mod produce;
mod shape;
mod sync_group;

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use kafka_protocol::messages::{RequestHeader, ResponseHeader};
use kafka_protocol::protocol::{Decodable, Encodable, HeaderVersion, StrBytes};
use tokio::time::sleep;

use crate::fault::{Action, Subject};
use crate::shared::Shared;
use crate::{ApiKey, codes};
use shape::Field;

/// What a connection does after a request.
pub(crate) enum Reply {
    /// Sends this frame.
    Answer(Bytes),
    /// Goes on without an answer (acks 0).
    Silence,
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

/// The versions of an API that the mock speaks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Versions {
    pub(crate) min: i16,
    pub(crate) max: i16,
}

/// A request and where it came from.
pub(crate) struct Call<'a> {
    pub(crate) shared: &'a Arc<Shared>,
    pub(crate) broker: i32,
    pub(crate) version: i16,
    pub(crate) client_id: &'a str,
    pub(crate) host: &'a str,
}

/// The names inside a request that a fault may ask for.
#[derive(Default)]
pub(crate) struct Names {
    pub(crate) topics: Vec<String>,
    pub(crate) groups: Vec<String>,
}

impl Names {
    fn topics<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        Self {
            topics: names.map(str::to_owned).collect(),
            groups: Vec::new(),
        }
    }

    fn group(name: &str) -> Self {
        Self {
            topics: Vec::new(),
            groups: vec![name.to_owned()],
        }
    }

    fn and_topics<'a>(mut self, names: impl Iterator<Item = &'a str>) -> Self {
        self.topics.extend(names.map(str::to_owned));
        self
    }
}

/// One API key.
pub(crate) trait Api {
    const KEY: ApiKey;
    const VERSIONS: Versions;
    /// The first version with compact lengths and tagged fields (KIP-482).
    const FLEXIBLE: i16;
    /// The fields of the request.
    const SHAPE: &'static [Field];
    type Request: Decodable + HeaderVersion + Send + Sync;
    type Response: Encodable + HeaderVersion + Send;

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

/// The versions that ApiVersions tells: key, lowest, highest.
fn advertised() -> Vec<(i16, i16, i16)> {
    fn of<A: Api>() -> (i16, i16, i16) {
        (A::KEY.key(), A::VERSIONS.min, A::VERSIONS.max)
    }
    let mut all = vec![
        of::<fetch::Fetch>(),
        of::<list_offsets::ListOffsets>(),
        of::<metadata::Metadata>(),
        of::<offset_commit::OffsetCommit>(),
        of::<offset_fetch::OffsetFetch>(),
        of::<find_coordinator::FindCoordinator>(),
        of::<join_group::JoinGroup>(),
        of::<heartbeat::Heartbeat>(),
        of::<leave_group::LeaveGroup>(),
        of::<sync_group::SyncGroup>(),
        of::<describe_groups::DescribeGroups>(),
        of::<list_groups::ListGroups>(),
        of::<api_versions::ApiVersions>(),
        of::<create_topics::CreateTopics>(),
        of::<delete_topics::DeleteTopics>(),
        of::<delete_records::DeleteRecords>(),
        of::<init_producer_id::InitProducerId>(),
    ];
    // Kafka 4 says 0 here and speaks from 3 on: librdkafka reads a higher minimum as a broker
    // without compression.
    all.insert(
        0,
        (ApiKey::Produce.key(), 0, produce::Produce::VERSIONS.max),
    );
    all
}

/// Handles one frame.
pub(crate) async fn dispatch(shared: &Arc<Shared>, broker: i32, host: &str, frame: Bytes) -> Reply {
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
        version,
        frame,
    };
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
        ApiKey::ApiVersions if version > api_versions::ApiVersions::VERSIONS.max => {
            incoming.answer_unknown_api_versions()
        }
        ApiKey::ApiVersions => Box::pin(incoming.run::<api_versions::ApiVersions>()).await,
        ApiKey::CreateTopics => Box::pin(incoming.run::<create_topics::CreateTopics>()).await,
        ApiKey::DeleteTopics => Box::pin(incoming.run::<delete_topics::DeleteTopics>()).await,
        ApiKey::DeleteRecords => Box::pin(incoming.run::<delete_records::DeleteRecords>()).await,
        ApiKey::InitProducerId => {
            Box::pin(incoming.run::<init_producer_id::InitProducerId>()).await
        }
    }
}

struct Incoming<'a> {
    shared: &'a Arc<Shared>,
    broker: i32,
    host: &'a str,
    version: i16,
    frame: Bytes,
}

impl Incoming<'_> {
    async fn run<A: Api>(self) -> Reply {
        let version = self.version;
        if !(A::VERSIONS.min..=A::VERSIONS.max).contains(&version) {
            tracing::warn!(broker = self.broker, api = ?A::KEY, version, "unsupported version");
            return Reply::Close;
        }
        let Some((header, request)) = self.decode::<A>() else {
            tracing::warn!(broker = self.broker, api = ?A::KEY, version, "malformed request");
            return Reply::Close;
        };
        self.shared.count(A::KEY);
        let call = Call {
            shared: self.shared,
            broker: self.broker,
            version,
            client_id: header.client_id.as_deref().unwrap_or_default(),
            host: self.host,
        };
        let fault = pick::<A>(&call, &request);
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
            Some(Action::DropReply | Action::DelayReply(_)) | None => {
                A::handle(&call, request).await
            }
        };
        match fault {
            Some(Action::DropReply) => return Reply::Close,
            Some(Action::DelayReply(time)) => sleep(time).await,
            _ => {}
        }
        match outcome {
            Outcome::Answer(response) => encode(header.correlation_id, version, &response),
            Outcome::Silence => Reply::Silence,
            Outcome::Close => Reply::Close,
        }
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
        encode(correlation_id, 0, &api_versions::unsupported())
    }
}

fn pick<A: Api>(call: &Call<'_>, request: &A::Request) -> Option<Action> {
    if call.shared.faults.is_empty() {
        return None;
    }
    let Names { topics, groups } = A::names(request);
    let subject = Subject {
        api: A::KEY,
        broker: call.broker,
        topics: &topics,
        groups: &groups,
    };
    call.shared.faults.pick(&subject)
}

fn encode<R: Encodable + HeaderVersion>(correlation_id: i32, version: i16, response: &R) -> Reply {
    let mut frame = BytesMut::new();
    frame.put_i32(0);
    let header = ResponseHeader::default().with_correlation_id(correlation_id);
    let encoded = header
        .encode(&mut frame, R::header_version(version))
        .and_then(|()| response.encode(&mut frame, version));
    if let Err(error) = encoded {
        tracing::error!(%error, version, "an answer could not be encoded");
        return Reply::Close;
    }
    let Ok(length) = i32::try_from(frame.len() - 4) else {
        return Reply::Close;
    };
    frame[..4].copy_from_slice(&length.to_be_bytes());
    Reply::Answer(frame.freeze())
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
