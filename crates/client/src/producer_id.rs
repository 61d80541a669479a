//! Ids for idempotent producers without transactions: any broker gives them out.

use crate::cluster::Cluster;
use crate::connection::Api;
use crate::{Error, ErrorKind};
use kafka_protocol::messages::{InitProducerIdRequest, InitProducerIdResponse};
use ottla_types::{ErrorCode, ProducerId};
use tokio::time::{Instant, sleep};

/// The answer grants an id or an epoch that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("the answer grants the producer id {id} with epoch {epoch}")]
struct BadProducerId {
    id: i64,
    epoch: i16,
}

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
        let error = match read_producer_id(&answer) {
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

/// What InitProducerId granted, or the code that it was refused with.
pub(crate) fn read_producer_id(
    answer: &InitProducerIdResponse,
) -> Result<Result<ProducerId, ErrorCode>, Error> {
    if let Err(code) = ErrorCode(answer.error_code).into_result() {
        return Ok(Err(code));
    }
    let (id, epoch) = (answer.producer_id.0, answer.producer_epoch);
    if id < 0 || epoch < 0 {
        let error = Error::new(ErrorKind::Protocol, InitProducerIdRequest::NAME);
        return Err(error.with_source(BadProducerId { id, epoch }));
    }
    Ok(Ok(ProducerId { id, epoch }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use kafka_protocol::messages::ProducerId as WireId;

    #[test]
    fn an_id_that_cannot_be_is_refused() {
        for (id, epoch) in [(-1, 0), (5, -1), (i64::MIN, i16::MIN)] {
            let answer = InitProducerIdResponse::default()
                .with_producer_id(WireId(id))
                .with_producer_epoch(epoch);
            let error = read_producer_id(&answer).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Protocol, "{id} {epoch}");
        }
        let refused = InitProducerIdResponse::default().with_error_code(51);
        let code = read_producer_id(&refused).unwrap();
        assert_eq!(code, Err(ErrorCode::CONCURRENT_TRANSACTIONS));
    }
}
