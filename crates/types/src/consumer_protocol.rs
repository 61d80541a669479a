//! The blobs that consumers exchange through the coordinator: subscriptions go up with a join,
//! assignments come down with a sync.
//!
//! Both begin with a version, are big-endian and not flexible. Subscription v1 added the owned
//! partitions, v2 the generation (KIP-792), v3 the rack (KIP-881). A version newer than 3 is read
//! as 3, and bytes after the known fields are ignored. The bytes come from other members: every
//! length is checked against what is left before anything is reserved.

use crate::TopicPartition;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The newest subscription version that is written and known.
const SUBSCRIPTION_VERSION: i16 = 3;
/// Every assignment version has the same fields so far; Java writes the same number as above.
const ASSIGNMENT_VERSION: i16 = 3;
/// `generation` on the wire for a member without one.
const NO_GENERATION: i32 = -1;

/// Why a blob could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CodecError {
    /// The blob ends inside a field.
    #[error("ends inside `{field}`")]
    Truncated {
        /// The field.
        field: &'static str,
    },
    /// A length or count that is negative or above what is left.
    #[error("`{field}` has length {length}, {left} bytes are left")]
    BadLength {
        /// The field.
        field: &'static str,
        /// The length it claims.
        length: i32,
        /// What the blob still holds.
        left: usize,
    },
    /// A string that is not UTF-8.
    #[error("`{field}` is not UTF-8")]
    NotUtf8 {
        /// The field.
        field: &'static str,
    },
    /// A negative version or partition.
    #[error("`{field}` is {value}")]
    Negative {
        /// The field.
        field: &'static str,
        /// Its value.
        value: i32,
    },
}

/// What a member wants and has.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subscription {
    /// The topics.
    pub topics: Vec<Arc<str>>,
    /// Free bytes for the assignor; cooperative-sticky puts its generation there (v1 readers).
    pub user_data: Option<Bytes>,
    /// What the member owns (v1).
    pub owned: Vec<TopicPartition>,
    /// The generation in which it came to own that (v2).
    pub generation: Option<i32>,
    /// The member's rack (v3).
    pub rack: Option<String>,
}

impl Subscription {
    /// Writes version 3.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_i16(SUBSCRIPTION_VERSION);
        put_count(&mut out, self.topics.len());
        for topic in &self.topics {
            put_string(&mut out, topic);
        }
        put_nullable_bytes(&mut out, self.user_data.as_ref());
        put_partitions(&mut out, &self.owned);
        out.put_i32(self.generation.unwrap_or(NO_GENERATION));
        match &self.rack {
            Some(rack) => put_string(&mut out, rack),
            None => out.put_i16(-1),
        }
        out.freeze()
    }

    /// Reads any version.
    ///
    /// # Errors
    /// [`CodecError`] names the field that cannot be read.
    pub fn decode(blob: &Bytes) -> Result<Self, CodecError> {
        let mut input = Reader(blob.clone());
        let version = input.version()?;
        let count = input.count("topics", 2)?;
        let topics = (0..count)
            .map(|_| input.string("topic"))
            .collect::<Result<_, _>>()?;
        let user_data = input.nullable_bytes("userdata")?;
        let mut subscription = Self {
            topics,
            user_data,
            ..Self::default()
        };
        if version >= 1 {
            subscription.owned = input.partitions("owned partitions")?;
        }
        if version >= 2 {
            let generation = input.i32("generation")?;
            subscription.generation = (generation >= 0).then_some(generation);
        }
        if version >= 3 {
            subscription.rack = input.nullable_string("rack")?;
        }
        Ok(subscription)
    }
}

/// What the leader gives a member.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    /// The partitions.
    pub partitions: Vec<TopicPartition>,
    /// Free bytes from the assignor.
    pub user_data: Option<Bytes>,
}

impl Assignment {
    /// Writes version 3.
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::new();
        out.put_i16(ASSIGNMENT_VERSION);
        put_partitions(&mut out, &self.partitions);
        put_nullable_bytes(&mut out, self.user_data.as_ref());
        out.freeze()
    }

    /// Reads any version. No bytes at all are an empty assignment: so the coordinator answers a
    /// member that the leader left out.
    ///
    /// # Errors
    /// [`CodecError`] names the field that cannot be read.
    pub fn decode(blob: &Bytes) -> Result<Self, CodecError> {
        if blob.is_empty() {
            return Ok(Self::default());
        }
        let mut input = Reader(blob.clone());
        input.version()?;
        Ok(Self {
            partitions: input.partitions("partitions")?,
            user_data: input.nullable_bytes("userdata")?,
        })
    }
}

/// A count or length for the wire. Our own lists come from names of at most 249 bytes and from
/// blobs that fit one request, so they are far below the limit.
fn put_count(out: &mut BytesMut, count: usize) {
    out.put_i32(i32::try_from(count).unwrap_or(i32::MAX));
}

/// Strings have 16-bit lengths; a longer one (never a legal name) is cut at the limit's boundary.
fn put_string(out: &mut BytesMut, text: &str) {
    let text = &text[..text.floor_char_boundary_at(i16::MAX as usize)];
    out.put_i16(text.len() as i16);
    out.put_slice(text.as_bytes());
}

trait FloorCharBoundary {
    fn floor_char_boundary_at(&self, limit: usize) -> usize;
}

impl FloorCharBoundary for str {
    fn floor_char_boundary_at(&self, limit: usize) -> usize {
        (0..=limit.min(self.len()))
            .rev()
            .find(|&at| self.is_char_boundary(at))
            .unwrap_or(0)
    }
}

fn put_nullable_bytes(out: &mut BytesMut, bytes: Option<&Bytes>) {
    match bytes {
        Some(bytes) => {
            put_count(out, bytes.len());
            out.put_slice(bytes);
        }
        None => out.put_i32(-1),
    }
}

fn put_partitions(out: &mut BytesMut, partitions: &[TopicPartition]) {
    let mut by_topic: BTreeMap<&Arc<str>, Vec<i32>> = BTreeMap::new();
    for tp in partitions {
        by_topic.entry(&tp.topic).or_default().push(tp.partition);
    }
    put_count(out, by_topic.len());
    for (topic, mut numbers) in by_topic {
        numbers.sort_unstable();
        put_string(out, topic);
        put_count(out, numbers.len());
        for number in numbers {
            out.put_i32(number);
        }
    }
}

/// Reads fields and checks each length against what is left.
struct Reader(Bytes);

impl Reader {
    fn version(&mut self) -> Result<i16, CodecError> {
        let version = self.i16("version")?;
        if version < 0 {
            return Err(CodecError::Negative {
                field: "version",
                value: version.into(),
            });
        }
        Ok(version)
    }

    fn i16(&mut self, field: &'static str) -> Result<i16, CodecError> {
        self.0
            .try_get_i16()
            .map_err(|_| CodecError::Truncated { field })
    }

    fn i32(&mut self, field: &'static str) -> Result<i32, CodecError> {
        self.0
            .try_get_i32()
            .map_err(|_| CodecError::Truncated { field })
    }

    /// How many elements follow, each at least `element` bytes long.
    fn count(&mut self, field: &'static str, element: usize) -> Result<usize, CodecError> {
        let length = self.i32(field)?;
        let left = self.0.remaining();
        match usize::try_from(length) {
            Ok(count) if count <= left / element => Ok(count),
            _ => Err(CodecError::BadLength {
                field,
                length,
                left,
            }),
        }
    }

    fn take(&mut self, field: &'static str, length: i32) -> Result<Bytes, CodecError> {
        let left = self.0.remaining();
        match usize::try_from(length) {
            Ok(wanted) if wanted <= left => Ok(self.0.split_to(wanted)),
            _ => Err(CodecError::BadLength {
                field,
                length,
                left,
            }),
        }
    }

    fn text<T: for<'a> From<&'a str>>(
        &mut self,
        field: &'static str,
        length: i16,
    ) -> Result<T, CodecError> {
        let bytes = self.take(field, length.into())?;
        std::str::from_utf8(&bytes)
            .map(T::from)
            .map_err(|_| CodecError::NotUtf8 { field })
    }

    fn string(&mut self, field: &'static str) -> Result<Arc<str>, CodecError> {
        let length = self.i16(field)?;
        self.text(field, length)
    }

    fn nullable_string(&mut self, field: &'static str) -> Result<Option<String>, CodecError> {
        match self.i16(field)? {
            -1 => Ok(None),
            length => self.text(field, length).map(Some),
        }
    }

    fn nullable_bytes(&mut self, field: &'static str) -> Result<Option<Bytes>, CodecError> {
        match self.i32(field)? {
            -1 => Ok(None),
            length => self.take(field, length).map(Some),
        }
    }

    fn partitions(&mut self, field: &'static str) -> Result<Vec<TopicPartition>, CodecError> {
        let mut all = Vec::new();
        for _ in 0..self.count(field, 6)? {
            let topic = self.string(field)?;
            let count = self.count(field, 4)?;
            all.reserve(count);
            for _ in 0..count {
                let partition = self.i32(field)?;
                if partition < 0 {
                    return Err(CodecError::Negative {
                        field,
                        value: partition,
                    });
                }
                all.push(TopicPartition::new(topic.clone(), partition));
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tp(topic: &str, partition: i32) -> TopicPartition {
        TopicPartition::new(topic, partition)
    }

    fn full() -> Subscription {
        Subscription {
            topics: vec!["a".into(), "b".into()],
            user_data: Some(Bytes::from_static(&[1, 2])),
            owned: vec![tp("a", 0), tp("a", 3), tp("b", 1)],
            generation: Some(7),
            rack: Some("r".into()),
        }
    }

    #[test]
    fn a_subscription_survives_the_round_trip() {
        assert_eq!(Subscription::decode(&full().encode()), Ok(full()));
        let empty = Subscription::default();
        assert_eq!(Subscription::decode(&empty.encode()), Ok(empty));
    }

    #[test]
    fn a_subscription_has_the_bytes_of_the_protocol() {
        let expected: &[u8] = &[
            0, 3, 0, 0, 0, 2, 0, 1, b'a', 0, 1, b'b', 0, 0, 0, 2, 1, 2, 0, 0, 0, 2, 0, 1, b'a', 0,
            0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 1, b'b', 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 7, 0, 1,
            b'r',
        ];
        assert_eq!(&full().encode()[..], expected);
    }

    #[test]
    fn older_versions_lack_the_later_fields() {
        let v0 = Bytes::from_static(&[0, 0, 0, 0, 0, 1, 0, 1, b'a', 255, 255, 255, 255]);
        let read = Subscription::decode(&v0).unwrap();
        assert_eq!(read.topics, vec![Arc::from("a")]);
        assert_eq!((read.user_data, read.generation), (None, None));
        for (version, generation, rack) in [(1, None, None), (2, Some(7), None)] {
            let mut blob = BytesMut::from(&full().encode()[..]);
            blob[1] = version;
            let read = Subscription::decode(&blob.freeze()).unwrap();
            assert_eq!(read.owned, full().owned);
            assert_eq!((read.generation, read.rack), (generation, rack));
        }
    }

    #[test]
    fn newer_versions_are_read_as_the_newest_known_and_trailing_bytes_ignored() {
        let mut blob = BytesMut::from(&full().encode()[..]);
        blob[1] = 9;
        blob.put_slice(b"from the future");
        assert_eq!(Subscription::decode(&blob.freeze()), Ok(full()));
        let assignment = Assignment {
            partitions: vec![tp("a", 1)],
            user_data: None,
        };
        let mut blob = BytesMut::from(&assignment.encode()[..]);
        blob[0] = 0x7f;
        blob.put_u8(1);
        assert_eq!(Assignment::decode(&blob.freeze()), Ok(assignment));
    }

    #[test]
    fn an_assignment_survives_the_round_trip_and_no_bytes_are_none() {
        let assignment = Assignment {
            partitions: vec![tp("a", 0), tp("b", 2)],
            user_data: Some(Bytes::new()),
        };
        assert_eq!(Assignment::decode(&assignment.encode()), Ok(assignment));
        assert_eq!(Assignment::decode(&Bytes::new()), Ok(Assignment::default()));
    }

    #[test]
    fn hostile_lengths_are_refused_before_anything_is_reserved() {
        let cases: [(&'static [u8], CodecError); 6] = [
            (&[0], CodecError::Truncated { field: "version" }),
            (
                &[255, 255],
                CodecError::Negative {
                    field: "version",
                    value: -1,
                },
            ),
            (
                &[0, 3, 0x7f, 255, 255, 255],
                CodecError::BadLength {
                    field: "topics",
                    length: i32::MAX,
                    left: 0,
                },
            ),
            (
                &[0, 3, 255, 255, 255, 255],
                CodecError::BadLength {
                    field: "topics",
                    length: -1,
                    left: 0,
                },
            ),
            (
                &[0, 3, 0, 0, 0, 1, 0x7f, 255, b'a'],
                CodecError::BadLength {
                    field: "topic",
                    length: 32767,
                    left: 1,
                },
            ),
            (
                &[0, 3, 0, 0, 0, 1, 0, 1, 255],
                CodecError::NotUtf8 { field: "topic" },
            ),
        ];
        for (blob, error) in cases {
            assert_eq!(Subscription::decode(&Bytes::from_static(blob)), Err(error));
        }
        let negative = Bytes::from_static(&[
            0, 0, 0, 0, 0, 1, 0, 1, b'a', 0, 0, 0, 1, 255, 255, 255, 255, 0, 0, 0, 0,
        ]);
        assert!(matches!(
            Assignment::decode(&negative),
            Err(CodecError::Negative { .. })
        ));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let blob = Bytes::from(bytes);
            let _ = Subscription::decode(&blob);
            let _ = Assignment::decode(&blob);
        }

        #[test]
        fn every_cut_of_a_blob_is_refused(cut in 0usize..55) {
            let blob = full().encode();
            prop_assert!(cut >= blob.len() || Subscription::decode(&blob.slice(..cut)).is_err());
        }
    }
}
