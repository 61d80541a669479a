//! Partitioners that hash the key: the rules of the Java client, sarama and librdkafka, and any
//! other put together from a hash function, a sign rule and a fallback.

use super::{PartitionError, Partitioner, Partitions, Spread};
use ottla_types::RecordRef;
use std::fmt;
use std::sync::Arc;

/// A hash function of the user's own.
pub type HashFn = Arc<dyn Fn(&[u8]) -> u32 + Send + Sync>;

/// The function that turns a key into 32 bits.
#[derive(Clone)]
#[non_exhaustive]
pub enum Hasher {
    /// Murmur2 as the Java client computes it, seed `0x9747b28c`.
    Murmur2,
    /// FNV-1a, 32 bits.
    Fnv1a,
    /// CRC-32 (IEEE).
    Crc32,
    /// A function of the user's own.
    Custom(HashFn),
}

impl Hasher {
    /// The hash of `key`.
    pub fn hash(&self, key: &[u8]) -> u32 {
        match self {
            Self::Murmur2 => murmur2(key),
            Self::Fnv1a => fnv1a(key),
            Self::Crc32 => crc32fast::hash(key),
            Self::Custom(hash) => hash(key),
        }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Murmur2 => "Murmur2",
            Self::Fnv1a => "Fnv1a",
            Self::Crc32 => "Crc32",
            Self::Custom(_) => "Custom",
        })
    }
}

/// How 32 bits become an index below the number of partitions. The rules differ for hashes whose
/// highest bit is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignRule {
    /// The highest bit is cleared, then the remainder: Java's `toPositive`.
    Mask,
    /// The remainder of the unsigned number: librdkafka's CRC-32.
    Unsigned,
    /// The remainder of the signed number, without its sign: sarama's default.
    Negate,
}

impl SignRule {
    /// The index for `hash` among `count` partitions; 0 if there is none.
    pub fn index(self, hash: u32, count: usize) -> usize {
        let count = i64::try_from(count).unwrap_or(i64::MAX).max(1);
        let remainder = match self {
            Self::Mask => i64::from(hash & 0x7fff_ffff) % count,
            Self::Unsigned => i64::from(hash) % count,
            Self::Negate => (i64::from(hash as i32) % count).abs(),
        };
        remainder as usize
    }
}

/// Which keys are not hashed but spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unkeyed {
    /// Null keys; an empty key is a key. Java, sarama, librdkafka's `murmur2_random`.
    Null,
    /// Null and empty keys: librdkafka's `consistent_random`.
    NullOrEmpty,
    /// None: a null key is hashed as an empty one. librdkafka's `consistent` and `murmur2`.
    Never,
}

/// Hashes the record's key over all partitions, available or not; records without a key are spread.
#[derive(Debug, Clone)]
pub struct HashPartitioner {
    hasher: Hasher,
    sign: SignRule,
    unkeyed: Unkeyed,
    fallback: Spread,
}

impl HashPartitioner {
    /// A rule of `hasher` and `sign`. Records that are `unkeyed` go where `fallback` says.
    pub fn new(hasher: Hasher, sign: SignRule, unkeyed: Unkeyed, fallback: Spread) -> Self {
        Self {
            hasher,
            sign,
            unkeyed,
            fallback,
        }
    }
}

impl Partitioner for HashPartitioner {
    fn partition(
        &mut self,
        record: &RecordRef<'_>,
        partitions: &Partitions<'_>,
    ) -> Result<i32, PartitionError> {
        let key = record.key;
        let spread = match self.unkeyed {
            Unkeyed::Null => key.is_none(),
            Unkeyed::NullOrEmpty => key.is_none_or(<[u8]>::is_empty),
            Unkeyed::Never => false,
        };
        if spread {
            return Ok(self.fallback.pick(partitions));
        }
        let hash = self.hasher.hash(key.unwrap_or_default());
        let all = partitions.all();
        Ok(all[self.sign.index(hash, all.len())])
    }

    fn keeps_keys_together(&self) -> bool {
        // An empty key that is spread is librdkafka's way of saying "no key".
        true
    }

    fn for_topic(&self, topic: &str) -> Box<dyn Partitioner> {
        Box::new(Self {
            fallback: self.fallback.for_topic(topic),
            ..self.clone()
        })
    }

    fn batch_closed(&mut self, partition: i32) {
        self.fallback.batch_closed(partition);
    }
}

/// FNV-1a, 32 bits.
pub(super) fn fnv1a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
    })
}

/// Murmur2 with the seed and byte order of the Java client's `Utils.murmur2`.
fn murmur2(bytes: &[u8]) -> u32 {
    const M: u32 = 0x5bd1_e995;
    const SEED: u32 = 0x9747_b28c;
    let mut hash = SEED ^ bytes.len() as u32;
    let (words, tail) = bytes.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (i, byte) in tail.iter().enumerate() {
            hash ^= u32::from(*byte) << (8 * i);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sign_rules_differ_only_for_hashes_with_the_highest_bit() {
        let rules = [SignRule::Mask, SignRule::Unsigned, SignRule::Negate];
        assert_eq!(rules.map(|r| r.index(25, 7)), [4, 4, 4]);
        assert_eq!(rules.map(|r| r.index(0xffff_fff2, 7)), [2, 4, 0]);
        assert_eq!(rules.map(|r| r.index(0x8000_0000, 7)), [0, 2, 2]);
        assert_eq!(rules.map(|r| r.index(0xffff_fff0, 0)), [0, 0, 0]);
    }

    #[test]
    fn hashes_have_their_published_values() {
        assert_eq!(fnv1a(b""), 0x811c_9dc5);
        assert_eq!(fnv1a(b"foobar"), 0xbf9c_f968);
        // From the Java client's own tests.
        assert_eq!(murmur2(b"21") as i32, -973_932_308);
        assert_eq!(murmur2(b"foobar") as i32, -790_332_482);
        assert_eq!(murmur2(b"a-little-bit-long-string") as i32, -985_981_536);
    }
}
