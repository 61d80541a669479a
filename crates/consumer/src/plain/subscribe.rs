//! Another subscription for a [`Consumer`] that runs.

use super::{Consumer, check_offset};
use crate::subscription::Subscription;
use crate::{Error, SeekTo};
use ottla_types::{ConfigError, TopicPartition, validate_topic_name};
use std::collections::BTreeMap;

impl Consumer {
    /// Is in the group for `topics` from now on, in place of what was subscribed before.
    ///
    /// Nothing of other topics is handed out any more. Their partitions are revoked as in any
    /// rebalance: as soon as the caller is done with what it has of them, the
    /// [listener](crate::ConsumerBuilder::listener) is called, and what was asked for is committed.
    /// Partitions that stay are read on without a break, unless the group rebalances eagerly.
    ///
    /// It returns at once, and the group hears of it in the background. A topic that does not exist is
    /// read when it does.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for no topic at all, an illegal name, and a
    /// consumer that has named its partitions; nothing changes then. What ended the consumer.
    pub fn resubscribe<T: Into<String>>(
        &mut self,
        topics: impl IntoIterator<Item = T>,
    ) -> Result<(), Error> {
        let topics: Vec<String> = topics.into_iter().map(Into::into).collect();
        self.change(&topics, None)
    }

    /// As [`resubscribe`](Self::resubscribe), for every topic whose whole name matches a regular
    /// expression: see [`Registration::topic_pattern`](crate::Registration::topic_pattern). Topics that
    /// do not match are read until the group has heard of it.
    ///
    /// # Errors
    /// As [`resubscribe`](Self::resubscribe), and for an expression that cannot be read; what only the
    /// broker can read ends the consumer if it cannot.
    pub fn resubscribe_pattern(&mut self, pattern: impl AsRef<str>) -> Result<(), Error> {
        self.change(&[], Some(pattern.as_ref()))
    }

    /// Gives all partitions back, as [`resubscribe`](Self::resubscribe) and
    /// [`reassign`](Self::reassign) do, and leaves the group. Until something is wanted again, asking
    /// for records is an error of kind [`NotSubscribed`](crate::ErrorKind::NotSubscribed).
    ///
    /// # Errors
    /// What ended the consumer.
    pub fn unsubscribe(&mut self) -> Result<(), Error> {
        match self.desk.assigned() {
            Some(_) => self.reassign([]),
            None => self.order(Subscription::default()),
        }
    }

    /// Reads these partitions from now on, in place of those that were named before, without a
    /// membership. Those that stay are read on without a break; others begin as with
    /// [`assign`](Self::assign). What goes is given up as with [`resubscribe`](Self::resubscribe), the
    /// listener's calls included.
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for an illegal name and for a consumer that is
    /// in its group; nothing changes then. What ended the consumer.
    pub fn reassign(
        &mut self,
        partitions: impl IntoIterator<Item = TopicPartition>,
    ) -> Result<(), Error> {
        self.place(partitions.into_iter().map(|p| (p, None)))
    }

    /// As [`reassign`](Self::reassign); each partition that is new begins at its own place.
    ///
    /// # Errors
    /// As [`reassign`](Self::reassign), and for an offset below 0.
    pub fn reassign_at(
        &mut self,
        places: impl IntoIterator<Item = (TopicPartition, SeekTo)>,
    ) -> Result<(), Error> {
        self.place(places.into_iter().map(|(p, at)| (p, Some(at))))
    }

    fn place(
        &mut self,
        places: impl Iterator<Item = (TopicPartition, Option<SeekTo>)>,
    ) -> Result<(), Error> {
        let places: BTreeMap<_, _> = places.collect();
        if self.desk.assigned().is_none() {
            let expected = "none for a consumer that is in its group";
            return Err(ConfigError::new("partitions", "", expected).into());
        }
        for (partition, place) in &places {
            validate_topic_name(&partition.topic)?;
            if let Some(SeekTo::Offset(offset)) = place {
                check_offset(*offset)?;
            }
        }
        if let Some(error) = self.desk.fatal() {
            return Err(error);
        }
        self.put_back();
        self.desk.reassign(places);
        Ok(())
    }

    fn change(&mut self, topics: &[String], pattern: Option<&str>) -> Result<(), Error> {
        let topics = topics.iter().map(String::as_str);
        self.order(Subscription::new(topics, pattern, self.protocol)?)
    }

    fn order(&mut self, subscription: Subscription) -> Result<(), Error> {
        if self.desk.assigned().is_some() {
            let expected = "none for a consumer that has named its partitions";
            return Err(ConfigError::new("topics", "", expected).into());
        }
        if let Some(error) = self.desk.fatal() {
            return Err(error);
        }
        // What is left of a batch is handed out only if its topic is still wanted.
        self.put_back();
        self.desk.resubscribe(subscription);
        Ok(())
    }
}
