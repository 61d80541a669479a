//! The keys of [`RelayConfig`], for reading and for the documentation.

use crate::RelayConfig;
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
    RelayConfig,
    &[
        key("owner", "text", "", "1 to 249 bytes; empty for `relay`"),
        key("lease.ms", "ms", "10000", "300 to 600000"),
        key("poll.interval.ms", "ms", "1000", "1 to 60000"),
        key("batch.rows", "count", "500", "1 to 10000"),
        key(
            "max.in.flight.rows",
            "count",
            "2000",
            "`batch.rows` to 100000"
        ),
        key("max.in.flight.bytes", "bytes", "33554432", "1 or more"),
        key("retry.backoff.ms", "ms", "100", "1 to 86400000"),
        key(
            "retry.backoff.max.ms",
            "ms",
            "10000",
            "`retry.backoff.ms` to 86400000"
        ),
        key("park.after.attempts", "count", "10", "1 or more"),
        key("retention.ms", "ms", "3600000", "0 or more"),
    ]
);
