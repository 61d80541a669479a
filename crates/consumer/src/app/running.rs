//! [`RunningApp`]: the owner of the members' tasks.

use super::health::{Group, Health, Phase};
use super::registration::{Registration, Resolved};
use super::supervisor::{self, Ended};
use crate::member::{MemberReport, MemberSpec, Stop, closing_grace};
use crate::status::AppStatus;
use crate::{Error, ErrorKind, shutdown_signal};
use ottla_client::Client;
use ottla_types::{Offset, TopicPartition};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;

/// A started app. Dropping it drops the members at once: nothing is committed any more and the
/// coordinator notices by the session timeout; use [`shutdown`](Self::shutdown).
#[derive(Debug)]
pub struct RunningApp {
    phase: Phase,
    tasks: JoinSet<Ended>,
    stop: watch::Sender<Stop>,
    /// The first fatal error of a member.
    fatal: watch::Receiver<Option<Error>>,
}

/// What a shutdown left behind.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[must_use = "a shutdown says whether everything handled was committed"]
pub struct ShutdownReport {
    /// Nothing was cut off and everything handled is committed.
    pub clean: bool,
    /// Group and partition of the handler calls that were dropped at the deadline; their records are
    /// handled again by the next owner.
    pub in_flight: Vec<(String, TopicPartition)>,
    /// Group, partition and offset of what was handled and could not be committed; these records are
    /// handled again too.
    pub uncommitted: Vec<(String, TopicPartition, Offset)>,
    /// Members that did not end by the deadline, or had failed before.
    pub failed_members: Vec<Arc<str>>,
}

impl RunningApp {
    pub(super) fn start(
        client: Client,
        registrations: Vec<(Registration, Resolved)>,
        phase: Phase,
    ) -> Self {
        let (stop, stopped) = watch::channel(Stop::Run);
        let (fatal_sender, fatal) = watch::channel(None);
        let mut tasks = JoinSet::new();
        let mut groups = Vec::with_capacity(registrations.len());
        for (registration, resolved) in registrations {
            let mut boards = Vec::with_capacity(registration.instances);
            for instance in 0..registration.instances {
                let spec = MemberSpec::new(&client, &registration, &resolved, instance);
                boards.push(spec.board.clone());
                let task = supervisor::supervise(spec, stopped.clone(), fatal_sender.clone());
                tasks.spawn(task);
            }
            groups.push(Group {
                topics: registration.topics().map(str::to_owned).collect(),
                topic_pattern: registration.topic_pattern,
                name: registration.group,
                boards,
            });
        }
        phase.run(groups);
        Self {
            phase,
            tasks,
            stop,
            fatal,
        }
    }

    /// What every member is doing now.
    pub fn status(&self) -> AppStatus {
        self.phase.health().status()
    }

    /// Whether the app is ready and live; the same handle as [`App::health`](super::App::health).
    pub fn health(&self) -> Health {
        self.phase.health().clone()
    }

    /// Waits until a member fails for good, and gives the first such error. Members whose failure may
    /// pass are restarted and do not end the wait; nor does a failing handler. The other members go on
    /// until [`shutdown`](Self::shutdown). Safe to cancel.
    pub async fn failed(&self) -> Error {
        let mut fatal = self.fatal.clone();
        let failed = fatal.wait_for(Option::is_some).await;
        // Without a word from it, a supervisor itself has failed.
        let unheard = || Error::new(ErrorKind::MemberFailed);
        failed
            .ok()
            .and_then(|error| error.clone())
            .unwrap_or_else(unheard)
    }

    /// [`failed`](Self::failed) as a `Result`, to be used with `?`.
    ///
    /// # Errors
    /// Always: the first fatal error.
    pub async fn wait(&self) -> Result<(), Error> {
        Err(self.failed().await)
    }

    /// Stops gracefully: no more records are fetched or begun, calls in progress may go on until the
    /// deadline, what is handled is committed, the groups are left.
    ///
    /// Resolves by the deadline plus a tenth of it (a second at least, five and a half at most), in
    /// which the last commits go out; plus another second when a member does not end by itself.
    pub async fn shutdown(mut self, deadline: Duration) -> ShutdownReport {
        let by = crate::after(deadline);
        self.phase.stop();
        self.stop.send_replace(Stop::By(by));
        let mut report = ShutdownReport::default();
        let groups = self.phase.health().groups().iter();
        let mut unheard: Vec<_> = groups.flat_map(|g| &g.boards).collect();
        let give_up = by + closing_grace(deadline) + Duration::from_secs(1);
        while let Ok(Some(ended)) = tokio::time::timeout_at(give_up, self.tasks.join_next()).await {
            // A supervisor catches its member's panics, so an error here is its own; the member then
            // stays among the unheard.
            let Ok(ended) = ended else { continue };
            if let Some(member) = ended.report {
                unheard.retain(|board| *board.name() != ended.name);
                report.add(&ended.group, member);
            }
        }
        report.failed_members = unheard.into_iter().map(|b| b.name().clone()).collect();
        report.clean = report.in_flight.is_empty()
            && report.uncommitted.is_empty()
            && report.failed_members.is_empty();
        self.tasks.shutdown().await;
        report
    }

    /// Waits for SIGINT or SIGTERM, then shuts down within `deadline`.
    ///
    /// # Errors
    /// When a member fails for good, after the shutdown of the others; when the signals cannot be
    /// waited for.
    pub async fn shutdown_on_signals(self, deadline: Duration) -> Result<ShutdownReport, Error> {
        let signal = async {
            let signal = shutdown_signal().await;
            signal.map_err(|e| Error::new(ErrorKind::Config).with_source(e))
        };
        self.shutdown_when(signal, deadline).await
    }

    /// Waits for `stop`, then shuts down within `deadline`.
    ///
    /// # Errors
    /// When a member fails for good before that, after the shutdown of the others.
    pub async fn shutdown_on(
        self,
        stop: impl Future<Output = ()>,
        deadline: Duration,
    ) -> Result<ShutdownReport, Error> {
        let stop = async {
            stop.await;
            Ok(())
        };
        self.shutdown_when(stop, deadline).await
    }

    async fn shutdown_when(
        self,
        stop: impl Future<Output = Result<(), Error>>,
        deadline: Duration,
    ) -> Result<ShutdownReport, Error> {
        let ended = tokio::select! {
            stopped = stop => stopped,
            error = self.failed() => Err(error),
        };
        let report = self.shutdown(deadline).await;
        ended.map(|()| report)
    }
}

impl ShutdownReport {
    fn add(&mut self, group: &str, member: MemberReport) {
        let in_flight = member.in_flight.into_iter();
        self.in_flight
            .extend(in_flight.map(|p| (group.to_owned(), p)));
        let uncommitted = member.uncommitted.into_iter();
        self.uncommitted
            .extend(uncommitted.map(|(p, o)| (group.to_owned(), p, o)));
    }
}
