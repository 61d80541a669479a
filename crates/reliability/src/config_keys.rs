//! The keys of the configurations, for reading and for the documentation.

use crate::{DedupConfig, RetryPolicy};
use ottla_types::ConfigKey;

ottla_types::configuration!(
    DedupConfig,
    &[
        ConfigKey::new("lease", "duration", "30s", "1s to 1h"),
        ConfigKey::new(
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
        ConfigKey::new("attempts", "count", "4", "1 to 1000"),
        ConfigKey::new("backoff", "table", "levels: 1s, 5s, 30s", "see `Backoff`"),
        ConfigKey::new("max_delay", "duration", "1h", "1ms to 7d"),
        ConfigKey::new("jitter", "part", "0.1", "0 to 1"),
        ConfigKey::new("in_place", "table", "", "see `InPlace`; empty for none"),
        ConfigKey::new("outage_wait", "duration", "5s", "1ms to 1h"),
        ConfigKey::new(
            "classes",
            "table",
            "",
            "see `ClassPolicy`, by class of error"
        ),
    ]
);
