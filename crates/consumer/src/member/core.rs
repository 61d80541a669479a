//! The member's task: takes what its parts report, then starts what can be started.

use super::callbacks::Callbacks;
use super::commit::Committer;
use super::driver::Driver;
use super::fetch::Fetcher;
use super::lookup::{Lookups, Pins};
use super::missing::Check;
use super::partition::{Lag, Lookup, Owned, Partitions};
use super::retire::{Closing, Revocation};
use super::transact::{Transactor, next_step};
use super::{MemberReport, MemberSpec, Stop};
use crate::handler::Context;
use crate::lane::{LaneEnd, LaneHandle, LaneLimits, LaneSetup, Order, Progress, lane};
use crate::output::{OutputMode, Outputs};
use crate::status::MemberState;
use crate::{Error, ErrorKind};
use futures_util::future::OptionFuture;
use ottla_group::{CommitIdentity, MembershipError, MembershipEvent, Phase};
use ottla_types::transactions::GroupMetadata;
use ottla_types::{ErrorCode, Offset, TopicPartition};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The longest sleep of the loop.
const IDLE: Duration = Duration::from_secs(60);

/// One member of a group.
pub(super) struct Member {
    pub(super) spec: MemberSpec,
    pub(super) driver: Driver,
    pub(super) partitions: Partitions,
    pub(super) committer: Committer,
    /// In place of the committer, where offsets are committed in transactions.
    pub(super) transactor: Option<Transactor>,
    /// Where partitions began, as long as that is not committed (C14).
    pub(super) pins: Pins,
    pub(super) callbacks: Callbacks,
    /// The revocation to be acknowledged when nothing retires any more.
    pub(super) revocation: Option<Revocation>,
    /// Once the member is to end.
    pub(super) closing: Option<Closing>,
    pub(super) report: MemberReport,
    lookups: Lookups,
    fetcher: Fetcher,
    lanes: JoinSet<LaneEnd>,
    wake: Arc<Notify>,
    incarnations: u64,
    state: MemberState,
    /// The identity on the board.
    shown: Option<CommitIdentity>,
}

impl Member {
    pub(super) fn new(spec: MemberSpec) -> Result<Self, Error> {
        let group = spec.client.group(spec.group.clone());
        let transport = spec.client.transport().clone();
        let timeout = spec.client.config().request_timeout;
        let reset = spec.config.auto_offset_reset;
        let now = Instant::now();
        let wake = spec.work.desk().map(|desk| desk.wake()).unwrap_or_default();
        spec.board.set_state(MemberState::Joining);
        Ok(Self {
            driver: Driver::new(&spec, group.clone())?,
            committer: Committer::new(group.clone(), spec.config.commit_interval, now),
            transactor: Transactor::new(&spec, &wake, now),
            fetcher: Fetcher::new(transport.clone(), &spec.config),
            lookups: Lookups::new(group, transport, reset, timeout),
            callbacks: Callbacks::new(
                spec.listener.clone(),
                spec.config.rebalance_callback_timeout,
            ),
            spec,
            partitions: Partitions::new(),
            pins: Pins::new(),
            revocation: None,
            closing: None,
            report: MemberReport::default(),
            lanes: JoinSet::new(),
            wake,
            incarnations: 0,
            state: MemberState::Joining,
            shown: None,
        })
    }

    /// Runs until the member is stopped or fails.
    pub(super) async fn run(
        mut self,
        mut stop: watch::Receiver<Stop>,
    ) -> Result<MemberReport, Error> {
        let result = self.serve(&mut stop).await;
        if let Err(error) = &result {
            for owned in self.partitions.values() {
                owned.progress.unassign(error);
            }
            self.drop_everything();
        }
        // One that waited in vain for its last commit has not left, either.
        let is_gone = matches!(self.driver.phase(), Phase::Left | Phase::Leaving);
        let leave = (result.is_err() || !is_gone).then(|| self.driver.leave_at_once());
        let transactor = self.transactor.take();
        tokio::join!(
            OptionFuture::from(transactor.map(Transactor::finish)),
            OptionFuture::from(leave)
        );
        match result {
            Ok(()) => {
                self.finish_callbacks().await;
                self.report.in_flight.sort();
                self.report.in_flight.dedup();
                Ok(self.report)
            }
            Err(error) => {
                self.finish_callbacks().await;
                Err(error)
            }
        }
    }

    async fn serve(&mut self, stop: &mut watch::Receiver<Stop>) -> Result<(), Error> {
        loop {
            let now = Instant::now();
            if self.turn(now)?.is_break() {
                return Ok(());
            }
            let timer = self.next_wake(now);
            tokio::select! {
                answer = self.driver.answer() => self.driver.on_answer(answer, Instant::now())?,
                found = self.lookups.next() => self.on_found(found?, Instant::now()),
                answers = self.fetcher.next() => self.on_fetched(answers?, Instant::now()),
                end = self.committer.next() => self.on_committed(end, Instant::now())?,
                step = next_step(&mut self.transactor) => self.on_transaction_step(step, Instant::now())?,
                Some(end) = self.lanes.join_next() => self.on_lane_end(end)?,
                called = self.callbacks.next() => self.on_called(called, Instant::now()),
                () = self.wake.notified() => {}
                by = stopped(stop), if self.closing.is_none() => self.close(by, Instant::now()),
                () = tokio::time::sleep_until(timer) => {}
            }
        }
    }

    /// Reacts to the membership, then starts what can be started. Breaks at the member's end.
    pub(super) fn turn(&mut self, now: Instant) -> Result<ControlFlow<()>, Error> {
        self.driver.tick(now);
        self.take_orders(now);
        loop {
            if let Some(event) = self.driver.poll_event() {
                if self.on_event(event, now)?.is_break() {
                    return Ok(ControlFlow::Break(()));
                }
            } else if !self.retire(now) {
                break;
            }
        }
        if let Some(called) = self.callbacks.take_overdue(now) {
            self.on_called(called, now);
        }
        self.callbacks.start(now);
        self.on_troubles(now);
        self.driver.start_calls(now);
        if self.transactor.as_ref().is_none_or(Transactor::is_settled) {
            self.lookups.start(&mut self.partitions, &self.pins, now);
        }
        self.fetcher.start(&mut self.partitions, now);
        let identity = self.driver.commit_identity();
        self.driver.show_term();
        self.show_identity(identity.as_ref(), now);
        self.transact(identity, now);
        self.show_state();
        if self.give_up_at().is_some_and(|at| at <= now) {
            self.drop_everything();
            return Ok(ControlFlow::Break(()));
        }
        Ok(ControlFlow::Continue(()))
    }

    pub(super) fn next_wake(&self, now: Instant) -> Instant {
        let fetching = self.fetcher.has_room();
        let reading = self.partitions.values().filter_map(|o| o.due(fetching));
        let committing = match &self.transactor {
            Some(transactor) => transactor.next_wake(),
            None if self.partitions.is_empty() => None,
            None => self.committer.next_wake(),
        };
        reading
            .chain(self.driver.next_wake())
            .chain(committing)
            .chain(self.retire_wake(now))
            .chain(self.give_up_at())
            .chain(self.callbacks.next_wake())
            .min()
            .unwrap_or(now + IDLE)
    }

    fn on_event(&mut self, event: MembershipEvent, now: Instant) -> Result<ControlFlow<()>, Error> {
        match event {
            MembershipEvent::Assigned {
                generation,
                added,
                all,
            } => self.on_assigned(generation, added, &all, now),
            MembershipEvent::Revoked { id, partitions } => {
                tracing::info!(group = %self.spec.group, ?partitions, "partitions are revoked");
                self.on_revoked(id, &partitions, now);
            }
            MembershipEvent::Lost { partitions } => {
                tracing::warn!(group = %self.spec.group, ?partitions, "partitions are lost");
                self.on_lost(&partitions);
            }
            MembershipEvent::Fatal { error } => return Err(fatal(error)),
            MembershipEvent::Left => return Ok(ControlFlow::Break(())),
            // The driver sees to it.
            MembershipEvent::NeedMetadata { .. } | MembershipEvent::NeedTopicNames { .. } => {}
        }
        Ok(ControlFlow::Continue(()))
    }

    pub(super) fn on_assigned(
        &mut self,
        generation: i32,
        added: Vec<TopicPartition>,
        all: &[TopicPartition],
        now: Instant,
    ) {
        tracing::info!(group = %self.spec.group, generation, ?added, owned = all.len(), "assigned");
        self.spec.board.add_rebalance();
        metrics::counter!("ottla_consumer_rebalances_total", "group" => self.spec.group.to_string())
            .increment(1);
        // What is being revoked is owned until that is acknowledged, and is not named here.
        let is_stray = |(partition, owned): &(&TopicPartition, &Owned)| {
            owned.drain_by.is_none() && !all.contains(partition)
        };
        let stray = self.partitions.iter().filter(is_stray);
        let stray: Vec<_> = stray.map(|(partition, _)| partition.clone()).collect();
        self.on_lost(&stray);
        self.on_lost(&added);
        let mut told = Vec::new();
        for partition in added {
            let mut owned = self.new_incarnation(&partition, now);
            if let Some(place) = self
                .spec
                .work
                .desk()
                .and_then(|desk| desk.place(&partition))
            {
                owned.look_up(Lookup::Start(place), now);
            }
            if self.callbacks.is_listening() {
                owned.hold();
                told.push((partition.clone(), owned.progress.clone()));
            }
            self.partitions.insert(partition, owned);
        }
        self.callbacks.assigned(self.rebalance(told));
        self.committer.resume();
        self.partitions_changed();
    }

    pub(super) fn check(&mut self, check: Check) {
        self.lookups.check(check);
    }

    /// A partition as it is when it was just assigned: nothing of an earlier assignment is left (C3).
    pub(super) fn new_incarnation(&mut self, partition: &TopicPartition, now: Instant) -> Owned {
        self.incarnations += 1;
        let in_flight = self.spec.work.in_flight_max();
        let wake = self.wake.clone();
        let work = &self.spec.work;
        let progress = Arc::new(match work.desk() {
            Some(desk) => Progress::asked(desk.auto_commit(), wake),
            None => Progress::new(in_flight, wake),
        });
        let lag = Lag::new(&self.spec.group, partition);
        Owned::new(self.incarnations, progress, self.driver.term(), lag, now)
    }

    /// Starts the lane of a partition whose position is known.
    pub(super) fn start_lane(
        &mut self,
        partition: &TopicPartition,
        owned: &Owned,
        position: Offset,
    ) -> LaneHandle {
        let spec = &self.spec;
        let mut context =
            Context::of_member(spec.group.clone(), spec.board.clone(), owned.lease.clone());
        let outputs = match (&spec.mode, &self.transactor) {
            (_, Some(transactor)) => transactor.outputs(owned.incarnation),
            (OutputMode::Acknowledged(publish), _) => Outputs::Acknowledged(publish.clone()),
            (OutputMode::Plain(Some(publish)), _) => {
                context = context.with_outputs(publish.clone());
                Outputs::Plain
            }
            (OutputMode::Plain(None) | OutputMode::Transactional(_), _) => Outputs::Plain,
        };
        let setup = LaneSetup {
            partition: partition.clone(),
            incarnation: owned.incarnation,
            position,
            work: spec.work.clone(),
            context,
            outputs,
            progress: owned.progress.clone(),
            board: spec.board.clone(),
            limits: LaneLimits {
                processing: spec.config.max_processing_time,
                backoff: spec.config.handler_backoff,
                backoff_max: spec.config.handler_backoff_max,
                part_bytes: spec.config.part_bytes(),
            },
        };
        match spec.work.desk() {
            Some(desk) => {
                let (handle, run) = desk.open(setup);
                if let Some(run) = run {
                    self.lanes.spawn(run);
                }
                // Before the caller hears where its seek led.
                if owned.seeks > 0 {
                    desk.sought(partition);
                }
                handle
            }
            None => {
                let (handle, run) = lane(setup);
                self.lanes.spawn(run);
                handle
            }
        }
    }

    /// Does what the caller of a plain consumer wants.
    fn take_orders(&mut self, now: Instant) {
        let orders = self.spec.work.desk().map(|desk| desk.take_orders());
        for order in orders.into_iter().flatten() {
            match order {
                Order::Commit => self.hurry_commit(now),
                Order::Subscribe(subscription) => self.driver.subscribe(subscription, now),
                Order::Assign(partitions) => self.driver.assign(partitions, now),
                Order::Seek(partition, place, reply) => {
                    let owned = self.partitions.get_mut(&partition);
                    // Without an owner the reply is dropped, which says so.
                    if let Some(owned) = owned.filter(|owned| owned.drain_by.is_none()) {
                        self.pins.remove(&partition);
                        owned.seek(place, reply, now);
                    }
                }
            }
        }
    }

    /// Shares the buffer anew and shows the partitions on the board.
    pub(super) fn partitions_changed(&mut self) {
        let share = self.spec.config.queued_max_bytes / (4 * self.partitions.len().max(1));
        self.fetcher.set_share(share);
        let mut shown = Vec::with_capacity(self.partitions.len());
        for (partition, owned) in &self.partitions {
            owned.progress.set_low_water(share);
            shown.push((partition.clone(), owned.progress.clone()));
        }
        if let Some(desk) = self.spec.work.desk() {
            desk.set_owned(&shown);
        }
        self.spec.board.set_partitions(shown);
    }

    fn close(&mut self, by: Instant, now: Instant) {
        tracing::info!(group = %self.spec.group, member = %self.spec.name, "stopping");
        let closing = Closing::new(by, now);
        self.closing = Some(closing);
        for owned in self.partitions.values_mut() {
            owned.drain_by = owned.drain_by.map(|at| at.min(by));
        }
        if let Some(revocation) = &mut self.revocation {
            revocation.hasten(by, closing.commit_grace);
        }
        self.driver.close(now);
    }

    fn drop_everything(&mut self) {
        let all: Vec<_> = self.partitions.keys().cloned().collect();
        self.on_lost(&all);
    }

    /// Shows under which generation offsets are taken now, for transactions.
    fn show_identity(&mut self, identity: Option<&CommitIdentity>, now: Instant) {
        if self.shown.as_ref() != identity {
            if self.closing.is_some() {
                // What the old generation did not take any more need not wait.
                self.committer.retry_now(now);
            }
            self.shown = identity.cloned();
            let group = identity.map(|identity| GroupMetadata {
                group_id: self.spec.group.to_string(),
                generation: identity.generation,
                member_id: identity.member_id.clone(),
                instance_id: identity.instance_id.clone(),
            });
            self.spec.board.set_group(group);
        }
    }

    fn show_state(&mut self) {
        let state = match self.driver.phase() {
            _ if self.closing.is_some() => MemberState::Stopping,
            Phase::Stable => MemberState::Stable,
            Phase::Revoking => MemberState::Revoking,
            _ => MemberState::Joining,
        };
        if state != self.state {
            self.state = state;
            self.spec.board.set_state(state);
        }
    }
}

/// Resolves with the deadline when the member is to stop; at once when its owner is gone.
async fn stopped(stop: &mut watch::Receiver<Stop>) -> Instant {
    match stop.wait_for(|stop| *stop != Stop::Run).await.as_deref() {
        Ok(Stop::By(deadline)) => *deadline,
        _ => Instant::now(),
    }
}

fn fatal(error: MembershipError) -> Error {
    let code = match &error {
        MembershipError::Refused { code, .. } => Some(*code),
        MembershipError::InvalidPattern { .. } => Some(ErrorCode::INVALID_REGULAR_EXPRESSION),
        _ => None,
    };
    let kind = match code {
        Some(ErrorCode::FENCED_INSTANCE_ID) => ErrorKind::Fenced,
        Some(ErrorCode::INVALID_REGULAR_EXPRESSION) => ErrorKind::Config,
        _ => ErrorKind::Coordinator,
    };
    let fatal = Error::new(kind).with_source(error);
    match code {
        Some(code) => fatal.with_code(code),
        None => fatal,
    }
}
