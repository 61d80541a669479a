//! [`TransactionalProducers`]: makes the transactional producers of a consumer's members.

use super::config::TransactionalConfig;
use super::producer::TransactionalProducer;
use crate::ProducerConfig;
use ottla_client::Client;
use ottla_types::{
    BoxFuture, ConfigError, Transact, TransactError, TransactErrorKind, Transactions,
};
use std::sync::Arc;
use std::time::Duration;

/// Makes a [`TransactionalProducer`] for each member of a consumer group that handles exactly once.
#[derive(Debug, Clone)]
pub struct TransactionalProducers {
    client: Client,
    template: TransactionalConfig,
}

impl TransactionalProducers {
    /// Producers on `client` with the settings of `config`; `acks` must be `all`.
    pub fn new(client: &Client, config: ProducerConfig) -> Self {
        Self {
            client: client.clone(),
            template: TransactionalConfig {
                producer: config,
                // Its own id is given to each producer.
                ..TransactionalConfig::new("template")
            },
        }
    }

    /// Sets `max.block.ms`: the time limit of each step of a transaction; 60 s by default.
    #[must_use]
    pub fn max_block(mut self, limit: Duration) -> Self {
        self.template.max_block = limit;
        self
    }
}

impl Transactions for TransactionalProducers {
    fn check(&self) -> Result<(), ConfigError> {
        self.template.validate()?;
        let transport = self.client.transport();
        self.template
            .validate_for(transport.name(), &transport.capabilities())
    }

    fn open(
        &self,
        transactional_id: &str,
        timeout: Duration,
    ) -> BoxFuture<'static, Result<Arc<dyn Transact>, TransactError>> {
        let config = TransactionalConfig {
            transactional_id: transactional_id.to_owned(),
            transaction_timeout: timeout,
            ..self.template.clone()
        };
        let client = self.client.clone();
        Box::pin(async move {
            let id: Arc<str> = config.transactional_id.as_str().into();
            let refused = |e| TransactError::new(TransactErrorKind::Fatal, id).with_source(e);
            let producer = TransactionalProducer::new(&client, config).map_err(refused)?;
            producer.init().await?;
            Ok(Arc::new(producer) as Arc<dyn Transact>)
        })
    }
}
