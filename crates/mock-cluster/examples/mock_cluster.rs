//! Starts a mock cluster for other programs and prints `bootstrap=host:port,...`; ends on ctrl-c
//! or SIGTERM.
//!
//! `mock_cluster [--brokers N] [--port P] [--partitions N] [--no-auto-create]
//! [--rebalance-delay-ms N] [--versions kafka-3.9|kafka-4.0|kafka-4.3|redpanda]
//! [--transaction-version 1|2] [--racks A,B,C]`

use std::error::Error;
use std::io::Write;
use std::time::Duration;

use lexopt::prelude::*;
use ottla_mock_cluster::{MockCluster, MockClusterBuilder, Versions};

fn parse() -> Result<MockClusterBuilder, lexopt::Error> {
    let mut builder = MockCluster::builder().brokers(3).default_partitions(4);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        builder = match argument {
            Long("brokers") => builder.brokers(parser.value()?.parse()?),
            Long("port") => builder.port(parser.value()?.parse()?),
            Long("partitions") => builder.default_partitions(parser.value()?.parse()?),
            Long("no-auto-create") => builder.auto_create_topics(false),
            Long("rebalance-delay-ms") => {
                let delay = Duration::from_millis(parser.value()?.parse()?);
                builder.initial_rebalance_delay(delay)
            }
            Long("versions") => builder.versions(versions(&parser.value()?.string()?)?),
            Long("transaction-version") => builder.transaction_version(parser.value()?.parse()?),
            Long("racks") => {
                let racks = parser.value()?.string()?;
                builder.racks(&racks.split(',').collect::<Vec<_>>())
            }
            other => return Err(other.unexpected()),
        };
    }
    Ok(builder)
}

fn versions(name: &str) -> Result<Versions, lexopt::Error> {
    match name {
        "kafka-3.9" => Ok(Versions::kafka_3_9()),
        "kafka-4.0" => Ok(Versions::kafka_4_0()),
        "kafka-4.3" => Ok(Versions::kafka_4_3()),
        "redpanda" => Ok(Versions::redpanda()),
        other => Err(format!("no versions of {other}").into()),
    }
}

async fn stop_signal() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            result = tokio::signal::ctrl_c() => result,
            _ = terminate.recv() => Ok(()),
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let cluster = parse()?.start().await?;
    let mut stdout = std::io::stdout();
    writeln!(stdout, "bootstrap={}", cluster.bootstrap())?;
    stdout.flush()?;
    stop_signal().await?;
    cluster.shutdown().await;
    Ok(())
}
