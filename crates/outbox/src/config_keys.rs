//! The keys of [`RelayConfig`], for reading and for the documentation.

use crate::RelayConfig;
use ottla_types::ConfigKey;

ottla_types::configuration!(
    RelayConfig,
    &[
        ConfigKey::new("owner", "text", "", "1 to 249 bytes; empty for `relay`"),
        ConfigKey::new("lease.ms", "ms", "10000", "300 to 600000"),
        ConfigKey::new("poll.interval.ms", "ms", "1000", "1 to 60000"),
        ConfigKey::new("batch.rows", "count", "500", "1 to 10000"),
        ConfigKey::new(
            "max.in.flight.rows",
            "count",
            "2000",
            "`batch.rows` to 100000"
        ),
        ConfigKey::new("max.in.flight.bytes", "bytes", "33554432", "1 or more"),
        ConfigKey::new("retry.backoff.ms", "ms", "100", "1 to 86400000"),
        ConfigKey::new(
            "retry.backoff.max.ms",
            "ms",
            "10000",
            "`retry.backoff.ms` to 86400000"
        ),
        ConfigKey::new("park.after.attempts", "count", "10", "1 or more"),
        ConfigKey::new("retention.ms", "ms", "3600000", "0 or more"),
    ]
);
