//! Publishing a dead letter, the last place that a record can go to.

use ottla_types::{ConsumedRecord, Publish, PublishError, PublishErrorKind, Record, names};

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
