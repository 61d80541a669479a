//! One member of a group as a process of its own, so that scenarios can stop, kill and freeze it: it
//! writes down each record that its handler is given and is done with, and tells how it stands.

use crate::Failure;
use crate::history::{Delivery, Entry, Handled, Journal};
use crate::read_back::record_id;
use ottla::client::{Client, ClientConfig};
use ottla::consumer::{
    App, AutoOffsetReset, ConsumedRecord, ConsumerConfig, Context, GroupProtocol, Handler,
    HandlerError, Outcome, Registration, RunningApp,
};
use ottla::types::{PublishErrorKind, Record};
use ottla::{Producer, ProducerConfig};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{interval, sleep};
use tokio_util::task::TaskTracker;

/// A record's header that says how many milliseconds its handler takes.
pub const TAKES_MS: &str = "takes_ms";
/// What a member prints before its [`Standing`].
pub const STANDING: &str = "standing ";
/// What a member prints when a record that takes time is begun: its generation or epoch and its
/// member id follow.
pub const BEGUN: &str = "begun ";
/// What a member prints when its context refuses to publish: the record's identity follows.
pub const REFUSED: &str = "refused ";
/// How often it looks how it stands.
const LOOK_EVERY: Duration = Duration::from_millis(20);
const CLOSE: Duration = Duration::from_secs(20);

/// What a member is told on its command line, as JSON.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct MemberOptions {
    /// The cluster.
    pub bootstrap: String,
    /// The group.
    pub group: String,
    /// What is read.
    pub topic: String,
    /// Where a copy of a record that takes time is published when it is over.
    pub output: Option<String>,
    /// `group.instance.id`.
    pub instance: Option<String>,
    /// `group.protocol`.
    pub protocol: GroupProtocol,
    /// `session.timeout.ms`.
    pub session_ms: u64,
    /// `max.processing.time.ms`.
    pub processing_ms: u64,
    /// Where it writes what it did.
    pub journal: PathBuf,
}

/// How a member stands, as it tells on its output whenever that changes.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Standing {
    /// Assignments so far.
    pub rebalances: u64,
    /// The numbers of the partitions that it owns.
    pub partitions: Vec<i32>,
    /// Its last error.
    pub error: Option<String>,
}

/// Consumes until `stop` resolves, then stops gracefully.
///
/// # Errors
/// What cannot be helped, and a stop that was not clean.
pub async fn run(options: MemberOptions, stop: impl Future<Output = ()>) -> Result<(), Failure> {
    let client = Client::connect(ClientConfig::new(&options.bootstrap)).await?;
    let producer = Producer::new(&client, ProducerConfig::default())?;
    let session = Duration::from_millis(options.session_ms);
    let config = ConsumerConfig {
        group_protocol: options.protocol,
        group_instance_id: options.instance,
        session_timeout: session,
        heartbeat_interval: Duration::from_secs(1).min(session / 3),
        auto_offset_reset: AutoOffsetReset::Earliest,
        max_processing_time: Duration::from_millis(options.processing_ms),
        commit_interval: Duration::from_millis(200),
        ..ConsumerConfig::default()
    };
    let journalist = Journalist {
        journal: Journal::open(&options.journal)?,
        output: options.output,
        late: TaskTracker::new(),
    };
    let mut app = App::new(&client, config).outputs(Arc::new(producer.clone()));
    app.register(Registration::new(
        options.group,
        [options.topic],
        journalist,
    ));
    let app = app.start().await?;
    let failed = tokio::select! {
        never = tell(&app) => match never {},
        error = app.failed() => Some(error),
        () = stop => None,
    };
    println!("{STANDING}{}", serde_json::to_string(&standing(&app))?);
    let report = app.shutdown(CLOSE).await;
    let left = producer.close(CLOSE).await;
    client.close().await;
    match failed {
        Some(error) => Err(error.into()),
        None if !report.clean => Err(format!("it left {report:?}").into()),
        None if !left.is_clean() => Err(format!("its producer left {left:?}").into()),
        None => Ok(()),
    }
}

/// Prints how it stands whenever that changes.
async fn tell(app: &RunningApp) -> std::convert::Infallible {
    let mut last = None;
    let mut pace = interval(LOOK_EVERY);
    loop {
        pace.tick().await;
        let now = standing(app);
        if last.as_ref() != Some(&now) {
            // Plain values: their JSON does not fail.
            let text = serde_json::to_string(&now).unwrap_or_default();
            println!("{STANDING}{text}");
            last = Some(now);
        }
    }
}

fn standing(app: &RunningApp) -> Standing {
    let mut standing = Standing::default();
    for member in app.status().registrations.iter().flat_map(|r| &r.members) {
        standing.rebalances += member.rebalances;
        let numbers = member.partitions.iter().map(|p| p.partition.partition);
        standing.partitions.extend(numbers);
        standing.error.clone_from(&member.last_error);
    }
    standing
}

/// Writes down what it is given.
struct Journalist {
    journal: Journal,
    output: Option<String>,
    /// Those of calls that were dropped go on.
    late: TaskTracker,
}

impl Handler for Journalist {
    async fn handle(&self, context: &Context, record: &ConsumedRecord) -> Outcome {
        match self.take(context, record).await {
            Ok(()) => Outcome::Done,
            Err(error) => Outcome::Failed(error),
        }
    }
}

impl Journalist {
    async fn take(&self, context: &Context, record: &ConsumedRecord) -> Result<(), HandlerError> {
        let id = record_id(record);
        self.write(&Entry::Delivery(Delivery {
            group: context.group().to_owned(),
            id: id.clone(),
            key: text(record.key.as_deref()),
            seq: number(text(record.value.as_deref())),
            retried: false,
            attempt: 0,
            at_ns: now_ns(),
        }))?;
        let takes = record.headers.last_str(TAKES_MS);
        if let Some(takes) = takes.map(|ms| number(Some(ms.to_owned()))) {
            let member = context.group_metadata();
            let member = member.map_err(|e| HandlerError::transient("Lost", e.to_string()))?;
            println!("{BEGUN}{} {}", member.generation, member.member_id);
            let copy = self
                .output
                .as_ref()
                .map(|output| record.to_record(&**output));
            let late = publish_late(context.clone(), takes, copy, id);
            // A task of its own does not end with the call.
            match self.late.spawn(late).await {
                Ok(published) => published?,
                Err(error) => return Err(HandlerError::transient("Panicked", error.to_string())),
            }
        }
        self.write(&Entry::Handled(Handled {
            group: context.group().to_owned(),
            topic: record.topic.to_string(),
            partition: record.partition,
            offset: record.offset,
        }))
    }

    fn write(&self, entry: &Entry) -> Result<(), HandlerError> {
        let written = self.journal.write(entry);
        written.map_err(|e| HandlerError::outage("Journal", e.to_string()).with_source(e))
    }
}

/// Publishes when the time has passed, if there is something to publish.
async fn publish_late(
    context: Context,
    takes_ms: u64,
    copy: Option<Record>,
    id: String,
) -> Result<(), HandlerError> {
    sleep(Duration::from_millis(takes_ms)).await;
    let Some(copy) = copy else { return Ok(()) };
    let published = context.publish(copy).await;
    published.map(drop).map_err(|error| {
        if error.kind() == PublishErrorKind::NotOwner {
            println!("{REFUSED}{id}");
        }
        HandlerError::transient("Publish", error.to_string()).with_source(error)
    })
}

fn text(bytes: Option<&[u8]>) -> Option<String> {
    bytes.map(|bytes| String::from_utf8_lossy(bytes).into_owned())
}

/// What is no number is the greatest one: it is out of order.
fn number(text: Option<String>) -> u64 {
    text.and_then(|text| text.parse().ok()).unwrap_or(u64::MAX)
}

/// Nanoseconds of the wall clock, which all processes of a scenario share.
pub fn now_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    u64::try_from(since.unwrap_or_default().as_nanos()).unwrap_or(u64::MAX)
}
