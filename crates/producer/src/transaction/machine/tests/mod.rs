//! The state machine against a model of the coordinator and the partitions, on virtual time.

mod flows;
mod model;
mod storms;

use super::*;
use model::{Network, Weather};
use ottla_types::ErrorCode;

/// A producer, the network, and the time.
struct Bed {
    machine: Machine,
    network: Network,
    now: Instant,
}

fn group() -> GroupMetadata {
    GroupMetadata::outside_of_membership("g")
}

fn partition(number: i32) -> TopicPartition {
    TopicPartition::new("t", number)
}

fn offset(offset: i64) -> CommitOffset {
    CommitOffset {
        partition: partition(0),
        offset,
        leader_epoch: None,
        metadata: String::new(),
    }
}

impl Bed {
    /// A producer that has its id.
    fn new(version: TransactionVersion, seed: u64, weather: Weather) -> Self {
        let mut bed = Self::uninitialised(version, seed, weather);
        loop {
            let asked = bed.machine.initialise(bed.deadline()).unwrap();
            match bed.run(asked) {
                Ok(()) => {
                    // What arrived late before that does not matter any more.
                    bed.network.has_rival = !bed.network.is_current(bed.machine.producer());
                    return bed;
                }
                Err(error) => assert_eq!(error.kind(), TransactErrorKind::Unavailable),
            }
        }
    }

    fn uninitialised(version: TransactionVersion, seed: u64, weather: Weather) -> Self {
        Self {
            machine: Machine::new("id".into(), 60_000, seed),
            network: Network::new(version, seed, weather),
            now: Instant::now(),
        }
    }

    fn deadline(&self) -> Instant {
        self.now + Duration::from_secs(2)
    }

    /// Goes on until the operation has its result.
    fn run(&mut self, ticket: Ticket) -> Result<(), TransactError> {
        for _ in 0..10_000 {
            if let Some(result) = self.machine.result(ticket) {
                return result;
            }
            let goes_on = self.step() || self.machine.result(ticket).is_some();
            assert!(goes_on, "it neither asks nor waits nor has a result");
        }
        panic!("it never ends: {:?}", self.machine);
    }

    /// One request or wait; `false` if there was none.
    fn step(&mut self) -> bool {
        match self.machine.poll(self.now) {
            Step::Ask(request, limit) => {
                let api = request.api();
                let (answer, took) = self.network.ask(request);
                self.now += took;
                if let Some(limit) = limit {
                    self.now = self.now.min(limit);
                }
                self.machine.answered(api, answer, self.now);
                true
            }
            Step::WaitUntil(at) => {
                assert!(at > self.now);
                self.now = at;
                true
            }
            Step::Idle => false,
        }
    }

    fn begin(&mut self) -> Result<(), TransactError> {
        let deadline = self.deadline();
        let ticket = self.machine.begin(deadline)?;
        self.run(ticket)
    }

    /// Writes a record of transaction `number`.
    fn write(&mut self, number: u32, to: i32) -> Result<(), TransactError> {
        let partition = partition(to);
        for _ in 0..10_000 {
            match self.machine.admit(&partition) {
                Admission::Never(error) => return Err(error),
                Admission::Now => {
                    let producer = self.machine.producer().unwrap();
                    let written = self.network.write(producer, number, to);
                    if let Err(error) = &written {
                        self.machine.write_failed(error);
                    }
                    return Ok(());
                }
                Admission::Later => {
                    self.step();
                }
            }
        }
        panic!("it is never admitted: {:?}", self.machine);
    }

    fn send_offset(&mut self, at: i64) -> Result<(), TransactError> {
        let deadline = self.deadline();
        let ticket = self
            .machine
            .send_offsets(group(), vec![offset(at)], deadline)?;
        self.run(ticket)
    }

    fn commit(&mut self) -> Result<(), TransactError> {
        let deadline = self.deadline();
        let ticket = self.machine.commit(deadline)?;
        self.run(ticket)
    }

    fn abort(&mut self) -> Result<(), TransactError> {
        let deadline = self.deadline();
        let ticket = self.machine.abort(deadline)?;
        self.run(ticket)
    }
}
