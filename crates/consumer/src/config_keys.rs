//! The keys of [`ConsumerConfig`], for reading and for the documentation.

use crate::ConsumerConfig;
use ottla_types::ConfigKey;

const fn key(
    name: &'static str,
    unit: &'static str,
    default: &'static str,
    allowed: &'static str,
) -> ConfigKey {
    ConfigKey::new(name, unit, default, allowed)
}

ottla_types::configuration!(
    ConsumerConfig,
    &[
        key(
            "group.id",
            "text",
            "",
            "1 to 249 bytes, no control characters"
        ),
        key(
            "group.instance.id",
            "text",
            "",
            "1 to 249 bytes; empty for none"
        ),
        key(
            "group.protocol",
            "name",
            "classic",
            "`classic`, `consumer`, `auto`"
        ),
        key(
            "group.remote.assignor",
            "text",
            "",
            "a name that the broker knows; empty leaves it to the broker"
        ),
        key("enable.auto.commit", "bool", "false", "`false`"),
        key("session.timeout.ms", "ms", "45000", "100 to 86400000"),
        key(
            "heartbeat.interval.ms",
            "ms",
            "3000",
            "10 to a third of `session.timeout.ms`"
        ),
        key("max.poll.interval.ms", "ms", "300000", "100 to 86400000"),
        key(
            "partition.assignment.strategy",
            "list",
            "cooperative-sticky",
            "`cooperative-sticky`, or some of `range`, `roundrobin`, `sticky`",
        ),
        key(
            "auto.offset.reset",
            "name",
            "latest",
            "`earliest`, `latest`, `error`"
        ),
        key("fetch.max.wait.ms", "ms", "500", "1 to 60000"),
        key("fetch.min.bytes", "bytes", "1", "1 to `fetch.max.bytes`"),
        key(
            "fetch.max.bytes",
            "bytes",
            "52428800",
            "`max.partition.fetch.bytes` to 2147483647"
        ),
        key(
            "max.partition.fetch.bytes",
            "bytes",
            "1048576",
            "1024 to 2147483647"
        ),
        key("queued.max.bytes", "bytes", "33554432", "65536 or more"),
        key("commit.interval.ms", "ms", "1000", "1 to 86400000"),
        key("max.processing.time.ms", "ms", "120000", "1 to 604800000"),
        key(
            "revoke.timeout.ms",
            "ms",
            "30000",
            "0 to below `max.poll.interval.ms`"
        ),
        key(
            "handler.backoff.ms",
            "ms",
            "200",
            "1 to `handler.backoff.max.ms`"
        ),
        key("handler.backoff.max.ms", "ms", "30000", "1 to 604800000"),
        key("unreadable.records", "name", "stop", "`stop`, `skip`"),
        key("start.timeout.ms", "ms", "30000", "1 to 604800000"),
    ]
);
