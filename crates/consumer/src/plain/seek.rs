//! Where a [`Consumer`] goes on reading, if its caller chooses.

use super::{Consumer, check_offset};
use crate::{Error, ErrorKind, SeekTo};
use ottla_types::{Offset, TopicPartition};
use std::collections::BTreeMap;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

impl Consumer {
    /// Goes on reading elsewhere, and gives the offset that this is. What was fetched before is
    /// discarded: once this returns, nothing of it is handed out. An offset outside of the log is
    /// found out by the next fetch, and `auto.offset.reset` applies.
    ///
    /// It is the position from then on: what the next commit names, or is committed in time with
    /// `enable.auto.commit`, even if nothing is read of it before.
    ///
    /// Cancellation: it goes on, and the caller does not hear where it led to.
    ///
    /// # Errors
    /// [`ErrorKind::NotOwner`] when the partition is not owned; [`ErrorKind::Config`] for an offset
    /// below 0; [`ErrorKind::TimedOut`] after `default.api.timeout.ms`, though it goes on; the reason
    /// why the place cannot be found.
    pub async fn seek(
        &mut self,
        partition: &TopicPartition,
        place: SeekTo,
    ) -> Result<Offset, Error> {
        let found = self.seek_all([(partition.clone(), place)]).await?;
        let not_owner = || Error::new(ErrorKind::NotOwner).with_partition(partition.clone());
        found.get(partition).copied().ok_or_else(not_owner)
    }

    /// As [`seek`](Self::seek) for many partitions, whose places are looked up together.
    ///
    /// # Errors
    /// As [`seek`](Self::seek), the first one; the other partitions go on at their new places all the
    /// same, except that an offset below 0 lets none of them move.
    pub async fn seek_all(
        &mut self,
        places: impl IntoIterator<Item = (TopicPartition, SeekTo)>,
    ) -> Result<BTreeMap<TopicPartition, Offset>, Error> {
        let places: BTreeMap<_, _> = places.into_iter().collect();
        for place in places.values() {
            if let SeekTo::Offset(offset) = place {
                check_offset(*offset)?;
            }
        }
        if let Some(current) = &self.current
            && places.contains_key(&current.partition)
        {
            self.current = None;
        }
        let begun = places.into_iter().map(|(partition, place)| {
            let (reply, sought) = oneshot::channel();
            self.desk.seek(&partition, place, reply);
            (partition, sought)
        });
        let begun: Vec<_> = begun.collect();
        let limit = Instant::now() + self.api_timeout;
        let (mut found, mut first) = (BTreeMap::new(), None);
        for (partition, sought) in begun {
            let failed = |kind| Error::new(kind).with_partition(partition.clone());
            let place = match timeout_at(limit, sought).await {
                Ok(Ok(place)) => place,
                Ok(Err(_)) => {
                    let fatal = self.desk.fatal();
                    Err(fatal.unwrap_or_else(|| failed(ErrorKind::NotOwner)))
                }
                Err(_) => Err(failed(ErrorKind::TimedOut)),
            };
            match place {
                Ok(offset) => {
                    found.insert(partition, offset);
                }
                Err(error) => {
                    first.get_or_insert(error);
                }
            }
        }
        first.map_or(Ok(found), Err)
    }
}
