//! Bodies that are no JSON: into the dead letter topic with `Reliable` around the handler, else as
//! the handler's own policy says.

use super::{Fallible, PATIENCE, create, ensure, until, within};
use crate::read_back;
use crate::scenarios::{Context, Outcome};
use ottla::client::{Client, NewTopic};
use ottla::consumer::{
    App, AutoOffsetReset, ConsumerConfig, Handler, HandlerError, Registration, RegistrationStatus,
    RunningApp, Undecodable, json_handler,
};
use ottla::producer::{Producer, ProducerConfig};
use ottla::reliability::{Backoff, Reliable, RetryPolicy};
use ottla::types::coordinator::OffsetFetchRequest;
use ottla::types::{Record, TopicPartition, names};
use serde::Deserialize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

#[derive(Deserialize)]
struct Order {
    id: u64,
}

/// The orders that a handler saw.
#[derive(Clone, Default)]
pub(super) struct Seen(Arc<Mutex<Vec<u64>>>);

impl Seen {
    fn ids(&self) -> Vec<u64> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

pub(super) fn orders(seen: &Seen) -> impl Handler + use<> {
    orders_or(seen, Undecodable::Fail)
}

fn orders_or(seen: &Seen, undecodable: Undecodable) -> impl Handler + use<> {
    let seen = seen.clone();
    let handler = json_handler(move |_, order: Order| {
        let seen = seen.clone();
        async move {
            let mut ids = seen.0.lock().unwrap_or_else(PoisonError::into_inner);
            ids.push(order.id);
            Ok::<_, HandlerError>(())
        }
    });
    handler.on_undecodable(undecodable)
}

pub(super) async fn undecodable(context: &Context) -> Outcome {
    let client = context.client().await?;
    let topic = context.unique("orders");
    create(&client, NewTopic::new(&topic, 1)).await?;
    let producer = Producer::new(&client, ProducerConfig::default())?;
    let bodies = [r#"{"id": 1}"#, "no json", r#"{"id": "x"}"#, r#"{"id": 2}"#];
    let records = bodies.map(|body| Record::new(&*topic).key("k").value(body));
    for sent in producer.send_all(records.into()).await {
        sent?;
    }

    dead_letters(context, &client, &producer, &topic).await?;

    // Without anything around the handler, its own policy decides: wait at the record, or skip it.
    let (waiting, seen) = (context.unique("waits"), Seen::default());
    let running = start(
        &client,
        Registration::new(&*waiting, [&*topic], orders(&seen)),
    )
    .await?;
    until("the second try", || {
        group_status(&running).is_some_and(|g| g.failed() >= 2)
    })
    .await?;
    let last_error = group_status(&running).and_then(|g| g.members.first()?.last_error.clone());
    println!("  a partition that waits: {last_error:?}");
    ensure!(last_error.is_some(), "nobody says why the partition waits");
    stop(running).await?;
    ensure!(seen.ids() == [1], "{:?}", seen.ids());
    expect_committed(&client, &waiting, &topic, 1).await?;

    let (skipping, seen) = (context.unique("skips"), Seen::default());
    let handler = orders_or(&seen, Undecodable::Skip);
    let running = start(&client, Registration::new(&*skipping, [&*topic], handler)).await?;
    until("all orders", || seen.ids().len() >= 2).await?;
    stop(running).await?;
    ensure!(seen.ids() == [1, 2], "{:?}", seen.ids());
    expect_committed(&client, &skipping, &topic, 4).await?;
    ensure!(producer.close(PATIENCE).await.is_clean(), "the close");
    client.close().await;
    Ok(())
}

/// With `Reliable` around the handler, the records go to the dead letter topic as they were.
async fn dead_letters(
    context: &Context,
    client: &Client,
    producer: &Producer,
    topic: &str,
) -> Outcome {
    let (group, seen) = (context.unique("reliable"), Seen::default());
    let policy = RetryPolicy::new(3, Backoff::constant(Duration::from_millis(200)));
    let reliable = Reliable::builder(&*group, orders(&seen), Arc::new(producer.clone()))
        .topic(topic)
        .policy(policy)
        .build()?;
    reliable.ensure_topics(client).await?;
    let running = start(client, reliable.into_registration()).await?;
    until("all orders", || seen.ids().len() >= 2).await?;
    stop(running).await?;
    ensure!(seen.ids() == [1, 2], "{:?}", seen.ids());
    expect_committed(client, &group, topic, 4).await?;

    let dead = read_back::read_topic(client, &names::dead_letter_topic(topic), PATIENCE).await?;
    let bodies: Vec<_> = dead
        .iter()
        .map(|r| r.value.as_deref().unwrap_or_default())
        .collect();
    ensure!(bodies == [&b"no json"[..], br#"{"id": "x"}"#], "{bodies:?}");
    for (record, offset) in dead.iter().zip(["1", "2"]) {
        for (name, value) in [
            (names::ORIGINAL_TOPIC, topic),
            (names::ORIGINAL_OFFSET, offset),
            (names::CONSUMER_GROUP, &group),
            (names::ERROR_CLASS, ottla::consumer::CLASS_UNDECODABLE),
            (names::RETRY_COUNT, "1"),
        ] {
            let found = record.headers.last_str(name);
            ensure!(found == Some(value), "{name} is {found:?}, not {value}");
        }
        println!(
            "  a dead letter: {:?}",
            record.headers.last_str(names::ERROR_MESSAGE)
        );
    }
    Ok(())
}

async fn start(client: &Client, registration: Registration) -> Fallible<RunningApp> {
    let config = ConsumerConfig {
        auto_offset_reset: AutoOffsetReset::Earliest,
        ..ConsumerConfig::default()
    };
    let mut app = App::new(client, config);
    app.register(registration);
    Ok(within("a start", PATIENCE, app.start()).await??)
}

async fn stop(running: RunningApp) -> Outcome {
    let report = within("a stop", PATIENCE, running.shutdown(PATIENCE)).await?;
    ensure!(report.clean, "{report:?}");
    Ok(())
}

fn group_status(running: &RunningApp) -> Option<RegistrationStatus> {
    running.status().registrations.into_iter().next()
}

async fn expect_committed(client: &Client, group: &str, topic: &str, wanted: i64) -> Outcome {
    let request = OffsetFetchRequest {
        partitions: vec![TopicPartition::new(topic, 0)],
        require_stable: false,
    };
    let answer = client.group(group).fetch_offsets(request).await?;
    let committed = answer.offsets.first().and_then(|one| one.offset);
    ensure!(
        committed == Some(wanted),
        "{group} committed {committed:?}, not {wanted}"
    );
    Ok(())
}
