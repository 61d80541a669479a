//! A web server and consumers in one process: `POST /orders` publishes, a handler consumes,
//! `/health/ready` and `/health/live` tell an orchestrator, and one stop ends both.
//!
//! ```text
//! cargo run --example web_app HOST:PORT
//! curl -d order-1 localhost:3000/orders; curl localhost:3000/health/ready
//! ```
//! Without an address it runs on a mock cluster in this process, asks itself these and ends.

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use ottla::client::NewTopic;
use ottla::consumer::{AutoOffsetReset, Health, HealthReport, shutdown_signal};
use ottla::mock_cluster::MockCluster;
use ottla::{App, Client, ClientConfig, ConsumerConfig, Outcome, Producer, ProducerConfig, Record};
use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

type Failure = Box<dyn Error + Send + Sync>;

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let mock = MockCluster::builder().start().await?;
    let given = std::env::args().nth(1);
    let bootstrap = given.clone().unwrap_or_else(|| mock.bootstrap());
    let client = Client::connect(ClientConfig::new(&bootstrap)).await?;
    client
        .ensure_topics(vec![NewTopic::new("orders", 3)])
        .await?;
    let producer = Producer::new(&client, ProducerConfig::default())?;

    let mut app = App::new(&client, from_the_start());
    app.topic("orders").listen(
        "order-sms",
        ottla::handler_fn(|_, record| async move {
            println!("an SMS for {:?}", record.value);
            Outcome::Done
        }),
    );
    let routes = routes(app.health(), producer.clone());
    let address = if given.is_some() {
        "127.0.0.1:3000"
    } else {
        "127.0.0.1:0"
    };
    let listener = TcpListener::bind(address).await?;
    let address = listener.local_addr()?;

    // Whatever ends, ends the other: the signal, the server, or a member that failed for good.
    let (stop, stopped) = watch::channel(false);
    let stopped = move || wait(stopped.clone());
    let server = async {
        let served = axum::serve(listener, routes)
            .with_graceful_shutdown(stopped())
            .await;
        stop.send_replace(true);
        served.map_err(Failure::from)
    };
    let consumers = async {
        let report = app.run_until(stopped(), Duration::from_secs(20)).await;
        stop.send_replace(true);
        report.map_err(Failure::from)
    };
    let until = async {
        let ended = match given {
            Some(_) => shutdown_signal().await.map_err(Failure::from),
            None => visit(address).await,
        };
        stop.send_replace(true);
        ended
    };
    let ((), report, ()) = tokio::try_join!(server, consumers, until)?;
    println!("clean: {}", report.clean);
    let _ = producer.close(Duration::from_secs(5)).await;
    client.close().await;
    mock.shutdown().await;
    Ok(())
}

async fn wait(mut stopped: watch::Receiver<bool>) {
    // Without its sender the program is over, too.
    let _ = stopped.wait_for(|stopped| *stopped).await;
}

fn from_the_start() -> ConsumerConfig {
    ConsumerConfig {
        auto_offset_reset: AutoOffsetReset::Earliest,
        ..ConsumerConfig::default()
    }
}

fn routes(health: Health, producer: Producer) -> Router {
    let ready = {
        let health = health.clone();
        move || async move { told(health.report(), |report| report.ready) }
    };
    let live = move || async move { told(health.report(), |report| report.live) };
    Router::new()
        .route("/health/ready", get(ready))
        .route("/health/live", get(live))
        .route("/orders", post(place))
        .with_state(producer)
}

/// The report, with a status that a probe understands.
fn told(
    report: HealthReport,
    is_well: impl Fn(&HealthReport) -> bool,
) -> (StatusCode, Json<HealthReport>) {
    let status = match is_well(&report) {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(report))
}

async fn place(State(producer): State<Producer>, order: String) -> (StatusCode, String) {
    let record = Record::new("orders").key(order.clone()).value(order);
    match producer.send(record).await {
        Ok(written) => (StatusCode::CREATED, format!("{written:?}\n")),
        Err(error) => (StatusCode::SERVICE_UNAVAILABLE, error.to_string()),
    }
}

/// Waits for readiness, places an order, and waits until it is handled.
async fn visit(address: SocketAddr) -> Result<(), Failure> {
    ask(address, "GET", "/health/live", "", "200 OK").await?;
    ask(address, "GET", "/health/ready", "", r#""ready":true"#).await?;
    ask(address, "POST", "/orders", "order-1", "201 Created").await?;
    ask(address, "GET", "/health/ready", "", r#""handled":1"#).await
}

/// Asks until the answer has `wanted` in it, for 20 s.
async fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    body: &str,
    wanted: &str,
) -> Result<(), Failure> {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: text/plain\r\n\
         content-length: {length}\r\nconnection: close\r\n\r\n{body}"
    );
    let asking = async {
        loop {
            let mut stream = TcpStream::connect(address).await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            if answer.contains(wanted) {
                println!("{method} {path}: {wanted}");
                return Ok::<_, Failure>(());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asking).await?
}
