//! The control API: HTTP with JSON on `DATA/control.sock` (see `insula_model::api`).
//!
//! Owns the socket file and the connections on it. Access is the file's mode, 0600 in a directory of
//! mode 0700. Bounded by [`CONNECTIONS_MAX`] connections, [`body::JSON_BYTES_MAX`] of JSON, and the
//! artifact ceiling for uploads. Ends when told to; requests under way then have
//! [`FINISH_MS_MAX`] to end, and followed logs end at once.
//!
//! Every answer of 400 and above has one shape, those of the framework included.

mod activity;
mod artifacts;
mod audit;
mod body;
mod error;
mod listener;
mod logs;
mod metrics;
mod namespaces;
mod openapi;
mod peer;
mod runs;
mod secrets;
mod system;
mod tenants;
mod upgrade;
mod usage;

use crate::audit::Audit;
use crate::deploy::Deployer;
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
use std::time::Duration;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use listener::Bounded;
pub(crate) use listener::Socket;
pub use listener::SocketError;
pub(crate) use metrics::serve_metrics;

/// Open connections; more wait in the socket's backlog.
const CONNECTIONS_MAX: usize = 256;
/// How long requests under way may take to end at shutdown, in milliseconds.
const FINISH_MS_MAX: u64 = 2_000;
/// How long they may before an upgrade, in milliseconds: a deploy may be at its compiler.
const FINISH_UPGRADE_MS_MAX: u64 = 30_000;

/// What the handlers share.
pub(crate) struct App {
    pub(crate) deployer: Arc<Deployer>,
    pub(crate) audit: Audit,
    pub(crate) data: PathBuf,
    pub(crate) started_at: String,
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
        .route("/v1/tenants/{name}/secrets", get(secrets::list))
        .route("/v1/tenants/{name}/secrets/{key}", put(secrets::set).delete(secrets::remove))
        .route("/v1/tenants/{name}/runs", post(runs::start).get(runs::list))
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
pub(crate) fn start(socket: &Socket, app: Arc<App>) -> io::Result<JoinHandle<io::Result<()>>> {
    let listener = socket.bounded(CONNECTIONS_MAX, app.upgrader.held())?;
    Ok(tokio::spawn(serve(listener, app)))
}

/// When the host is upgraded, requests under way are answered first, and
/// new ones wait for the host that comes after: nobody is refused.
async fn serve(listener: Bounded<UnixListener>, app: Arc<App>) -> io::Result<()> {
    let (mut ending, upgrader) = (app.ending.clone(), Arc::clone(&app.upgrader));
    let mut also_ending = app.ending.clone();
    let service = router(app).into_make_service_with_connect_info::<peer::Peer>();
    let serving = axum::serve(listener, service)
        .with_graceful_shutdown(async move { drop(ending.wait_for(|ending| *ending).await) });
    tokio::select! {
        result = serving.into_future() => result,
        () = async {
            // The sender lives as long as the host: an error means that it ends, too.
            drop(also_ending.wait_for(|ending| *ending).await);
            let upgrades = *upgrader.held().borrow();
            let finish_ms = if upgrades { FINISH_UPGRADE_MS_MAX } else { FINISH_MS_MAX };
            tokio::time::sleep(Duration::from_millis(finish_ms)).await;
        } => Ok(()),
    }
}
