//! The order flow as a program: the whole demo, or one of its roles as a process of its own.
//!
//! A role prints `ready ADDRESS` once it runs and stops gracefully on SIGINT or SIGTERM; its last
//! line is `stopped cleanly`, or what it had to leave.

use lexopt::prelude::*;
use ottla::client::TransportKind;
use ottla::consumer::shutdown_signal;
use ottla_integration::order_flow::demo;
use ottla_integration::order_flow::service::{Flow, NotifierService, ShopService, StopReport};
use ottla_integration::order_flow::topics::Topics;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tracing_subscriber::EnvFilter;

const USAGE: &str = "\
usage: order-flow [--bootstrap HOST:PORT] [--transport NAME] [--orders N] [--prefix TEXT]
       order-flow --role shop --bootstrap HOST:PORT --database FILE [--http ADDRESS]
       order-flow --role notifier --bootstrap HOST:PORT --database FILE --journal FILE

Without --bootstrap the flow runs on a mock cluster in this process.
--prefix begins every topic and group name; on a real cluster the default is unique to the run.
Roles also take --partitions N, --replication N and --instances N.";

const LIMIT: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(15);

#[derive(Default)]
struct Arguments {
    role: Option<String>,
    bootstrap: Option<String>,
    transport: TransportKind,
    orders: Option<u64>,
    prefix: Option<String>,
    database: Option<PathBuf>,
    journal: Option<PathBuf>,
    http: Option<String>,
    partitions: Option<i32>,
    replication: Option<i16>,
    instances: Option<usize>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .init();
    let arguments = match parse() {
        Ok(Some(arguments)) => arguments,
        Ok(None) => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error}\n\n{USAGE}");
            return ExitCode::from(2);
        }
    };
    let ended = match arguments.role.as_deref() {
        None => run_demo(arguments).await,
        Some("shop") => run_shop(arguments).await,
        Some("notifier") => run_notifier(arguments).await,
        Some(other) => Err(format!("no role {other}; there are shop and notifier").into()),
    };
    match ended {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", ottla::types::with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

fn parse() -> Result<Option<Arguments>, lexopt::Error> {
    let mut arguments = Arguments::default();
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("help") | Short('h') => return Ok(None),
            Long("role") => arguments.role = Some(parser.value()?.string()?),
            Long("bootstrap") => arguments.bootstrap = Some(parser.value()?.string()?),
            Long("transport") => arguments.transport = parser.value()?.parse()?,
            Long("orders") => arguments.orders = Some(parser.value()?.parse()?),
            Long("prefix") => arguments.prefix = Some(parser.value()?.string()?),
            Long("database") => arguments.database = Some(parser.value()?.into()),
            Long("journal") => arguments.journal = Some(parser.value()?.into()),
            Long("http") => arguments.http = Some(parser.value()?.string()?),
            Long("partitions") => arguments.partitions = Some(parser.value()?.parse()?),
            Long("replication") => arguments.replication = Some(parser.value()?.parse()?),
            Long("instances") => arguments.instances = Some(parser.value()?.parse()?),
            other => return Err(other.unexpected()),
        }
    }
    Ok(Some(arguments))
}

type Ended = Result<bool, Box<dyn Error + Send + Sync>>;

async fn run_demo(arguments: Arguments) -> Ended {
    let options = demo::Options {
        bootstrap: arguments.bootstrap,
        transport: arguments.transport,
        orders: arguments.orders.unwrap_or(400),
        prefix: arguments.prefix,
        limit: LIMIT,
    };
    Ok(demo::run(&options).await?.is_clean())
}

fn flow(arguments: &Arguments) -> Result<Flow, Box<dyn Error + Send + Sync>> {
    Ok(Flow {
        bootstrap: arguments
            .bootstrap
            .clone()
            .ok_or("--bootstrap is missing")?,
        transport: arguments.transport,
        topics: Topics::new(arguments.prefix.clone().unwrap_or_default()),
        partitions: arguments.partitions.unwrap_or(6),
        replication: arguments.replication.unwrap_or(-1),
        instances: arguments.instances.unwrap_or(2),
    })
}

async fn run_shop(arguments: Arguments) -> Ended {
    let flow = flow(&arguments)?;
    let database = arguments.database.ok_or("--database is missing")?;
    let http = arguments.http.unwrap_or_else(|| "127.0.0.1:0".to_owned());
    let service = ShopService::start(&flow, &database, &http).await?;
    println!("ready {}", service.address());
    shutdown_signal().await?;
    Ok(stopped(service.stop(STOP_DEADLINE).await))
}

async fn run_notifier(arguments: Arguments) -> Ended {
    let flow = flow(&arguments)?;
    let database = arguments.database.ok_or("--database is missing")?;
    let journal = arguments.journal.ok_or("--journal is missing")?;
    let service = NotifierService::start(&flow, &database, &journal).await?;
    println!("ready");
    shutdown_signal().await?;
    Ok(stopped(service.stop(STOP_DEADLINE).await))
}

fn stopped(report: StopReport) -> bool {
    if report.is_clean() {
        println!("stopped cleanly");
    } else {
        println!("stopped with work left: {}", report.left.join("; "));
    }
    report.is_clean()
}
