//! Asking whoever answers: the brokers that are known, and beside them those that the bootstrap
//! addresses lead to.

use super::{Cluster, metadata_request};
use crate::broker::{Broker, Purpose};
use crate::connection::{Api, Connection};
use crate::{Error, ErrorKind};
use futures_util::future::{Either, select};
use futures_util::stream::{FuturesUnordered, StreamExt};
use kafka_protocol::messages::{MetadataRequest, MetadataResponse};
use ottla_types::ErrorCode;
use std::collections::BTreeSet;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};

/// How long an address is waited for before the next one is tried beside it, and a broker that did not
/// answer when it was asked last.
const BOOTSTRAP_STAGGER: Duration = Duration::from_millis(300);

/// Why no address of `bootstrap.servers` helped.
#[derive(Debug)]
struct BootstrapFailures(Vec<(String, Error)>);

impl fmt::Display for BootstrapFailures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, (address, error)) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{address}: {error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for BootstrapFailures {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        let (_, error) = self.0.first()?;
        Some(error)
    }
}

/// The answer to a request, and its version.
type Answered<A> = (<A as Api>::Answer, i16);

/// One go at all brokers.
#[derive(Default)]
struct Round {
    state: Mutex<RoundState>,
    /// A broker did not answer.
    failed: Notify,
    /// There is no other broker to be asked.
    exhausted: Notify,
}

#[derive(Default)]
struct RoundState {
    asked: Vec<Arc<Broker>>,
    last: Option<Error>,
}

impl Round {
    fn state(&self) -> MutexGuard<'_, RoundState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The first of these that was not asked; it counts as asked then.
    fn next(&self, candidates: Vec<Arc<Broker>>) -> Option<Arc<Broker>> {
        let mut state = self.state();
        let is_new = |broker: &Arc<Broker>| !state.asked.iter().any(|b| Arc::ptr_eq(b, broker));
        let next = candidates.into_iter().find(is_new)?;
        state.asked.push(next.clone());
        Some(next)
    }

    fn fail(&self, error: Error) {
        self.state().last = Some(error);
        self.failed.notify_one();
    }
}

/// A broker that is asked. If nobody waits for its answer any more it counts as one that did not answer,
/// unless it had no time to.
struct Attempt<'a> {
    broker: &'a Broker,
    began: Instant,
    is_over: bool,
}

impl Attempt<'_> {
    fn ends(mut self, has_answered: bool) {
        self.is_over = true;
        self.broker.note(has_answered);
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if !self.is_over && self.began.elapsed() >= BOOTSTRAP_STAGGER {
            self.broker.note(false);
        }
    }
}

impl Cluster {
    /// Sends a request to any broker that answers: first to those that answered last, and of these to
    /// those with a connection. When they do not answer, the bootstrap addresses are tried beside them
    /// (KIP-899): after a quarter of the time, or soon after the first failure; so brokers that are
    /// silent, however many, leave time for it. All of that until the deadline.
    pub(crate) async fn ask_any<A: Api>(
        &self,
        deadline: Instant,
        build: impl Fn(i16) -> A,
    ) -> Result<Answered<A>, Error> {
        let mut backoff = self.backoff();
        loop {
            self.check_open(A::NAME)?;
            let round = Round::default();
            let known = pin!(self.ask_known(deadline, &build, &round));
            let found = pin!(self.ask_found(deadline, &build, &round));
            let answer = match select(known, found).await {
                Either::Left((Ok(None), other)) => other.await,
                Either::Right((Ok(None), other)) => other.await,
                Either::Left((answer, _)) | Either::Right((answer, _)) => answer,
            };
            if let Some(answer) = answer? {
                return Ok(answer);
            }
            let delay = backoff.next_delay();
            if Instant::now() + delay >= deadline {
                let last = round.state().last.take();
                return Err(last.unwrap_or_else(|| Error::new(ErrorKind::TimedOut, A::NAME)));
            }
            sleep(delay).await;
        }
    }

    /// Asks the brokers that are known and were not asked, one after the other.
    async fn ask_known<A: Api>(
        &self,
        deadline: Instant,
        build: &impl Fn(i16) -> A,
        round: &Round,
    ) -> Result<Option<Answered<A>>, Error> {
        while let Some(broker) = round.next(self.candidates()) {
            let attempt = Attempt {
                broker: &broker,
                began: Instant::now(),
                is_over: false,
            };
            let limit = half_of_the_way_to(deadline);
            let answer = broker.call(&self.connector, Purpose::Control, limit, build);
            match answer.await {
                Err(error) if may_pass_elsewhere(&error) => {
                    attempt.ends(false);
                    tracing::debug!(
                        broker = &*broker.name,
                        error = &error as &dyn std::error::Error,
                        "asking another broker"
                    );
                    round.fail(error);
                }
                answer => {
                    attempt.ends(true);
                    return answer.map(Some);
                }
            }
        }
        round.exhausted.notify_one();
        Ok(None)
    }

    /// When the known brokers have had their time: asks the broker that a bootstrap address leads to,
    /// and then those that it names.
    async fn ask_found<A: Api>(
        &self,
        deadline: Instant,
        build: &impl Fn(i16) -> A,
        round: &Round,
    ) -> Result<Option<Answered<A>>, Error> {
        let left = deadline.saturating_duration_since(Instant::now());
        let all_failed = self.candidates().iter().all(|broker| broker.has_failed());
        tokio::select! {
            () = round.exhausted.notified() => {}
            () = sleep(if all_failed { BOOTSTRAP_STAGGER } else { left / 4 }) => {}
            () = async {
                round.failed.notified().await;
                sleep(BOOTSTRAP_STAGGER).await;
            } => {}
        }
        let connection = match self.bootstrap(deadline).await {
            Ok(connection) => connection,
            // Credentials that are refused are refused again.
            Err(error) if error.kind() == ErrorKind::Authorization => return Err(error),
            Err(error) => {
                round.fail(error);
                return Ok(None);
            }
        };
        match connection.call(half_of_the_way_to(deadline), build).await {
            Err(error) if may_pass_elsewhere(&error) => {
                round.fail(error);
                self.ask_known(deadline, build, round).await
            }
            answer => answer.map(Some),
        }
    }

    /// The brokers in random order, those with a connection first; those that did not answer when they
    /// were asked last come last, the latest of them at the end.
    pub(super) fn candidates(&self) -> Vec<Arc<Broker>> {
        let mut brokers: Vec<_> = self.state().brokers.values().cloned().collect();
        fastrand::shuffle(&mut brokers);
        brokers.sort_by_key(|broker| (broker.failed(), !broker.is_connected()));
        brokers
    }

    /// Tries the bootstrap addresses, each next one when the one before has failed or is slow, and
    /// learns the brokers from the first that answers, whose connection it gives.
    pub(super) async fn bootstrap(&self, deadline: Instant) -> Result<Connection, Error> {
        let deadline = deadline.min(Instant::now() + self.config.connect_timeout);
        let mut addresses = self.config.bootstrap.iter();
        let mut attempts = FuturesUnordered::new();
        let mut failures = Vec::new();
        loop {
            if let Some(address) = addresses.next() {
                attempts.push(async move { (address, self.ask_address(address, deadline).await) });
            } else if attempts.is_empty() {
                return Err(bootstrap_error(failures));
            }
            let next = Instant::now() + BOOTSTRAP_STAGGER;
            tokio::select! {
                Some((address, result)) = attempts.next() => match result {
                    Ok((answer, connection)) => {
                        self.keep_brokers(&answer);
                        return Ok(connection);
                    }
                    // No other address makes wrong credentials right.
                    Err(error) if error.kind() == ErrorKind::Authorization => return Err(error),
                    Err(error) => failures.push((address.clone(), error)),
                },
                () = sleep_until(next), if addresses.len() > 0 => {}
            }
        }
    }

    async fn ask_address(
        &self,
        address: &str,
        deadline: Instant,
    ) -> Result<(MetadataResponse, Connection), Error> {
        let connection = self
            .connector
            .connect(address.into(), address, deadline)
            .await?;
        let none = BTreeSet::new();
        let (answer, _) = connection
            .call(deadline, |_| metadata_request(Some(&none)))
            .await?;
        if answer.brokers.is_empty() {
            return Err(
                Error::from_code(ErrorCode::BROKER_NOT_AVAILABLE, MetadataRequest::NAME)
                    .with_broker(&**connection.broker()),
            );
        }
        Ok((answer, connection))
    }
}

/// Half of what is left, so that a broker that is silent leaves time for another.
fn half_of_the_way_to(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
}

/// Whether another broker may answer where this one did not.
fn may_pass_elsewhere(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Connect | ErrorKind::ConnectionLost | ErrorKind::TimedOut | ErrorKind::Protocol
    )
}

/// A single address keeps its error's kind; several failures are one `Connect`.
fn bootstrap_error(mut failures: Vec<(String, Error)>) -> Error {
    if failures.len() == 1
        && let Some((_, error)) = failures.pop()
    {
        return error;
    }
    Error::new(ErrorKind::Connect, "bootstrap").with_source(BootstrapFailures(failures))
}
