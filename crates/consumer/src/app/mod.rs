//! [`App`]: handlers are registered, started together, restarted when they fail and stopped
//! gracefully.
//!
//! An `App` owns the registrations; [`RunningApp`] owns the tasks, one a member of a group.

mod health;
mod registration;
mod running;
mod signal;
mod supervisor;

pub use health::{AppPhase, GroupHealth, Health, HealthProblem, HealthReport, ProblemKind};
pub use registration::Registration;
pub(crate) use registration::Resolved;
pub use running::{RunningApp, ShutdownReport};
pub use signal::shutdown_signal;

use crate::handler::{BatchHandler, Handler};
use crate::listener::BoxListener;
use crate::output::OutputMode;
use crate::{ConsumerConfig, Error, ErrorKind, ProcessingGuarantee, RebalanceListener};
use health::Phase;
use ottla_client::{Client, IsolationLevel};
use ottla_types::{ConfigError, Publish, Transactions};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Handlers and the groups and topics that they consume.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use ottla_client::{Client, ClientConfig};
/// use ottla_consumer::{App, ConsumerConfig, Outcome, handler_fn};
///
/// let client = Client::connect(ClientConfig::new("127.0.0.1:9092")).await?;
/// let mut app = App::new(&client, ConsumerConfig::default());
/// app.topic("orders").instances(2).listen("order-pay-sms", handler_fn(|_context, record| async move {
///     println!("{:?}", record.value);
///     Outcome::Done
/// }));
/// app.run().await?;
/// # Ok(())
/// # }
/// ```
pub struct App {
    client: Client,
    defaults: ConsumerConfig,
    outputs: Option<Arc<dyn Publish>>,
    transactions: Option<Arc<dyn Transactions>>,
    registrations: Vec<Registration>,
    phase: Phase,
}

/// How long [`App::run`] gives the handlers once a signal came.
const SIGNAL_DEADLINE: Duration = Duration::from_secs(30);
/// The first wait between two looks for a missing topic; doubled for each further one.
const TOPIC_POLL: Duration = Duration::from_millis(100);

impl App {
    /// An app without handlers. `defaults` is for every registration that brings no configuration of
    /// its own; its `group.id` is not used.
    pub fn new(client: &Client, defaults: ConsumerConfig) -> Self {
        Self {
            client: client.clone(),
            defaults,
            outputs: None,
            transactions: None,
            registrations: Vec::new(),
            phase: Phase::default(),
        }
    }

    /// Where [`Context::publish`](crate::Context::publish) sends records.
    #[must_use]
    pub fn outputs(mut self, outputs: Arc<dyn Publish>) -> Self {
        self.outputs = Some(outputs);
        self
    }

    /// Where the members of registrations that handle exactly once
    /// ([`ProcessingGuarantee`]) get their transactional producers.
    #[must_use]
    pub fn transactions(mut self, transactions: Arc<dyn Transactions>) -> Self {
        self.transactions = Some(transactions);
        self
    }

    /// Whether the app is ready and live, for a web server that is started beside it. The handle
    /// can be taken before the start and goes on to tell.
    pub fn health(&self) -> Health {
        self.phase.health().clone()
    }

    /// Starts a registration for `topic`.
    pub fn topic(&mut self, topic: impl Into<String>) -> TopicRoute<'_> {
        TopicRoute::new(self, Some(topic.into()), None)
    }

    /// Starts a registration for every topic whose name matches a regular expression, also those that
    /// are created later; see [`Registration::topic_pattern`].
    pub fn topic_pattern(&mut self, pattern: impl Into<String>) -> TopicRoute<'_> {
        TopicRoute::new(self, None, Some(pattern.into()))
    }

    /// Adds a registration. It is checked by [`start`](Self::start).
    pub fn register(&mut self, registration: Registration) -> &mut Self {
        self.registrations.push(registration);
        self
    }

    /// Checks every registration, waits for the topics that are named to exist and starts the members.
    ///
    /// # Errors
    /// [`ErrorKind::Config`] for a refused value or a group that is registered twice;
    /// [`ErrorKind::UnknownTopic`] when a topic does not exist within `start.timeout.ms`;
    /// [`ErrorKind::Client`] when the cluster cannot be asked within that time. Nothing runs then.
    ///
    /// Cancellation: dropping the future starts nothing.
    pub async fn start(self) -> Result<RunningApp, Error> {
        let mut groups = BTreeSet::new();
        let mut resolved = Vec::with_capacity(self.registrations.len());
        for registration in &self.registrations {
            if !groups.insert(registration.group()) {
                let twice = ConfigError::new("group.id", registration.group(), "each group once");
                return Err(twice.into());
            }
            let (config, subscription) = registration.resolve(&self.defaults)?;
            let mode = self
                .output_mode(&config)
                .map_err(|e| Error::from(e).with_group(registration.group()))?;
            resolved.push(Resolved {
                config,
                subscription,
                mode,
            });
        }
        let begun = Instant::now();
        for (registration, resolved) in self.registrations.iter().zip(&resolved) {
            let deadline = begun + resolved.config.start_timeout;
            for topic in registration.topics() {
                wait_for_topic(&self.client, topic, deadline)
                    .await
                    .map_err(|e| e.with_group(registration.group()))?;
            }
        }
        let members = self.registrations.into_iter().zip(resolved).collect();
        Ok(RunningApp::start(self.client, members, self.phase))
    }

    /// How handlers publish.
    fn output_mode(&self, config: &ConsumerConfig) -> Result<OutputMode, ConfigError> {
        let isolation = self.client.config().isolation_level;
        let possible = match &self.transactions {
            // What is aborted later must have no outputs that count.
            _ if isolation != IsolationLevel::ReadCommitted => Err(ConfigError::new(
                "isolation.level",
                "read_uncommitted",
                "read_committed, with `processing.guarantee` = `exactly_once`",
            )),
            Some(transactions) => transactions.check().map(|()| transactions.clone()),
            None => Err(ConfigError::new(
                "processing.guarantee",
                "exactly_once",
                "at_least_once, as the app was given no transactional producers",
            )),
        };
        match (config.processing_guarantee, possible) {
            (ProcessingGuarantee::AtLeastOnce, _) => Ok(OutputMode::Plain(self.outputs.clone())),
            (_, Ok(transactions)) => {
                if !config.has_stable_transactional_id() {
                    tracing::info!(
                        group = config.group_id,
                        timeout = ?config.transaction_timeout(),
                        "without `transactional.id.prefix` or `group.instance.id`, readers of committed \
                         records wait for the time-out after a crash"
                    );
                }
                Ok(OutputMode::Transactional(transactions))
            }
            (ProcessingGuarantee::ExactlyOnce, Err(error)) => Err(error),
            (ProcessingGuarantee::ExactlyOnceIfPossible, Err(error)) => {
                tracing::warn!(group = config.group_id, %error, "not exactly once, but at least once");
                Ok(match &self.outputs {
                    Some(outputs) => OutputMode::Acknowledged(outputs.clone()),
                    None => OutputMode::Plain(None),
                })
            }
        }
    }

    /// Starts, waits for `stop` and stops gracefully within `deadline`. `stop` may be shared with a
    /// web server, such as a `CancellationToken` that the signals cancel: both then end together.
    ///
    /// # Errors
    /// Those of [`start`](Self::start), and the fatal error of a member that ended the app.
    pub async fn run_until(
        self,
        stop: impl Future<Output = ()>,
        deadline: Duration,
    ) -> Result<ShutdownReport, Error> {
        tokio::pin!(stop);
        let running = tokio::select! {
            running = self.start() => running?,
            () = &mut stop => {
                // Nothing runs yet.
                let clean = true;
                return Ok(ShutdownReport { clean, ..ShutdownReport::default() });
            }
        };
        running.shutdown_on(stop, deadline).await
    }

    /// Starts, waits for SIGINT or SIGTERM, and stops gracefully within 30 s.
    ///
    /// # Errors
    /// Those of [`start`](Self::start), and the fatal error of a member that ended the app.
    pub async fn run(self) -> Result<ShutdownReport, Error> {
        self.start()
            .await?
            .shutdown_on_signals(SIGNAL_DEADLINE)
            .await
    }
}

/// Resolves once `topic` exists.
async fn wait_for_topic(client: &Client, topic: &str, deadline: Instant) -> Result<(), Error> {
    let mut wait = TOPIC_POLL;
    let mut asked: Option<Error> = None;
    loop {
        match tokio::time::timeout_at(deadline, client.refresh_topic(topic)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(e)) if !e.is_retriable() => return Err(Error::from(e).with_topic(topic)),
            Ok(Err(e)) => asked = Some(Error::from(e).with_topic(topic)),
            Err(_) => {}
        }
        let next = Instant::now() + wait;
        if next >= deadline {
            let late = || Error::new(ErrorKind::TimedOut).with_topic(topic);
            return Err(asked.unwrap_or_else(late));
        }
        tokio::time::sleep_until(next).await;
        wait = (wait * 2).min(Duration::from_secs(1));
    }
}

impl std::fmt::Debug for App {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("App")
            .field("registrations", &self.registrations)
            .finish_non_exhaustive()
    }
}

/// A topic that is about to get a handler; see [`App::topic`].
#[derive(Debug)]
#[must_use = "a route does nothing until `listen` gives it a handler"]
pub struct TopicRoute<'a> {
    app: &'a mut App,
    topic: Option<String>,
    pattern: Option<String>,
    instances: usize,
    concurrency: usize,
    listener: Option<BoxListener>,
    guarantee: Option<ProcessingGuarantee>,
}

impl<'a> TopicRoute<'a> {
    fn new(app: &'a mut App, topic: Option<String>, pattern: Option<String>) -> Self {
        Self {
            app,
            topic,
            pattern,
            instances: 1,
            concurrency: 1,
            listener: None,
            guarantee: None,
        }
    }

    /// How many members of the group this process runs.
    pub fn instances(mut self, instances: usize) -> Self {
        self.instances = instances;
        self
    }

    /// How many calls may be in progress for one partition; see [`Registration::concurrency`].
    pub fn concurrency(mut self, calls: usize) -> Self {
        self.concurrency = calls;
        self
    }

    /// Who is told when partitions come and go; see [`Registration::listener`].
    pub fn listener(mut self, listener: impl RebalanceListener) -> Self {
        self.listener = Some(BoxListener::new(listener));
        self
    }

    /// What the handler publishes and the offsets of what it handled are committed in one transaction;
    /// see [`Registration::guarantee`].
    pub fn exactly_once(mut self) -> Self {
        self.guarantee = Some(ProcessingGuarantee::ExactlyOnce);
        self
    }

    /// Collects up to `max_records` of a partition, or what comes within `max_wait` of the first.
    pub fn batch(self, max_records: usize, max_wait: Duration) -> BatchRoute<'a> {
        BatchRoute {
            route: self,
            max_records,
            max_wait,
        }
    }

    /// Registers `handler` as the business logic of `group`.
    pub fn listen(self, group: impl Into<String>, handler: impl Handler) -> &'a mut App {
        let registration = Registration::new(group, self.topic.clone(), handler);
        self.register(registration)
    }

    fn register(self, mut registration: Registration) -> &'a mut App {
        registration.listener = self.listener;
        registration.topic_pattern = self.pattern;
        if let Some(guarantee) = self.guarantee {
            registration = registration.guarantee(guarantee);
        }
        let registration = registration.instances(self.instances);
        self.app
            .register(registration.concurrency(self.concurrency))
    }
}

/// A topic that is about to get a batch handler; see [`TopicRoute::batch`].
#[derive(Debug)]
#[must_use = "a route does nothing until `listen_batch` gives it a handler"]
pub struct BatchRoute<'a> {
    route: TopicRoute<'a>,
    max_records: usize,
    max_wait: Duration,
}

impl<'a> BatchRoute<'a> {
    /// Registers `handler` as the business logic of `group`.
    pub fn listen_batch(self, group: impl Into<String>, handler: impl BatchHandler) -> &'a mut App {
        let Self {
            route,
            max_records,
            max_wait,
        } = self;
        let topic = route.topic.clone();
        let registration = Registration::batch(group, topic, max_records, max_wait, handler);
        route.register(registration)
    }
}
