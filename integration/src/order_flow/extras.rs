//! What the flow sends on purpose to make trouble: records that nobody can decode, and second copies
//! of events.

use super::event::OrderEvent;
use super::faults::is_sent_twice;
use super::topics::Topics;
use crate::history::Acknowledged;
use crate::read_back::read_topic;
use ottla::client::Client;
use ottla::types::{PublishError, Record, RecordMetadata, names};
use ottla::{Producer, types::ConsumedRecord};
use std::collections::BTreeSet;
use std::time::Duration;

/// What was sent on purpose.
#[derive(Debug, Clone, Default)]
pub struct Extras {
    /// The ids of the records that nobody can decode.
    pub poison: Vec<String>,
    /// How many events were sent a second time.
    pub copies: usize,
    /// All of these records, as they were acknowledged.
    pub acknowledged: Vec<Acknowledged>,
}

/// Why the trouble could not be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ExtrasError {
    /// The events could not be read.
    #[error("read the events")]
    Read(#[from] ottla::client::Error),
    /// A record was not written.
    #[error("publish")]
    Publish(#[from] PublishError),
}

impl Extras {
    /// Sends `count` records that are no JSON.
    ///
    /// # Errors
    /// When one is not acknowledged.
    pub async fn send_poison(
        &mut self,
        producer: &Producer,
        topics: &Topics,
        count: u64,
    ) -> Result<(), ExtrasError> {
        for n in 0..count {
            let id = format!("poison-{n}");
            let record = Record::new(topics.orders())
                .key("poison")
                .value("{ this is no JSON")
                .header(names::MESSAGE_ID, id.clone());
            let written = producer.send(record).await?;
            self.acknowledge(&written, &id, "poison", n);
            self.poison.push(id);
        }
        Ok(())
    }

    /// Sends every event that the fault plan names once more, as it stands in the topic now.
    ///
    /// # Errors
    /// When the topic cannot be read or a copy is not acknowledged.
    pub async fn send_copies(
        &mut self,
        client: &Client,
        producer: &Producer,
        topics: &Topics,
        deadline: Duration,
    ) -> Result<(), ExtrasError> {
        let mut seen = BTreeSet::new();
        for original in read_topic(client, &topics.orders(), deadline).await? {
            let Some(event) = decode(&original) else {
                continue;
            };
            if !is_sent_twice(&event.event_id) || !seen.insert(event.event_id.clone()) {
                continue;
            }
            let written = producer.send(original.to_record(topics.orders())).await?;
            self.acknowledge(&written, &event.event_id, &event.customer, event.seq);
            self.copies += 1;
        }
        Ok(())
    }

    fn acknowledge(&mut self, written: &RecordMetadata, id: &str, key: &str, seq: u64) {
        self.acknowledged.push(Acknowledged {
            topic: written.topic.to_string(),
            partition: written.partition,
            offset: written.offset,
            id: id.to_owned(),
            key: Some(key.to_owned()),
            seq,
        });
    }
}

fn decode(record: &ConsumedRecord) -> Option<OrderEvent> {
    serde_json::from_slice(record.value.as_deref()?).ok()
}
