//! What the assignors write into a subscription's user data, as Java members read it.
//!
//! | assignor | bytes |
//! |---|---|
//! | sticky | `[topic, [partition]]`, then the generation (i32); the first version had none |
//! | cooperative-sticky | the generation (i32), for leaders that read no version 2 of the subscription |
//!
//! The partition list has the form of the one in an assignment, and is read and written by that
//! codec, which checks every length.

use super::Assignor;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use ottla_types::TopicPartition;
use ottla_types::consumer_protocol::{Assignment, Subscription};

/// What an assignment has before its partitions: a version.
const HEAD: usize = 2;
/// What an assignment has after its partitions: no user data, as a length of -1.
const TAIL: [u8; 4] = [0xff; 4];

/// What a member had in the last generation that it was given something in.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Claim {
    /// The partitions.
    pub partitions: Vec<TopicPartition>,
    /// The generation; `None` when it is not said.
    pub generation: Option<i32>,
}

impl Assignor {
    /// The user data of a member with this assignor, which was last given `claim`.
    pub fn user_data(self, claim: &Claim) -> Option<Bytes> {
        match self {
            Self::Range | Self::RoundRobin => None,
            Self::Sticky if claim.partitions.is_empty() => None,
            Self::Sticky => Some(write_sticky(claim)),
            Self::CooperativeSticky => {
                let generation = claim.generation.unwrap_or(-1);
                Some(Bytes::copy_from_slice(&generation.to_be_bytes()))
            }
        }
    }

    /// What the member with this subscription claims. User data that cannot be read claims nothing.
    pub fn claim(self, subscription: &Subscription) -> Claim {
        let data = subscription.user_data.as_ref();
        match self {
            Self::Range | Self::RoundRobin => Claim::default(),
            Self::Sticky => data.and_then(read_sticky).unwrap_or_default(),
            Self::CooperativeSticky => {
                let said = data.and_then(|data| data.clone().try_get_i32().ok());
                Claim {
                    partitions: subscription.owned.clone(),
                    generation: subscription.generation.or(said.filter(|g| *g >= 0)),
                }
            }
        }
    }
}

fn write_sticky(claim: &Claim) -> Bytes {
    let assignment = Assignment {
        partitions: claim.partitions.clone(),
        user_data: None,
    };
    let blob = assignment.encode();
    let mut out = BytesMut::from(&blob[HEAD..blob.len() - TAIL.len()]);
    out.put_i32(claim.generation.unwrap_or(-1));
    out.freeze()
}

fn read_sticky(data: &Bytes) -> Option<Claim> {
    let with_generation = data.len().checked_sub(4).and_then(|at| {
        let generation = data.slice(at..).try_get_i32().ok()?;
        let partitions = read_partitions(&data[..at])?;
        let generation = (generation >= 0).then_some(generation);
        Some(Claim {
            partitions,
            generation,
        })
    });
    with_generation.or_else(|| {
        let partitions = read_partitions(data)?;
        Some(Claim {
            partitions,
            generation: None,
        })
    })
}

fn read_partitions(list: &[u8]) -> Option<Vec<TopicPartition>> {
    let mut blob = BytesMut::zeroed(HEAD);
    blob.put_slice(list);
    blob.put_slice(&TAIL);
    Assignment::decode(&blob.freeze())
        .ok()
        .map(|read| read.partitions)
}

#[cfg(test)]
mod tests {
    use super::super::tests::tps;
    use super::*;
    use proptest::prelude::*;

    fn says(user_data: &[u8]) -> Subscription {
        Subscription {
            user_data: Some(Bytes::copy_from_slice(user_data)),
            ..Subscription::default()
        }
    }

    /// One topic `t` with partitions 0 and 2, generation 7.
    const JAVA_V1: &[u8] = &[
        0, 0, 0, 1, 0, 1, b't', 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 7,
    ];

    #[test]
    fn sticky_writes_and_reads_the_bytes_of_java() {
        let claim = Claim {
            partitions: tps("t", &[0, 2]),
            generation: Some(7),
        };
        assert_eq!(Assignor::Sticky.user_data(&claim).unwrap(), JAVA_V1);
        assert_eq!(Assignor::Sticky.claim(&says(JAVA_V1)), claim);
        let first_version = Assignor::Sticky.claim(&says(&JAVA_V1[..JAVA_V1.len() - 4]));
        assert_eq!(first_version.partitions, claim.partitions);
        assert_eq!(first_version.generation, None);
        let nothing = Claim::default();
        assert_eq!(Assignor::Sticky.user_data(&nothing), None);
    }

    #[test]
    fn cooperative_sticky_says_its_generation() {
        let claim = Claim {
            partitions: tps("t", &[1]),
            generation: Some(7),
        };
        let data = Assignor::CooperativeSticky.user_data(&claim).unwrap();
        assert_eq!(data, 7i32.to_be_bytes()[..]);
        let old = Subscription {
            owned: tps("t", &[1]),
            ..says(&data)
        };
        assert_eq!(Assignor::CooperativeSticky.claim(&old), claim);
        let new = Subscription {
            generation: Some(9),
            ..old
        };
        assert_eq!(Assignor::CooperativeSticky.claim(&new).generation, Some(9));
    }

    proptest! {
        #[test]
        fn any_user_data_is_read_or_ignored(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            for assignor in Assignor::ALL {
                assignor.claim(&says(&bytes));
            }
        }
    }
}
