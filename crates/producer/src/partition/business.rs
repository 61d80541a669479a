//! The business key: CRC-32 of an id that the application chooses, modulo the partitions.

use super::{PartitionError, Partitioner, Partitions};
use bytes::Bytes;
use ottla_types::Record;
use std::fmt;
use std::sync::Arc;

type Extract = dyn Fn(&Record) -> Option<Bytes> + Send + Sync;

/// CRC-32 (IEEE) of a chosen id, unsigned, modulo the number of partitions. A record without the id
/// is refused: where it would go is a guess that breaks the id's order.
#[derive(Clone)]
pub struct BusinessKeyPartitioner {
    what: Arc<str>,
    id: Arc<Extract>,
    keeps_keys_together: bool,
}

impl BusinessKeyPartitioner {
    /// The id is the record's key.
    pub fn from_key() -> Self {
        Self {
            keeps_keys_together: true,
            ..Self::from_fn("the record's key", |record| record.key.clone())
        }
    }

    /// The id is the value of the last header named `header`.
    pub fn from_header(header: impl Into<String>) -> Self {
        let header = header.into();
        Self::from_fn(&format!("header `{header}`"), move |record| {
            record.headers.last(&header)?.value.clone()
        })
    }

    /// The id is what `id` finds in the record; `what` names it in errors.
    pub fn from_fn(
        what: &str,
        id: impl Fn(&Record) -> Option<Bytes> + Send + Sync + 'static,
    ) -> Self {
        Self {
            what: what.into(),
            id: Arc::new(id),
            keeps_keys_together: false,
        }
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
        record: &Record,
        partitions: &Partitions<'_>,
    ) -> Result<i32, PartitionError> {
        let id =
            (self.id)(record).ok_or_else(|| PartitionError::MissingId(Arc::clone(&self.what)))?;
        let all = partitions.all();
        Ok(all[crc32fast::hash(&id) as usize % all.len()])
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

    #[test]
    fn the_chosen_id_decides_and_its_absence_is_refused() {
        let all = [0, 1, 2, 3, 4, 5, 6];
        let partitions = Partitions::new(&all, &all);
        // CRC-32 of "123456789" is 0xcbf43926.
        let expected = (0xcbf4_3926_u32 % 7) as i32;
        let mut by_header = BusinessKeyPartitioner::from_header("order_id");
        let record = Record::new("t").key("k").header("order_id", "123456789");
        assert_eq!(by_header.partition(&record, &partitions).unwrap(), expected);
        let error = by_header.partition(&Record::new("t").key("k"), &partitions);
        let text = error.unwrap_err().to_string();
        assert_eq!(text, "the record has no business key (header `order_id`)");

        let mut by_key = BusinessKeyPartitioner::from_key();
        let record = Record::new("t").key("123456789");
        assert_eq!(by_key.partition(&record, &partitions).unwrap(), expected);
        assert!(by_key.partition(&Record::new("t"), &partitions).is_err());
        assert!(by_key.keeps_keys_together() && !by_header.keeps_keys_together());
        assert!(by_header.assume_keys_together().keeps_keys_together());
    }
}
