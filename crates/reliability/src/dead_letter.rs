//! Publishing a dead letter, the last place that a record can go to.

use ottla_types::{Publish, PublishError, PublishErrorKind, Record, names};

/// Publishes a dead letter. One that is too large with all headers goes without the error's text:
/// it is better known to be broken than to hold up its partition for ever.
pub(crate) async fn publish_dead_letter(
    publish: &dyn Publish,
    mut copy: Record,
) -> Result<(), PublishError> {
    let result = publish.publish(copy.clone()).await;
    match result {
        Err(e) if e.kind() == PublishErrorKind::RecordTooLarge => {
            copy.headers.remove(names::ERROR_MESSAGE);
            publish.publish(copy).await.map(drop)
        }
        result => result.map(drop),
    }
}
