//! The handle that everything above is built from.

use crate::transport::Transport;
use crate::{ClientConfig, Error, ErrorKind, GroupClient, NewTopic, TopicMetadata};
use std::sync::Arc;

/// A connection to a cluster. Cloning is cheap; all clones share connections and metadata.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    config: ClientConfig,
    transport: Arc<dyn Transport>,
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client")
            .field("bootstrap", &self.inner.config.bootstrap)
            .finish_non_exhaustive()
    }
}

#[allow(missing_docs, clippy::missing_errors_doc, clippy::unused_async)]
impl Client {
    pub async fn connect(config: ClientConfig) -> Result<Self, Error> {
        config.validate()?;
        let transport: Option<Arc<dyn Transport>> = None;
        let transport = transport.ok_or_else(|| Error::new(ErrorKind::Unsupported, "connect"))?;
        Ok(Self {
            inner: Arc::new(Inner { config, transport }),
        })
    }
    pub fn config(&self) -> &ClientConfig {
        &self.inner.config
    }
    pub fn transport(&self) -> &Arc<dyn Transport> {
        &self.inner.transport
    }
    pub async fn topic(&self, _name: &str) -> Result<Arc<TopicMetadata>, Error> {
        Err(Error::new(ErrorKind::Unsupported, "Metadata"))
    }
    pub async fn refresh_topic(&self, _name: &str) -> Result<Arc<TopicMetadata>, Error> {
        Err(Error::new(ErrorKind::Unsupported, "Metadata"))
    }
    pub async fn list_topics(&self) -> Result<Vec<Arc<TopicMetadata>>, Error> {
        Err(Error::new(ErrorKind::Unsupported, "Metadata"))
    }
    pub async fn create_topics(
        &self,
        _topics: Vec<NewTopic>,
    ) -> Result<Vec<(String, Result<(), Error>)>, Error> {
        Err(Error::new(ErrorKind::Unsupported, "CreateTopics"))
    }
    pub async fn ensure_topics(&self, _topics: Vec<NewTopic>) -> Result<(), Error> {
        Err(Error::new(ErrorKind::Unsupported, "CreateTopics"))
    }
    pub fn group(&self, group_id: impl Into<Arc<str>>) -> GroupClient {
        GroupClient::stub(group_id.into())
    }
    pub async fn close(&self) {
        self.inner.transport.close().await;
    }
}
