//! What is refused at the start.

use crate::bed::{Bed, Seen, config, stop, wait_for};
use ottla_consumer::{App, ConsumerConfig, ErrorKind, RebalanceListener, Registration};
use std::time::Duration;
use tokio::time::Instant;

#[tokio::test]
async fn an_unknown_topic_is_an_error_within_the_deadline() {
    let bed = Bed::start().await;
    let hasty = ConsumerConfig {
        start_timeout: Duration::from_secs(1),
        ..config()
    };
    let mut app = App::new(&bed.client, hasty);
    app.topic("no-such-topic")
        .listen("g", Seen::default().handler());
    let begun = Instant::now();
    let error = app.start().await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert_eq!(error.kind(), ErrorKind::UnknownTopic);
    let text = error.to_string();
    assert!(
        text.starts_with("group g: topic no-such-topic: the topic does not exist"),
        "{text}"
    );
}

#[tokio::test]
async fn a_topic_that_appears_in_time_is_fine() {
    let bed = Bed::start().await;
    let seen = Seen::default();
    let mut app = bed.app();
    app.topic("t").listen("g", seen.handler());
    let create = async {
        let asked = || bed.cluster.requests(ottla_mock_cluster::ApiKey::Metadata) > 1;
        wait_for("a look for the topic", asked).await;
        bed.cluster.create_topic("t", 1).unwrap();
    };
    let (running, ()) = tokio::join!(app.start(), create);
    bed.write("t", 0, ["a"]).await;
    seen.wait_len(1).await;
    stop(running.unwrap()).await;
}

struct Deaf;

impl RebalanceListener for Deaf {}

#[tokio::test]
async fn what_is_not_allowed_is_refused_with_its_key() {
    let bed = Bed::start().await;
    let handler = || Seen::default().handler();
    let cases = [
        (Registration::new("", ["t"], handler()), "group.id"),
        (Registration::new("g", ["no/slash"], handler()), "topic"),
        (Registration::new("g", [""; 0], handler()), "topics"),
        (
            Registration::new("g", ["t"], handler()).instances(0),
            "instances",
        ),
        (
            Registration::new("g", ["t"], handler()).max_processing_time(Duration::ZERO),
            "max.processing.time.ms",
        ),
        (
            Registration::new("g", ["t"], handler()).config(ConsumerConfig {
                enable_auto_commit: true,
                ..config()
            }),
            "enable.auto.commit",
        ),
        (
            Registration::new("g", ["t"], handler())
                .listener(Deaf)
                .config(ConsumerConfig {
                    rebalance_callback_timeout: Duration::from_secs(15),
                    ..config()
                }),
            "rebalance.callback.timeout.ms",
        ),
    ];
    for (registration, key) in cases {
        let mut app = bed.app();
        app.register(registration);
        let error = app.start().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        let cause = std::error::Error::source(&error).unwrap().to_string();
        assert!(cause.contains(&format!("`{key}`")), "{cause}");
    }
}

#[tokio::test]
async fn a_group_is_registered_once() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    let mut app = bed.app();
    app.topic("t").listen("g", Seen::default().handler());
    app.topic("t").listen("g", Seen::default().handler());
    assert_eq!(app.start().await.unwrap_err().kind(), ErrorKind::Config);
}

#[cfg(unix)]
#[tokio::test]
async fn sigterm_stops_gracefully() {
    use rustix::process::{Signal, getpid, kill_process};
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.write("t", 0, ["a"]).await;
    let seen = Seen::default();
    let mut app = bed.app();
    app.topic("t").listen("g", seen.handler());
    let running = app.start().await.unwrap();
    let signal = async {
        seen.wait_len(1).await;
        kill_process(getpid(), Signal::TERM).unwrap();
    };
    let (report, ()) = tokio::join!(running.shutdown_on_signals(crate::bed::SHUTDOWN), signal);
    let report = report.unwrap();
    assert!(report.clean, "{report:?}");
    assert_eq!(bed.committed("g", "t", 0), Some(1));
}

#[tokio::test]
async fn a_cluster_that_is_away_is_an_error_within_the_deadline() {
    let bed = Bed::start().await;
    bed.cluster.create_topic("t", 1).unwrap();
    bed.cluster.kill(1).await.unwrap();
    let hasty = ConsumerConfig {
        start_timeout: Duration::from_millis(300),
        ..config()
    };
    let mut app = App::new(&bed.client, hasty);
    app.topic("t").listen("g", Seen::default().handler());
    let begun = Instant::now();
    let error = app.start().await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert!(
        matches!(error.kind(), ErrorKind::Client | ErrorKind::TimedOut),
        "{error}"
    );
}
