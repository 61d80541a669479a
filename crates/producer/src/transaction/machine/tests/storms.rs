//! Whatever the network does: a transaction counts whole or not at all, what is reported is so, and
//! the machine never stands still.

use super::*;
use std::collections::BTreeMap;

/// What the machine reported of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reported {
    Committed,
    NotCommitted,
    Unknown,
}

struct Story {
    bed: Bed,
    /// Of each transaction: the records that were acknowledged, and the report.
    reports: BTreeMap<u32, (u32, Reported)>,
    is_fenced: bool,
    offset: i64,
}

impl Story {
    fn new(version: TransactionVersion, seed: u64, weather: Weather) -> Self {
        Self {
            bed: Bed::new(version, seed, weather),
            reports: BTreeMap::new(),
            is_fenced: false,
            offset: 0,
        }
    }

    /// One transaction from its begin to its end.
    fn transaction(&mut self, number: u32) {
        let bed = &mut self.bed;
        match bed.begin() {
            Ok(()) => {}
            Err(error) => return self.not_begun(&error),
        }
        let mut acknowledged = 0;
        for _ in 0..bed.network.below(5) {
            let to = bed.network.below(3) as i32;
            if bed.write(number, to).is_ok() && bed.machine.is_open() {
                acknowledged += 1;
            }
        }
        if bed.network.chance(40) {
            self.offset += 1;
            // Its error stands until the abort.
            let _ = bed.send_offset(self.offset);
        }
        let wants_commit = bed.network.chance(80);
        let ended = if wants_commit {
            bed.commit()
        } else {
            Err(TransactError::new(TransactErrorKind::Abortable, "id"))
        };
        let report = match &ended {
            Ok(()) => Reported::Committed,
            Err(error) if error.may_be_committed() => Reported::Unknown,
            Err(_) => Reported::NotCommitted,
        };
        if report == Reported::Committed {
            let committed = &self.bed.network.coordinator.committed;
            let there = committed.get(&number).copied().unwrap_or(0);
            assert_eq!(there, acknowledged, "reported as committed");
        }
        self.reports.insert(number, (acknowledged, report));
        match ended {
            Ok(()) => {}
            Err(error) if error.is_abortable() => self.abort(),
            Err(error) => self.dead(&error),
        }
    }

    fn abort(&mut self) {
        loop {
            match self.bed.abort() {
                Ok(()) => return,
                Err(error) if error.kind() == TransactErrorKind::Unavailable => {}
                Err(error) => return self.dead(&error),
            }
        }
    }

    fn not_begun(&mut self, error: &TransactError) {
        if error.kind() != TransactErrorKind::Unavailable {
            self.dead(error);
        }
    }

    fn dead(&mut self, error: &TransactError) {
        assert_eq!(error.kind(), TransactErrorKind::Fenced, "{error:?}");
        assert!(self.bed.network.has_rival, "fenced by nobody: {error:?}");
        self.is_fenced = true;
    }

    /// Everything that was delayed has arrived: what the logs hold now is what they will hold.
    fn check(&mut self) {
        self.bed.network.clear_up();
        let coordinator = &mut self.bed.network.coordinator;
        // What is left open ends with its time.
        coordinator.fence();
        for (number, (acknowledged, report)) in &self.reports {
            let committed = coordinator.committed.get(number).copied().unwrap_or(0);
            let aborted = coordinator.aborted.get(number).copied().unwrap_or(0);
            match report {
                Reported::Committed => {
                    assert_eq!(
                        (committed, aborted),
                        (*acknowledged, 0),
                        "{number} {report:?}"
                    );
                }
                Reported::NotCommitted => assert_eq!(committed, 0, "{number} {report:?}"),
                Reported::Unknown => {
                    assert!(committed == 0 || aborted == 0, "{number} in halves");
                    assert!(committed == 0 || committed == *acknowledged, "{number}");
                }
            }
        }
    }
}

fn weather(kind: u64) -> Weather {
    let mild = Weather {
        lost_requests: 3,
        lost_answers: 3,
        delayed: 3,
        doubled: 5,
        server_errors: 3,
        passing: 10,
        timeouts: 1,
    };
    match kind % 4 {
        0 => mild,
        1 => Weather {
            lost_answers: 40,
            delayed: 30,
            ..mild
        },
        2 => Weather {
            timeouts: 15,
            doubled: 30,
            ..mild
        },
        _ => Weather {
            server_errors: 60,
            delayed: 40,
            ..mild
        },
    }
}

#[test]
fn whatever_the_network_does_a_transaction_counts_whole_or_not_at_all() {
    let mut counts = [0; 3];
    for version in [TransactionVersion::V1, TransactionVersion::V2] {
        for seed in 0..4000 {
            let told = std::panic::catch_unwind(|| {
                let mut story = Story::new(version, seed, weather(seed));
                for number in 0..12 {
                    if story.is_fenced {
                        break;
                    }
                    if seed % 5 == 0 && number == 8 {
                        story.bed.network.rival();
                    }
                    story.transaction(number);
                }
                if story.bed.network.has_rival && !story.is_fenced {
                    // Whoever was replaced hears of it with the first thing that it does.
                    story.bed.network.clear_up();
                    for number in 12..20 {
                        if !story.is_fenced {
                            story.transaction(number);
                        }
                    }
                    let mut reports = story.reports.range(12..).map(|(_, (n, r))| (n, r));
                    assert!(reports.all(|(n, r)| *n == 0 || *r == Reported::NotCommitted));
                }
                story.check();
                let reports = story.reports.values().map(|(_, report)| *report as usize);
                reports.collect::<Vec<_>>()
            });
            match told {
                Ok(reports) => reports.into_iter().for_each(|report| counts[report] += 1),
                Err(panic) => {
                    eprintln!("seed {seed}, {version:?}");
                    std::panic::resume_unwind(panic);
                }
            }
        }
    }
    // The weather is neither always good nor always bad.
    assert!(counts.iter().all(|count| *count > 500), "{counts:?}");
}
