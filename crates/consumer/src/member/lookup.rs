//! Where a partition begins: at the committed offset, else where `auto.offset.reset` says.
//!
//! A failed look-up is tried again; it never turns into a reset (C6, C11). An offset that a reset
//! found is kept until it is committed, so that a second look-up cannot find a later one (C14).

use super::missing::Check;
use super::partition::{Lookup, Partitions, Position, may_pass};
use crate::{AutoOffsetReset, Error, ErrorKind, SeekTo};
use ottla_client::transport::{FetchPosition, OffsetSpec, Transport};
use ottla_client::{Error as ClientError, GroupClient};
use ottla_types::coordinator::OffsetFetchRequest;
use ottla_types::{ErrorCode, Offset, TopicPartition};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// The look-ups that are out.
pub(super) struct Lookups {
    tasks: JoinSet<Vec<Found>>,
    finder: Finder,
}

/// The answer for one partition.
pub(super) struct Found {
    pub(super) partition: TopicPartition,
    pub(super) incarnation: u64,
    /// How many seeks there were when it was asked.
    pub(super) seeks: u64,
    pub(super) lookup: Lookup,
    pub(super) result: Result<Located, LookupError>,
}

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Located {
    pub(super) position: FetchPosition,
    /// The group's committed offset, if it has one.
    pub(super) committed: Option<Offset>,
    /// The text that was committed with it.
    pub(super) metadata: String,
}

/// Why a look-up failed.
#[derive(Debug)]
pub(super) enum LookupError {
    /// To be tried again.
    MayPass(ClientError),
    /// The partition stops.
    Final(Error),
}

/// Where a partition begins that has no committed offset, or not the group's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pin {
    pub(super) offset: Offset,
    /// A commit of this offset may have been carried out: then that is where the group is, and any
    /// other place is one from before.
    pub(super) tried: Option<Offset>,
}

/// The pins of a member.
pub(super) type Pins = HashMap<TopicPartition, Pin>;

impl Pin {
    pub(super) fn at(offset: Offset) -> Self {
        let tried = None;
        Self { offset, tried }
    }

    /// Whether it holds though the group has committed an offset.
    fn outweighs(self, committed: Offset) -> bool {
        self.tried.is_some_and(|tried| tried != committed)
    }
}

struct Wanted {
    partition: TopicPartition,
    incarnation: u64,
    seeks: u64,
    lookup: Lookup,
    /// What an earlier look-up found and was not committed yet.
    pin: Option<Pin>,
}

#[derive(Clone)]
struct Finder {
    /// `None` for a consumer that has none, and so no committed offsets.
    group: Option<GroupClient>,
    transport: Arc<dyn Transport>,
    reset: AutoOffsetReset,
    timeout: Duration,
}

impl Lookups {
    pub(super) fn new(
        group: GroupClient,
        transport: Arc<dyn Transport>,
        reset: AutoOffsetReset,
        timeout: Duration,
    ) -> Self {
        let finder = Finder {
            group: Some(group).filter(|group| !group.group_id().is_empty()),
            transport,
            reset,
            timeout,
        };
        Self {
            tasks: JoinSet::new(),
            finder,
        }
    }

    /// Starts one look-up for all partitions that are due.
    pub(super) fn start(&mut self, partitions: &mut Partitions, pins: &Pins, now: Instant) {
        let mut wanted = Vec::new();
        for (partition, owned) in partitions.iter_mut() {
            if let Position::Wanted { lookup, not_before } = owned.position
                && not_before <= now
                && owned.drain_by.is_none()
            {
                owned.position = Position::LookingUp(lookup);
                wanted.push(Wanted {
                    partition: partition.clone(),
                    incarnation: owned.incarnation,
                    seeks: owned.seeks,
                    lookup,
                    pin: pins.get(partition).copied(),
                });
            }
        }
        if !wanted.is_empty() {
            let finder = self.finder.clone();
            self.tasks.spawn(async move { finder.find(wanted).await });
        }
    }

    /// Beside the look-ups; nothing comes of it here.
    pub(super) fn check(&mut self, check: Check) {
        self.tasks.spawn(async move {
            check.run().await;
            Vec::new()
        });
    }

    /// The next answers; for ever pending when nothing is asked. Safe to cancel.
    pub(super) async fn next(&mut self) -> Result<Vec<Found>, Error> {
        match self.tasks.join_next().await {
            Some(found) => found.map_err(|e| Error::new(ErrorKind::MemberFailed).with_source(e)),
            None => std::future::pending().await,
        }
    }
}

impl Finder {
    async fn find(&self, wanted: Vec<Wanted>) -> Vec<Found> {
        let (mut new, mut out_of_range) = (Vec::new(), Vec::new());
        let (mut truncated, mut recreated, mut told) = (Vec::new(), Vec::new(), Vec::new());
        for want in wanted {
            match want.lookup {
                Lookup::Committed => new.push(want),
                Lookup::OutOfRange(_) => out_of_range.push(want),
                Lookup::Truncated => truncated.push(want),
                Lookup::Recreated => recreated.push(want),
                Lookup::Start(place) => told.push((want, place)),
            }
        }
        let mut found = self.find_new(new).await;
        found.extend(self.find_in_range(out_of_range).await);
        found.extend(self.reset(truncated).await);
        found.extend(self.find_first(recreated).await);
        found.extend(self.find_places(told).await);
        found
    }

    /// Whatever is in a topic that was made anew came after what was read: it is read from the
    /// front, also by those who begin with `latest` (C15).
    async fn find_first(&self, wanted: Vec<Wanted>) -> Vec<Found> {
        let first = self.list(&wanted, OffsetSpec::Earliest).await;
        wanted.into_iter().zip(first).map(listed).collect()
    }

    /// Where the application said.
    async fn find_places(&self, told: Vec<(Wanted, SeekTo)>) -> Vec<Found> {
        let mut found = Vec::with_capacity(told.len());
        let (mut wanted, mut asked) = (Vec::new(), Vec::new());
        for (want, place) in told {
            let spec = match place {
                SeekTo::Offset(offset) => {
                    found.push(want.located(offset.into(), None));
                    continue;
                }
                SeekTo::Beginning => OffsetSpec::Earliest,
                SeekTo::End => OffsetSpec::Latest,
                SeekTo::Timestamp(ms) => OffsetSpec::Timestamp(ms),
            };
            asked.push((want.partition.clone(), spec));
            wanted.push(want);
        }
        let offsets = self.ask(asked).await;
        found.extend(wanted.into_iter().zip(offsets).map(listed));
        found
    }

    /// Committed offsets, and resets for the partitions that have none.
    async fn find_new(&self, wanted: Vec<Wanted>) -> Vec<Found> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let Some(group) = &self.group else {
            return self.reset(wanted).await;
        };
        let partitions: Vec<_> = wanted.iter().map(|w| w.partition.clone()).collect();
        let mut committed = match committed(group, partitions).await {
            Ok(committed) => committed,
            Err(error) => {
                let error = Arc::new(error);
                return wanted
                    .into_iter()
                    .map(|w| w.failed(again(&error)))
                    .collect();
            }
        };
        let mut found = Vec::with_capacity(wanted.len());
        let mut without = Vec::new();
        for want in wanted {
            match (committed.remove(&want.partition), want.pin) {
                (Some(Ok(Some((offset, ..)))), Some(pin)) if pin.outweighs(offset) => {
                    found.push(want.located(pin.offset.into(), None));
                }
                (Some(Ok(Some((offset, leader_epoch, metadata)))), _) => {
                    let position = FetchPosition {
                        leader_epoch,
                        ..FetchPosition::from(offset)
                    };
                    found.push(want.found(Ok(Located {
                        position,
                        committed: Some(offset),
                        metadata,
                    })));
                }
                (Some(Ok(None)), Some(pin)) => {
                    found.push(want.located(pin.offset.into(), None));
                }
                (Some(Ok(None)), None) => without.push(want),
                (Some(Err(code)), _) => found.push(want.failed(code_error(code))),
                (None, _) => found.push(want.failed(code_error(ErrorCode::UNSTABLE_OFFSET_COMMIT))),
            }
        }
        found.extend(self.reset(without).await);
        found
    }

    async fn reset(&self, wanted: Vec<Wanted>) -> Vec<Found> {
        let Some(spec) = self.reset.spec() else {
            let refuse = |want: Wanted| {
                let mut error = Error::new(ErrorKind::NoOffset);
                if let Lookup::OutOfRange(asked) = want.lookup {
                    error = error.with_offset(asked.offset);
                }
                let error = error.with_partition(want.partition.clone());
                want.failed(LookupError::Final(error))
            };
            return wanted.into_iter().map(refuse).collect();
        };
        let offsets = self.list(&wanted, spec).await;
        wanted.into_iter().zip(offsets).map(listed).collect()
    }

    /// The broker said that an offset is out of range. A replica that lags says so too, for a while:
    /// an offset between the two ends is kept.
    async fn find_in_range(&self, wanted: Vec<Wanted>) -> Vec<Found> {
        if wanted.is_empty() {
            return Vec::new();
        }
        let earliest = self.list(&wanted, OffsetSpec::Earliest).await;
        let latest = self.list(&wanted, OffsetSpec::Latest).await;
        let ends = earliest.into_iter().zip(latest);
        let mut found = Vec::with_capacity(wanted.len());
        let mut outside = Vec::new();
        for (want, ends) in wanted.into_iter().zip(ends) {
            let Lookup::OutOfRange(asked) = want.lookup else {
                continue;
            };
            match ends {
                (Ok(first), Ok(end)) if (first.offset..=end.offset).contains(&asked.offset) => {
                    found.push(want.located(asked, None));
                }
                (Ok(_), Ok(_)) => outside.push(want),
                (Err(error), _) | (_, Err(error)) => {
                    found.push(want.failed(LookupError::of(error)))
                }
            }
        }
        found.extend(self.reset(outside).await);
        found
    }

    async fn list(&self, wanted: &[Wanted], spec: OffsetSpec) -> Vec<Listed> {
        let asked = wanted.iter().map(|w| (w.partition.clone(), spec)).collect();
        self.ask(asked).await
    }

    async fn ask(&self, asked: Vec<(TopicPartition, OffsetSpec)>) -> Vec<Listed> {
        if asked.is_empty() {
            return Vec::new();
        }
        let answers = self.transport.list_offsets(self.timeout, asked).await;
        answers.into_iter().map(|(_, offset)| offset).collect()
    }
}

impl Wanted {
    fn located(self, position: FetchPosition, committed: Option<Offset>) -> Found {
        self.found(Ok(Located {
            position,
            committed,
            metadata: String::new(),
        }))
    }

    fn failed(self, error: LookupError) -> Found {
        self.found(Err(error))
    }

    fn found(self, result: Result<Located, LookupError>) -> Found {
        Found {
            partition: self.partition,
            incarnation: self.incarnation,
            seeks: self.seeks,
            lookup: self.lookup,
            result,
        }
    }
}

/// The group's offsets of these partitions, without those that an open transaction may change.
pub(crate) async fn committed(
    group: &GroupClient,
    partitions: Vec<TopicPartition>,
) -> Result<HashMap<TopicPartition, Result<Option<Committed>, ErrorCode>>, ClientError> {
    let request = OffsetFetchRequest {
        partitions,
        require_stable: true,
    };
    let response = group.fetch_offsets(request).await?;
    if !response.error.is_ok() {
        return Err(ClientError::from_code(response.error, "OffsetFetch"));
    }
    let offsets = response.offsets.into_iter();
    let offset = |o: ottla_types::coordinator::FetchedOffset| {
        let committed = o.offset.map(|offset| (offset, o.leader_epoch, o.metadata));
        (o.partition, o.error.into_result().map(|()| committed))
    };
    Ok(offsets.map(offset).collect())
}

/// A committed offset, its leader epoch and its metadata.
pub(crate) type Committed = (Offset, Option<i32>, String);

type Listed = Result<FetchPosition, ClientError>;

fn listed((want, position): (Wanted, Listed)) -> Found {
    match position {
        Ok(position) => want.located(position, None),
        Err(error) => want.failed(LookupError::of(error)),
    }
}

impl LookupError {
    fn of(error: ClientError) -> Self {
        if may_pass(&error) {
            Self::MayPass(error)
        } else {
            Self::Final(error.into())
        }
    }
}

fn code_error(code: ErrorCode) -> LookupError {
    LookupError::of(ClientError::from_code(code, "OffsetFetch"))
}

/// One failed call counts for every partition in it.
fn again(error: &Arc<ClientError>) -> LookupError {
    let mut copy = match error.code() {
        Some(code) => ClientError::from_code(code, error.operation()),
        None => ClientError::new(error.kind(), error.operation()),
    };
    copy = copy.with_source(error.clone());
    LookupError::of(copy)
}
