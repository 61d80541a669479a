//! What an operator does to a cluster: settings, partitions and records of a topic; a group is
//! described, listed, moved to other offsets, starts there, and is deleted.

use super::{Context, Outcome};
use crate::Failure;
use ottla::client::admin::{
    AlterConfigs, ConfigResource, ConfigSource, DeleteUpTo, Each, Finding, GroupFilter, GroupState,
};
use ottla::client::transport::{Acks, OffsetSpec};
use ottla::client::{Client, NewTopic};
use ottla::consumer::AutoOffsetReset;
use ottla::types::coordinator::CommitOffset;
use ottla::types::{ErrorCode, Offset};
use ottla::{
    App, ConsumedRecord, ConsumerConfig, Context as HandlerContext, HandlerError,
    Outcome as Handled, Producer, ProducerConfig, Record, TopicPartition, handler_fn,
};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Records that each of the first partitions gets.
const RECORDS: Offset = 20;
const FIRST_PARTITIONS: i32 = 2;
const ALL_PARTITIONS: i32 = 4;
/// Records below this offset of partition 0 are deleted.
const LOW: Offset = 5;
/// Where the group starts again in partition 1.
const RESTART: Offset = 15;
const WITHIN: Duration = Duration::from_secs(30);

pub(super) async fn run(context: &mut Context) -> Outcome {
    let client = context.client().await?;
    let (topic, group) = (context.unique("admin"), context.unique("admin-group"));
    let new = NewTopic::new(&topic, FIRST_PARTITIONS).replication(context.replication());
    client.ensure_topics(vec![new]).await?;
    write(&client, &topic).await?;

    settings(&client, &topic).await?;
    durability(&client, &topic, context.nodes()).await?;
    partitions_and_records(&client, &topic, context.nodes()).await?;
    read_as_group(&client, &topic, &group).await?;
    move_group(&client, &topic, &group).await?;
    delete_group(&client, &topic, &group).await?;
    client.close().await;
    Ok(())
}

/// Fails with a text unless `holds`.
fn expect(holds: bool, what: impl FnOnce() -> String) -> Outcome {
    if holds { Ok(()) } else { Err(what().into()) }
}

/// The one result of a call about one item.
fn only<I, D>(mut results: Each<I, D>) -> Result<D, ottla::client::Error> {
    let (_, result) = results.swap_remove(0);
    result
}

async fn write(client: &Client, topic: &str) -> Outcome {
    let producer = Producer::new(client, ProducerConfig::default())?;
    for n in 0..RECORDS {
        for partition in 0..FIRST_PARTITIONS {
            let record = Record::new(topic).partition(partition).value(n.to_string());
            producer.send(record).await?;
        }
    }
    let report = producer.close(WITHIN).await;
    expect(report.is_clean(), || format!("{report:?}"))
}

/// A setting's value, and where it comes from.
type Told = (Option<String>, ConfigSource);

async fn settings(client: &Client, topic: &str) -> Outcome {
    let admin = client.admin();
    let resource = ConfigResource::Topic(topic.to_owned());
    let told = async |name: &str| {
        let names = vec![name.to_owned()];
        let entries = admin.describe_configs_named(vec![resource.clone()], names);
        let entries = only(entries.await)?;
        let entry = entries.into_iter().next().ok_or("no such setting")?;
        Ok::<_, Failure>((entry.value, entry.source))
    };
    let before = told("retention.ms").await?;
    let changes = AlterConfigs::new(resource.clone());
    let changes = changes
        .set("retention.ms", "7654321")
        .append("cleanup.policy", "compact");
    only(admin.alter_configs(vec![changes]).await)?;
    // Any broker is asked, and one may hear of a change later than another.
    let comes = async |what: &str, name: &str, is_right: &dyn Fn(&Told) -> bool| {
        let mut last = None;
        let waited = timeout(WITHIN, async {
            loop {
                let now = told(name).await?;
                if is_right(&now) {
                    return Outcome::Ok(());
                }
                last = Some(now);
            }
        });
        match waited.await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("{name} {what}: {last:?}").into()),
        }
    };
    let altered = (Some("7654321".to_owned()), ConfigSource::Topic);
    comes("after a change", "retention.ms", &|now| *now == altered).await?;
    let both = |now: &Told| {
        let policy = now.0.as_deref().unwrap_or_default();
        policy.contains("delete") && policy.contains("compact")
    };
    comes("after an append", "cleanup.policy", &both).await?;
    let back = AlterConfigs::new(resource.clone());
    let back = back.delete("retention.ms").delete("cleanup.policy");
    only(admin.alter_configs(vec![back]).await)?;
    comes("after the deletion", "retention.ms", &|now| *now == before).await
}

async fn durability(client: &Client, topic: &str, nodes: usize) -> Outcome {
    let report = client.check_durability(vec![topic.to_owned()], Acks::All);
    let report = report.await;
    println!("{report}");
    let found = only(report.topics)?;
    let one_copy = found.contains(&Finding::OneCopy);
    expect(one_copy == (nodes < 3), || {
        format!("found {found:?} on {nodes} nodes")
    })
}

async fn partitions_and_records(client: &Client, topic: &str, nodes: usize) -> Outcome {
    let admin = client.admin();
    let described = admin.describe_cluster().await?;
    expect(described.brokers.len() >= nodes, || {
        format!("{described:?}")
    })?;
    only(
        admin
            .create_partitions(vec![(topic.to_owned(), ALL_PARTITIONS)])
            .await,
    )?;
    let new = NewTopic::new(topic, ALL_PARTITIONS);
    client.ensure_topics(vec![new]).await?;
    let count = timeout(WITHIN, async {
        loop {
            let count = client.refresh_topic(topic).await?.partitions.len();
            if count >= ALL_PARTITIONS as usize {
                return Ok::<_, ottla::client::Error>(count);
            }
        }
    });
    let count = count.await??;
    expect(count == ALL_PARTITIONS as usize, || {
        format!("{count} partitions")
    })?;

    let first = TopicPartition::new(topic, 0);
    let asked = vec![(first.clone(), DeleteUpTo::Offset(LOW))];
    let low = only(admin.delete_records(asked).await)?;
    let earliest = vec![(first, OffsetSpec::Earliest)];
    let earliest = only(client.transport().list_offsets(WITHIN, earliest).await)?;
    expect((low, earliest.offset) == (LOW, LOW), || {
        format!(
            "the low watermark is {low}, the first offset {}",
            earliest.offset
        )
    })
}

/// What a handler saw: the first offset and the number of records by partition.
type Seen = BTreeMap<i32, (Offset, usize)>;

/// Reads as the group until `total` records came, and asks `meanwhile` while it is there.
async fn consume(
    client: &Client,
    (topic, group): (&str, &str),
    total: usize,
    meanwhile: impl AsyncFnOnce() -> Outcome,
) -> Result<Seen, Failure> {
    let (sender, mut receiver) = mpsc::channel(1000);
    let config = ConsumerConfig {
        auto_offset_reset: AutoOffsetReset::Earliest,
        ..ConsumerConfig::default()
    };
    let mut app = App::new(client, config);
    let handler = handler_fn(move |_: HandlerContext, record: ConsumedRecord| {
        let sender = sender.clone();
        async move {
            match sender.send((record.partition, record.offset)).await {
                Ok(()) => Handled::Done,
                Err(_) => Handled::Failed(HandlerError::transient("test", "nobody counts")),
            }
        }
    });
    app.topic(topic).listen(group, handler);
    let app = app.start().await?;
    let mut seen = Seen::new();
    let read = timeout(WITHIN, async {
        for _ in 0..total {
            let Some((partition, offset)) = receiver.recv().await else {
                break;
            };
            let place = seen.entry(partition).or_insert((offset, 0));
            *place = (place.0.min(offset), place.1 + 1);
        }
    });
    let read = read.await;
    let asked = meanwhile().await;
    let report = app.shutdown(WITHIN).await;
    read.map_err(|_| format!("saw only {seen:?}; {report:?}"))?;
    asked?;
    Ok(seen)
}

async fn read_as_group(client: &Client, topic: &str, group: &str) -> Outcome {
    let admin = client.admin();
    let total = (2 * RECORDS - LOW) as usize;
    let seen = consume(client, (topic, group), total, async || {
        let described = only(admin.describe_groups(vec![group.to_owned()]).await)?;
        let members = described.members.iter();
        let partitions: usize = members.map(|member| member.partitions.len()).sum();
        expect(
            described.state == GroupState::Stable && partitions == ALL_PARTITIONS as usize,
            || format!("{described:?}"),
        )?;
        let in_use = only(admin.delete_groups(vec![group.to_owned()]).await);
        let code = in_use.err().and_then(|error| error.code());
        expect(code == Some(ErrorCode::NON_EMPTY_GROUP), || {
            format!("{code:?}")
        })?;
        let stable = GroupFilter {
            states: vec![GroupState::Stable],
            ..GroupFilter::default()
        };
        let listed = admin.list_groups(stable).await?;
        let is_listed = listed.groups.iter().any(|listed| listed.group_id == group);
        expect(is_listed && listed.failures.is_empty(), || {
            format!("{listed:?}")
        })
    });
    let seen = seen.await?;
    let first = seen.get(&0).map(|(first, _)| *first);
    expect(first == Some(LOW), || format!("read {seen:?}"))
}

async fn move_group(client: &Client, topic: &str, group: &str) -> Outcome {
    let admin = client.admin();
    let moved = CommitOffset {
        partition: TopicPartition::new(topic, 1),
        offset: RESTART,
        leader_epoch: None,
        metadata: String::new(),
    };
    only(admin.alter_group_offsets(group, vec![moved]).await)?;
    let committed = admin.group_offsets(group, None).await?;
    let mut offsets = BTreeMap::new();
    for (partition, committed) in committed {
        let committed = committed?.map(|committed| committed.offset);
        offsets.insert(partition.partition, committed);
    }
    let found = (offsets.get(&0), offsets.get(&1));
    expect(
        found == (Some(&Some(RECORDS)), Some(&Some(RESTART))),
        || format!("committed are {offsets:?}"),
    )?;
    let total = (RECORDS - RESTART) as usize;
    let seen = consume(client, (topic, group), total, async || Ok(())).await?;
    let expected = Seen::from([(1, (RESTART, total))]);
    expect(seen == expected, || format!("read {seen:?} after the move"))
}

async fn delete_group(client: &Client, topic: &str, group: &str) -> Outcome {
    let admin = client.admin();
    let first = vec![TopicPartition::new(topic, 0)];
    only(admin.delete_group_offsets(group, first).await)?;
    let left = admin.group_offsets(group, None).await?;
    let has_first = left.iter().any(|(partition, _)| partition.partition == 0);
    expect(!has_first, || format!("left are {left:?}"))?;
    only(admin.delete_groups(vec![group.to_owned()]).await)?;
    let gone = only(admin.describe_groups(vec![group.to_owned()]).await);
    let code = gone.err().and_then(|error| error.code());
    expect(code == Some(ErrorCode::GROUP_ID_NOT_FOUND), || {
        format!("{code:?}")
    })
}
