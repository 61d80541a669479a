//! The calls to a group's coordinator (both protocols), mapped to plain structs.
//!
//! What must hold: a JoinGroup or SyncGroup, which
//! the broker holds back until every member came, has a connection of its own, and commits, which
//! wait for replicas, have another; a heartbeat never waits behind either. A partition that the answer leaves out is never taken for committed.

use crate::broker::{Broker, Purpose};
use crate::cluster::Cluster;
use crate::connection::Api;
use crate::place::{Answered, KeyType, Place};
use crate::{Error, convert};
use kafka_protocol::messages::FindCoordinatorRequest;
use ottla_types::ErrorCode;
use ottla_types::coordinator::{
    ConsumerHeartbeatRequest, ConsumerHeartbeatResponse, HeartbeatRequest, JoinGroupRequest,
    JoinGroupResponse, LeaveGroupRequest, OffsetCommitRequest, OffsetCommitResponse,
    OffsetFetchRequest, OffsetFetchResponse, SyncGroupRequest, SyncGroupResponse,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// What a JoinGroup may take above the rebalance timeout, as in the Java client.
const REBALANCE_SLACK: Duration = Duration::from_secs(5);
/// The least that a heartbeat may take, however short the session is.
const HEARTBEAT_LIMIT_MIN: Duration = Duration::from_millis(500);

/// The coordinator calls of one group member. Cloning is cheap.
///
/// The coordinator is found on the first call and remembered. An `Err` is a failure of the
/// connection or of finding the coordinator: the coordinator is forgotten and found again on the
/// next call. What the coordinator itself answers, errors included, stays in the answer; its codes
/// 15 and 16 (coordinator not available, not coordinator) make the client forget it too. No call
/// is repeated here: when and how to go on is the group protocol's decision.
///
/// Each call ends within `request.timeout.ms`, finding the coordinator included, except
/// [`join`](Self::join) and [`sync`](Self::sync). Dropping a call does not withdraw a request that
/// was sent; a dropped join or sync closes its connection.
#[derive(Clone)]
pub struct GroupClient {
    inner: Arc<Group>,
}

struct Group {
    place: Place,
    /// From the last join.
    rebalance_timeout_ms: AtomicU64,
    session_timeout_ms: AtomicU64,
}

impl fmt::Debug for GroupClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupClient")
            .field("group_id", &self.inner.place.key)
            .finish_non_exhaustive()
    }
}

impl GroupClient {
    pub(crate) fn new(cluster: Arc<Cluster>, id: Arc<str>) -> Self {
        Self {
            inner: Arc::new(Group {
                place: Place::new(cluster, KeyType::Group, id),
                rebalance_timeout_ms: AtomicU64::new(0),
                session_timeout_ms: AtomicU64::new(0),
            }),
        }
    }

    /// The group's id, `group.place.key`.
    pub fn group_id(&self) -> &Arc<str> {
        &self.inner.place.key
    }

    /// Joins the group (JoinGroup v1 to v9). The coordinator answers when every member has joined,
    /// so the call may take the rebalance timeout and five seconds more. Meanwhile the broker is
    /// asked now and then whether it still is the coordinator; the call ends when it is not, or does
    /// not answer for a third of the session timeout.
    ///
    /// # Errors
    /// When no coordinator was found or its connection failed; of kind `Unsupported` when the
    /// broker's version cannot carry a static member's instance id (below v5).
    pub async fn join(&self, request: JoinGroupRequest) -> Result<JoinGroupResponse, Error> {
        let group = &*self.inner;
        let at_least_0 = |ms: i32| u64::try_from(ms).unwrap_or(0);
        let rebalance_ms = at_least_0(request.rebalance_timeout_ms);
        group
            .rebalance_timeout_ms
            .store(rebalance_ms, Ordering::Relaxed);
        let session_ms = at_least_0(request.session_timeout_ms);
        group
            .session_timeout_ms
            .store(session_ms, Ordering::Relaxed);
        let build = |version| convert::join_request(&group.place.key, request, version);
        let (coordinator, answer, _) = group.call_alone(build).await?;
        let answer = convert::join_answer(answer);
        group.place.note(&coordinator, answer.error);
        Ok(answer)
    }

    /// Gives or gets the assignment (SyncGroup v0 to v5). The coordinator answers when the leader
    /// has given it, so the call may take as long as a [`join`](Self::join).
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub async fn sync(&self, request: SyncGroupRequest) -> Result<SyncGroupResponse, Error> {
        let group = &*self.inner;
        let build = |_| convert::sync_request(&group.place.key, request);
        let (coordinator, answer, _) = group.call_alone(build).await?;
        let answer = convert::sync_answer(answer);
        group.place.note(&coordinator, answer.error);
        Ok(answer)
    }

    /// Says that the member is alive (Heartbeat v0 to v4). Ends within a third of the session
    /// timeout of the last join, so that a dead connection leaves time for another heartbeat.
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub async fn heartbeat(&self, request: HeartbeatRequest) -> Result<ErrorCode, Error> {
        let group = &*self.inner;
        let limit = group.heartbeat_limit();
        let build = |_| convert::heartbeat_request(&group.place.key, request);
        let (coordinator, answer, _) = group.call(Purpose::Coordination, limit, build).await?;
        let code = ErrorCode(answer.error_code);
        group.place.note(&coordinator, code);
        Ok(code)
    }

    /// Leaves the group (LeaveGroup v0 to v5).
    ///
    /// # Errors
    /// As [`join`](Self::join).
    pub async fn leave(&self, request: LeaveGroupRequest) -> Result<ErrorCode, Error> {
        let group = &*self.inner;
        let build = |version| convert::leave_request(&group.place.key, request, version);
        let (coordinator, answer, _) = group
            .call(
                Purpose::Coordination,
                group.place.cluster.config.request_timeout,
                build,
            )
            .await?;
        let code = convert::leave_answer(&answer);
        group.place.note(&coordinator, code);
        Ok(code)
    }

    /// Everything that a member says in the consumer group protocol (KIP-848, ConsumerGroupHeartbeat
    /// v0 and v1). Ends within `limit`; a third of the broker's session timeout leaves time for another
    /// heartbeat when a connection is dead. Calls that are started one after the other arrive in that
    /// order as long as the connection lasts.
    ///
    /// # Errors
    /// As [`join`](Self::join); of kind `Unsupported` when the broker does not offer the call, or not
    /// in a version that can carry a regular expression (v1).
    pub async fn consumer_heartbeat(
        &self,
        request: ConsumerHeartbeatRequest,
        limit: Duration,
    ) -> Result<ConsumerHeartbeatResponse, Error> {
        let group = &*self.inner;
        let limit = limit.min(group.place.cluster.config.request_timeout);
        let versions = convert::consumer::versions(&request);
        let build = |_| convert::consumer::request(&group.place.key, &request);
        let call = group
            .place
            .call_within(versions, Purpose::Coordination, limit, build);
        let (coordinator, answer, _) = call.await?;
        let answer = convert::consumer::answer(answer)
            .map_err(|error| error.with_broker(&*coordinator.name))?;
        group.place.note(&coordinator, answer.error);
        Ok(answer)
    }

    /// Commits offsets (OffsetCommit v2 to v9). The answers stand in the order of the request.
    ///
    /// # Errors
    /// As [`join`](Self::join); of kind `Protocol` when the answer leaves a partition out.
    pub async fn commit(
        &self,
        request: OffsetCommitRequest,
    ) -> Result<OffsetCommitResponse, Error> {
        let group = &*self.inner;
        if request.offsets.is_empty() {
            return Ok(Vec::new());
        }
        let wanted: Vec<_> = request
            .offsets
            .iter()
            .map(|o| o.partition.clone())
            .collect();
        let build = |_| convert::commit_request(&group.place.key, request);
        let (coordinator, answer, _) = group
            .call(
                Purpose::Offsets,
                group.place.cluster.config.request_timeout,
                build,
            )
            .await?;
        let codes = convert::commit_answer(answer, wanted)
            .map_err(|error| error.with_broker(&*coordinator.name))?;
        for (_, code) in &codes {
            group.place.note(&coordinator, *code);
        }
        Ok(codes)
    }

    /// Asks for committed offsets (OffsetFetch v1 to v9).
    ///
    /// # Errors
    /// As [`join`](Self::join); of kind `Protocol` when the answer leaves a partition out; of kind
    /// `Unsupported` when `require_stable` is asked of a broker below v7.
    pub async fn fetch_offsets(
        &self,
        request: OffsetFetchRequest,
    ) -> Result<OffsetFetchResponse, Error> {
        let group = &*self.inner;
        if request.partitions.is_empty() {
            let (error, offsets) = (ErrorCode::NONE, Vec::new());
            return Ok(OffsetFetchResponse { error, offsets });
        }
        let build = |version| convert::fetch_request(&group.place.key, &request, version);
        let (coordinator, answer, version) = group
            .call(
                Purpose::Offsets,
                group.place.cluster.config.request_timeout,
                build,
            )
            .await?;
        let answer = convert::fetch_answer(answer, version, &group.place.key, &request.partitions)
            .map_err(|error| error.with_broker(&*coordinator.name))?;
        group.place.note(&coordinator, answer.error);
        for offset in &answer.offsets {
            group.place.note(&coordinator, offset.error);
        }
        Ok(answer)
    }
}

impl Group {
    /// A call that the coordinator answers at once.
    async fn call<A: Api>(
        &self,
        purpose: Purpose,
        limit: Duration,
        build: impl FnOnce(i16) -> A,
    ) -> Result<Answered<A>, Error> {
        self.place.call(purpose, limit, build).await
    }

    /// A call that the coordinator may hold back for the rebalance timeout.
    async fn call_alone<A: Api>(&self, build: impl FnOnce(i16) -> A) -> Result<Answered<A>, Error> {
        let cluster = &*self.place.cluster;
        let coordinator = self.place.coordinator(cluster.request_deadline()).await?;
        let rebalance = Duration::from_millis(self.rebalance_timeout_ms.load(Ordering::Relaxed));
        let limit = (rebalance + REBALANCE_SLACK).max(cluster.config.request_timeout);
        let call = coordinator.call_alone(&cluster.connector, Instant::now() + limit, build);
        let answer = tokio::select! {
            answer = call => answer,
            gone = self.gone(&coordinator) => Err(gone),
        };
        match answer {
            Ok((answer, version)) => Ok((coordinator, answer, version)),
            Err(error) => Err(self.place.failed(&coordinator, error)),
        }
    }

    /// Resolves when `coordinator` does not answer any more, or names another broker as the group's
    /// coordinator: within a third of the session timeout. What waits there would wait in vain.
    async fn gone(&self, coordinator: &Arc<Broker>) -> Error {
        let third = self.heartbeat_limit();
        loop {
            sleep(third / 4).await;
            let deadline = Instant::now() + third * 3 / 4;
            let build = |version| self.place.request(version);
            let connector = &self.place.cluster.connector;
            let asked = coordinator.call(connector, Purpose::Coordination, deadline, build);
            let found = match asked.await {
                Ok((answer, version)) => self.place.read(&answer, version),
                Err(error) => return error,
            };
            if found.is_ok_and(|found| found.address != coordinator.address) {
                let moved = ErrorCode::NOT_COORDINATOR;
                return Error::from_code(moved, FindCoordinatorRequest::NAME)
                    .with_broker(&*coordinator.name);
            }
        }
    }

    /// A third of the session timeout, so that a dead connection leaves time for another heartbeat.
    fn heartbeat_limit(&self) -> Duration {
        match self.session_timeout_ms.load(Ordering::Relaxed) {
            0 => self.place.cluster.config.request_timeout,
            ms => Duration::from_millis(ms / 3)
                .max(HEARTBEAT_LIMIT_MIN)
                .min(self.place.cluster.config.request_timeout),
        }
    }
}
