//! Logs that are cut or made anew while they are consumed.

use crate::bed::{Bed, Seen, config, stop, wait_for};
use ottla_client::TransportKind;
use ottla_consumer::{App, AutoOffsetReset, ConsumerConfig, Outcome, handler_fn};
use std::sync::Arc;
use tokio::sync::Semaphore;

const GROUP: &str = "g";

async fn bed() -> Bed {
    let bed = Bed::over(TransportKind::Native).await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed
}

fn with(reset: AutoOffsetReset) -> ConsumerConfig {
    ConsumerConfig {
        auto_offset_reset: reset,
        ..config()
    }
}

#[tokio::test]
async fn trap_c20_after_a_truncation_reading_goes_on_where_the_logs_part() {
    for reset in [AutoOffsetReset::Earliest, AutoOffsetReset::Latest] {
        let bed = bed().await;
        bed.write("t", 0, ["a", "b"]).await;
        bed.write("t", 0, ["c", "d"]).await;
        let seen = Seen::default();
        let mut app = App::new(&bed.client, with(AutoOffsetReset::Earliest));
        app.topic("t").listen(GROUP, seen.handler());
        let running = app.start().await.unwrap();
        seen.wait_len(4).await;
        wait_for("the commit", || bed.committed(GROUP, "t", 0) == Some(4)).await;
        stop(running).await;
        // It begins at the commit, and with its epoch.
        assert_eq!(bed.cluster.committed_leader_epoch(GROUP, "t", 0), Some(0));
        bed.cluster.truncate("t", 0, 2).unwrap();
        bed.write("t", 0, ["x", "y", "z"]).await;
        let mut app = App::new(&bed.client, with(reset));
        app.topic("t").listen(GROUP, seen.handler());
        let running = app.start().await.unwrap();
        seen.wait_len(7).await;
        assert_eq!(seen.values(), ["a", "b", "c", "d", "x", "y", "z"]);
        wait_for("the commit", || bed.committed(GROUP, "t", 0) == Some(5)).await;
        stop(running).await;
    }
}

#[tokio::test]
async fn trap_c20_what_was_read_and_not_handled_is_not_skipped() {
    let bed = bed().await;
    bed.write("t", 0, ["a", "b"]).await;
    bed.write("t", 0, ["c", "d"]).await;
    let (seen, gate) = (Seen::default(), Arc::new(Semaphore::new(0)));
    let mut app = App::new(&bed.client, with(AutoOffsetReset::Earliest));
    let handler = {
        let (seen, gate) = (seen.clone(), gate.clone());
        handler_fn(move |context, record| {
            seen.push(context.member(), &record);
            let gate = gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                Outcome::Done
            }
        })
    };
    app.topic("t").listen(GROUP, handler);
    let running = app.start().await.unwrap();
    // The first is with the handler, the others wait behind it.
    seen.wait_len(1).await;
    bed.cluster.truncate("t", 0, 2).unwrap();
    bed.write("t", 0, ["x"]).await;
    wait_for("the reset", || seen.len() == 2).await;
    gate.add_permits(100);
    wait_for("all that is there", || {
        seen.values().ends_with(&["x".into()])
    })
    .await;
    assert_eq!(seen.values(), ["a", "a", "b", "x"]);
    stop(running).await;
}

#[tokio::test]
async fn trap_c15_a_topic_made_anew_is_read_from_its_beginning() {
    for reset in [AutoOffsetReset::Earliest, AutoOffsetReset::Latest] {
        let bed = bed().await;
        let seen = Seen::default();
        let mut app = App::new(&bed.client, with(reset));
        app.topic("t").listen(GROUP, seen.handler());
        let running = app.start().await.unwrap();
        wait_for("its beginning", || bed.committed(GROUP, "t", 0) == Some(0)).await;
        bed.write("t", 0, ["a", "b", "c"]).await;
        seen.wait_len(3).await;
        bed.cluster.delete_topic("t").unwrap();
        bed.cluster.create_topic("t", 1).unwrap();
        for value in ["v", "w", "x", "y", "z"] {
            bed.write("t", 0, [value]).await;
        }
        seen.wait_len(8).await;
        assert_eq!(seen.values(), ["a", "b", "c", "v", "w", "x", "y", "z"]);
        wait_for("the commit", || bed.committed(GROUP, "t", 0) == Some(5)).await;
        stop(running).await;
    }
}

#[tokio::test]
async fn trap_c20_without_a_policy_the_partition_stops_and_says_why() {
    let bed = bed().await;
    bed.write("t", 0, ["a", "b"]).await;
    bed.write("t", 0, ["c", "d"]).await;
    let seen = Seen::default();
    let mut app = App::new(&bed.client, with(AutoOffsetReset::Earliest));
    app.topic("t").listen(GROUP, seen.handler());
    let running = app.start().await.unwrap();
    seen.wait_len(4).await;
    wait_for("the commit", || bed.committed(GROUP, "t", 0) == Some(4)).await;
    stop(running).await;
    bed.cluster.truncate("t", 0, 2).unwrap();
    let mut app = App::new(&bed.client, with(AutoOffsetReset::Error));
    app.topic("t").listen(GROUP, seen.handler());
    let running = app.start().await.unwrap();
    let is_stopped = || {
        let status = format!("{:?}", running.status());
        status.contains("Stopped") && status.contains("Truncated")
    };
    wait_for("the stop", is_stopped).await;
    assert_eq!(seen.len(), 4);
    stop(running).await;
}
