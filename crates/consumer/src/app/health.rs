//! [`Health`]: whether an app is ready and live, and if not, why not; for a web server in the same
//! process.

use crate::status::{
    AppStatus, MemberBoard, MemberState, MemberStatus, PartitionState, RegistrationStatus,
};
use ottla_types::with_causes;
use serde::Serialize;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

/// Whether an app is ready and live. A cheap handle: clones share it, it can be taken from an
/// [`App`](super::App) before the start, and it outlives the app.
///
/// - *Ready*: started and not stopping, every member has joined its group once and is not being
///   restarted, no partition is stopped by an error. A rebalance or a failing handler does not
///   change it.
/// - *Live*: no member has failed for good, and the app is not gone. What is not live does not get
///   well by itself: the process is to be started anew.
#[derive(Clone, Debug, Default)]
pub struct Health(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    phase: Mutex<AppPhase>,
    groups: OnceLock<Vec<Group>>,
}

/// A registration's members, as they are seen from outside.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) name: String,
    pub(super) topics: Vec<String>,
    pub(super) topic_pattern: Option<String>,
    pub(super) boards: Vec<Arc<MemberBoard>>,
}

/// How far an app is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AppPhase {
    /// Not started, or waiting for its topics.
    #[default]
    Starting,
    /// Its members run.
    Running,
    /// It shuts down: calls in progress end, offsets are committed.
    Stopping,
    /// It is gone: shut down, dropped, or its start has failed.
    Stopped,
}

/// What [`Health`] says at a moment; made to be sent as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthReport {
    /// See [`Health`].
    pub ready: bool,
    /// See [`Health`].
    pub live: bool,
    /// How far the app is.
    pub phase: AppPhase,
    /// Why it is not ready or not live, as far as members and partitions are the reason.
    pub problems: Vec<HealthProblem>,
    /// One entry a registration.
    pub groups: Vec<GroupHealth>,
}

/// One registration in a [`HealthReport`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GroupHealth {
    /// The consumer group.
    pub group: String,
    /// Members in this process.
    pub members: usize,
    /// Partitions that they own.
    pub partitions: usize,
    /// Records not handled yet, over the owned partitions whose end is known.
    pub lag: u64,
    /// Records handled since the start.
    pub handled: u64,
    /// Handler calls that failed since the start.
    pub failed: u64,
}

/// Something that keeps an app from being ready or live.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthProblem {
    /// The consumer group.
    pub group: String,
    /// The member's name.
    pub member: String,
    /// What it is.
    #[serde(flatten)]
    pub kind: ProblemKind,
    /// The error behind it, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What kind a [`HealthProblem`] is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "problem", rename_all = "snake_case")]
#[non_exhaustive]
pub enum ProblemKind {
    /// The member has not joined its group yet.
    Joining,
    /// The member failed and is about to be restarted.
    Restarting,
    /// The member failed for good: the app is not live.
    Failed,
    /// A partition is stopped by an error; the others go on.
    PartitionStopped {
        /// The topic.
        topic: String,
        /// The partition's number.
        partition: i32,
    },
}

impl Health {
    /// See [`Health`]; for a readiness probe.
    pub fn is_ready(&self) -> bool {
        self.report().ready
    }

    /// See [`Health`]; for a liveness probe.
    pub fn is_live(&self) -> bool {
        self.report().live
    }

    /// Everything at this moment. It costs a lock a member, no request.
    pub fn report(&self) -> HealthReport {
        let phase = *self.lock();
        let status = self.status();
        let mut problems = Vec::new();
        for registration in &status.registrations {
            for member in &registration.members {
                find_problems(&registration.group, member, &mut problems);
            }
        }
        let groups = status.registrations.iter().map(|registration| GroupHealth {
            group: registration.group.clone(),
            members: registration.members.len(),
            partitions: registration.partitions().count(),
            lag: registration.lag(),
            handled: registration.handled(),
            failed: registration.failed(),
        });
        let failed = problems.iter().any(|p| p.kind == ProblemKind::Failed);
        HealthReport {
            ready: phase == AppPhase::Running && problems.is_empty(),
            live: phase != AppPhase::Stopped && !failed,
            phase,
            problems,
            groups: groups.collect(),
        }
    }

    /// What every member is doing now; nothing before the start.
    pub fn status(&self) -> AppStatus {
        let status = |group: &Group| RegistrationStatus {
            group: group.name.clone(),
            topics: group.topics.clone(),
            topic_pattern: group.topic_pattern.clone(),
            members: group.boards.iter().map(|b| b.snapshot()).collect(),
        };
        AppStatus {
            registrations: self.groups().iter().map(status).collect(),
        }
    }

    pub(super) fn groups(&self) -> &[Group] {
        self.0.groups.get().map_or(&[], Vec::as_slice)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, AppPhase> {
        // A plain value: it is whole even if its writer panicked.
        self.0.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn find_problems(group: &str, member: &MemberStatus, problems: &mut Vec<HealthProblem>) {
    let problem = |kind, error| HealthProblem {
        group: group.to_owned(),
        member: member.name.to_string(),
        kind,
        error,
    };
    let kind = match member.state {
        MemberState::Joining if member.rebalances == 0 => Some(ProblemKind::Joining),
        MemberState::Restarting => Some(ProblemKind::Restarting),
        MemberState::Failed => Some(ProblemKind::Failed),
        _ => None,
    };
    problems.extend(kind.map(|kind| problem(kind, member.last_error.clone())));
    for status in &member.partitions {
        if let PartitionState::Stopped(error) = &status.state {
            let kind = ProblemKind::PartitionStopped {
                topic: status.partition.topic.to_string(),
                partition: status.partition.partition,
            };
            problems.push(problem(kind, Some(with_causes(error))));
        }
    }
}

/// The owner's end of a [`Health`]: it is stopped when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Phase(Health);

impl Phase {
    pub(super) fn health(&self) -> &Health {
        &self.0
    }

    pub(super) fn run(&self, groups: Vec<Group>) {
        // It is started once, as the app is used up by it.
        let _ = self.0.0.groups.set(groups);
        *self.0.lock() = AppPhase::Running;
    }

    pub(super) fn stop(&self) {
        *self.0.lock() = AppPhase::Stopping;
    }
}

impl Drop for Phase {
    fn drop(&mut self) {
        *self.0.lock() = AppPhase::Stopped;
    }
}
