//! A plain consumer: records are asked for, positions chosen, and commits made when the program says.
//!
//! ```text
//! cargo run --example plain_consumer [HOST:PORT]
//! ```
//! Without an address it runs on a mock cluster in this process.

use futures_util::TryStreamExt;
use ottla::client::NewTopic;
use ottla::consumer::{
    Assigned, AutoOffsetReset, HandlerError, RebalanceListener, Revoked, SeekTo,
};
use ottla::mock_cluster::MockCluster;
use ottla::{Client, ClientConfig, Consumer, ConsumerConfig, Producer, ProducerConfig, Record};
use std::error::Error;
use std::time::Duration;

const ORDERS: usize = 100;

/// Says what comes and goes; a program would load and save state here.
struct Told;

impl RebalanceListener for Told {
    async fn on_assigned(&self, assigned: &Assigned) -> Result<(), HandlerError> {
        println!("assigned: {:?}", assigned.partitions());
        Ok(())
    }

    async fn on_revoked(&self, revoked: &Revoked) -> Result<(), HandlerError> {
        for partition in revoked.partitions() {
            println!(
                "{partition} goes, read up to {:?}",
                revoked.position(partition)
            );
        }
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error + Send + Sync>> {
    let mock = MockCluster::builder().start().await?;
    let bootstrap = std::env::args().nth(1).unwrap_or_else(|| mock.bootstrap());
    let client = Client::connect(ClientConfig::new(&bootstrap)).await?;
    let topic = format!("orders-{}", std::process::id());
    client.ensure_topics(vec![NewTopic::new(&topic, 3)]).await?;
    let producer = Producer::new(&client, ProducerConfig::default())?;
    let orders = (0..ORDERS).map(|n| Record::new(&*topic).key(n.to_string()).value("paid"));
    for written in producer.send_all(orders.collect()).await {
        written?;
    }

    // A member of a group: batches, and a commit behind each.
    let config = ConsumerConfig {
        auto_offset_reset: AutoOffsetReset::Earliest,
        ..ConsumerConfig::new(format!("audit-{topic}"))
    };
    let builder = Consumer::builder(&client, config).listener(Told);
    let mut consumer = builder.subscribe([&topic]).await?;
    let mut read = 0;
    while read < ORDERS {
        let batch = consumer.recv().await?;
        read += batch.records().len();
        consumer.commit_sync().await?;
    }
    let partitions = consumer.assignment();
    let committed = consumer.committed(partitions.clone()).await?;
    println!("{read} orders read, committed {committed:?}");
    let report = consumer.close(Duration::from_secs(5)).await;
    assert!(report.clean, "{report:?}");

    // Without a group: the last record of each partition, one by one.
    let places = partitions.into_iter().map(|partition| {
        let end = committed[&partition].unwrap_or(0);
        (partition, SeekTo::Offset((end - 1).max(0)))
    });
    let builder = Consumer::builder(&client, ConsumerConfig::default());
    let mut reader = builder.assign_at(places).await?;
    {
        let mut records = reader.records();
        for _ in 0..3 {
            let record = records.try_next().await?.ok_or("the reader has ended")?;
            println!("last of {}: {:?}", record.partition, record.key);
        }
    }
    let _ = reader.close(Duration::from_secs(5)).await;
    let _ = producer.close(Duration::from_secs(5)).await;
    client.close().await;
    mock.shutdown().await;
    Ok(())
}
