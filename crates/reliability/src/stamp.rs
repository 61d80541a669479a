//! The headers that a retried or dead-lettered record carries.

use crate::identity::message_id;
use ottla_consumer::HandlerError;
use ottla_types::{ConsumedRecord, Headers, Record, add_causes, names};

/// The bound on the `error_class` header, in bytes.
const ERROR_CLASS_MAX_BYTES: usize = 256;

/// The headers that lead back to where a record first stood.
const ORIGIN: [&str; 4] = [
    names::ORIGINAL_TOPIC,
    names::ORIGINAL_PARTITION,
    names::ORIGINAL_OFFSET,
    names::ORIGINAL_TIMESTAMP,
];

/// Why a record goes on to another topic.
pub(crate) struct Failed<'a> {
    pub(crate) group: &'a str,
    pub(crate) error: &'a HandlerError,
    /// Failed attempts so far, this one included.
    pub(crate) attempts: u32,
    pub(crate) now_ms: i64,
    /// The record stands where it first stood: headers that say otherwise are not ours.
    pub(crate) is_first: bool,
}

/// A copy of the record for `topic`: raw bytes, key and all headers kept; where it first stood and
/// its identity set once, the failure replaced.
pub(crate) fn copy_for(topic: &str, record: &ConsumedRecord, failed: &Failed<'_>) -> Record {
    let mut copy = record.to_record(topic);
    let headers = &mut copy.headers;
    set_once(headers, names::MESSAGE_ID, || message_id(record));
    if failed.is_first {
        for name in ORIGIN {
            headers.remove(name);
        }
    }
    set_once(headers, names::ORIGINAL_TOPIC, || record.topic.to_string());
    set_once(headers, names::ORIGINAL_PARTITION, || {
        record.partition.to_string()
    });
    set_once(headers, names::ORIGINAL_OFFSET, || {
        record.offset.to_string()
    });
    set_once(headers, names::ORIGINAL_TIMESTAMP, || {
        record.timestamp_ms.to_string()
    });
    headers.set(names::RETRY_COUNT, failed.attempts.to_string());
    headers.set(names::CONSUMER_GROUP, failed.group.to_owned());
    let class = cut(failed.error.class(), ERROR_CLASS_MAX_BYTES);
    headers.set(names::ERROR_CLASS, class.to_owned());
    headers.set(names::ERROR_MESSAGE, error_message(failed.error));
    headers.set(names::FAILED_AT, failed.now_ms.to_string());
    headers.remove(names::NOT_BEFORE);
    copy
}

fn set_once(headers: &mut Headers, key: &str, value: impl FnOnce() -> String) {
    if headers.last_str(key).is_none_or(str::is_empty) {
        headers.set(key, value());
    }
}

/// The error's text with its causes, at most [`names::ERROR_MESSAGE_MAX_BYTES`].
fn error_message(error: &HandlerError) -> String {
    let mut text = error.message().to_owned();
    add_causes(&mut text, error);
    text.truncate(cut(&text, names::ERROR_MESSAGE_MAX_BYTES).len());
    text
}

/// The longest start of `text` of at most `max` bytes that ends between two characters.
fn cut(text: &str, max: usize) -> &str {
    let mut end = max.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_between_characters() {
        assert_eq!(cut("aä", 2), "a");
        assert_eq!(cut("aä", 3), "aä");
        let error = HandlerError::transient("C", "ä".repeat(600)).with_source("cause");
        let text = error_message(&error);
        assert_eq!(text.len(), 1024);
        let error = HandlerError::transient("C", "no answer").with_source("refused");
        assert_eq!(error_message(&error), "no answer: refused");
    }
}
