//! The keys of [`ProducerConfig`], for reading and for the documentation.

use crate::{ProducerConfig, TransactionalConfig};
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
    ProducerConfig,
    &[
        key("acks", "name", "all", "`all` (or `-1`), `1`, `0`"),
        key(
            "enable.idempotence",
            "bool",
            "",
            "`true`, `false`; empty: where nothing stands against it",
        ),
        key(
            "max.in.flight.requests.per.connection",
            "count",
            "",
            "1 or more, with idempotence up to 5; empty for 5 with it and 1 without",
        ),
        key(
            "compression.type",
            "name",
            "none",
            "`none`, `gzip`, `snappy`, `lz4`, `zstd`"
        ),
        key("linger.ms", "ms", "5", "0 to below `delivery.timeout.ms`"),
        key("batch.size", "bytes", "65536", "1 to `max.request.size`"),
        key(
            "batch.records",
            "count",
            "",
            "1 or more; empty for no bound"
        ),
        key(
            "buffer.memory",
            "bytes",
            "33554432",
            "`max.request.size` or more"
        ),
        key("delivery.timeout.ms", "ms", "120000", "1 to 86400000"),
        key("max.request.size", "bytes", "1048576", "244 to 268435456"),
        key(
            "topic.metadata.propagation.max.ms",
            "ms",
            "5000",
            "0 to 86400000"
        ),
        key(
            "retry.backoff.ms",
            "ms",
            "100",
            "1 to `retry.backoff.max.ms`"
        ),
        key("retry.backoff.max.ms", "ms", "1000", "1 to 86400000"),
        key("durability.check", "name", "off", "`off`, `warn`, `refuse`",),
        key(
            "partitioner",
            "name",
            "default",
            "the names of `PartitionerKind`"
        ),
        key(
            "rate.limit",
            "records a second",
            "",
            "1 or more; empty for no limit"
        ),
    ]
);

ottla_types::configuration!(
    TransactionalConfig,
    &[
        key("transactional.id", "text", "", "1 to 32767 bytes; a must"),
        key("transaction.timeout.ms", "ms", "60000", "1 to 86400000"),
        key("max.block.ms", "ms", "60000", "1 to 86400000"),
        key(
            "producer",
            "table",
            "",
            "a `ProducerConfig` with `acks` `all`"
        ),
    ]
);
