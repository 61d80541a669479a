//! The pure part: what is to be done with a record of a delay topic at a given time.
//!
//! What it reads came from a topic and may be anything. Whatever it says, a record waits at the head
//! of its partition for no longer than its level (and a minute, for clocks that differ), is never
//! forwarded early, and does not go round for ever.

use super::levels::{DelayLevel, DelayLevels};
use crate::durations::millis;
use ottla_types::{ConsumedRecord, names, validate_topic_name};
use std::time::Duration;

/// Hops so far; taken off when the record is forwarded.
pub(super) const HOPS: &str = "delay_hops";
/// How far a record's timestamp may be ahead of our clock.
const SKEW_MS: i64 = 60_000;
/// Hops beyond those that the distance explains.
const HOPS_SPARE: i64 = 64;

/// What to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Plan<'a> {
    /// Look again at this time.
    Wait(i64),
    /// Send it to its target: it was due at this time.
    Forward { target: &'a str, due_ms: i64 },
    /// Send it to another level for what is left.
    Hop { level: &'a DelayLevel, hops: i64 },
    /// It can never be forwarded.
    Refuse(&'static str),
}

pub(super) fn plan<'a>(
    record: &'a ConsumedRecord,
    level: &DelayLevel,
    levels: &'a DelayLevels,
    now_ms: i64,
    max_ahead: Duration,
) -> Plan<'a> {
    let Some(target) = record.headers.last_str(names::TARGET_TOPIC) else {
        return Plan::Refuse("the header target_topic is missing or no text");
    };
    if validate_topic_name(target).is_err() {
        return Plan::Refuse("the target topic has no legal name");
    }
    if levels.of_topic(target).is_some() {
        return Plan::Refuse("the target topic is a delay topic");
    }
    let delay_ms = millis(level.delay());
    // When the record has been here for its level's delay; `None` for a timestamp that cannot be.
    let over_ms = Some(record.timestamp_ms)
        .filter(|ms| (0..=now_ms.saturating_add(SKEW_MS)).contains(ms))
        .map(|ms| ms.saturating_add(delay_ms));
    let due_ms = match record.headers.last(names::NOT_BEFORE) {
        Some(_) => match record.headers.last_i64(names::NOT_BEFORE) {
            Some(due_ms) => due_ms,
            None => return Plan::Refuse("the header not_before is no number"),
        },
        None => match over_ms {
            Some(over_ms) => over_ms,
            None => return Plan::Refuse("the record has no due time and no usable timestamp"),
        },
    };
    let left_ms = due_ms.saturating_sub(now_ms);
    if left_ms <= 0 {
        return Plan::Forward { target, due_ms };
    }
    if left_ms > millis(max_ahead) {
        return Plan::Refuse("the due time is too far away");
    }
    let next_ms = over_ms.unwrap_or(now_ms).min(due_ms);
    if next_ms > now_ms {
        return Plan::Wait(next_ms);
    }
    let left = Duration::from_millis(left_ms.unsigned_abs());
    match levels.within(left) {
        Some(level) => hop(record, level, levels, max_ahead),
        // Less than the shortest level: the partition can wait for that.
        None => Plan::Wait(due_ms),
    }
}

fn hop<'a>(
    record: &ConsumedRecord,
    level: &'a DelayLevel,
    levels: &DelayLevels,
    max_ahead: Duration,
) -> Plan<'a> {
    let hops = record.headers.last_i64(HOPS).unwrap_or(0).max(0);
    let explained = millis(max_ahead) / millis(levels.longest().delay()).max(1);
    if hops >= explained.saturating_add(HOPS_SPARE) {
        return Plan::Refuse("the record was sent on too often");
    }
    Plan::Hop {
        level,
        hops: hops + 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ottla_types::{Headers, TimestampType};
    use proptest::prelude::*;

    const NOW: i64 = 1_000_000_000;
    const MONTH: Duration = Duration::from_secs(30 * 86_400);

    fn record(topic: &str, timestamp_ms: i64, headers: Headers) -> ConsumedRecord {
        ConsumedRecord {
            topic: topic.into(),
            partition: 0,
            offset: 0,
            leader_epoch: None,
            timestamp_ms,
            timestamp_type: TimestampType::CreateTime,
            key: None,
            value: None,
            headers,
        }
    }

    fn to(target: &str) -> Headers {
        Headers::new().with(names::TARGET_TOPIC, target.to_owned())
    }

    fn due(due_ms: impl ToString) -> Headers {
        to("orders").with(names::NOT_BEFORE, due_ms.to_string())
    }

    fn step(record: &ConsumedRecord) -> String {
        let levels = DelayLevels::rocketmq();
        let level = levels.of_topic(&record.topic).unwrap();
        match plan(record, level, &levels, NOW, MONTH) {
            Plan::Wait(ms) => format!("wait {}", ms - NOW),
            Plan::Forward { target, due_ms } => format!("{target} {}", NOW - due_ms),
            Plan::Hop { level, hops } => format!("{} {hops}", level.topic()),
            Plan::Refuse(why) => why.to_owned(),
        }
    }

    #[test]
    fn a_record_is_due_when_its_level_is_over() {
        assert_eq!(
            step(&record("delay_5s", NOW - 4_999, to("orders"))),
            "wait 1"
        );
        assert_eq!(
            step(&record("delay_5s", NOW - 5_000, to("orders"))),
            "orders 0"
        );
        assert_eq!(
            step(&record("delay_5s", NOW - 6_000, to("orders"))),
            "orders 1000"
        );
    }

    #[test]
    fn a_due_time_between_levels_is_reached_in_hops() {
        let far = due(NOW + 7_300_000);
        assert_eq!(
            step(&record("delay_2h", NOW - 7_200_000, far)),
            "delay_2h 1"
        );
        let near = due(NOW + 29_000).with(HOPS, "4");
        assert_eq!(step(&record("delay_1m", NOW - 60_000, near)), "delay_10s 5");
        let last = due(NOW + 999);
        assert_eq!(step(&record("delay_1m", NOW - 60_000, last)), "wait 999");
        assert_eq!(step(&record("delay_1s", NOW, due(NOW + 10))), "wait 10");
        assert_eq!(step(&record("delay_2h", NOW, due(NOW - 3))), "orders 3");
    }

    #[test]
    fn what_cannot_be_is_refused_and_holds_nothing_up() {
        let missing = record("delay_5s", NOW, Headers::new());
        assert!(step(&missing).contains("missing"));
        assert!(step(&record("delay_5s", NOW, to("a b"))).contains("legal"));
        assert!(step(&record("delay_5s", NOW, to("delay_1s"))).contains("delay topic"));
        assert!(step(&record("delay_5s", NOW, due("soon"))).contains("no number"));
        assert!(step(&record("delay_5s", NOW, due(i64::MAX))).contains("too far"));
        assert!(step(&record("delay_5s", -1, to("orders"))).contains("timestamp"));
        assert!(step(&record("delay_5s", i64::MAX, to("orders"))).contains("timestamp"));
        let round = due(NOW + 60_000).with(HOPS, "100000");
        assert!(step(&record("delay_5s", 0, round)).contains("too often"));
        // An unusable timestamp beside a usable due time.
        assert_eq!(
            step(&record("delay_5s", i64::MAX, due(NOW + 31_000))),
            "delay_30s 1"
        );
    }

    /// Headers as another program may have written them: never a panic, never a wait without end.
    #[test]
    fn fuzz_delay_plans() {
        type Value = Option<Vec<u8>>;
        let levels = DelayLevels::rocketmq();
        bolero::check!()
            .with_iterations(1000)
            .with_type::<(i64, u8, [Value; 3])>()
            .for_each(|(timestamp_ms, level, values)| {
                let level = levels.get(usize::from(level % 18) + 1).unwrap();
                let mut headers = to("orders");
                let keys = [names::TARGET_TOPIC, names::NOT_BEFORE, HOPS];
                for (key, value) in keys.into_iter().zip(values) {
                    if let Some(value) = value {
                        headers.set(key, value.clone());
                    }
                }
                let record = record(level.topic(), *timestamp_ms, headers);
                assert!(!crate::message_id(&record).is_empty());
                match plan(&record, level, &levels, NOW, MONTH) {
                    Plan::Wait(until) => {
                        let longest = millis(level.delay()).max(1000) + SKEW_MS;
                        assert!((NOW + 1..=NOW + longest).contains(&until));
                    }
                    Plan::Forward { target, due_ms } => {
                        assert!(due_ms <= NOW && validate_topic_name(target).is_ok());
                    }
                    Plan::Hop { hops, .. } => assert!(hops > 0),
                    Plan::Refuse(why) => assert!(!why.is_empty()),
                }
            });
    }

    proptest! {
        #[test]
        fn no_record_is_early_or_holds_its_partition_up(
            timestamp_ms in prop_oneof![any::<i64>(), NOW - 100_000_000..NOW + 1_000_000],
            due_ms in proptest::option::of(prop_oneof![any::<i64>(), NOW - 1000..NOW + 100_000_000]),
            level in 1usize..=18,
        ) {
            let levels = DelayLevels::rocketmq();
            let level = levels.get(level).unwrap();
            let headers = due_ms.map_or_else(|| to("orders"), due);
            let record = record(level.topic(), timestamp_ms, headers);
            match plan(&record, level, &levels, NOW, MONTH) {
                Plan::Wait(until) => {
                    prop_assert!(until > NOW);
                    prop_assert!(until <= NOW + millis(level.delay()).max(1000) + SKEW_MS);
                }
                Plan::Forward { due_ms: due, .. } => {
                    prop_assert!(due <= NOW);
                    prop_assert!(due_ms.is_none_or(|d| d == due));
                }
                Plan::Hop { level, .. } => {
                    prop_assert!(due_ms.is_some_and(|d| NOW + millis(level.delay()) <= d));
                }
                Plan::Refuse(_) => {}
            }
        }
    }
}
