//! What the machine talks to: one transactional id at its coordinator, partitions that check who
//! writes, and a network that loses, delays and repeats.

use super::super::{Answer, Lost, Request};
use ottla_client::{Error, ErrorKind};
use ottla_types::transactions::TransactionVersion;
use ottla_types::{ErrorCode, Fate, ProducerId, PublishError, PublishErrorKind};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

/// How often, of a hundred requests, something goes wrong.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weather {
    pub(super) lost_requests: u32,
    pub(super) lost_answers: u32,
    /// Lost for the producer, and carried out at some later time.
    pub(super) delayed: u32,
    /// Carried out once more at some later time.
    pub(super) doubled: u32,
    /// Answered with -1, carried out or not.
    pub(super) server_errors: u32,
    /// Answered with a code that passes.
    pub(super) passing: u32,
    /// Transactions that the coordinator ends because they took too long.
    pub(super) timeouts: u32,
}

#[derive(Debug, Clone)]
enum Message {
    Request(Request),
    Write(ProducerId, u32, i32),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    Ongoing,
    Ended { commit: bool },
}

/// The numbers of the user's transactions whose records stand in the logs.
type Records = BTreeMap<u32, u32>;

#[derive(Debug)]
pub(super) struct Coordinator {
    version: TransactionVersion,
    producer: ProducerId,
    last_epoch: i16,
    state: State,
    partitions: BTreeSet<i32>,
    has_group: bool,
    /// Of the open transaction.
    open: Records,
    open_offset: Option<i64>,
    pub(super) committed: Records,
    pub(super) aborted: Records,
    pub(super) offset: Option<i64>,
}

impl Coordinator {
    fn new(version: TransactionVersion) -> Self {
        Self {
            version,
            producer: ProducerId { id: 7, epoch: -1 },
            last_epoch: -1,
            state: State::Idle,
            partitions: BTreeSet::new(),
            has_group: false,
            open: Records::new(),
            open_offset: None,
            committed: Records::new(),
            aborted: Records::new(),
            offset: None,
        }
    }

    fn is_v2(&self) -> bool {
        self.version == TransactionVersion::V2
    }

    fn end(&mut self, commit: bool) {
        self.state = State::Ended { commit };
        let records = std::mem::take(&mut self.open);
        let place = if commit {
            &mut self.committed
        } else {
            &mut self.aborted
        };
        for (number, count) in records {
            *place.entry(number).or_default() += count;
        }
        let offset = self.open_offset.take();
        if commit && offset.is_some() {
            self.offset = offset;
        }
        self.partitions.clear();
        self.has_group = false;
    }

    /// Ends the open transaction from the coordinator's side.
    pub(super) fn fence(&mut self) {
        if self.state == State::Ongoing {
            self.last_epoch = self.producer.epoch;
            self.producer.epoch += 1;
            self.end(false);
        }
    }

    pub(super) fn init(&mut self, current: Option<ProducerId>) -> Result<ProducerId, ErrorCode> {
        if current.is_some_and(|given| given.id != self.producer.id) {
            return Err(ErrorCode::PRODUCER_FENCED);
        }
        if self.state == State::Ongoing {
            self.fence();
            return Err(ErrorCode::CONCURRENT_TRANSACTIONS);
        }
        match current {
            None => {
                self.last_epoch = -1;
                self.producer.epoch += 1;
            }
            Some(given) if given.epoch == self.producer.epoch => {
                self.last_epoch = given.epoch;
                self.producer.epoch += 1;
            }
            Some(given) if given.epoch == self.last_epoch => {}
            Some(_) => return Err(ErrorCode::PRODUCER_FENCED),
        }
        self.state = State::Idle;
        Ok(self.producer)
    }

    fn check(&self, by: ProducerId) -> Result<(), ErrorCode> {
        if by.id != self.producer.id {
            Err(ErrorCode::INVALID_PRODUCER_ID_MAPPING)
        } else if by.epoch != self.producer.epoch {
            Err(ErrorCode::PRODUCER_FENCED)
        } else {
            Ok(())
        }
    }

    fn write(&mut self, by: ProducerId, number: u32, to: i32) -> Result<(), ErrorCode> {
        self.check(by)
            .map_err(|_| ErrorCode::INVALID_PRODUCER_EPOCH)?;
        if self.is_v2() {
            self.state = State::Ongoing;
        } else if self.state != State::Ongoing || !self.partitions.contains(&to) {
            return Err(ErrorCode::INVALID_TXN_STATE);
        }
        *self.open.entry(number).or_default() += 1;
        Ok(())
    }

    fn end_txn(&mut self, by: ProducerId, commit: bool) -> Result<ProducerId, ErrorCode> {
        let was_bumped = by.epoch == self.last_epoch && by.epoch + 1 == self.producer.epoch;
        let is_retry = self.is_v2() && self.state != State::Ongoing && was_bumped;
        if !is_retry {
            self.check(by)?;
        }
        match self.state {
            State::Ongoing => {}
            State::Ended { commit: decided }
                if decided == commit && (is_retry || !self.is_v2()) =>
            {
                return Ok(self.producer);
            }
            _ if self.is_v2() && !commit && !is_retry => {}
            _ => return Err(ErrorCode::INVALID_TXN_STATE),
        }
        if self.is_v2() {
            self.last_epoch = self.producer.epoch;
            self.producer.epoch += 1;
        }
        self.end(commit);
        Ok(self.producer)
    }

    fn carry_out(&mut self, request: &Request) -> Answer {
        match request {
            Request::Init(request) => Answer::Init(self.version, self.init(request.current)),
            Request::AddPartitions(request) => {
                let checked = self.check(request.producer);
                if checked.is_ok() {
                    self.state = State::Ongoing;
                    let numbers = request.partitions.iter().map(|p| p.partition);
                    self.partitions.extend(numbers);
                }
                let code = checked.err().unwrap_or(ErrorCode::NONE);
                let partitions = request.partitions.iter();
                Answer::AddPartitions(partitions.map(|p| (p.clone(), code)).collect())
            }
            Request::AddOffsets(request) => {
                let checked = self.check(request.producer);
                if checked.is_ok() {
                    self.state = State::Ongoing;
                    self.has_group = true;
                }
                Answer::AddOffsets(checked.err().unwrap_or(ErrorCode::NONE))
            }
            Request::CommitOffsets(request) => {
                let mut checked = self.check(request.producer);
                if self.is_v2() && checked.is_ok() {
                    self.state = State::Ongoing;
                } else if checked.is_ok() && !self.has_group {
                    checked = Err(ErrorCode::INVALID_TXN_STATE);
                }
                if checked.is_ok() {
                    self.open_offset = request.offsets.first().map(|o| o.offset);
                }
                let code = checked.err().unwrap_or(ErrorCode::NONE);
                let offsets = request.offsets.iter();
                let codes = offsets.map(|o| (o.partition.clone(), code));
                Answer::CommitOffsets(codes.collect())
            }
            Request::End(request) => Answer::End(self.end_txn(request.producer, request.commit)),
        }
    }
}

/// The answer that refuses a request with this code.
pub(super) fn refusal(request: &Request, code: ErrorCode, version: TransactionVersion) -> Answer {
    match request {
        Request::Init(_) => Answer::Init(version, Err(code)),
        Request::AddPartitions(request) => {
            let partitions = request.partitions.iter();
            Answer::AddPartitions(partitions.map(|p| (p.clone(), code)).collect())
        }
        Request::AddOffsets(_) => Answer::AddOffsets(code),
        Request::CommitOffsets(request) => {
            let offsets = request.offsets.iter();
            Answer::CommitOffsets(offsets.map(|o| (o.partition.clone(), code)).collect())
        }
        Request::End(_) => Answer::End(Err(code)),
    }
}

pub(super) fn lost() -> Answer {
    Answer::Lost(Lost {
        may_be_done: true,
        may_pass: true,
        error: Arc::new(Error::new(ErrorKind::ConnectionLost, "test")),
    })
}

pub(super) struct Network {
    pub(super) coordinator: Coordinator,
    pub(super) weather: Weather,
    /// What the next requests are answered with, before the weather has its say.
    pub(super) scripted: Vec<Script>,
    /// Every request that was asked.
    pub(super) asked: Vec<Request>,
    /// Somebody else was given a higher epoch.
    pub(super) has_rival: bool,
    delayed: Vec<Message>,
    rng: fastrand::Rng,
}

/// What happens to one request.
#[derive(Debug, Clone, Copy)]
pub(super) enum Script {
    Pass,
    Refuse(ErrorCode),
    /// Carried out, then answered with this code all the same.
    DoneBut(ErrorCode),
    LoseRequest,
    LoseAnswer,
    Delay,
}

impl Network {
    pub(super) fn new(version: TransactionVersion, seed: u64, weather: Weather) -> Self {
        Self {
            coordinator: Coordinator::new(version),
            weather,
            scripted: Vec::new(),
            asked: Vec::new(),
            has_rival: false,
            delayed: Vec::new(),
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    pub(super) fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(..100) < percent
    }

    pub(super) fn below(&mut self, bound: u32) -> u32 {
        self.rng.u32(..bound)
    }

    /// Another producer with the same transactional id starts.
    pub(super) fn rival(&mut self) {
        self.has_rival = true;
        while self.coordinator.init(None).is_err() {}
    }

    pub(super) fn is_current(&self, producer: Option<ProducerId>) -> bool {
        producer == Some(self.coordinator.producer)
    }

    /// What was delayed may arrive.
    pub(super) fn blow(&mut self) {
        while !self.delayed.is_empty() && self.chance(30) {
            let at = self.rng.usize(..self.delayed.len());
            let late = self.delayed.swap_remove(at);
            self.arrive(late);
        }
        if self.chance(self.weather.timeouts) {
            self.coordinator.fence();
        }
    }

    /// Everything that was delayed arrives.
    pub(super) fn clear_up(&mut self) {
        self.weather = Weather::default();
        for late in std::mem::take(&mut self.delayed) {
            self.arrive(late);
        }
    }

    fn arrive(&mut self, late: Message) {
        match late {
            Message::Request(request) => {
                let answer = self.coordinator.carry_out(&request);
                // The producer has fenced itself, which nobody can tell from a rival.
                let is_first =
                    matches!(&request, Request::Init(request) if request.current.is_none());
                self.has_rival |= is_first && matches!(answer, Answer::Init(_, Ok(_)));
            }
            Message::Write(by, number, to) => {
                // Nobody waits for the answer any more.
                let _ = self.coordinator.write(by, number, to);
            }
        }
    }

    /// The answer, and how long it takes.
    pub(super) fn ask(&mut self, request: Request) -> (Answer, Duration) {
        self.asked.push(request.clone());
        self.blow();
        let soon = Duration::from_millis(2);
        let long = Duration::from_millis(500);
        let version = self.coordinator.version;
        let script = if self.scripted.is_empty() {
            self.roll(&request)
        } else {
            self.scripted.remove(0)
        };
        match script {
            Script::Pass => (self.coordinator.carry_out(&request), soon),
            Script::Refuse(code) => (refusal(&request, code, version), soon),
            Script::DoneBut(code) => {
                self.coordinator.carry_out(&request);
                (refusal(&request, code, version), soon)
            }
            Script::LoseRequest => (lost(), long),
            Script::LoseAnswer => {
                self.coordinator.carry_out(&request);
                if self.chance(self.weather.doubled) {
                    self.delayed.push(Message::Request(request));
                }
                (lost(), long)
            }
            Script::Delay => {
                self.delayed.push(Message::Request(request));
                (lost(), long)
            }
        }
    }

    fn roll(&mut self, request: &Request) -> Script {
        let weather = self.weather;
        // A stream does not double what it has delivered. Version 2 would stand even that, by the
        // epoch of each request.
        let is_v2 = self.coordinator.version == TransactionVersion::V2;
        if is_v2 && self.chance(weather.doubled) {
            self.delayed.push(Message::Request(request.clone()));
        }
        if self.chance(weather.lost_requests) {
            Script::LoseRequest
        } else if self.chance(weather.lost_answers) {
            Script::LoseAnswer
        } else if self.chance(weather.delayed) {
            Script::Delay
        } else if self.chance(weather.server_errors) {
            match self.rng.bool() {
                true => Script::Refuse(ErrorCode::UNKNOWN_SERVER_ERROR),
                false => Script::DoneBut(ErrorCode::UNKNOWN_SERVER_ERROR),
            }
        } else if self.chance(weather.passing) {
            Script::Refuse(match self.below(3) {
                0 => ErrorCode::COORDINATOR_LOAD_IN_PROGRESS,
                1 => ErrorCode::NOT_COORDINATOR,
                _ => ErrorCode::CONCURRENT_TRANSACTIONS,
            })
        } else {
            Script::Pass
        }
    }

    /// Writes a record of the user's transaction `number`.
    pub(super) fn write(
        &mut self,
        by: ProducerId,
        number: u32,
        to: i32,
    ) -> Result<(), PublishError> {
        self.blow();
        let failed = |kind, fate| Err(PublishError::new(kind, fate, "t"));
        if self.chance(self.weather.lost_requests) {
            return failed(PublishErrorKind::TimedOut, Fate::NotWritten);
        }
        if self.chance(self.weather.delayed) {
            self.delayed.push(Message::Write(by, number, to));
            return failed(PublishErrorKind::TimedOut, Fate::MaybeWritten);
        }
        match self.coordinator.write(by, number, to) {
            Ok(()) if self.chance(self.weather.lost_answers) => {
                failed(PublishErrorKind::TimedOut, Fate::MaybeWritten)
            }
            Ok(()) => Ok(()),
            Err(ErrorCode::INVALID_PRODUCER_EPOCH) => {
                failed(PublishErrorKind::Fenced, Fate::NotWritten)
            }
            Err(_) => failed(PublishErrorKind::Refused, Fate::NotWritten),
        }
    }
}
