//! The business key: CRC-32 of an id that the application chooses, modulo the partitions.

use super::{PartitionError, Partitioner, Partitions};
use bytes::Bytes;
use ottla_types::RecordRef;
use std::fmt;
use std::sync::Arc;

type Extract = dyn Fn(&RecordRef<'_>) -> Option<Bytes> + Send + Sync;

/// Where the id is.
#[derive(Clone)]
enum Id {
    Key,
    Header(Arc<str>),
    Found(Arc<Extract>),
}

/// CRC-32 (IEEE) of a chosen id, unsigned, modulo the number of partitions. A record without the id
/// is refused: where it would go is a guess that breaks the id's order.
#[derive(Clone)]
pub struct BusinessKeyPartitioner {
    what: Arc<str>,
    id: Id,
    keeps_keys_together: bool,
}

impl BusinessKeyPartitioner {
    /// The id is the record's key.
    pub fn from_key() -> Self {
        Self {
            keeps_keys_together: true,
            ..Self::new("the record's key", Id::Key)
        }
    }

    /// The id is the value of the last header named `header`.
    pub fn from_header(header: impl Into<String>) -> Self {
        let header = header.into();
        Self::new(&format!("header `{header}`"), Id::Header(header.into()))
    }

    /// The id is what `id` finds in the record; `what` names it in errors.
    pub fn from_fn(
        what: &str,
        id: impl Fn(&RecordRef<'_>) -> Option<Bytes> + Send + Sync + 'static,
    ) -> Self {
        Self::new(what, Id::Found(Arc::new(id)))
    }

    fn new(what: &str, id: Id) -> Self {
        Self {
            what: what.into(),
            id,
            keeps_keys_together: false,
        }
    }

    /// Its CRC-32.
    fn hash(&self, record: &RecordRef<'_>) -> Option<u32> {
        Some(match &self.id {
            Id::Key => crc32fast::hash(record.key?),
            Id::Header(name) => crc32fast::hash(record.headers.last(name)?.value.as_ref()?),
            Id::Found(find) => crc32fast::hash(&find(record)?),
        })
    }

    /// Vouches that records with the same key always have the same id, as APIs that promise an
    /// order by key require. It is only known for [`from_key`](Self::from_key).
    #[must_use]
    pub fn assume_keys_together(mut self) -> Self {
        self.keeps_keys_together = true;
        self
    }
}

impl fmt::Debug for BusinessKeyPartitioner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BusinessKeyPartitioner")
            .field(&self.what)
            .finish()
    }
}

impl Partitioner for BusinessKeyPartitioner {
    fn partition(
        &mut self,
        record: &RecordRef<'_>,
        partitions: &Partitions<'_>,
    ) -> Result<i32, PartitionError> {
        let hash = self
            .hash(record)
            .ok_or_else(|| PartitionError::MissingId(Arc::clone(&self.what)))?;
        let all = partitions.all();
        Ok(all[hash as usize % all.len()])
    }

    fn keeps_keys_together(&self) -> bool {
        self.keeps_keys_together
    }

    fn for_topic(&self, _topic: &str) -> Box<dyn Partitioner> {
        Box::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_types::{AsRecord, Record};

    #[test]
    fn the_chosen_id_decides_and_its_absence_is_refused() {
        let all = [0, 1, 2, 3, 4, 5, 6];
        let partitions = Partitions::new(&all, &all);
        // CRC-32 of "123456789" is 0xcbf43926.
        let expected = (0xcbf4_3926_u32 % 7) as i32;
        let mut by_header = BusinessKeyPartitioner::from_header("order_id");
        let record = Record::new("t").key("k").header("order_id", "123456789");
        assert_eq!(
            by_header
                .partition(&record.as_record(), &partitions)
                .unwrap(),
            expected
        );
        let error = by_header.partition(&Record::new("t").key("k").as_record(), &partitions);
        let text = error.unwrap_err().to_string();
        assert_eq!(text, "the record has no business key (header `order_id`)");

        let mut by_key = BusinessKeyPartitioner::from_key();
        let record = Record::new("t").key("123456789");
        assert_eq!(
            by_key.partition(&record.as_record(), &partitions).unwrap(),
            expected
        );
        assert!(
            by_key
                .partition(&Record::new("t").as_record(), &partitions)
                .is_err()
        );
        assert!(by_key.keeps_keys_together() && !by_header.keeps_keys_together());
        assert!(by_header.assume_keys_together().keeps_keys_together());
    }
}
