//! Consume, transform, produce, exactly once: a record's offset is committed in the transaction of
//! the records that were made from it.
//!
//! ```text
//! cargo run --example consume_transform_produce [HOST:PORT]
//! ```
//! Without an address it runs on a mock cluster in this process.

use ottla::client::NewTopic;
use ottla::consumer::{AutoOffsetReset, Consumer, HandlerError, RunningApp};
use ottla::mock_cluster::MockCluster;
use ottla::producer::TransactionalProducers;
use ottla::{
    App, Client, ClientConfig, ConsumedRecord, ConsumerConfig, Context, Outcome, Producer,
    ProducerConfig, Record, handler_fn,
};
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

const INPUTS: usize = 1_000;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mock = MockCluster::builder().start().await?;
    let bootstrap = std::env::args().nth(1).unwrap_or_else(|| mock.bootstrap());
    let client = Client::connect(ClientConfig::new(&bootstrap)).await?;
    let run = std::process::id();
    let (lower, upper) = (format!("lower-{run}"), format!("upper-{run}"));
    let topics = [&lower, &upper].map(|name| NewTopic::new(name, 3));
    client.ensure_topics(topics.to_vec()).await?;
    let producer = Producer::new(&client, ProducerConfig::default())?;
    let records = (0..INPUTS).map(|n| Record::new(&*lower).key(format!("{n}")).value("text"));
    for written in producer.send_all(records.collect()).await {
        written?;
    }

    let running = transform(&client, &lower, &upper).await?;

    // Whoever reads the output reads each record once.
    let config = from_the_start(format!("reader-{run}"));
    let mut reader = Consumer::subscribe(&client, config, [&upper]).await?;
    let mut seen = 0;
    while seen < INPUTS {
        seen += reader.recv().await?.records().len();
    }
    reader.commit_sync().await?;
    println!("{INPUTS} records in, {seen} records out");
    assert_eq!(seen, INPUTS);
    let _ = reader.close(Duration::from_secs(5)).await;
    let report = running.shutdown(Duration::from_secs(5)).await;
    assert!(report.clean, "{report:?}");
    let _ = producer.close(Duration::from_secs(5)).await;
    client.close().await;
    mock.shutdown().await;
    Ok(())
}

/// A member that reads what was there before its group, too.
fn from_the_start(group: String) -> ConsumerConfig {
    ConsumerConfig {
        auto_offset_reset: AutoOffsetReset::Earliest,
        ..ConsumerConfig::new(group)
    }
}

/// Turns every record of `from` into one of `to`.
async fn transform(client: &Client, from: &str, to: &str) -> Result<RunningApp, Failure> {
    let config = ConsumerConfig {
        // With the same name for each start, what a crash left open is ended by the next start.
        transactional_id_prefix: Some(format!("transform-{from}")),
        ..from_the_start(String::new())
    };
    let producers = TransactionalProducers::new(client, ProducerConfig::default());
    let mut app = App::new(client, config).transactions(Arc::new(producers));
    let to: Arc<str> = to.into();
    let handler = handler_fn(move |context, record| upper(context, record, to.clone()));
    app.topic(from)
        .exactly_once()
        .listen(format!("transform-{from}"), handler);
    Ok(app.start().await?)
}

async fn upper(context: Context, record: ConsumedRecord, to: Arc<str>) -> Outcome {
    let value = record.value.as_deref().unwrap_or_default();
    let mut transformed = Record::new(to).value(value.to_ascii_uppercase());
    transformed.key = record.key;
    match context.publish(transformed).await {
        Ok(_) => Outcome::Done,
        // The transaction is aborted, and its records come again.
        Err(error) => Outcome::Failed(HandlerError::transient("Publish", error.to_string())),
    }
}
