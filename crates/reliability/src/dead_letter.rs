//! Publishing a dead letter, the last place that a record can go to.

use ottla_client::{Client, NewTopic};
use ottla_types::{ConsumedRecord, Publish, PublishError, PublishErrorKind, Record, names};

/// Adds to a counter that tells groups and their main topics apart.
pub(crate) fn count_record(name: &'static str, group: &str, topic: &str) {
    let labels = [("group", group.to_owned()), ("topic", topic.to_owned())];
    metrics::counter!(name, &labels).increment(1);
}

/// Counts a record of `topic` that `group` has sent to the dead letter topic.
pub(crate) fn count_dead_letter(group: &str, topic: &str) {
    count_record("ottla_dead_lettered_total", group, topic);
}

/// Creates the topics that do not exist, each with as many partitions and copies as the main topic
/// that it is named with, which must exist.
pub(crate) async fn ensure_derived(
    client: &Client,
    derived: impl IntoIterator<Item = (&str, Vec<String>)>,
) -> Result<(), ottla_client::Error> {
    let mut wanted = Vec::new();
    for (main, topics) in derived {
        let metadata = client.topic(main).await?;
        let partitions = i32::try_from(metadata.partitions.len()).unwrap_or(i32::MAX);
        let copies = metadata.partitions.first().map_or(1, |p| p.replicas.len());
        let copies = i16::try_from(copies.max(1)).unwrap_or(i16::MAX);
        let new = |topic| NewTopic::new(topic, partitions).replication(copies);
        wanted.extend(topics.into_iter().map(new));
    }
    client.ensure_topics(wanted).await
}

/// Publishes a dead letter, with what of our headers fits: all of them, all but the error's text, or
/// none. A record that came with just the size that brokers allow is better known to be broken, by
/// the log alone, than to hold up its partition for ever.
pub(crate) async fn publish_dead_letter(
    publish: &dyn Publish,
    mut copy: Record,
    source: &ConsumedRecord,
) -> Result<(), PublishError> {
    let Some(error) = refused_for_size(publish, copy.clone()).await? else {
        return Ok(());
    };
    copy.headers.remove(names::ERROR_MESSAGE);
    if refused_for_size(publish, copy.clone()).await?.is_none() {
        return Ok(());
    }
    tracing::error!(
        topic = &*copy.topic,
        partition = %source.topic_partition(),
        offset = source.offset,
        class = copy.headers.last_str(names::ERROR_CLASS),
        %error,
        "a dead letter has no room for our headers and goes without them"
    );
    copy.headers = source.headers.clone();
    match refused_for_size(publish, copy).await? {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

/// The error if the record was too large.
async fn refused_for_size(
    publish: &dyn Publish,
    record: Record,
) -> Result<Option<PublishError>, PublishError> {
    match publish.publish(record).await {
        Ok(_) => Ok(None),
        Err(error) if error.kind() == PublishErrorKind::RecordTooLarge => Ok(Some(error)),
        Err(error) => Err(error),
    }
}
