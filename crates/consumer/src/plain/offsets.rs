//! What the cluster knows about offsets, for the caller of a [`Consumer`]: committed ones, the ends of
//! the log, and those of a time. The partitions need not be owned, nor does anything move.

use super::{Consumer, OffsetAndMetadata, commit};
use crate::{Error, ErrorKind};
use ottla_client::transport::OffsetSpec;
use ottla_types::{Offset, TopicPartition};
use std::collections::BTreeMap;
use tokio::time::{Instant, timeout_at};

impl Consumer {
    /// The group's committed offsets of these partitions, owned or not; `None` where there is none.
    /// What may pass is tried again. Safe to cancel.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] without a group; [`ErrorKind::TimedOut`] after
    /// `default.api.timeout.ms`; what a broker refuses.
    pub async fn committed(
        &self,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, Option<Offset>>, Error> {
        let committed = self.committed_with_metadata(partitions).await?.into_iter();
        let offset = |found: Option<OffsetAndMetadata>| found.map(|found| found.offset);
        Ok(committed.map(|(p, found)| (p, offset(found))).collect())
    }

    /// As [`committed`](Self::committed), with the text beside each offset.
    ///
    /// # Errors
    /// As [`committed`](Self::committed).
    pub async fn committed_with_metadata(
        &self,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, Option<OffsetAndMetadata>>, Error> {
        let group = self.group.as_ref().ok_or_else(commit::no_group)?;
        let partitions = partitions.into_iter().collect();
        let limit = Instant::now() + self.api_timeout;
        match timeout_at(limit, commit::committed(group, partitions)).await {
            Ok(committed) => committed,
            Err(_) => Err(Error::new(ErrorKind::TimedOut).with_group(&**group.group_id())),
        }
    }

    /// The offset of the first record that is still there. What may pass is tried again. Safe to
    /// cancel.
    ///
    /// # Errors
    /// The first partition's whose offset could not be had within `default.api.timeout.ms`, or is
    /// refused.
    pub async fn beginning_offsets(
        &self,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, Offset>, Error> {
        self.list(partitions.into_iter().map(|p| (p, OffsetSpec::Earliest)))
            .await
    }

    /// Where the next record will be written, or, for a client that reads committed records alone,
    /// where the first transaction begins that is still open. What may pass is tried again. Safe to
    /// cancel.
    ///
    /// # Errors
    /// As [`beginning_offsets`](Self::beginning_offsets).
    pub async fn end_offsets(
        &self,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Result<BTreeMap<TopicPartition, Offset>, Error> {
        self.list(partitions.into_iter().map(|p| (p, OffsetSpec::Latest)))
            .await
    }

    /// The offset of the first record that was written at or after a time (milliseconds since the
    /// Unix epoch); `None` where there was none when this was called. What may pass is tried again.
    /// Safe to cancel.
    ///
    /// # Errors
    /// As [`beginning_offsets`](Self::beginning_offsets).
    pub async fn offsets_for_times(
        &self,
        times: impl IntoIterator<Item = (TopicPartition, i64)>,
    ) -> Result<BTreeMap<TopicPartition, Option<Offset>>, Error> {
        let times: BTreeMap<_, _> = times.into_iter().collect();
        // A look-up by time ends at the end if it finds nothing; this is asked first, so that what is
        // written meanwhile is not taken for the end.
        let ends = self.end_offsets(times.keys().cloned()).await?;
        let wanted = times
            .into_iter()
            .map(|(p, ms)| (p, OffsetSpec::Timestamp(ms)));
        let found = self.list(wanted).await?.into_iter();
        let is_there = |partition: &TopicPartition, offset| ends.get(partition) > Some(&offset);
        Ok(found
            .map(|(p, offset)| {
                let offset = Some(offset).filter(|offset| is_there(&p, *offset));
                (p, offset)
            })
            .collect())
    }

    async fn list(
        &self,
        wanted: impl Iterator<Item = (TopicPartition, OffsetSpec)>,
    ) -> Result<BTreeMap<TopicPartition, Offset>, Error> {
        let wanted: BTreeMap<_, _> = wanted.collect();
        let wanted = wanted.into_iter().collect();
        let listed = self.client.transport();
        let listed = listed.list_offsets(self.api_timeout, wanted).await;
        let mut offsets = BTreeMap::new();
        for (partition, place) in listed {
            let place = place.map_err(|e| Error::from(e).with_partition(partition.clone()))?;
            offsets.insert(partition, place.offset);
        }
        Ok(offsets)
    }
}
