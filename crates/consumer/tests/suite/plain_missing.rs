//! A partition that the application named and that is not there: the caller hears of it, and gets it
//! when it comes.

use crate::bed::{Bed, config, numbers, wait_for};
use crate::plain::{bed, close, recv, t, values};
use ottla_consumer::{Consumer, ConsumerConfig, Error, ErrorKind, SeekTo};
use ottla_mock_cluster::{Action, ApiKey, Fault};
use std::error::Error as _;
use std::time::Duration;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(30);

async fn refused(consumer: &mut Consumer) -> Error {
    timeout(SOON, consumer.recv()).await.unwrap().unwrap_err()
}

fn last_error(consumer: &Consumer) -> Option<String> {
    let status = consumer.status();
    status.registrations[0].members[0].last_error.clone()
}

/// Of partitions 0 and 2, where there are two.
async fn is_told_and_goes_on(bed: &Bed, mut consumer: Consumer) {
    assert_eq!(values(&recv(&mut consumer).await), numbers(0..3));
    let error = refused(&mut consumer).await;
    assert_eq!(
        (error.kind(), error.partition()),
        (ErrorKind::UnknownTopic, Some(&t(2)))
    );
    let cause = error.source().unwrap().to_string();
    assert_eq!(cause, "the topic has 2 partitions");
    assert!(last_error(&consumer).unwrap().contains(&cause));

    // Told once; the others go on, and so does the search.
    let looks = || bed.cluster.requests(ApiKey::Metadata);
    let before = looks();
    wait_for("more looks", || looks() > before + 1).await;
    bed.write("t", 0, ["more"]).await;
    assert_eq!(values(&recv(&mut consumer).await), ["more"]);
    assert!(last_error(&consumer).unwrap().contains(&cause));
    let more = vec![("t".to_owned(), 3)];
    for (_, added) in bed.client.admin().create_partitions(more).await {
        added.unwrap();
    }
    bed.write("t", 2, ["there"]).await;
    assert_eq!(values(&recv(&mut consumer).await), ["there"]);
    close(consumer).await;
}

#[tokio::test]
async fn a_partition_that_is_not_there_is_told_and_begins_when_it_is() {
    let bed = bed(2, 3).await;
    let alone = ConsumerConfig {
        group_id: String::new(),
        ..config()
    };
    let consumer = Consumer::assign(&bed.client, alone, [t(0), t(2)]);
    is_told_and_goes_on(&bed, consumer.await.unwrap()).await;
}

#[tokio::test]
async fn so_it_is_where_the_application_says_where_to_begin() {
    let bed = bed(2, 3).await;
    let places = [t(0), t(2)].map(|partition| (partition, SeekTo::Offset(0)));
    let consumer = Consumer::builder(&bed.client, config()).assign_at(places);
    is_told_and_goes_on(&bed, consumer.await.unwrap()).await;
}

#[tokio::test]
async fn trap_c9_a_broker_that_does_not_know_a_partition_for_a_while_is_no_news() {
    let bed = bed(1, 3).await;
    let forgets = Fault::on(ApiKey::ListOffsets).times(7);
    let forgets = bed.cluster.faults().add(forgets.action(Action::Refuse(3)));
    let consumer = Consumer::assign(&bed.client, config(), [t(0)]);
    let mut consumer = consumer.await.unwrap();
    assert_eq!(values(&recv(&mut consumer).await), numbers(0..3));
    assert_eq!(forgets.hits(), 7);
    close(consumer).await;
}
