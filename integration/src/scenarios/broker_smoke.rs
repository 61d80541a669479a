//! The least that a cluster must do: what is written is read back, also when a node is killed in
//! between. On a cluster that cannot be killed only the first part runs.

use super::{Context, Outcome};
use crate::history::{Acknowledged, History};
use crate::read_back;
use ottla_client::transport::{ProduceOptions, produce_all};
use ottla_client::{Client, NewTopic};
use ottla_record_batch::BatchBuilder;
use ottla_types::{Headers, TopicPartition, names};
use std::time::Duration;

const PARTITIONS: i32 = 3;
const PER_ROUND: u64 = 20;
/// Long enough for a new leader after a kill.
const WITHIN: Duration = Duration::from_secs(40);

pub(super) async fn run(context: &mut Context) -> Outcome {
    let client = context.client().await?;
    let topic = context.unique("smoke");
    let new = NewTopic::new(&topic, PARTITIONS).replication(context.replication());
    client.ensure_topics(vec![new]).await?;

    let mut history = History::default();
    write(&client, &topic, &mut history).await?;
    let leader = client
        .topic(&topic)
        .await?
        .partitions
        .first()
        .and_then(|one| one.leader);
    if let Some(kafka) = context.kafka() {
        let node = leader
            .and_then(|id| kafka.node_of_id(id))
            .ok_or("partition 0 has no leader")?;
        kafka.kill9(node).await?;
        if kafka.len() > 1 {
            write(&client, &topic, &mut history).await?;
        }
        kafka.restart(node).await?;
        write(&client, &topic, &mut history).await?;
    }
    read_back::read_into(&mut history, &client, &topic, WITHIN).await?;
    client.close().await;

    let report = history.check();
    println!("{report}");
    if report.is_clean() && report.counts.acknowledged > 0 {
        Ok(())
    } else {
        Err("what was read back is not what was acknowledged".into())
    }
}

/// One batch to each partition, and a note of what was acknowledged.
async fn write(client: &Client, topic: &str, history: &mut History) -> Outcome {
    let round = history.acknowledged.len() as u64;
    let mut batches = Vec::new();
    let mut ids = Vec::new();
    for partition in 0..PARTITIONS {
        let mut builder = BatchBuilder::new(64 * 1024);
        let key = format!("key-{partition}");
        for number in 0..PER_ROUND {
            let id = format!("{partition}-{}", round + number);
            let headers = Headers::new().with(names::MESSAGE_ID, id.clone());
            builder.try_append(
                1_700_000_000_000,
                Some(key.as_bytes()),
                Some(b"x"),
                &headers,
            )?;
            ids.push((partition, key.clone(), id, round + number));
        }
        batches.push((TopicPartition::new(topic, partition), builder.finish()));
    }
    let options = ProduceOptions {
        timeout: WITHIN,
        ..ProduceOptions::default()
    };
    for (place, answer) in produce_all(&**client.transport(), &options, batches).await {
        let first = answer?.base_offset;
        let of_partition = ids
            .iter()
            .filter(|(partition, ..)| *partition == place.partition);
        for (index, (partition, key, id, seq)) in of_partition.enumerate() {
            history.acknowledged.push(Acknowledged {
                topic: topic.to_owned(),
                partition: *partition,
                offset: first.map(|first| first + index as i64),
                id: id.clone(),
                key: Some(key.clone()),
                seq: *seq,
            });
        }
    }
    Ok(())
}
