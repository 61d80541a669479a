//! The shop's HTTP endpoint.

use super::settle::ShopStatus;
use super::shop::{Shop, ShopError};
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ottla::store::OutboxStore;
use serde::Deserialize;
use serde_json::json;

/// The body of `POST /orders`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlaceOrder {
    /// Chosen by the client, so that the request can be repeated.
    pub order_id: String,
    /// Who orders.
    pub customer: String,
    /// How much, in cents.
    pub amount_cents: u64,
}

/// `POST /orders`, `POST /orders/{id}/payment` and `GET /status`.
///
/// 201 is new, 200 was there before, 422 breaks a rule, 409 came too late, 400 is no JSON.
pub fn router(shop: Shop) -> Router {
    Router::new()
        .route("/orders", post(place))
        .route("/orders/{order_id}/payment", post(pay))
        .route("/status", get(status))
        .with_state(shop)
}

async fn place(State(shop): State<Shop>, Json(order): Json<PlaceOrder>) -> Response {
    answer(move || shop.place(&order.order_id, &order.customer, order.amount_cents)).await
}

async fn status(State(shop): State<Shop>) -> Response {
    let counts = shop.outbox().counts().await;
    let orders = tokio::task::spawn_blocking(move || shop.count_orders()).await;
    match (counts, orders) {
        (Ok(rows), Ok(Ok((orders, open_orders)))) => {
            let status = ShopStatus {
                open_orders,
                orders,
                pending_rows: rows.pending,
                parked_rows: rows.parked,
            };
            Json(status).into_response()
        }
        _ => (
            StatusCode::INTERNAL_SERVER_ERROR,
            "the stores cannot be counted",
        )
            .into_response(),
    }
}

async fn pay(State(shop): State<Shop>, Path(order_id): Path<String>) -> Response {
    answer(move || shop.pay(&order_id)).await
}

/// Runs a change of the shop off the runtime's threads, since it waits for the disk.
async fn answer(change: impl FnOnce() -> Result<bool, ShopError> + Send + 'static) -> Response {
    let (status, body) = match tokio::task::spawn_blocking(change).await {
        Ok(Ok(true)) => (StatusCode::CREATED, json!({"changed": true})),
        Ok(Ok(false)) => (StatusCode::OK, json!({"changed": false})),
        Ok(Err(error)) => {
            let status = match error {
                ShopError::Refused(_) => StatusCode::UNPROCESSABLE_ENTITY,
                ShopError::NotFound => StatusCode::NOT_FOUND,
                ShopError::Conflict(_) => StatusCode::CONFLICT,
                _ => StatusCode::INTERNAL_SERVER_ERROR,
            };
            (status, json!({"error": error.to_string()}))
        }
        Err(panicked) => (
            StatusCode::INTERNAL_SERVER_ERROR,
            json!({"error": panicked.to_string()}),
        ),
    };
    (status, Json(body)).into_response()
}
