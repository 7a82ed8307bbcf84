//! `GET /metrics`: here with everything else, and alone on a TCP address, since Prometheus cannot scrape a
//! Unix socket.

use super::App;
use super::connections;
use super::error::ApiError;
use super::listener::Bounded;
use axum::Router;
use axum::extract::State;
use axum::http::header::{CONTENT_TYPE, HeaderName};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use insula_model::api::ErrorBody;
use std::io;
use std::sync::Arc;

const TEXT: [(HeaderName, &str); 1] = [(CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
/// Connections to the address of its own; more wait.
const CONNECTIONS_MAX: usize = 16;

/// The host's metrics, in Prometheus' text format.
#[utoipa::path(
    get, path = "/metrics", tag = "host",
    responses(
        (status = 200, description = "Text format 0.0.4", body = String, content_type = "text/plain"),
        (status = 500, description = "A fault of the host", body = ErrorBody),
    )
)]
pub(super) async fn metrics(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let page = tokio::task::spawn_blocking(move || {
        app.metrics.page(&app.deployer.workers, &app.deployer.registry)
    });
    Ok((TEXT, page.await.map_err(ApiError::internal)?).into_response())
}

/// Serves nothing but the metrics, until the host ends.
pub(crate) async fn serve_metrics(
    listener: std::net::TcpListener,
    app: Arc<App>,
) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (ending, held) = (app.ending.clone(), app.upgrader.held());
    let router = Router::new()
        .route("/metrics", get(metrics))
        .fallback(ApiError::no_route)
        .method_not_allowed_fallback(ApiError::no_method)
        .with_state(app);
    let listener = Bounded::new(listener, CONNECTIONS_MAX);
    // Nobody is asked who it is here: what it serves is for whoever may connect.
    connections::serve(listener, router, ending, held, |_| None).await;
    Ok(())
}
