//! Batches compressed by us, read by others: kcat (librdkafka) and the Java console consumer.
//!
//! The batches are sent in a Produce request written by hand, so that no transport compresses them
//! anew. A real Kafka decompresses each one with Java's codecs to check it before it takes it. The
//! other direction is a test of `ottla-record-batch` on files of those clients, which
//! `integration/codec-vectors/generate.sh` makes.

use super::{Context, Outcome};
use crate::Failure;
use crate::harness::{Jars, Worker};
use ottla_client::NewTopic;
use ottla_mock_cluster::MockCluster;
use ottla_record_batch::{BatchBuilder, Compression, Compressor, EncodedBatch};
use ottla_types::Headers;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::timeout;

const WITHIN: Duration = Duration::from_secs(40);
/// Above every codec's block size, below what a broker takes.
const RECORDS: usize = 2_000;
const CODECS: [Compression; 4] = [
    Compression::Gzip,
    Compression::Snappy,
    Compression::Lz4,
    Compression::Zstd,
];
/// The largest answer to a Produce request of one partition.
const ANSWER_MAX: usize = 4_096;

/// On a real Kafka: kcat and the Java consumer.
pub(super) async fn on_kafka(context: &mut Context) -> Outcome {
    let jars = context.jars().await?;
    let flag = match context.is_kafka_3() {
        true => "--property",
        false => "--formatter-property",
    };
    let bootstrap = context.bootstrap();
    let client = context.client().await?;
    for codec in CODECS {
        let topic = context.unique(codec.name());
        client.ensure_topics(vec![NewTopic::new(&topic, 1)]).await?;
        let wanted = write(&bootstrap, &topic, codec).await?;
        compare(codec, "kcat", kcat(&bootstrap, &topic).await?, &wanted)?;
        compare(
            codec,
            "Java",
            java(&jars, flag, &bootstrap, &topic).await?,
            &wanted,
        )?;
    }
    client.close().await;
    Ok(())
}

/// On the mock cluster, which keeps the batches as they came: kcat.
pub(super) async fn on_mock(_: &mut Context) -> Outcome {
    let cluster = MockCluster::builder().brokers(1).start().await?;
    for codec in CODECS {
        let topic = codec.name();
        cluster.create_topic(topic, 1)?;
        let wanted = write(&cluster.bootstrap(), topic, codec).await?;
        let read = kcat(&cluster.bootstrap(), topic).await?;
        compare(codec, "kcat", read, &wanted)?;
    }
    cluster.shutdown().await;
    Ok(())
}

fn compare(codec: Compression, reader: &str, read: Vec<String>, wanted: &[String]) -> Outcome {
    if read == wanted {
        println!("{codec}: {reader} read {} records", read.len());
        return Ok(());
    }
    let differs = read
        .iter()
        .zip(wanted)
        .find(|(read, wanted)| read != wanted);
    Err(format!(
        "{codec}: {reader} read {} of {} records; the first difference: {differs:?}",
        read.len(),
        wanted.len()
    )
    .into())
}

/// Two batches of order events, compressed; gives the lines that readers must print.
async fn write(address: &str, topic: &str, codec: Compression) -> Result<Vec<String>, Failure> {
    let mut compressor = Compressor::new(codec)?;
    let mut lines = Vec::new();
    for first in [0, RECORDS / 2] {
        let mut builder = BatchBuilder::new(1 << 20);
        for number in first..first + RECORDS / 2 {
            let key = format!("order-{number}");
            let value = format!(
                r#"{{"type":"order.created","order_id":"{key}","sum_cents":{},"sku":"SKU-{:05}"}}"#,
                fastrand::u32(100..100_000),
                fastrand::u32(0..50_000)
            );
            let trace = format!("{:016x}", fastrand::u64(..));
            let headers = Headers::new().with("trace", trace.clone());
            let now = 1_700_000_000_000;
            builder.try_append(now, Some(key.as_bytes()), Some(value.as_bytes()), &headers)?;
            lines.push(format!("trace={trace} {key} {value}"));
        }
        let batch = builder.finish_with(&mut compressor);
        if batch.compression() != codec {
            return Err(format!("{codec}: the batch was not compressed").into());
        }
        timeout(WITHIN, produce(address, topic, &batch)).await??;
    }
    Ok(lines)
}

/// One Produce request, version 7 (the first that allows zstd), for partition 0.
async fn produce(address: &str, topic: &str, batch: &EncodedBatch) -> Outcome {
    let mut request = Vec::new();
    request.extend(0_i16.to_be_bytes()); // Produce
    request.extend(7_i16.to_be_bytes());
    request.extend(1_i32.to_be_bytes()); // correlation id
    request.extend((-1_i16).to_be_bytes()); // no client id
    request.extend((-1_i16).to_be_bytes()); // no transaction
    request.extend((-1_i16).to_be_bytes()); // acks=all
    request.extend(30_000_i32.to_be_bytes());
    request.extend(1_i32.to_be_bytes()); // one topic
    request.extend((topic.len() as i16).to_be_bytes());
    request.extend(topic.as_bytes());
    request.extend(1_i32.to_be_bytes()); // one partition
    request.extend(0_i32.to_be_bytes());
    request.extend((batch.bytes().len() as i32).to_be_bytes());
    request.extend_from_slice(&batch.bytes());

    let mut stream = TcpStream::connect(address).await?;
    stream.write_i32(request.len() as i32).await?;
    stream.write_all(&request).await?;
    let length = usize::try_from(stream.read_i32().await?)?;
    if length > ANSWER_MAX {
        return Err(format!("an answer of {length} bytes").into());
    }
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    // Correlation id, topic count, the name, partition count and index stand before the code.
    let at = 4 + 4 + 2 + topic.len() + 4 + 4;
    let code = answer.get(at..).and_then(|rest| rest.first_chunk());
    match code.map(|code| i16::from_be_bytes(*code)) {
        Some(0) => Ok(()),
        code => Err(format!("the broker answered error {code:?}").into()),
    }
}

async fn kcat(bootstrap: &str, topic: &str) -> Result<Vec<String>, Failure> {
    let mut command = Command::new("kcat");
    command.args([
        "-b",
        bootstrap,
        "-C",
        "-t",
        topic,
        "-o",
        "beginning",
        "-e",
        "-q",
    ]);
    command.args(["-X", "check.crcs=true", "-f", "%h %k %s\n"]);
    lines("kcat -C", command).await
}

/// `flag` is what the console consumer calls a property of its output.
async fn java(
    jars: &Jars,
    flag: &str,
    bootstrap: &str,
    topic: &str,
) -> Result<Vec<String>, Failure> {
    let main = "org.apache.kafka.tools.consumer.ConsoleConsumer";
    let mut command = jars.java(&["-Xmx256m", "-XX:TieredStopAtLevel=1"], main);
    command.args(["--bootstrap-server", bootstrap, "--topic", topic]);
    command.args(["--from-beginning", "--max-messages", &RECORDS.to_string()]);
    for property in [
        "print.headers=true",
        "print.key=true",
        "key.separator= ",
        "headers.separator= ",
    ] {
        command.args([flag, property]);
    }
    let lines = lines("the Java console consumer", command).await?;
    // What its logger says comes on the same pipe.
    let records = lines.into_iter().filter(|line| line.starts_with("trace"));
    Ok(records
        .map(|line| line.replacen("trace:", "trace=", 1))
        .collect())
}

async fn lines(name: &str, command: Command) -> Result<Vec<String>, Failure> {
    let mut worker = Worker::spawn(name, command)?;
    let status = worker.wait(WITHIN).await?;
    if !status.success() {
        return Err(format!("{name}: {status}\n{}", worker.tail(30)).into());
    }
    let lines = worker.lines().into_iter();
    Ok(lines.filter(|line| !line.starts_with("! ")).collect())
}
