//! Partitioners that look at no key: they spread records, or take what the caller says.

use super::hash::fnv1a;
use super::{PartitionError, Partitioner, Partitions};
use fastrand::Rng;
use ottla_types::RecordRef;

/// How records without a key are spread. Only partitions with a leader are chosen, unless there are
/// none.
#[derive(Debug, Clone)]
pub struct Spread {
    seed: u64,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    Sticky {
        rng: Rng,
        current: Option<i32>,
        /// The one before, so that a change is a change where there is a choice.
        last: Option<i32>,
    },
    Random(Rng),
    RoundRobin {
        next: usize,
    },
}

impl Spread {
    /// One partition until its batch is closed, then another one by chance (KIP-480): fewer,
    /// larger batches.
    pub fn sticky(seed: u64) -> Self {
        Self {
            seed,
            state: State::Sticky {
                rng: Rng::with_seed(seed),
                current: None,
                last: None,
            },
        }
    }

    /// A partition by chance for each record.
    pub fn random(seed: u64) -> Self {
        Self {
            seed,
            state: State::Random(Rng::with_seed(seed)),
        }
    }

    /// One partition after the other.
    pub fn round_robin() -> Self {
        Self {
            seed: 0,
            state: State::RoundRobin { next: 0 },
        }
    }

    /// The same way to spread, from its beginning, with chances of its own for `topic`.
    pub(super) fn for_topic(&self, topic: &str) -> Self {
        let seed = self.seed ^ u64::from(fnv1a(topic.as_bytes()));
        match self.state {
            State::Sticky { .. } => Self::sticky(seed),
            State::Random(_) => Self::random(seed),
            State::RoundRobin { .. } => Self::round_robin(),
        }
    }

    pub(super) fn pick(&mut self, partitions: &Partitions<'_>) -> i32 {
        let usable = partitions.usable();
        match &mut self.state {
            State::Random(rng) => usable[rng.usize(..usable.len())],
            State::RoundRobin { next } => {
                let chosen = usable[*next % usable.len()];
                *next = next.wrapping_add(1);
                chosen
            }
            State::Sticky { rng, current, last } => match *current {
                Some(partition) if usable.binary_search(&partition).is_ok() => partition,
                _ => {
                    let skipped = last.and_then(|p| usable.binary_search(&p).ok());
                    let chosen = match skipped {
                        Some(skipped) if usable.len() > 1 => {
                            let index = rng.usize(..usable.len() - 1);
                            usable[index + usize::from(index >= skipped)]
                        }
                        _ => usable[rng.usize(..usable.len())],
                    };
                    *current = Some(chosen);
                    chosen
                }
            },
        }
    }

    pub(super) fn batch_closed(&mut self, partition: i32) {
        if let State::Sticky { current, last, .. } = &mut self.state
            && *current == Some(partition)
        {
            *last = current.take();
        }
    }
}

macro_rules! keyless {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone)]
        pub struct $name(Spread);

        impl Partitioner for $name {
            fn partition(
                &mut self,
                _record: &RecordRef<'_>,
                partitions: &Partitions<'_>,
            ) -> Result<i32, PartitionError> {
                Ok(self.0.pick(partitions))
            }

            fn keeps_keys_together(&self) -> bool {
                false
            }

            fn for_topic(&self, topic: &str) -> Box<dyn Partitioner> {
                Box::new(Self(self.0.for_topic(topic)))
            }
        }
    };
}

keyless! {
    /// A partition by chance for each record, whatever its key.
    RandomPartitioner
}
keyless! {
    /// One partition after the other, whatever the record's key.
    RoundRobinPartitioner
}

impl RandomPartitioner {
    /// A generator with this seed.
    pub fn new(seed: u64) -> Self {
        Self(Spread::random(seed))
    }
}

impl Default for RoundRobinPartitioner {
    fn default() -> Self {
        Self(Spread::round_robin())
    }
}

/// The partition that this producer has sent the fewest bytes to ([`RecordRef::size`]), among those
/// with a leader. Other producers' bytes are not known.
#[derive(Debug, Clone, Default)]
pub struct LeastBytesPartitioner {
    /// Bytes by partition number.
    sent: Vec<u64>,
}

impl Partitioner for LeastBytesPartitioner {
    fn partition(
        &mut self,
        record: &RecordRef<'_>,
        partitions: &Partitions<'_>,
    ) -> Result<i32, PartitionError> {
        let all = partitions.all();
        if self.sent.len() != all.len() {
            // A new partition must not get everything until it has caught up.
            self.sent = vec![0; all.len()];
        }
        let index_of = |p: &i32| all.binary_search(p).unwrap_or(0);
        let chosen = partitions
            .usable()
            .iter()
            .map(index_of)
            .min_by_key(|index| self.sent[*index])
            .unwrap_or(0);
        self.sent[chosen] = self.sent[chosen].saturating_add(record.size() as u64);
        Ok(all[chosen])
    }

    fn keeps_keys_together(&self) -> bool {
        false
    }

    fn for_topic(&self, _topic: &str) -> Box<dyn Partitioner> {
        Box::new(Self::default())
    }
}

/// The caller chooses: a record without [`RecordRef::partition`] is refused.
///
/// It cannot know whether the caller keeps keys together, so it does not promise it.
#[derive(Debug, Clone, Copy, Default)]
pub struct ManualPartitioner;

impl Partitioner for ManualPartitioner {
    fn partition(
        &mut self,
        record: &RecordRef<'_>,
        _partitions: &Partitions<'_>,
    ) -> Result<i32, PartitionError> {
        record.partition.ok_or(PartitionError::MissingPartition)
    }

    fn keeps_keys_together(&self) -> bool {
        false
    }

    fn for_topic(&self, _topic: &str) -> Box<dyn Partitioner> {
        Box::new(*self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_types::{AsRecord, Record};

    const ALL: [i32; 4] = [0, 1, 2, 3];

    #[test]
    fn sticky_moves_to_another_partition_when_a_batch_closes() {
        for seed in 0..50 {
            let mut sticky = Spread::sticky(seed);
            let partitions = Partitions::new(&ALL, &ALL);
            let mut before = sticky.pick(&partitions);
            for _ in 0..20 {
                assert_eq!(sticky.pick(&partitions), before, "seed {seed}");
                sticky.batch_closed(before);
                let after = sticky.pick(&partitions);
                assert_ne!(after, before, "seed {seed}");
                before = after;
            }
        }
    }

    #[test]
    fn spreading_avoids_partitions_without_a_leader_while_there_are_others() {
        for mut spread in [Spread::sticky(1), Spread::random(1), Spread::round_robin()] {
            for _ in 0..50 {
                let chosen = spread.pick(&Partitions::new(&ALL, &[1, 3]));
                assert!(chosen == 1 || chosen == 3);
                spread.batch_closed(chosen);
            }
            assert!(ALL.contains(&spread.pick(&Partitions::new(&ALL, &[]))));
            assert_eq!(spread.pick(&Partitions::new(&[0], &[0])), 0);
        }
    }

    #[test]
    fn round_robin_takes_every_partition_in_turn() {
        let mut p = RoundRobinPartitioner::default().for_topic("t");
        let partitions = Partitions::new(&ALL, &ALL);
        let record = Record::new("t").key("same");
        let chosen: Vec<_> = (0..6)
            .map(|_| p.partition(&record.as_record(), &partitions).unwrap())
            .collect();
        assert_eq!(chosen, [0, 1, 2, 3, 0, 1]);
    }

    #[test]
    fn least_bytes_evens_the_bytes_out() {
        let mut p = LeastBytesPartitioner::default();
        let partitions = Partitions::new(&ALL, &[0, 1]);
        let mut send = |size: usize| {
            let record = Record::new("t").value(vec![0; size]);
            p.partition(&record.as_record(), &partitions).unwrap()
        };
        assert_eq!(
            [send(100), send(30), send(30), send(30), send(30)],
            [0, 1, 1, 1, 1]
        );
        assert_eq!(send(1), 0);
    }

    #[test]
    fn manual_needs_a_partition() {
        let partitions = Partitions::new(&ALL, &ALL);
        let record = Record::new("t");
        let missing = ManualPartitioner.partition(&record.as_record(), &partitions);
        assert!(matches!(missing, Err(PartitionError::MissingPartition)));
        let chosen = ManualPartitioner.partition(&record.partition(2).as_record(), &partitions);
        assert_eq!(chosen.unwrap(), 2);
    }
}
