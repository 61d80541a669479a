//! Ids for idempotent producers without transactions: any broker gives them out.

use crate::Error;
use crate::cluster::Cluster;
use crate::connection::Api;
use crate::convert::transactions::init_answer;
use kafka_protocol::messages::InitProducerIdRequest;
use ottla_types::ProducerId;
use tokio::time::{Instant, sleep};

/// A fresh id. An answer that was lost costs an id and nothing else, so all that passes is asked
/// again.
pub(crate) async fn init_producer_id(
    cluster: &Cluster,
    deadline: Instant,
) -> Result<ProducerId, Error> {
    let mut backoff = cluster.backoff();
    loop {
        // The message's own default is an empty transactional id; the timeout means nothing here.
        let build = |_| {
            InitProducerIdRequest::default()
                .with_transactional_id(None)
                .with_transaction_timeout_ms(i32::MAX)
        };
        let (answer, _) = cluster.ask_any(deadline, build).await?;
        let error = match init_answer(&answer) {
            Ok(Ok(granted)) => return Ok(granted),
            Ok(Err(code)) => Error::from_code(code, InitProducerIdRequest::NAME),
            Err(error) => return Err(error),
        };
        let delay = backoff.next_delay();
        if !error.is_retriable() || Instant::now() + delay >= deadline {
            return Err(error);
        }
        sleep(delay).await;
    }
}
