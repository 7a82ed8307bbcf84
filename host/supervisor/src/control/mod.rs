//! The control API: HTTP with JSON on `DATA/control.sock` (see `insula_model::api`).
//!
//! Owns the socket file and the connections on it. Access is the file's mode, 0600 in a directory of
//! mode 0700. Bounded by [`connections::CONNECTIONS_MAX`] connections, [`body::JSON_BYTES_MAX`] of JSON,
//! and the artifact ceiling for uploads. Ends when told to; requests under way then have a moment to end
//! (see `connections`), and followed logs end at once
//! (see `lines`).
//!
//! Every answer of 400 and above has one shape, those of the framework included.

mod activity;
mod artifacts;
mod audit;
mod body;
mod connections;
mod error;
mod events;
mod lines;
mod listener;
mod logs;
mod metrics;
mod moving;
mod namespaces;
mod openapi;
mod operate;
mod page;
mod peer;
mod runs;
mod secrets;
mod system;
mod tenants;
mod upgrade;
mod usage;

use crate::audit::Audit;
use crate::deploy::Deployer;
use crate::live::Live;
use crate::metrics::Metrics;
use crate::upgrade::Upgrader;
use axum::Router;
use axum::routing::{get, head, post, put};
use error::ApiError;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(crate) use listener::Socket;
pub use listener::SocketError;
pub(crate) use metrics::serve_metrics;

/// What the handlers share.
pub(crate) struct App {
    pub(crate) deployer: Arc<Deployer>,
    pub(crate) audit: Audit,
    pub(crate) data: PathBuf,
    pub(crate) started_at: String,
    /// Whoever watches it.
    pub(crate) live: Live,
    pub(crate) metrics: Arc<Metrics>,
    /// Where the metrics are served besides the control socket.
    pub(crate) metrics_listen: Option<SocketAddr>,
    /// Every worker has served once.
    pub(crate) ready: AtomicBool,
    /// Becomes true when the host ends.
    pub(crate) ending: watch::Receiver<bool>,
    pub(crate) upgrader: Arc<Upgrader>,
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/dashboard/{part}", get(page::part))
        .route("/v1/events", get(events::events))
        .route("/healthz", get(system::healthz))
        .route("/readyz", get(system::readyz))
        .route("/metrics", get(metrics::metrics))
        .route("/v1/openapi.json", get(openapi::schema))
        .route("/v1/host", get(system::host))
        .route("/v1/host/upgrade", post(upgrade::upgrade))
        .route("/v1/artifacts/{digest}", head(artifacts::look).put(artifacts::upload))
        .route("/v1/activity", get(activity::activity))
        .route("/v1/tenants", get(tenants::list))
        .route(
            "/v1/tenants/{name}",
            put(tenants::deploy).get(tenants::inspect).delete(tenants::remove),
        )
        .route("/v1/tenants/{name}/revisions", get(tenants::revisions))
        .route("/v1/tenants/{name}/rollback", post(tenants::roll_back))
        .route("/v1/tenants/{name}/promote", post(tenants::promote))
        .route("/v1/tenants/{name}/secrets", get(secrets::list))
        .route("/v1/tenants/{name}/secrets/{key}", put(secrets::set).delete(secrets::remove))
        .route("/v1/tenants/{name}/runs", post(runs::start).get(runs::list))
        .route("/v1/tenants/{name}/stop", post(operate::stop))
        .route("/v1/tenants/{name}/start", post(operate::start))
        .route("/v1/repave", post(operate::repave))
        .route("/v1/export", post(moving::export))
        .route("/v1/import", post(moving::import))
        .route("/v1/tenants/{name}/logs", get(logs::logs))
        .route("/v1/namespaces", get(namespaces::list))
        .route(
            "/v1/namespaces/{name}",
            put(namespaces::set).get(namespaces::inspect).delete(namespaces::remove),
        )
        .route("/v1/usage", get(usage::usage))
        .route("/v1/audit", get(audit::list))
        .route("/v1/audit/verify", get(audit::verify))
        .fallback(ApiError::no_route)
        .method_not_allowed_fallback(ApiError::no_method)
        // Around everything above: what is added belongs there.
        .layer(axum::middleware::from_fn_with_state(Arc::clone(&app), audit::layer))
        .with_state(app)
}

/// Serves from now on, until `app.ending` says so.
pub(crate) fn start(socket: &Socket, app: Arc<App>) -> io::Result<JoinHandle<()>> {
    let listener = socket.bounded(connections::CONNECTIONS_MAX)?;
    let (ending, held) = (app.ending.clone(), app.upgrader.held());
    let peer = |held: &listener::Held<_>| Some(peer::Peer::of(held));
    Ok(tokio::spawn(connections::serve(listener, router(app), ending, held, peer)))
}
