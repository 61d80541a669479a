//! The calls to the coordinator of a transactional id, and those to the group's coordinator that
//! belong to a transaction, mapped to plain structs.
//!
//! What must hold: the version that a transaction is spoken in is the caller's, and one request
//! never slips into the other (KIP-890: what joins a transaction by itself, and what raises the
//! epoch, hang on it). A partition that an answer leaves out is never taken for done.

use crate::Error;
use crate::broker::Purpose;
use crate::cluster::Cluster;
use crate::connection::Api;
use crate::convert::transactions as convert;
use crate::place::{KeyType, Place};
use kafka_protocol::messages as m;
use ottla_types::ErrorCode;
use ottla_types::transactions::{
    AddOffsetsRequest, AddPartitionsRequest, AddPartitionsResponse, EndTxnRequest, EndTxnResponse,
    InitProducerIdRequest, InitProducerIdResponse, TransactionVersion, TxnOffsetCommitRequest,
    TxnOffsetCommitResponse,
};
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The feature whose finalised level says which protocol of transactions the cluster speaks.
const FEATURE: &str = "transaction.version";
/// The lowest version of each API that version 2 needs, by key.
const NEEDED_FOR_V2: [(i16, i16); 3] = [(PRODUCE, 12), (TXN_OFFSET_COMMIT, 5), (END_TXN, 5)];
const PRODUCE: i16 = 0;
const END_TXN: i16 = <m::EndTxnRequest as Api>::KEY;
const TXN_OFFSET_COMMIT: i16 = <m::TxnOffsetCommitRequest as Api>::KEY;

/// The coordinator calls of one transactional id. Cloning is cheap.
///
/// The coordinator is found on the first call and remembered. An `Err` is a failure of the
/// connection or of finding the coordinator: the request may have been carried out all the same,
/// and the coordinator is found again on the next call. What the coordinator itself answers, errors
/// included, stays in the answer. No call is repeated here: when and how to go on is the state
/// machine's decision.
///
/// Each call ends within `request.timeout.ms`, finding the coordinator included. Dropping a call
/// does not withdraw a request that was sent.
#[derive(Clone)]
pub struct TransactionClient {
    inner: Arc<Inner>,
}

struct Inner {
    place: Place,
    /// The coordinator of the group that offsets were last committed for.
    group: Mutex<Option<Arc<Place>>>,
}

impl fmt::Debug for TransactionClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionClient")
            .field("transactional_id", &self.inner.place.key)
            .finish_non_exhaustive()
    }
}

impl TransactionClient {
    pub(crate) fn new(cluster: Arc<Cluster>, id: Arc<str>) -> Self {
        Self {
            inner: Arc::new(Inner {
                place: Place::new(cluster, KeyType::Transaction, id),
                group: Mutex::default(),
            }),
        }
    }

    /// `transactional.id`.
    pub fn transactional_id(&self) -> &Arc<str> {
        &self.inner.place.key
    }

    /// Which protocol of transactions the cluster speaks: version 2 where the feature
    /// `transaction.version` is finalised at 2 or above and the coordinator has the versions of the
    /// APIs that it needs (KIP-890).
    ///
    /// # Errors
    /// When no coordinator was found or its connection failed; `Config` for an empty id.
    pub async fn version(&self) -> Result<TransactionVersion, Error> {
        let place = &self.inner.place;
        let deadline = place.cluster.request_deadline();
        let coordinator = place.coordinator(deadline).await?;
        let connector = &place.cluster.connector;
        let connection = coordinator
            .connection(connector, Purpose::Transactions, "ApiVersions", deadline)
            .await
            .map_err(|error| place.failed(&coordinator, error))?;
        let speaks = |(key, version)| {
            connection
                .speaks_up_to(key)
                .is_some_and(|max| max >= version)
        };
        let is_v2 = connection.feature(FEATURE) >= 2 && NEEDED_FOR_V2.into_iter().all(speaks);
        Ok(if is_v2 {
            TransactionVersion::V2
        } else {
            TransactionVersion::V1
        })
    }

    /// Gets the id and the epoch to go on with, and aborts what is left of an open transaction
    /// (InitProducerId v0 to v5).
    ///
    /// # Errors
    /// When no coordinator was found or its connection failed; of kind `Unsupported` when a current
    /// id is given and the broker cannot take it (below v3), of kind `Protocol` when the id that is
    /// granted cannot be.
    pub async fn init(
        &self,
        request: InitProducerIdRequest,
    ) -> Result<InitProducerIdResponse, Error> {
        let place = &self.inner.place;
        let build = |_| convert::init_request(&place.key, request);
        let (coordinator, answer, _) = self.call(all::<m::InitProducerIdRequest>(), build).await?;
        let answer =
            convert::init_answer(&answer).map_err(|error| error.with_broker(&*coordinator.name))?;
        place.note(&coordinator, answer.err().unwrap_or(ErrorCode::NONE));
        Ok(answer)
    }

    /// Says which partitions the open transaction is about to write to, for version 1
    /// (AddPartitionsToTxn v0 to v3). The answers stand in the order of the request; with one
    /// partition that is refused, the others are not added (`OPERATION_NOT_ATTEMPTED`).
    ///
    /// # Errors
    /// As [`init`](Self::init); of kind `Protocol` when the answer leaves a partition out.
    pub async fn add_partitions(
        &self,
        request: AddPartitionsRequest,
    ) -> Result<AddPartitionsResponse, Error> {
        if request.partitions.is_empty() {
            return Ok(Vec::new());
        }
        let place = &self.inner.place;
        let wanted = request.partitions.clone();
        let build = |_| convert::add_partitions_request(&place.key, request);
        let versions = all::<m::AddPartitionsToTxnRequest>();
        let (coordinator, answer, _) = self.call(versions, build).await?;
        let codes = convert::add_partitions_answer(&answer, wanted)
            .map_err(|error| error.with_broker(&*coordinator.name))?;
        for (_, code) in &codes {
            place.note(&coordinator, *code);
        }
        Ok(codes)
    }

    /// Says whose offsets the open transaction is about to carry, for version 1 (AddOffsetsToTxn v0
    /// to v4).
    ///
    /// # Errors
    /// As [`init`](Self::init).
    pub async fn add_offsets(&self, request: AddOffsetsRequest) -> Result<ErrorCode, Error> {
        let place = &self.inner.place;
        let build = |_| convert::add_offsets_request(&place.key, &request);
        let (coordinator, answer, _) = self.call(all::<m::AddOffsetsToTxnRequest>(), build).await?;
        let code = ErrorCode(answer.error_code);
        place.note(&coordinator, code);
        Ok(code)
    }

    /// Commits offsets that count when the transaction commits (TxnOffsetCommit v3 and v4, with
    /// version 2 v5), at the group's coordinator. The answers stand in the order of the request.
    ///
    /// # Errors
    /// As [`init`](Self::init); of kind `Unsupported` when the broker cannot take the member's
    /// generation (below v3), of kind `Protocol` when the answer leaves a partition out.
    pub async fn commit_offsets(
        &self,
        request: TxnOffsetCommitRequest,
        version: TransactionVersion,
    ) -> Result<TxnOffsetCommitResponse, Error> {
        if request.offsets.is_empty() {
            return Ok(Vec::new());
        }
        let offsets = request.offsets.iter();
        let wanted = offsets.map(|offset| offset.partition.clone()).collect();
        let group = self.inner.group(&request.group.group_id);
        let versions = match version {
            TransactionVersion::V1 => 3..=4,
            TransactionVersion::V2 => 5..=5,
        };
        let build = |_| convert::commit_request(&self.inner.place.key, request);
        let (purpose, limit) = (Purpose::Offsets, self.inner.limit());
        let (coordinator, answer, _) = group.call_within(versions, purpose, limit, build).await?;
        let codes = convert::commit_answer(&answer, wanted)
            .map_err(|error| error.with_broker(&*coordinator.name))?;
        for (_, code) in &codes {
            group.note(&coordinator, *code);
        }
        Ok(codes)
    }

    /// Ends the open transaction (EndTxn v0 to v4, with version 2 v5). After an `Err` the
    /// transaction may be ended, now or later: the same call again tells, and so does
    /// [`init`](Self::init) with the current id and epoch make an end of it.
    ///
    /// # Errors
    /// As [`init`](Self::init); of kind `Protocol` too when version 2's answer grants no new epoch.
    pub async fn end(
        &self,
        request: EndTxnRequest,
        version: TransactionVersion,
    ) -> Result<EndTxnResponse, Error> {
        let place = &self.inner.place;
        let versions = match version {
            TransactionVersion::V1 => 0..=4,
            TransactionVersion::V2 => 5..=5,
        };
        let build = |_| convert::end_request(&place.key, request);
        let (coordinator, answer, version) = self.call(versions, build).await?;
        let answer = convert::end_answer(&answer, version, request.producer)
            .map_err(|error| error.with_broker(&*coordinator.name))?;
        place.note(&coordinator, answer.err().unwrap_or(ErrorCode::NONE));
        Ok(answer)
    }

    async fn call<A: Api>(
        &self,
        versions: RangeInclusive<i16>,
        build: impl FnOnce(i16) -> A,
    ) -> Result<crate::place::Answered<A>, Error> {
        let (purpose, limit) = (Purpose::Transactions, self.inner.limit());
        let place = &self.inner.place;
        place.call_within(versions, purpose, limit, build).await
    }
}

fn all<A: Api>() -> RangeInclusive<i16> {
    A::VERSIONS
}

impl Inner {
    fn limit(&self) -> Duration {
        self.place.cluster.config.request_timeout
    }

    /// Where the group's coordinator is.
    fn group(&self, id: &str) -> Arc<Place> {
        let mut group = self.group.lock().unwrap_or_else(PoisonError::into_inner);
        match &*group {
            Some(place) if *place.key == *id => place.clone(),
            _ => {
                let cluster = self.place.cluster.clone();
                let place = Arc::new(Place::new(cluster, KeyType::Group, id.into()));
                group.insert(place).clone()
            }
        }
    }
}
