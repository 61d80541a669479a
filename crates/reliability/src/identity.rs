//! Which message a record is, wherever its copies stand.

use ottla_consumer::Context;
use ottla_types::{ConsumedRecord, names};

/// The message's identity, the same for all its copies: the `message_id` header; else where the
/// record first stood, by its `original_*` headers; else where it stands
/// (`topic-partition-offset`).
pub fn message_id(record: &ConsumedRecord) -> String {
    let headers = &record.headers;
    if let Some(id) = headers.last_str(names::MESSAGE_ID)
        && !id.is_empty()
    {
        return id.to_owned();
    }
    let origin = (
        headers.last_str(names::ORIGINAL_TOPIC),
        headers.last_i64(names::ORIGINAL_PARTITION),
        headers.last_i64(names::ORIGINAL_OFFSET),
    );
    match origin {
        (Some(topic), Some(partition), Some(offset)) => format!("{topic}-{partition}-{offset}"),
        _ => place(record),
    }
}

/// Where the record stands.
pub(crate) fn place(record: &ConsumedRecord) -> String {
    format!("{}-{}-{}", record.topic, record.partition, record.offset)
}

/// The owner under which [`Deduplicated`](crate::Deduplicated) claims the record: the member and the
/// record's place. A handler that marks the message in its own transaction
/// (`ottla_store_redb::RedbDedup::done_in`) passes the same.
pub fn claim_owner(context: &Context, record: &ConsumedRecord) -> String {
    format!("{}/{}", context.member(), place(record))
}
