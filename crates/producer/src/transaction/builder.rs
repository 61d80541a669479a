//! [`TransactionalProducerBuilder`].

use super::{TransactionalConfig, TransactionalProducer};
use crate::partition::Partitioner;
use ottla_client::{Client, Error};

/// Builds a [`TransactionalProducer`] with a partitioner of the user's own, or with a check of it.
#[must_use]
pub struct TransactionalProducerBuilder {
    client: Client,
    config: TransactionalConfig,
    partitioner: Option<Box<dyn Partitioner>>,
    key_order: bool,
}

impl std::fmt::Debug for TransactionalProducerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TransactionalProducerBuilder")
            .field("config", &self.config)
            .field("own_partitioner", &self.partitioner.is_some())
            .finish_non_exhaustive()
    }
}

impl TransactionalProducerBuilder {
    pub(super) fn new(client: &Client, config: TransactionalConfig) -> Self {
        Self {
            client: client.clone(),
            config,
            partitioner: None,
            key_order: false,
        }
    }

    /// A partitioner of the user's own; `config.producer.partitioner` does not matter then.
    pub fn partitioner(mut self, partitioner: impl Partitioner) -> Self {
        self.partitioner = Some(Box::new(partitioner));
        self
    }

    /// Refuses to build with a partitioner that does not keep the records of a key together.
    pub fn require_key_order(mut self) -> Self {
        self.key_order = true;
        self
    }

    /// Checks the configuration and starts the producer's tasks. To be called within a tokio runtime.
    ///
    /// # Errors
    /// As [`TransactionalProducer::new`].
    pub fn build(self) -> Result<TransactionalProducer, Error> {
        let producer = TransactionalProducer::start(&self.client, self.config, self.partitioner)?;
        if self.key_order {
            producer.require_key_order()?;
        }
        Ok(producer)
    }
}
