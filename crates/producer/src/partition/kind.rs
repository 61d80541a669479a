//! [`PartitionerKind`]: the rules by name, as configuration has them.

use super::{
    BusinessKeyPartitioner, HashPartitioner, Hasher, LeastBytesPartitioner, ManualPartitioner,
    Partitioner, RandomPartitioner, RoundRobinPartitioner, SignRule, Spread, Unkeyed,
};
use ottla_types::ConfigError;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A partitioner by name.
///
/// | name | rule | null key | empty key |
/// |---|---|---|---|
/// | `default` | murmur2, as the Java client | sticky | hashed |
/// | `murmur2` | murmur2, as librdkafka | hashed as empty | hashed |
/// | `murmur2_random` | murmur2, as librdkafka, and as sarama's murmur2 | random | hashed |
/// | `hash` | FNV-1a, as sarama's default | random | hashed |
/// | `reference_hash` | FNV-1a with Java's sign rule, as sarama's reference hash | random | hashed |
/// | `fnv1a` | FNV-1a, as librdkafka | hashed as empty | hashed |
/// | `fnv1a_random` | FNV-1a, as librdkafka: the same as `hash` | random | hashed |
/// | `consistent` (`consistent_crc`) | CRC-32, as librdkafka | partition 0 | partition 0 |
/// | `consistent_random` | CRC-32, as librdkafka's default | random | random |
/// | `crc_hash` | CRC-32, as sarama's consistent CRC | random | partition 0 |
/// | `business_key` | CRC-32 of the key | refused | partition 0 |
/// | `business_key:NAME` | CRC-32 of the header NAME, refused without it | by header | by header |
/// | `manual` | the record's partition, refused without it | - | - |
/// | `round_robin`, `random`, `least_bytes` | spread, keys do not matter | spread | spread |
///
/// The first ten and `business_key` keep the records of a key together for as long as the number of
/// partitions stays. Adding partitions moves keys.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
#[non_exhaustive]
pub enum PartitionerKind {
    /// The Java client's.
    #[default]
    Default,
    /// librdkafka's `murmur2`.
    Murmur2,
    /// librdkafka's `murmur2_random`.
    Murmur2Random,
    /// sarama's `NewHashPartitioner`.
    Hash,
    /// sarama's `NewReferenceHashPartitioner`.
    ReferenceHash,
    /// librdkafka's `fnv1a`.
    Fnv1a,
    /// librdkafka's `fnv1a_random`.
    Fnv1aRandom,
    /// librdkafka's `consistent`.
    Consistent,
    /// librdkafka's `consistent_random`.
    ConsistentRandom,
    /// sarama's `NewConsistentCRCHashPartitioner`.
    CrcHash,
    /// CRC-32 of the key.
    BusinessKey,
    /// CRC-32 of the header with this name.
    BusinessKeyHeader(String),
    /// [`ManualPartitioner`].
    Manual,
    /// [`RoundRobinPartitioner`].
    RoundRobin,
    /// [`RandomPartitioner`].
    Random,
    /// [`LeastBytesPartitioner`].
    LeastBytes,
}

const BUSINESS_KEY: &str = "business_key";

const NAMES: [(&str, PartitionerKind); 15] = [
    ("default", PartitionerKind::Default),
    ("murmur2", PartitionerKind::Murmur2),
    ("murmur2_random", PartitionerKind::Murmur2Random),
    ("hash", PartitionerKind::Hash),
    ("reference_hash", PartitionerKind::ReferenceHash),
    ("fnv1a", PartitionerKind::Fnv1a),
    ("fnv1a_random", PartitionerKind::Fnv1aRandom),
    ("consistent", PartitionerKind::Consistent),
    ("consistent_random", PartitionerKind::ConsistentRandom),
    ("crc_hash", PartitionerKind::CrcHash),
    (BUSINESS_KEY, PartitionerKind::BusinessKey),
    ("manual", PartitionerKind::Manual),
    ("round_robin", PartitionerKind::RoundRobin),
    ("random", PartitionerKind::Random),
    ("least_bytes", PartitionerKind::LeastBytes),
];

impl PartitionerKind {
    /// The partitioner. `seed` decides its random choices.
    pub fn build(&self, seed: u64) -> Box<dyn Partitioner> {
        use Hasher::{Crc32, Fnv1a, Murmur2};
        let hash = |hasher, sign, unkeyed, fallback| -> Box<dyn Partitioner> {
            Box::new(HashPartitioner::new(hasher, sign, unkeyed, fallback))
        };
        let random = Spread::random(seed);
        match self {
            Self::Default => hash(Murmur2, SignRule::Mask, Unkeyed::Null, Spread::sticky(seed)),
            Self::Murmur2 => hash(Murmur2, SignRule::Mask, Unkeyed::Never, random),
            Self::Murmur2Random => hash(Murmur2, SignRule::Mask, Unkeyed::Null, random),
            Self::Hash | Self::Fnv1aRandom => hash(Fnv1a, SignRule::Negate, Unkeyed::Null, random),
            Self::ReferenceHash => hash(Fnv1a, SignRule::Mask, Unkeyed::Null, random),
            Self::Fnv1a => hash(Fnv1a, SignRule::Negate, Unkeyed::Never, random),
            Self::Consistent => hash(Crc32, SignRule::Unsigned, Unkeyed::Never, random),
            Self::ConsistentRandom => hash(Crc32, SignRule::Unsigned, Unkeyed::NullOrEmpty, random),
            Self::CrcHash => hash(Crc32, SignRule::Unsigned, Unkeyed::Null, random),
            Self::BusinessKey => Box::new(BusinessKeyPartitioner::from_key()),
            Self::BusinessKeyHeader(name) => Box::new(BusinessKeyPartitioner::from_header(name)),
            Self::Manual => Box::new(ManualPartitioner),
            Self::RoundRobin => Box::new(RoundRobinPartitioner::default()),
            Self::Random => Box::new(RandomPartitioner::new(seed)),
            Self::LeastBytes => Box::new(LeastBytesPartitioner::default()),
        }
    }
}

impl fmt::Display for PartitionerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::BusinessKeyHeader(header) = self {
            return write!(f, "{BUSINESS_KEY}:{header}");
        }
        let named = NAMES.iter().find(|(_, kind)| kind == self);
        f.write_str(named.map_or("", |(name, _)| name))
    }
}

impl FromStr for PartitionerKind {
    type Err = ConfigError;

    /// # Errors
    /// Lists the known names.
    fn from_str(name: &str) -> Result<Self, ConfigError> {
        if let Some((_, kind)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(kind.clone());
        }
        match name.split_once(':') {
            Some((BUSINESS_KEY, header)) if !header.is_empty() => {
                Ok(Self::BusinessKeyHeader(header.to_owned()))
            }
            _ if name == "consistent_crc" => Ok(Self::Consistent),
            _ => {
                let known: Vec<_> = NAMES.iter().map(|(known, _)| *known).collect();
                let expected = format!("one of: {}, {BUSINESS_KEY}:HEADER", known.join(", "));
                Err(ConfigError::new("partitioner", name, expected))
            }
        }
    }
}

impl TryFrom<String> for PartitionerKind {
    type Error = ConfigError;

    fn try_from(name: String) -> Result<Self, ConfigError> {
        name.parse()
    }
}

impl From<PartitionerKind> for String {
    fn from(kind: PartitionerKind) -> Self {
        kind.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_as_it_is_written() {
        for (name, kind) in NAMES {
            assert_eq!(name.parse(), Ok(kind.clone()));
            assert_eq!(kind.to_string(), name);
        }
        assert_eq!("consistent_crc".parse(), Ok(PartitionerKind::Consistent));
        let header = PartitionerKind::BusinessKeyHeader("tenant".into());
        assert_eq!(header.to_string().parse(), Ok(header));
    }

    #[test]
    fn trap_d_an_unknown_name_is_refused_with_the_known_ones() {
        for name in ["", "murmur3", "Default", "business_key:"] {
            let error = name.parse::<PartitionerKind>().unwrap_err();
            assert_eq!((error.key, &*error.value), ("partitioner", name));
            for (known, _) in NAMES {
                assert!(error.expected.contains(known), "{known} in {error}");
            }
        }
    }

    #[test]
    fn only_rules_by_key_keep_keys_together() {
        use PartitionerKind as K;
        let loose = [
            K::Manual,
            K::RoundRobin,
            K::Random,
            K::LeastBytes,
            K::BusinessKeyHeader("h".into()),
        ];
        for (_, kind) in NAMES {
            let together = kind.build(1).keeps_keys_together();
            assert_eq!(together, !loose.contains(&kind), "{kind}");
        }
        assert!(!loose[4].build(1).keeps_keys_together());
    }
}
