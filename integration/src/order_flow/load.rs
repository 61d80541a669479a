//! The customers: they place and pay orders over HTTP, and repeat what was not answered.

use super::faults::stays_unpaid;
use super::settle::ShopStatus;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Method, Request, StatusCode};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

/// How many orders come, from whom and how fast.
#[derive(Debug, Clone)]
pub struct Load {
    /// How many orders are placed; every 50th has no amount and is refused.
    pub orders: u64,
    /// How many customers there are.
    pub customers: u64,
    /// How many of them order at the same time.
    pub concurrency: u64,
    /// How long a request is repeated before the load gives up.
    pub patience: Duration,
}

/// What the customers saw.
#[derive(Debug, Default)]
pub struct Tally {
    /// Orders that were confirmed.
    pub placed: AtomicU64,
    /// Orders that were refused by a rule of the shop.
    pub refused: AtomicU64,
    /// Payments that were confirmed.
    pub paid: AtomicU64,
    /// Payments that came after the order was closed.
    pub too_late: AtomicU64,
    /// Requests that had to be repeated.
    pub repeated: AtomicU64,
}

/// The load gave up: the shop did not answer for longer than its patience.
#[derive(Debug, thiserror::Error)]
#[error("{request}: {reason}")]
pub struct LoadError {
    request: String,
    reason: String,
}

/// The id of order number `n`.
pub fn order_id(n: u64) -> String {
    format!("o-{n:06}")
}

/// Whether order number `n` has no amount and must be refused.
pub fn is_refused(n: u64) -> bool {
    n % 50 == 49
}

/// Places and pays all orders of `load` at `address` and counts in `tally` as it goes.
///
/// # Errors
/// When a request is not answered within the load's patience, or is answered against the rules.
pub async fn run(address: &str, load: &Load, tally: &Arc<Tally>) -> Result<(), LoadError> {
    let shop = Arc::new(ShopClient {
        client: Client::builder(TokioExecutor::new()).build_http(),
        address: address.to_owned(),
        patience: load.patience,
        tally: tally.clone(),
    });
    let mut customers = JoinSet::new();
    let next = Arc::new(AtomicU64::new(0));
    for _ in 0..load.concurrency {
        let (shop, load, tally) = (shop.clone(), load.clone(), tally.clone());
        let next = next.clone();
        customers.spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= load.orders {
                    return Ok(());
                }
                order(&shop, &load, &tally, n).await?;
            }
        });
    }
    while let Some(result) = customers.join_next().await {
        result.map_err(|e| LoadError {
            request: "load".into(),
            reason: e.to_string(),
        })??;
    }
    Ok(())
}

/// What the shop at `address` says of itself; `None` when it does not answer.
pub async fn status(address: &str) -> Option<ShopStatus> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Full<Bytes>>();
    let uri = format!("http://{address}/status").parse().ok()?;
    let response = timeout(Duration::from_secs(5), client.get(uri))
        .await
        .ok()?
        .ok()?;
    let body = response.into_body().collect().await.ok()?.to_bytes();
    serde_json::from_slice(&body).ok()
}

async fn order(shop: &ShopClient, load: &Load, tally: &Tally, n: u64) -> Result<(), LoadError> {
    let id = order_id(n);
    let amount = if is_refused(n) { 0 } else { 100 + n };
    let body = json!({
        "order_id": id,
        "customer": format!("c-{:04}", n % load.customers),
        "amount_cents": amount,
    });
    match shop.post("/orders", &body.to_string()).await? {
        StatusCode::CREATED | StatusCode::OK if amount > 0 => {
            tally.placed.fetch_add(1, Ordering::Relaxed);
        }
        StatusCode::UNPROCESSABLE_ENTITY if amount == 0 => {
            tally.refused.fetch_add(1, Ordering::Relaxed);
            return Ok(());
        }
        other => return Err(unexpected("POST /orders", other)),
    }
    if stays_unpaid(&id) {
        return Ok(());
    }
    match shop.post(&format!("/orders/{id}/payment"), "").await? {
        StatusCode::CREATED | StatusCode::OK => {
            tally.paid.fetch_add(1, Ordering::Relaxed);
        }
        StatusCode::CONFLICT => {
            tally.too_late.fetch_add(1, Ordering::Relaxed);
        }
        other => return Err(unexpected("POST payment", other)),
    }
    Ok(())
}

fn unexpected(request: &str, status: StatusCode) -> LoadError {
    LoadError {
        request: request.into(),
        reason: format!("unexpected status {status}"),
    }
}

/// The shop as its customers reach it, over pooled keep-alive connections.
struct ShopClient {
    client: Client<HttpConnector, Full<Bytes>>,
    address: String,
    patience: Duration,
    tally: Arc<Tally>,
}

impl ShopClient {
    /// Posts until there is an answer below 500; the shop's requests may be repeated.
    async fn post(&self, path: &str, body: &str) -> Result<StatusCode, LoadError> {
        let started = Instant::now();
        loop {
            let reason = match timeout(Duration::from_secs(5), self.try_post(path, body)).await {
                Ok(Ok(status)) if !status.is_server_error() => return Ok(status),
                Ok(Ok(status)) => status.to_string(),
                Ok(Err(reason)) => reason,
                Err(elapsed) => elapsed.to_string(),
            };
            if started.elapsed() > self.patience {
                return Err(LoadError {
                    request: format!("POST {path}"),
                    reason,
                });
            }
            self.tally.repeated.fetch_add(1, Ordering::Relaxed);
            // The pace of the repetitions; nothing is waited for that could be watched.
            sleep(Duration::from_millis(50)).await;
        }
    }

    async fn try_post(&self, path: &str, body: &str) -> Result<StatusCode, String> {
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("http://{}{path}", self.address))
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_owned())))
            .map_err(|e| e.to_string())?;
        let response = self
            .client
            .request(request)
            .await
            .map_err(|e| e.to_string())?;
        let status = response.status();
        response
            .into_body()
            .collect()
            .await
            .map_err(|e| e.to_string())?;
        Ok(status)
    }
}
