//! The transport of a transactional producer: writes take the way through the transaction,
//! everything else goes straight on.

use super::coordinator::Coordinator;
use ottla_client::Error;
use ottla_client::transport::{
    AnswerSink, Capabilities, FetchLimits, FetchPosition, Fetched, OffsetSpec, Outgoing,
    ProduceOptions, Transport,
};
use ottla_types::{BoxFuture, TopicPartition};
use std::sync::Arc;
use std::time::Duration;

pub(crate) struct Enlisting(pub(crate) Arc<Coordinator>);

impl Transport for Enlisting {
    fn name(&self) -> &'static str {
        self.0.transport().name()
    }

    fn capabilities(&self) -> Capabilities {
        self.0.transport().capabilities()
    }

    fn produce(&self, options: &ProduceOptions, batches: Vec<Outgoing>, answers: &AnswerSink) {
        self.0.write(options, batches, answers);
    }

    fn fetch(
        &self,
        limits: FetchLimits,
        positions: Vec<(TopicPartition, FetchPosition)>,
    ) -> BoxFuture<'_, Vec<(TopicPartition, Result<Fetched, Error>)>> {
        self.0.transport().fetch(limits, positions)
    }

    fn list_offsets(
        &self,
        timeout: Duration,
        wanted: Vec<(TopicPartition, OffsetSpec)>,
    ) -> BoxFuture<'_, Vec<(TopicPartition, Result<FetchPosition, Error>)>> {
        self.0.transport().list_offsets(timeout, wanted)
    }

    fn close(&self) -> BoxFuture<'_, ()> {
        self.0.transport().close()
    }
}
