//! The keys of [`ConsumerConfig`], for reading and for the documentation.

use crate::ConsumerConfig;
use ottla_types::ConfigKey;

ottla_types::configuration!(
    ConsumerConfig,
    &[
        ConfigKey::new(
            "group.id",
            "text",
            "",
            "1 to 249 bytes, no control characters"
        ),
        ConfigKey::new(
            "group.instance.id",
            "text",
            "",
            "1 to 249 bytes; empty for none"
        ),
        ConfigKey::new(
            "group.protocol",
            "name",
            "classic",
            "`classic`, `consumer`, `auto`"
        ),
        ConfigKey::new(
            "group.remote.assignor",
            "text",
            "",
            "a name that the broker knows; empty leaves it to the broker"
        ),
        ConfigKey::new(
            "enable.auto.commit",
            "bool",
            "false",
            "`false`; `true` for a plain consumer alone"
        ),
        ConfigKey::new("session.timeout.ms", "ms", "45000", "100 to 86400000"),
        ConfigKey::new(
            "heartbeat.interval.ms",
            "ms",
            "3000",
            "10 to a third of `session.timeout.ms`"
        ),
        ConfigKey::new("max.poll.interval.ms", "ms", "300000", "100 to 86400000"),
        ConfigKey::new(
            "partition.assignment.strategy",
            "list",
            "cooperative-sticky",
            "`cooperative-sticky`, or some of `range`, `roundrobin`, `sticky`",
        ),
        ConfigKey::new(
            "auto.offset.reset",
            "name",
            "latest",
            "`earliest`, `latest`, `by_duration:PT24H`, `timestamp:<ms>`, `error`"
        ),
        ConfigKey::new("fetch.max.wait.ms", "ms", "500", "1 to 60000"),
        ConfigKey::new("fetch.min.bytes", "bytes", "1", "1 to `fetch.max.bytes`"),
        ConfigKey::new(
            "fetch.max.bytes",
            "bytes",
            "52428800",
            "`max.partition.fetch.bytes` to 2147483647"
        ),
        ConfigKey::new(
            "max.partition.fetch.bytes",
            "bytes",
            "1048576",
            "1024 to 2147483647"
        ),
        ConfigKey::new("queued.max.bytes", "bytes", "33554432", "65536 or more"),
        ConfigKey::new("commit.interval.ms", "ms", "1000", "1 to 86400000"),
        ConfigKey::new("max.poll.records", "count", "500", "1 to 1000000"),
        ConfigKey::new("default.api.timeout.ms", "ms", "60000", "1 to 604800000"),
        ConfigKey::new("max.processing.time.ms", "ms", "120000", "1 to 604800000"),
        ConfigKey::new(
            "revoke.timeout.ms",
            "ms",
            "30000",
            "0 to below `max.poll.interval.ms`"
        ),
        ConfigKey::new(
            "rebalance.callback.timeout.ms",
            "ms",
            "10000",
            "1 to 86400000; with a listener, below `max.poll.interval.ms` less `revoke.timeout.ms`"
        ),
        ConfigKey::new(
            "handler.backoff.ms",
            "ms",
            "200",
            "1 to `handler.backoff.max.ms`"
        ),
        ConfigKey::new("handler.backoff.max.ms", "ms", "30000", "1 to 604800000"),
        ConfigKey::new("unreadable.records", "name", "stop", "`stop`, `skip`"),
        ConfigKey::new(
            "processing.guarantee",
            "name",
            "at_least_once",
            "`at_least_once`, `exactly_once`, `exactly_once_if_possible`"
        ),
        ConfigKey::new(
            "transactional.id.prefix",
            "text",
            "",
            "1 to 32000 bytes; empty for none"
        ),
        ConfigKey::new(
            "transaction.timeout.ms",
            "ms",
            "",
            "1 to 86400000; with transactions at least 500 above `max.processing.time.ms` and `transaction.interval.ms` together; none is 10000 above them"
        ),
        ConfigKey::new("transaction.interval.ms", "ms", "100", "1 to 86400000"),
        ConfigKey::new("transaction.max.records", "count", "10000", "1 or more"),
        ConfigKey::new("transaction.max.bytes", "bytes", "16777216", "1 or more"),
        ConfigKey::new("start.timeout.ms", "ms", "30000", "1 to 604800000"),
    ]
);
