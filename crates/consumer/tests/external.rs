//! A group's life on a broker that runs already.
//!
//! ```text
//! OTTLA_TEST_BOOTSTRAP=localhost:9092 cargo test -p ottla-consumer --test external -- --ignored
//! ```

#![allow(clippy::unwrap_used, unreachable_pub, dead_code, reason = "tests")]

#[path = "suite/bed.rs"]
mod bed;

use bed::{Seen, numbers, owned, stop, wait_for, write};
use ottla_client::{Client, ClientConfig, NewTopic};
use ottla_consumer::{App, Assignor, ConsumerConfig, RunningApp};
use std::time::Duration;

async fn connect() -> Client {
    let bootstrap = std::env::var("OTTLA_TEST_BOOTSTRAP").expect("OTTLA_TEST_BOOTSTRAP=host:port");
    Client::connect(ClientConfig::new(&bootstrap))
        .await
        .unwrap()
}

/// A topic of four partitions with a name of its own.
async fn new_topic(client: &Client) -> String {
    let topic = format!("ottla-test-{:016x}", fastrand::u64(..));
    client
        .ensure_topics(vec![NewTopic::new(&topic, 4)])
        .await
        .unwrap();
    topic
}

async fn start(client: &Client, topic: &str, config: &ConsumerConfig, seen: &Seen) -> RunningApp {
    let mut app = App::new(client, config.clone());
    app.topic(topic).listen(topic, seen.handler());
    app.start().await.unwrap()
}

async fn group_life(assignor: Assignor) {
    let client = connect().await;
    let topic = new_topic(&client).await;
    let config = ConsumerConfig {
        // The least that brokers allow by default.
        session_timeout: Duration::from_secs(6),
        heartbeat_interval: Duration::from_millis(300),
        assignors: vec![assignor],
        ..bed::config()
    };
    let seen = Seen::default();
    let all = async |numbers: Vec<String>| {
        for partition in 0..4 {
            write(&client, &topic, partition, &numbers).await;
        }
    };
    all(numbers(0..100)).await;
    let first = start(&client, &topic, &config, &seen).await;
    seen.wait_len(400).await;
    let second = start(&client, &topic, &config, &seen).await;
    wait_for("half each", || {
        owned(&first) == [2] && owned(&second) == [2]
    })
    .await;
    all(numbers(100..200)).await;
    seen.wait_len(800).await;
    stop(first).await;
    wait_for("the rest", || owned(&second) == [4]).await;
    all(numbers(200..300)).await;
    seen.wait_len(1200).await;
    stop(second).await;
    let third = start(&client, &topic, &config, &seen).await;
    wait_for("all of it", || owned(&third) == [4]).await;
    all(numbers(300..301)).await;
    seen.wait_len(1204).await;
    stop(third).await;
    for partition in 0..4 {
        assert_eq!(
            seen.offsets(partition),
            (0..301).collect::<Vec<_>>(),
            "each once, in order"
        );
    }
}

#[tokio::test]
#[ignore = "needs a broker at OTTLA_TEST_BOOTSTRAP"]
async fn a_group_grows_shrinks_and_comes_back_range() {
    group_life(Assignor::Range).await;
}

#[tokio::test]
#[ignore = "needs a broker at OTTLA_TEST_BOOTSTRAP"]
async fn a_group_grows_shrinks_and_comes_back_cooperative() {
    group_life(Assignor::CooperativeSticky).await;
}
