//! Typed sends: JSON, protobuf and the `{type, data}` envelope.

use crate::Producer;
use bytes::Bytes;
use ottla_types::{Envelope, Fate, PublishError, PublishErrorKind, Record, RecordMetadata};
use serde::Serialize;
use std::sync::Arc;

impl Producer {
    /// Writes `value` as JSON.
    ///
    /// # Errors
    /// As [`send`](Self::send); [`PublishErrorKind::InvalidRecord`] where `value` has no JSON form.
    pub async fn send_json<T: Serialize + ?Sized>(
        &self,
        topic: impl Into<Arc<str>>,
        key: impl Into<Bytes>,
        value: &T,
    ) -> Result<RecordMetadata, PublishError> {
        let topic = topic.into();
        let record = Record::new(Arc::clone(&topic)).key(key);
        let record = record.json(value).map_err(|why| no_json(topic, why))?;
        self.send(record).await
    }

    /// Writes `value` as protobuf.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    #[cfg(feature = "protobuf")]
    pub async fn send_protobuf<M: prost::Message>(
        &self,
        topic: impl Into<Arc<str>>,
        key: impl Into<Bytes>,
        value: &M,
    ) -> Result<RecordMetadata, PublishError> {
        let record = Record::new(topic).key(key).value(value.encode_to_vec());
        self.send(record).await
    }

    /// Writes `envelope` in its JSON form, as it is read by the consumer's dispatch by type.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    pub async fn send_envelope(
        &self,
        topic: impl Into<Arc<str>>,
        key: impl Into<Bytes>,
        envelope: &Envelope,
    ) -> Result<RecordMetadata, PublishError> {
        let record = Record::new(topic).key(key).value(envelope.to_json());
        self.send(record).await
    }

    /// Writes `event` as JSON in an envelope of type `kind`.
    ///
    /// # Errors
    /// As [`send_json`](Self::send_json).
    pub async fn send_event<T: Serialize + ?Sized>(
        &self,
        topic: impl Into<Arc<str>>,
        key: impl Into<Bytes>,
        kind: impl Into<String>,
        event: &T,
    ) -> Result<RecordMetadata, PublishError> {
        let topic = topic.into();
        let envelope =
            Envelope::json(kind, event).map_err(|why| no_json(Arc::clone(&topic), why))?;
        self.send_envelope(topic, key, &envelope).await
    }

    /// Writes `event` as protobuf in an envelope of type `kind`.
    ///
    /// # Errors
    /// As [`send`](Self::send).
    #[cfg(feature = "protobuf")]
    pub async fn send_protobuf_event<M: prost::Message>(
        &self,
        topic: impl Into<Arc<str>>,
        key: impl Into<Bytes>,
        kind: impl Into<String>,
        event: &M,
    ) -> Result<RecordMetadata, PublishError> {
        let envelope = Envelope::new(kind, event.encode_to_vec());
        self.send_envelope(topic, key, &envelope).await
    }
}

fn no_json(topic: Arc<str>, why: serde_json::Error) -> PublishError {
    let (kind, fate) = (PublishErrorKind::InvalidRecord, Fate::NotWritten);
    PublishError::new(kind, fate, topic).with_source(why)
}
