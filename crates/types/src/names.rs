//! The headers and topics that ottla writes. These names last: other programs read them.

/// Failed attempts so far: decimal text; a single byte below 0x20 is read as that number.
pub const RETRY_COUNT: &str = "retry_count";
/// The topic where the record first stood; set once.
pub const ORIGINAL_TOPIC: &str = "original_topic";
/// The partition where the record first stood, decimal; set once.
pub const ORIGINAL_PARTITION: &str = "original_partition";
/// The offset where the record first stood, decimal; set once.
pub const ORIGINAL_OFFSET: &str = "original_offset";
/// The timestamp that the record first had, in milliseconds; set once.
pub const ORIGINAL_TIMESTAMP: &str = "original_timestamp";
/// The group whose handler failed.
pub const CONSUMER_GROUP: &str = "consumer_group";
/// The class of the error that the handler returned.
pub const ERROR_CLASS: &str = "error_class";
/// The text of the error, at most [`ERROR_MESSAGE_MAX_BYTES`].
pub const ERROR_MESSAGE: &str = "error_message";
/// When the handler failed last, in milliseconds.
pub const FAILED_AT: &str = "failed_at";
/// Due time in milliseconds: the record is not handled or forwarded before it.
pub const NOT_BEFORE: &str = "not_before";
/// Where a delayed record goes when it is due.
pub const TARGET_TOPIC: &str = "target_topic";
/// The record's identity for deduplication.
pub const MESSAGE_ID: &str = "message_id";
/// How often the record was republished.
pub const HOP_COUNT: &str = "hop_count";
/// The topics that the record went through, separated by commas.
pub const VISITED_TOPICS: &str = "visited_topics";
/// How often the record was taken back from a dead letter topic.
pub const REDRIVE_COUNT: &str = "redrive_count";
/// W3C trace context.
pub const TRACEPARENT: &str = "traceparent";
/// W3C trace context.
pub const TRACESTATE: &str = "tracestate";

/// The bound on [`ERROR_MESSAGE`], in bytes.
pub const ERROR_MESSAGE_MAX_BYTES: usize = 1024;

/// The dead letter topic of `topic`: `<topic>_dlq`.
pub fn dead_letter_topic(topic: &str) -> String {
    format!("{topic}_dlq")
}

/// The retry topic of a group and delay tier: `<topic>_retry_<group>_<delay>`.
pub fn retry_topic(topic: &str, group: &str, delay: &str) -> String {
    format!("{topic}_retry_{group}_{delay}")
}

/// The topic of a delay level: `delay_<level>`.
pub fn delay_topic(level: &str) -> String {
    format!("delay_{level}")
}

/// Reads a `retry_count` value: decimal text, or a single byte below 0x20 as that number (the form
/// that some Go services write). `None` if it is neither.
pub fn parse_retry_count(value: &[u8]) -> Option<u32> {
    match value {
        [byte] if *byte < 0x20 => Some(u32::from(*byte)),
        text => std::str::from_utf8(text).ok()?.trim().parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_count_is_read_in_both_forms() {
        assert_eq!(parse_retry_count(b"12"), Some(12));
        assert_eq!(parse_retry_count(&[3]), Some(3));
        assert_eq!(parse_retry_count(b"3"), Some(3));
        assert_eq!(parse_retry_count(&[0x20]), None);
        assert_eq!(parse_retry_count(b""), None);
        assert_eq!(parse_retry_count(b"-1"), None);
    }
}
