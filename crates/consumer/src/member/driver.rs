//! Runs the membership state machine: sends its requests, brings their answers back, keeps its time
//! and its metadata. Join and sync, heartbeats and leave are calls of their own, so that none waits
//! for another here.

use super::MemberSpec;
use super::partition::may_pass;
use super::topics::{Lookout, Seen, look, partition_counts, topic_names};
use crate::config::GroupProtocol;
use crate::handler::Term;
use crate::status::MemberBoard;
use crate::subscription::Subscription;
use crate::{Assignor, Error};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ottla_client::{Client, ErrorKind, GroupClient};
use ottla_group::{
    CommitIdentity, CommitVerdict, ConsumerMembershipConfig, GroupMembership,
    GroupProtocol as Protocol, Input, MembershipConfig, MembershipEvent, Phase, Request,
    RequestBody, RequestId, ResponseBody, RevocationId, TopicCounts,
};
use ottla_types::coordinator::TopicId;
use ottla_types::{BoxFuture, ErrorCode, TopicPartition};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// How long the farewell of a member that failed may take.
const LEAVE_LIMIT: Duration = Duration::from_secs(1);

/// The membership and its calls.
pub(super) struct Driver {
    membership: GroupMembership,
    client: Client,
    group: GroupClient,
    calls: FuturesUnordered<BoxFuture<'static, Answer>>,
    /// The zero of the state machine's time.
    begun: Instant,
    term: Term,
    /// What a heartbeat of KIP-848 may take: a third of the session.
    heartbeat_limit: Duration,
    subscription: Subscription,
    lookout: Lookout,
    board: Arc<MemberBoard>,
}

/// The end of a call.
pub(super) enum Answer {
    Coordinator(RequestId, Result<ResponseBody, ottla_client::Error>),
    /// The broker does not speak KIP-848.
    NotOffered(RequestId),
    /// Names of topics that the coordinator assigned.
    Named(Result<BTreeMap<TopicId, Arc<str>>, ottla_client::Error>),
    /// Metadata that the state machine asked for.
    Wanted(Result<TopicCounts, ottla_client::Error>),
    /// What is looked at now and then.
    Looked(Result<Seen, ottla_client::Error>),
}

impl Driver {
    pub(super) fn new(spec: &MemberSpec, group: GroupClient) -> Result<Self, Error> {
        let config = &spec.config;
        let client = spec.client.config();
        let classic = MembershipConfig {
            session_timeout_ms: millis(config.session_timeout),
            rebalance_timeout_ms: millis(config.max_poll_interval),
            heartbeat_interval_ms: millis(config.heartbeat_interval),
            instance_id: config.group_instance_id.clone(),
            assignors: config.assignors.iter().copied().map(assignor).collect(),
            retry_backoff_ms: millis(client.retry_backoff),
            retry_backoff_max_ms: millis(client.retry_backoff_max),
            ..MembershipConfig::default()
        };
        let consumer = ConsumerMembershipConfig {
            instance_id: config.group_instance_id.clone(),
            assignor: config.group_remote_assignor.clone(),
            session_timeout_ms: millis(config.session_timeout),
            rebalance_timeout_ms: millis(config.max_poll_interval),
            retry_backoff_ms: millis(client.retry_backoff),
            retry_backoff_max_ms: millis(client.retry_backoff_max),
            ..ConsumerMembershipConfig::new(format!("{:032x}", fastrand::u128(..)))
        };
        let assigned = spec.work.desk().and_then(|desk| desk.assigned());
        let protocol = match config.group_protocol {
            _ if assigned.is_some() => Protocol::Assigned(assigned.unwrap_or_default()),
            GroupProtocol::Classic => Protocol::Classic(classic),
            GroupProtocol::Consumer => Protocol::Consumer(consumer),
            GroupProtocol::Auto => Protocol::Auto(consumer, classic),
        };
        let begun = Instant::now();
        let mut driver = Self {
            membership: GroupMembership::new(protocol, fastrand::u64(..))?,
            client: spec.client.clone(),
            group,
            calls: FuturesUnordered::new(),
            begun,
            term: Term::since(begun),
            heartbeat_limit: config.session_timeout / 3,
            subscription: Subscription::default(),
            lookout: Lookout::new(&spec.client, begun),
            board: spec.board.clone(),
        };
        driver.subscribe(spec.subscription(), begun);
        Ok(driver)
    }

    /// Wants these topics from now on.
    pub(super) fn subscribe(&mut self, subscription: Subscription, now: Instant) {
        let now_ms = self.ms(now);
        let topics = subscription.names();
        let pattern = subscription.pattern_text().to_owned();
        self.subscription = subscription;
        let subscribe = Input::Subscribe { topics, pattern };
        self.membership.handle(subscribe, now_ms);
    }

    /// Reads these partitions from now on, without a membership.
    pub(super) fn assign(&mut self, partitions: Vec<TopicPartition>, now: Instant) {
        let now_ms = self.ms(now);
        self.membership.handle(Input::Assign { partitions }, now_ms);
    }

    /// Lets time pass.
    pub(super) fn tick(&mut self, now: Instant) {
        let now_ms = self.ms(now);
        if self
            .membership
            .next_timeout()
            .is_some_and(|at| at <= now_ms)
        {
            self.membership.handle(Input::Tick, now_ms);
        }
    }

    /// The next event; what only needs metadata is seen to here.
    pub(super) fn poll_event(&mut self) -> Option<MembershipEvent> {
        loop {
            match self.membership.poll_event()? {
                MembershipEvent::NeedMetadata { topics } => {
                    let counts = partition_counts(self.client.clone(), topics);
                    self.calls
                        .push(Box::pin(async { Answer::Wanted(counts.await) }));
                }
                MembershipEvent::NeedTopicNames { ids } => {
                    let names = topic_names(self.client.clone(), ids);
                    self.calls
                        .push(Box::pin(async { Answer::Named(names.await) }));
                }
                event => return Some(event),
            }
        }
    }

    /// Starts the calls that are due. To be called when there are no more events.
    pub(super) fn start_calls(&mut self, now: Instant) {
        while let Some(request) = self.membership.poll_request() {
            let call = call(self.group.clone(), request, self.heartbeat_limit);
            self.calls.push(Box::pin(call));
        }
        if self.lookout.is_due(self.membership.pattern(), now) {
            let watched = self.membership.watched_topics();
            let pattern = self.subscription.pattern.clone();
            let pattern = pattern.filter(|p| self.membership.pattern() == Some(p.text()));
            if watched.is_empty() && pattern.is_none() {
                self.lookout.pass(now);
            } else {
                self.lookout.begin(self.membership.pattern());
                let seen = look(self.client.clone(), watched, pattern);
                self.calls
                    .push(Box::pin(async { Answer::Looked(seen.await) }));
            }
        }
    }

    /// The next answer; for ever pending when no call is out. Safe to cancel.
    pub(super) async fn answer(&mut self) -> Answer {
        match self.calls.next().await {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }

    /// Takes an answer.
    ///
    /// # Errors
    /// What no further try can mend.
    pub(super) fn on_answer(&mut self, answer: Answer, now: Instant) -> Result<(), Error> {
        let now_ms = self.ms(now);
        let input = match answer {
            Answer::Coordinator(id, Ok(body)) => Input::Response { id, body },
            Answer::Coordinator(id, Err(error)) => {
                if is_final(&error) && self.membership.phase() != Phase::Leaving {
                    return Err(error.into());
                }
                self.note("a call to the group coordinator failed", &error);
                Input::Failed { id }
            }
            Answer::NotOffered(id) => Input::NotOffered { id },
            Answer::Named(Ok(names)) => Input::TopicNames { names },
            Answer::Named(Err(error)) if is_final(&error) => return Err(error.into()),
            Answer::Named(Err(error)) => {
                self.note(
                    "the names of assigned topics could not be asked for",
                    &error,
                );
                Input::MetadataFailed
            }
            Answer::Wanted(Ok(counts)) => Input::Metadata { counts },
            Answer::Wanted(Err(error)) if is_final(&error) => return Err(error.into()),
            Answer::Wanted(Err(error)) => {
                self.note("the topics to assign could not be asked for", &error);
                Input::MetadataFailed
            }
            Answer::Looked(Ok(seen)) => {
                self.on_seen(seen, now);
                return Ok(());
            }
            Answer::Looked(Err(error)) => {
                self.note("the topics could not be looked at", &error);
                self.lookout.failed(now);
                Input::Tick
            }
        };
        self.membership.handle(input, now_ms);
        Ok(())
    }

    fn on_seen(&mut self, seen: Seen, now: Instant) {
        let now_ms = self.ms(now);
        let (pattern, matching) = seen.matched.unzip();
        let topics = self.lookout.seen(matching.unwrap_or_default(), now);
        let counts = seen.counts;
        self.membership.handle(Input::Metadata { counts }, now_ms);
        if let Some(pattern) = pattern {
            let pattern = pattern.text().to_owned();
            let matched = Input::Matched { pattern, topics };
            self.membership.handle(matched, now_ms);
        }
    }

    /// What is tried again by itself is seen in the member's status.
    fn note(&self, what: &'static str, error: &ottla_client::Error) {
        tracing::debug!(group = &**self.group.group_id(), %error, "{what}");
        self.board.set_last_error(error);
    }

    pub(super) fn revoke_completed(&mut self, id: RevocationId, now: Instant) {
        let now_ms = self.ms(now);
        self.membership
            .handle(Input::RevokeCompleted { id }, now_ms);
    }

    pub(super) fn close(&mut self, now: Instant) {
        let now_ms = self.ms(now);
        self.membership.handle(Input::Close, now_ms);
    }

    /// Tells the coordinator, for the sake of the others, that this member is gone. A static member
    /// keeps its place for its next start (KIP-345).
    pub(super) fn leave_at_once(&self) -> impl Future<Output = ()> + Send + use<> {
        let leave = self.membership.abrupt_leave();
        let group = self.group.clone();
        async move {
            if let Some(body) = leave {
                // Without an answer the session timeout does it.
                let _ = timeout(LEAVE_LIMIT, send(&group, body, LEAVE_LIMIT)).await;
            }
        }
    }

    pub(super) fn commit_identity(&self) -> Option<CommitIdentity> {
        self.membership.commit_identity()
    }

    pub(super) fn commit_result(
        &mut self,
        identity: &CommitIdentity,
        code: ErrorCode,
        now: Instant,
    ) -> CommitVerdict {
        let now_ms = self.ms(now);
        self.membership.commit_result(identity, code, now_ms)
    }

    pub(super) fn phase(&self) -> Phase {
        self.membership.phase()
    }

    /// Shows until when everything owned is owned.
    pub(super) fn show_term(&self) {
        self.term.set(self.membership.owned_until());
    }

    /// Until when everything owned is owned, as it was shown last.
    pub(super) fn term(&self) -> Term {
        self.term.clone()
    }

    /// When to call [`tick`](Self::tick) and [`start_calls`](Self::start_calls) at the latest.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        let timeout = self.membership.next_timeout();
        let timeout =
            timeout.map(|at| self.begun + Duration::from_millis(at.max(0).unsigned_abs()));
        timeout.into_iter().chain(self.lookout.next_wake()).min()
    }

    fn ms(&self, now: Instant) -> i64 {
        let since = now.saturating_duration_since(self.begun);
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    }
}

async fn call(group: GroupClient, request: Request, limit: Duration) -> Answer {
    let Request { id, body } = request;
    let is_consumer = matches!(body, RequestBody::ConsumerHeartbeat(_));
    match send(&group, body, limit).await {
        Err(error) if is_consumer && error.kind() == ErrorKind::Unsupported => {
            Answer::NotOffered(id)
        }
        answer => Answer::Coordinator(id, answer),
    }
}

/// Sends a request; `limit` is what a heartbeat of KIP-848 may take.
async fn send(
    group: &GroupClient,
    body: RequestBody,
    limit: Duration,
) -> Result<ResponseBody, ottla_client::Error> {
    match body {
        RequestBody::Join(join) => group.join(join).await.map(ResponseBody::Join),
        RequestBody::Sync(sync) => group.sync(sync).await.map(ResponseBody::Sync),
        RequestBody::Heartbeat(beat) => group.heartbeat(beat).await.map(ResponseBody::Heartbeat),
        RequestBody::Leave(leave) => group.leave(leave).await.map(ResponseBody::Leave),
        RequestBody::ConsumerHeartbeat(beat) => group
            .consumer_heartbeat(beat, limit)
            .await
            .map(ResponseBody::ConsumerHeartbeat),
    }
}

/// Whether no further try can mend the failure.
fn is_final(error: &ottla_client::Error) -> bool {
    !error.is_retriable() && !may_pass(error)
}

fn assignor(assignor: Assignor) -> ottla_group::Assignor {
    match assignor {
        Assignor::Range => ottla_group::Assignor::Range,
        Assignor::RoundRobin => ottla_group::Assignor::RoundRobin,
        Assignor::Sticky => ottla_group::Assignor::Sticky,
        Assignor::CooperativeSticky => ottla_group::Assignor::CooperativeSticky,
    }
}

/// Whole milliseconds; the configuration's check keeps them well below the bound.
fn millis(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis()).unwrap_or(i32::MAX)
}
