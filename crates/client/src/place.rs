//! Where a coordinator is: found when it is needed first, remembered, and forgotten when it says
//! that it is none any more or does not answer.

use crate::broker::{Broker, Purpose};
use crate::cluster::Cluster;
use crate::connection::Api;
use crate::{Error, ErrorKind, convert};
use kafka_protocol::messages::{FindCoordinatorRequest, FindCoordinatorResponse};
use ottla_types::{ConfigError, ErrorCode, validate_group_id};
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout_at};

/// What a coordinator coordinates; FindCoordinator's key type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyType {
    Group,
    Transaction,
}

impl KeyType {
    pub(crate) fn wire(self) -> i8 {
        match self {
            Self::Group => 0,
            Self::Transaction => 1,
        }
    }

    fn validate(self, key: &str) -> Result<(), ConfigError> {
        match self {
            Self::Group => validate_group_id(key),
            Self::Transaction if key.is_empty() || i16::try_from(key.len()).is_err() => {
                let allowed = "1 to 32767 bytes";
                Err(ConfigError::new("transactional.id", key, allowed))
            }
            Self::Transaction => Ok(()),
        }
    }
}

/// The broker that answered, its answer, and the answer's version.
pub(crate) type Answered<A> = (Arc<Broker>, <A as Api>::Answer, i16);

/// The place of one coordinator.
pub(crate) struct Place {
    pub cluster: Arc<Cluster>,
    pub key: Arc<str>,
    key_type: KeyType,
    known: Mutex<Option<Arc<Broker>>>,
    /// Held while the coordinator is looked for.
    finding: tokio::sync::Mutex<()>,
}

impl Place {
    pub(crate) fn new(cluster: Arc<Cluster>, key_type: KeyType, key: Arc<str>) -> Self {
        Self {
            cluster,
            key,
            key_type,
            known: Mutex::default(),
            finding: tokio::sync::Mutex::default(),
        }
    }

    /// A call that the coordinator answers at once.
    pub(crate) async fn call<A: Api>(
        &self,
        purpose: Purpose,
        limit: Duration,
        build: impl FnOnce(i16) -> A,
    ) -> Result<Answered<A>, Error> {
        self.call_within(A::VERSIONS, purpose, limit, build).await
    }

    /// The same in one of these versions only.
    pub(crate) async fn call_within<A: Api>(
        &self,
        versions: RangeInclusive<i16>,
        purpose: Purpose,
        limit: Duration,
        build: impl FnOnce(i16) -> A,
    ) -> Result<Answered<A>, Error> {
        let deadline = Instant::now() + limit;
        let coordinator = self.coordinator(deadline).await?;
        let connector = &self.cluster.connector;
        let call = coordinator.call_within(connector, purpose, deadline, versions, build);
        match call.await {
            Ok((answer, version)) => Ok((coordinator, answer, version)),
            Err(error) => Err(self.failed(&coordinator, error)),
        }
    }

    fn known(&self) -> Option<Arc<Broker>> {
        self.known
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn failed(&self, coordinator: &Arc<Broker>, error: Error) -> Error {
        self.forget(coordinator);
        error
    }

    /// Forgets the coordinator if it said that it is none.
    pub(crate) fn note(&self, coordinator: &Arc<Broker>, code: ErrorCode) {
        if matches!(
            code,
            ErrorCode::COORDINATOR_NOT_AVAILABLE | ErrorCode::NOT_COORDINATOR
        ) {
            self.forget(coordinator);
        }
    }

    fn forget(&self, coordinator: &Arc<Broker>) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known
            .as_ref()
            .is_some_and(|known| Arc::ptr_eq(known, coordinator))
        {
            tracing::debug!(
                coordinator_of = &*self.key,
                broker = &*coordinator.name,
                "forgetting the coordinator"
            );
            *known = None;
        }
    }

    pub(crate) async fn coordinator(&self, deadline: Instant) -> Result<Arc<Broker>, Error> {
        if let Some(known) = self.known() {
            return Ok(known);
        }
        self.key_type.validate(&self.key)?;
        let find = async {
            let _finding = self.finding.lock().await;
            match self.known() {
                Some(known) => Ok(known),
                None => self.find(deadline).await,
            }
        };
        let timed_out = |_| Error::new(ErrorKind::TimedOut, FindCoordinatorRequest::NAME);
        let found = timeout_at(deadline, find).await.map_err(timed_out)??;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known = Some(found.clone());
        Ok(found)
    }

    /// Asks any broker for the coordinator. Right after a cluster has started there is none yet
    /// (its topic is being created), so codes 14 and 15 are asked again.
    async fn find(&self, deadline: Instant) -> Result<Arc<Broker>, Error> {
        let mut backoff = self.cluster.backoff();
        loop {
            let build = |version| self.request(version);
            let (answer, version) = self.cluster.ask_any(deadline, build).await?;
            let error = match self.read(&answer, version) {
                Ok(broker) => {
                    tracing::debug!(
                        coordinator_of = &*self.key,
                        broker = &*broker.name,
                        "found the coordinator"
                    );
                    return Ok(broker);
                }
                Err(error) => error,
            };
            let delay = backoff.next_delay();
            if !error.is_retriable() || Instant::now() + delay >= deadline {
                return Err(error);
            }
            sleep(delay).await;
        }
    }

    /// What to ask a broker for the place.
    pub(crate) fn request(&self, version: i16) -> FindCoordinatorRequest {
        convert::find_request(self.key_type, &self.key, version)
    }

    /// The place that an answer names.
    pub(crate) fn read(
        &self,
        answer: &FindCoordinatorResponse,
        version: i16,
    ) -> Result<Arc<Broker>, Error> {
        let found = convert::found_coordinator(answer, version, &self.key)?;
        found
            .error
            .into_result()
            .map_err(|code| Error::from_code(code, FindCoordinatorRequest::NAME))?;
        Ok(self.cluster.broker_at(found.id, found.host, found.port))
    }
}
