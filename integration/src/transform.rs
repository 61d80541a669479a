//! Consume, transform, produce, exactly once: records of one topic become records of another, in the
//! runner's transactions. A process of its own in the scenarios, so that it can be killed.

use crate::Failure;
use crate::member::{BEGUN, REFUSED, TAKES_MS};
use ottla::client::{Client, ClientConfig};
use ottla::consumer::{AutoOffsetReset, HandlerError, ProcessingGuarantee};
use ottla::producer::TransactionalProducers;
use ottla::types::{PublishError, PublishErrorKind, Record, RecordMetadata};
use ottla::{App, ConsumedRecord, ConsumerConfig, Context, Outcome, ProducerConfig, handler_fn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::task::TaskTracker;

/// `session.timeout.ms`.
pub const SESSION: Duration = Duration::from_secs(6);
const END: Duration = Duration::from_secs(10);

/// One transforming process.
#[derive(Debug, Clone)]
pub struct Transform {
    /// The cluster.
    pub bootstrap: String,
    /// The consumer group.
    pub group: String,
    /// What is read.
    pub input: String,
    /// What is written.
    pub output: String,
    /// `transactional.id.prefix`, the same for each start of this process.
    pub transactional_id: String,
    /// Every so many calls of the handler fail after they have published; 0 for none.
    pub fail_every: u64,
}

/// Transforms until `stop` resolves; `progress` hears how many records were handled so far.
///
/// # Errors
/// What cannot be helped: the member has failed for good, or its end was not clean.
pub async fn run(
    transform: &Transform,
    stop: impl Future<Output = ()>,
    mut progress: impl FnMut(u64),
) -> Result<(), Failure> {
    let client = Client::connect(ClientConfig::new(&transform.bootstrap)).await?;
    let config = ConsumerConfig {
        session_timeout: SESSION,
        heartbeat_interval: Duration::from_millis(500),
        auto_offset_reset: AutoOffsetReset::Earliest,
        processing_guarantee: ProcessingGuarantee::ExactlyOnce,
        transactional_id_prefix: Some(transform.transactional_id.clone()),
        max_processing_time: Duration::from_secs(10),
        // Longer than a process is frozen.
        transaction_timeout: Some(Duration::from_secs(30)),
        handler_backoff: Duration::from_millis(20),
        ..ConsumerConfig::default()
    };
    let producers = TransactionalProducers::new(&client, ProducerConfig::default());
    let mut app = App::new(&client, config).transactions(Arc::new(producers));
    let (output, fail_every) = (Arc::<str>::from(&*transform.output), transform.fail_every);
    let calls = Arc::new(AtomicU64::new(1));
    let late = TaskTracker::new();
    let handler = handler_fn(move |context, record| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        handle(
            context,
            record,
            output.clone(),
            fail_every > 0 && call.is_multiple_of(fail_every),
            late.clone(),
        )
    });
    // Records of one key stay in order.
    app.topic(&transform.input)
        .concurrency(8)
        .listen(&transform.group, handler);
    let running = app.start().await?;
    let mut ticks = interval(Duration::from_millis(20));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = 0;
    tokio::pin!(stop);
    loop {
        tokio::select! {
            () = &mut stop => break,
            error = running.failed() => return Err(error.into()),
            _ = ticks.tick() => {
                let handled = running.status().registrations.iter().map(|r| r.handled()).sum();
                if handled != told {
                    told = handled;
                    progress(handled);
                }
            }
        }
    }
    let report = running.shutdown(END).await;
    client.close().await;
    match report.clean {
        true => Ok(()),
        false => Err(format!("{report:?}").into()),
    }
}

/// Publishes when the time has passed.
async fn publish_late(
    context: Context,
    takes: Duration,
    record: Record,
) -> Result<RecordMetadata, PublishError> {
    sleep(takes).await;
    let written = context.publish(record).await;
    if let Err(error) = &written
        && error.kind() == PublishErrorKind::NotOwner
    {
        println!("{REFUSED}{error}");
    }
    written
}

async fn handle(
    context: Context,
    record: ConsumedRecord,
    output: Arc<str>,
    fails: bool,
    late: TaskTracker,
) -> Outcome {
    let mut transformed = Record::new(output);
    transformed.key = record.key;
    let upper = |value: &[u8]| value.to_ascii_uppercase().into();
    transformed.value = record.value.as_deref().map(upper);
    let written = match record.headers.last_i64(TAKES_MS) {
        None => context.publish(transformed).await,
        Some(takes) => {
            println!("{BEGUN}{}", record.offset);
            let takes = Duration::from_millis(takes.unsigned_abs());
            // A task of its own does not end with the call.
            match late.spawn(publish_late(context, takes, transformed)).await {
                Ok(written) => written,
                Err(error) => {
                    return Outcome::Failed(HandlerError::transient("Panicked", error.to_string()));
                }
            }
        }
    };
    match written {
        Ok(_) if fails => {
            let text = "it fails after it has published";
            Outcome::Failed(HandlerError::transient("Planned", text))
        }
        Ok(_) => Outcome::Done,
        Err(error) => {
            let text = "the output was not written";
            Outcome::Failed(HandlerError::transient("Publish", text).with_source(error))
        }
    }
}
