//! The relay's shell: it owns the lease, the deliveries and the calls to the store, and asks the
//! pure [`Window`](crate::window::Window) what to send.
//!
//! Files: `worker` waits for the lease and leads while it holds it, `leader` is that loop,
//! `store_call` the one call to the store that may run at a time, `progress` what others can see,
//! `running` the handle.

mod leader;
mod progress;
mod running;
mod store_call;
mod worker;

pub use progress::{RelayRole, RelayStatus};
pub use running::{RunningRelay, StopReport};

use crate::RelayConfig;
use ottla_store::{OutboxStore, SystemClock};
use ottla_types::{Clock, ConfigError, Publish};
use std::sync::Arc;

/// Publishes the rows of an outbox.
///
/// ```
/// use ottla_outbox::{Relay, RelayConfig};
/// use ottla_store::OutboxStore;
/// use ottla_types::{ConfigError, Publish};
/// use std::{sync::Arc, time::Duration};
///
/// async fn run(store: Arc<dyn OutboxStore>, producer: Arc<dyn Publish>) -> Result<(), ConfigError> {
///     let relay = Relay::new(store, producer, RelayConfig::default())?.start();
///     // ... until the process ends:
///     relay.stop(Duration::from_secs(5)).await;
///     Ok(())
/// }
/// ```
#[derive(Clone)]
pub struct Relay {
    store: Arc<dyn OutboxStore>,
    publish: Arc<dyn Publish>,
    clock: Arc<dyn Clock>,
    config: RelayConfig,
    owner: String,
}

impl Relay {
    /// A relay from `store` to `publish`. The producer should be set to `acks=all`, because what it
    /// acknowledges is marked as sent, and to no linger (see [`RelayConfig`]).
    ///
    /// # Errors
    /// Names the first value of `config` that is not allowed.
    pub fn new(
        store: Arc<dyn OutboxStore>,
        publish: Arc<dyn Publish>,
        config: RelayConfig,
    ) -> Result<Self, ConfigError> {
        config.validate()?;
        let owner = config.owner.clone().unwrap_or_else(|| "relay".to_owned());
        Ok(Self {
            store,
            publish,
            clock: Arc::new(SystemClock),
            config,
            owner,
        })
    }

    /// Takes the time from `clock`. Clocks of relays that share an outbox must agree to well below
    /// the lease.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Starts the relay on the current tokio runtime. It waits for databases, clusters and other
    /// relays, and runs until it is stopped or its producer is closed.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(mut self) -> RunningRelay {
        // Two relays of one name would renew each other's lease and both publish.
        self.owner = format!("{}-{}", self.owner, uuid::Uuid::now_v7());
        RunningRelay::start(self)
    }
}

impl std::fmt::Debug for Relay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Relay")
            .field("owner", &self.owner)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
