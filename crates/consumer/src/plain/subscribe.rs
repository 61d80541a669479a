//! Another subscription for a [`Consumer`] that runs.

use super::Consumer;
use crate::Error;
use crate::subscription::Subscription;
use ottla_types::ConfigError;

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

    /// Gives all partitions back, as [`resubscribe`](Self::resubscribe) does, and leaves the group.
    /// Until another subscription, asking for records is an error of kind
    /// [`NotSubscribed`](crate::ErrorKind::NotSubscribed).
    ///
    /// # Errors
    /// [`ErrorKind::Config`](crate::ErrorKind::Config) for a consumer that has named its partitions;
    /// what ended the consumer.
    pub fn unsubscribe(&mut self) -> Result<(), Error> {
        self.order(Subscription::default())
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
