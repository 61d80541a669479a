//! The keys of the configurations, for reading and for the documentation.

use crate::{DedupConfig, RetryPolicy};
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
    DedupConfig,
    &[
        key("lease", "duration", "30s", "1s to 1h"),
        key(
            "replay_window",
            "duration",
            "1d",
            "what the store remembers, or less"
        ),
    ]
);

ottla_types::configuration!(
    RetryPolicy,
    &[
        key("attempts", "count", "4", "1 to 1000"),
        key("backoff", "table", "levels: 1s, 5s, 30s", "see `Backoff`"),
        key("max_delay", "duration", "1h", "1ms to 7d"),
        key("jitter", "part", "0.1", "0 to 1"),
        key("in_place", "table", "", "see `InPlace`; empty for none"),
        key("outage_wait", "duration", "5s", "1ms to 1h"),
        key(
            "classes",
            "table",
            "",
            "see `ClassPolicy`, by class of error"
        ),
    ]
);
