//! The keys of [`ProducerConfig`], for reading and for the documentation.

use crate::{ProducerConfig, TransactionalConfig};
use ottla_types::ConfigKey;

ottla_types::configuration!(
    ProducerConfig,
    &[
        ConfigKey::new("acks", "name", "all", "`all` (or `-1`), `1`, `0`"),
        ConfigKey::new(
            "enable.idempotence",
            "bool",
            "",
            "`true`, `false`; empty: where nothing stands against it",
        ),
        ConfigKey::new(
            "max.in.flight.requests.per.connection",
            "count",
            "",
            "1 or more, with idempotence up to 5; empty for 5 with it and 1 without",
        ),
        ConfigKey::new(
            "compression.type",
            "name",
            "none",
            "`none`, `gzip`, `snappy`, `lz4`, `zstd`"
        ),
        ConfigKey::new("linger.ms", "ms", "5", "0 to below `delivery.timeout.ms`"),
        ConfigKey::new("batch.size", "bytes", "65536", "1 to `max.request.size`"),
        ConfigKey::new(
            "batch.records",
            "count",
            "",
            "1 or more; empty for no bound"
        ),
        ConfigKey::new(
            "buffer.memory",
            "bytes",
            "33554432",
            "`max.request.size` or more"
        ),
        ConfigKey::new("delivery.timeout.ms", "ms", "120000", "1 to 86400000"),
        ConfigKey::new("max.request.size", "bytes", "1048576", "244 to 268435456"),
        ConfigKey::new(
            "topic.metadata.propagation.max.ms",
            "ms",
            "5000",
            "0 to 86400000"
        ),
        ConfigKey::new(
            "retry.backoff.ms",
            "ms",
            "100",
            "1 to `retry.backoff.max.ms`"
        ),
        ConfigKey::new("retry.backoff.max.ms", "ms", "1000", "1 to 86400000"),
        ConfigKey::new("durability.check", "name", "off", "`off`, `warn`, `refuse`",),
        ConfigKey::new(
            "partitioner",
            "name",
            "default",
            "the names of `PartitionerKind`"
        ),
        ConfigKey::new(
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
        ConfigKey::new("transactional.id", "text", "", "1 to 32767 bytes; a must"),
        ConfigKey::new("transaction.timeout.ms", "ms", "60000", "1 to 86400000"),
        ConfigKey::new("max.block.ms", "ms", "60000", "1 to 86400000"),
        ConfigKey::new(
            "producer",
            "table",
            "",
            "a `ProducerConfig` with `acks` `all`"
        ),
    ]
);
