//! What users and networks do wrong: each mistake is a clear typed error within its deadline, what
//! was right beside it is done, and nothing hangs.

mod bodies;

use self::bodies::{Seen, orders};
use super::{Context, Outcome};
use crate::Failure;
use crate::read_back;
use ottla::client::{Client, ClientConfig, Error, ErrorKind, NewTopic};
use ottla::consumer::{App, ConsumerConfig, ErrorKind as ConsumerErrorKind};
use ottla::producer::{PartitionerKind, Producer, ProducerConfig};
use ottla::types::{
    ConfigError, Fate, PublishError, PublishErrorKind, Record, RecordMetadata, with_causes,
};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep, timeout};

const SECOND: Duration = Duration::from_secs(1);
/// For what must succeed.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a slow machine may add to a deadline.
const MARGIN: Duration = Duration::from_secs(2);
/// A record of this size is above Kafka's default limit (1,048,588 bytes a batch).
const ABOVE_THE_LIMIT: usize = 2 << 20;

type Fallible<T> = Result<T, Failure>;
type Sent = Result<RecordMetadata, PublishError>;

macro_rules! ensure {
    ($holds:expr, $($text:tt)+) => {
        if !$holds {
            return Err(format!($($text)+).into());
        }
    };
}
use ensure;

pub(super) async fn run(context: &mut Context) -> Outcome {
    configuration(context).await?;
    addresses(context).await?;
    unknown_topic(context).await?;
    bodies::undecodable(context).await?;
    too_large_records(context).await?;
    frozen_broker(context).await
}

/// The result of `work`, which must come within `deadline` and what a slow machine adds.
async fn within<T>(what: &str, deadline: Duration, work: impl Future<Output = T>) -> Fallible<T> {
    timeout(deadline + MARGIN, work)
        .await
        .map_err(|_| format!("{what}: nothing came of it within {deadline:?}").into())
}

/// Waits until something has come about.
async fn until(what: &str, holds: impl Fn() -> bool) -> Outcome {
    let waiting = async {
        while !holds() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    within(what, PATIENCE, waiting).await
}

fn shown(what: &str, error: &(dyn std::error::Error + 'static)) {
    println!("  {what}: {}", with_causes(error));
}

fn failed<T, E: std::error::Error + 'static>(what: &str, result: Result<T, E>) -> Fallible<E> {
    match result {
        Ok(_) => Err(format!("{what}: that cannot have worked").into()),
        Err(error) => {
            shown(what, &error);
            Ok(error)
        }
    }
}

/// A record's error must be of this kind, with its place, and with the right word on its fate.
fn check_refusal(what: &str, sent: Sent, kind: PublishErrorKind, topic: &str) -> Outcome {
    let error = failed(what, sent)?;
    let place = (error.kind(), error.topic(), error.fate());
    ensure!(
        place == (kind, topic, Fate::NotWritten),
        "{what}: {place:?}"
    );
    Ok(())
}

async fn create(client: &Client, topic: NewTopic) -> Outcome {
    Ok(client.ensure_topics(vec![topic]).await?)
}

// ---- configuration

/// A refusal must name the key, the value and what is allowed.
fn check_config(what: &str, error: &Error, key: &str) -> Outcome {
    let cause = std::error::Error::source(error).and_then(|c| c.downcast_ref::<ConfigError>());
    ensure!(
        error.kind() == ErrorKind::Config && cause.is_some_and(|c| c.key == key),
        "{what}: {}",
        with_causes(error)
    );
    Ok(())
}

async fn configuration(context: &Context) -> Outcome {
    for (json, word) in [
        (r#"{"partitioner": "murmur3"}"#, "murmur2_random"),
        (r#"{"acks": "2"}"#, "`all`"),
        (r#"{"compression.type": "brotli"}"#, "brotli"),
        (r#"{"linger.ms": -1}"#, "-1"),
        (r#"{"lingerms": 5}"#, "linger.ms"),
    ] {
        let error = failed(json, serde_json::from_str::<ProducerConfig>(json))?;
        ensure!(
            error.to_string().contains(word),
            "{json}: no word of {word}"
        );
    }
    let error = failed("partitioner", "murmur3".parse::<PartitionerKind>())?;
    ensure!(
        error.key == "partitioner" && error.value == "murmur3",
        "{error}"
    );

    let client = context.client().await?;
    type Spoil = fn(&mut ProducerConfig);
    let spoilers: [(&str, Spoil); 4] = [
        ("linger.ms", |c| c.linger = c.delivery_timeout),
        ("batch.size", |c| c.batch_size = 0),
        ("buffer.memory", |c| c.buffer_memory = 1),
        ("max.request.size", |c| c.max_request_size = usize::MAX),
    ];
    for (key, spoil) in spoilers {
        let mut config = ProducerConfig::default();
        spoil(&mut config);
        check_config(key, &failed(key, Producer::new(&client, config))?, key)?;
    }

    let late = ConsumerConfig {
        heartbeat_interval: ConsumerConfig::default().session_timeout,
        ..ConsumerConfig::default()
    };
    let mut app = App::new(&client, late);
    app.topic("t").listen("g", orders(&Seen::default()));
    let error = failed("heartbeat", within("a start", SECOND, app.start()).await?)?;
    ensure!(error.kind() == ConsumerErrorKind::Config, "{error:?}");
    client.close().await;

    for (address, key) in [("", "bootstrap.servers"), ("host", "bootstrap.servers")] {
        let connecting = Client::connect(ClientConfig::new(address));
        let error = failed(
            "an address",
            within("an address", SECOND, connecting).await?,
        )?;
        check_config(address, &error, key)?;
    }
    Ok(())
}

// ---- addresses

async fn addresses(context: &Context) -> Outcome {
    let silent = TcpListener::bind("127.0.0.1:0").await?;
    let closed = TcpListener::bind("127.0.0.1:0").await?;
    let refusing = closed.local_addr()?.to_string();
    drop(closed);
    let wrong = [
        ("a port that refuses", refusing),
        (
            "a name that does not resolve",
            "no-such-host.invalid:9092".to_owned(),
        ),
        (
            "a socket that never answers",
            silent.local_addr()?.to_string(),
        ),
    ];
    let quick = |bootstrap: &str| ClientConfig {
        connect_timeout: 2 * SECOND,
        ..ClientConfig {
            bootstrap: ClientConfig::new(bootstrap).bootstrap,
            ..context.client_config()
        }
    };
    for (what, address) in &wrong {
        let connecting = Client::connect(quick(address));
        let error = failed(what, within(what, 2 * SECOND, connecting).await?)?;
        ensure!(error.kind() == ErrorKind::Connect, "{what}: {error:?}");
        ensure!(
            with_causes(&error).contains(address),
            "{what}: {address} is not named"
        );
    }

    // One good address is enough.
    let mut all: Vec<&str> = wrong.iter().map(|(_, address)| &**address).collect();
    let good = context.bootstrap();
    all.push(&good);
    let client = within(
        "all of them",
        PATIENCE,
        Client::connect(quick(&all.join(","))),
    )
    .await??;
    client.list_topics().await?;
    client.close().await;
    Ok(())
}

// ---- a topic that does not exist

async fn unknown_topic(context: &Context) -> Outcome {
    let client = context.client().await?;
    let (known, unknown) = (context.unique("known"), context.unique("unknown"));
    create(&client, NewTopic::new(&known, 1)).await?;
    let config = ProducerConfig {
        topic_unknown_timeout: 2 * SECOND,
        ..ProducerConfig::default()
    };
    let producer = Producer::new(&client, config)?;

    let records = ["a", "b"].map(|value| Record::new(&*known).value(value));
    let [a, b] = records;
    let mixed = vec![a, Record::new(&*unknown).value("x"), b];
    let sent = within("an unknown topic", 2 * SECOND, producer.send_all(mixed)).await?;
    let [a, x, b] = <[Sent; 3]>::try_from(sent).map_err(|_| "a result is missing")?;
    let offsets = (a?.offset, b?.offset);
    ensure!(offsets == (Some(0), Some(1)), "{offsets:?}");
    check_refusal(
        "an unknown topic",
        x,
        PublishErrorKind::UnknownTopic,
        &unknown,
    )?;

    let nowhere = producer.send(Record::new(&*known).partition(9).value("x"));
    let sent = within("an unknown partition", SECOND, nowhere).await?;
    check_refusal(
        "an unknown partition",
        sent,
        PublishErrorKind::UnknownTopic,
        &known,
    )?;
    let illegal = producer.send(Record::new("no topic").value("x"));
    let sent = within("an illegal name", SECOND, illegal).await?;
    check_refusal(
        "an illegal name",
        sent,
        PublishErrorKind::InvalidRecord,
        "no topic",
    )?;

    let hasty = ConsumerConfig {
        start_timeout: 2 * SECOND,
        ..ConsumerConfig::default()
    };
    let mut app = App::new(&client, hasty);
    let group = context.unique("nobody");
    app.topic(&*unknown)
        .listen(&*group, orders(&Seen::default()));
    let starting = within("a consumer", 2 * SECOND, app.start()).await?;
    let error = failed("a consumer of an unknown topic", starting)?;
    ensure!(
        error.kind() == ConsumerErrorKind::UnknownTopic
            && (error.group(), error.topic()) == (Some(&*group), Some(&*unknown)),
        "{error:?}"
    );

    let asked = client.refresh_topic(&unknown).await;
    let error = failed("it was not created by asking", asked)?;
    ensure!(error.kind() == ErrorKind::UnknownTopic, "{error:?}");
    ensure!(producer.close(PATIENCE).await.is_clean(), "the close");
    client.close().await;
    Ok(())
}

// ---- records above a limit

async fn too_large_records(context: &Context) -> Outcome {
    let client = context.client().await?;
    let generous = ProducerConfig {
        max_request_size: 2 * ABOVE_THE_LIMIT,
        batch_size: 2 * ABOVE_THE_LIMIT,
        linger: SECOND,
        ..ProducerConfig::default()
    };
    let usual = context.unique("limit");
    create(&client, NewTopic::new(&usual, 1)).await?;
    one_too_large(&client, &usual, generous, ABOVE_THE_LIMIT).await?;

    let narrow = context.unique("narrow");
    let small = NewTopic::new(&narrow, 1).config("max.message.bytes", "2000");
    create(&client, small).await?;
    one_too_large(&client, &narrow, ProducerConfig::default(), 5_000).await?;

    let modest = ProducerConfig {
        max_request_size: 1_000,
        batch_size: 1_000,
        ..ProducerConfig::default()
    };
    let own = context.unique("own");
    create(&client, NewTopic::new(&own, 1)).await?;
    one_too_large(&client, &own, modest, 5_000).await?;
    client.close().await;
    Ok(())
}

/// Thirty records, the eleventh with `size` bytes: it fails alone, the others stand in the log once
/// and in order.
async fn one_too_large(
    client: &Client,
    name: &str,
    config: ProducerConfig,
    size: usize,
) -> Outcome {
    let producer = Producer::new(client, config)?;
    let body = |n: usize| match n {
        10 => "x".repeat(size),
        n => format!("{n:0100}"),
    };
    let records = (0..30).map(|n| Record::new(name).value(body(n)));
    let results = within(name, PATIENCE, producer.send_all(records.collect())).await?;
    let mut written = Vec::new();
    for (n, sent) in results.into_iter().enumerate() {
        match n {
            10 => check_refusal(
                "a record too large",
                sent,
                PublishErrorKind::RecordTooLarge,
                name,
            )?,
            _ => written.push((sent?.offset, body(n))),
        }
    }
    let log = read_back::read_topic(client, name, PATIENCE).await?;
    let text =
        |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    let log: Vec<_> = log
        .iter()
        .map(|record| (Some(record.offset), text(record.value.as_deref())))
        .collect();
    ensure!(log == written, "{name}: {} records are written", log.len());
    ensure!(producer.close(PATIENCE).await.is_clean(), "the close");
    Ok(())
}

// ---- half-open sockets

/// The only broker stands still with its connections open. What has a short deadline ends at it, and
/// what has time is written when the broker goes on.
async fn frozen_broker(context: &mut Context) -> Outcome {
    let config = ClientConfig {
        request_timeout: 2 * SECOND,
        ..context.client_config()
    };
    let client = Client::connect(config).await?;
    let topic = context.unique("frozen");
    create(&client, NewTopic::new(&topic, 2)).await?;
    let Some(kafka) = context.kafka().filter(|kafka| kafka.len() == 1) else {
        println!("  this broker cannot be frozen");
        client.close().await;
        return Ok(());
    };
    let patient = Producer::new(&client, ProducerConfig::default())?;
    let hasty = ProducerConfig {
        delivery_timeout: 3 * SECOND,
        ..ProducerConfig::default()
    };
    let hasty = Producer::new(&client, hasty)?;
    for producer in [&patient, &hasty] {
        producer
            .send(Record::new(&*topic).partition(0).value("before"))
            .await?;
    }

    kafka.freeze(0)?;
    let during = patient.enqueue(Record::new(&*topic).partition(1).value("during"));
    let met = half_open(&client, &hasty, &topic).await;
    kafka.thaw(0)?;
    met?;
    kafka.wait_ready().await?;

    let written = within("what was sent meanwhile", PATIENCE, during).await??;
    hasty
        .send(Record::new(&*topic).partition(0).value("after"))
        .await?;
    let log = read_back::read_topic(&client, &topic, PATIENCE).await?;
    let holds = |value: &str| {
        log.iter()
            .any(|r| r.value.as_deref() == Some(value.as_bytes()))
    };
    ensure!(
        written.partition == 1 && holds("during"),
        "what was acknowledged is not there"
    );
    ensure!(
        holds("before") && holds("after"),
        "what was acknowledged is not there"
    );
    for producer in [patient, hasty] {
        ensure!(producer.close(PATIENCE).await.is_clean(), "the close");
    }
    client.close().await;
    Ok(())
}

async fn half_open(client: &Client, hasty: &Producer, topic: &str) -> Outcome {
    let begun = Instant::now();
    let sending = hasty.send(Record::new(topic).partition(0).value("lost?"));
    let error = failed(
        "a frozen broker",
        within("a send", 3 * SECOND, sending).await?,
    )?;
    ensure!(
        error.kind() == PublishErrorKind::TimedOut
            && error.fate() == Fate::MaybeWritten
            && (error.topic(), error.partition()) == (topic, Some(0)),
        "{error:?}"
    );
    let asking = within("a question", 2 * SECOND, client.refresh_topic(topic)).await?;
    let error = failed("a question to a frozen broker", asking)?;
    let kinds = [
        ErrorKind::TimedOut,
        ErrorKind::Connect,
        ErrorKind::ConnectionLost,
    ];
    ensure!(kinds.contains(&error.kind()), "{error:?}");

    let stuck = hasty.enqueue(Record::new(topic).partition(0).value("closed?"));
    let another = hasty.flush(Duration::from_millis(200)).await;
    failed("a flush", another)?;
    println!("  all of it in {:?}", begun.elapsed());
    let error = failed("a record behind it", within("it", 3 * SECOND, stuck).await?)?;
    ensure!(error.kind() == PublishErrorKind::TimedOut, "{error:?}");
    Ok(())
}
