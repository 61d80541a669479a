//! Fuzz targets: what stands in records of other programs, and what members of a group send each
//! other through the coordinator.

#![allow(clippy::unwrap_used, reason = "tests")]

use allocation_counter::measure;
use bytes::Bytes;
use ottla_types::consumer_protocol::{Assignment, CodecError, Subscription};
use ottla_types::{Envelope, Headers, names, validate_topic_name};

/// How often `cargo test` runs each target, besides the corpus.
const ROUNDS: usize = 1000;

#[test]
fn fuzz_envelopes() {
    bolero::check!()
        .with_iterations(ROUNDS)
        .for_each(|input: &[u8]| {
            let mut read = None;
            let taken = measure(|| read = Envelope::from_json(input).ok());
            let most = 8 * input.len() + 1024;
            assert!(
                taken.bytes_max <= most as u64,
                "{taken:?}, {most} are right"
            );
            if let Some(envelope) = read {
                assert_eq!(Envelope::from_json(&envelope.to_json()).unwrap(), envelope);
            }
        });
}

#[test]
fn fuzz_headers() {
    bolero::check!()
        .with_iterations(ROUNDS)
        .for_each(|value: &[u8]| {
            let mut headers = Headers::new();
            headers.push(names::RETRY_COUNT, Some(value.to_vec().into()));
            headers.push(names::NOT_BEFORE, None);
            assert_eq!(headers.last_str(names::NOT_BEFORE), None);
            let text = headers.last_str(names::RETRY_COUNT);
            assert_eq!(text, std::str::from_utf8(value).ok());
            // A count is the number that the text says, and one byte may be the number itself.
            let count = names::parse_retry_count(value);
            match (value, headers.last_i64(names::RETRY_COUNT)) {
                ([byte @ ..0x20], _) => assert_eq!(count, Some(u32::from(*byte))),
                // `-0` is a number and no count.
                (_, Some(number)) => assert!(count.is_none_or(|c| i64::from(c) == number)),
                (_, None) => assert_eq!(count, None),
            }
            // The topics that are made of a legal name are at least in its alphabet.
            let Some(name) = text.filter(|name| validate_topic_name(name).is_ok()) else {
                return;
            };
            let derived = names::dead_letter_topic(name);
            assert_eq!(validate_topic_name(&derived).is_ok(), derived.len() <= 249);
        });
}

/// A partition takes four bytes in a blob and 24 in a list that may double.
const FACTOR: usize = 24;

/// What can be read takes a multiple of its size, and is the same when it is written and read
/// again.
fn check<T: PartialEq + std::fmt::Debug>(
    input: &[u8],
    decode: fn(&Bytes) -> Result<T, CodecError>,
    encode: fn(&T) -> Bytes,
) {
    let blob = Bytes::copy_from_slice(input);
    let mut read = None;
    let taken = measure(|| read = decode(&blob).ok());
    let most = FACTOR * input.len() + 1024;
    assert!(
        taken.bytes_max <= most as u64,
        "{taken:?}, {most} are right"
    );
    let Some(read) = read else { return };
    // Topics that stand twice are joined by the first writing: from there on nothing changes.
    let again = decode(&encode(&read)).unwrap();
    assert_eq!(decode(&encode(&again)).unwrap(), again);
}

#[test]
fn fuzz_subscriptions() {
    bolero::check!()
        .with_iterations(ROUNDS)
        .for_each(|input: &[u8]| check(input, Subscription::decode, Subscription::encode));
}

#[test]
fn fuzz_assignments() {
    bolero::check!()
        .with_iterations(ROUNDS)
        .for_each(|input: &[u8]| check(input, Assignment::decode, Assignment::encode));
}
