//! The audit log: what every call passes through, and the log itself.
//!
//! The layer lies around the whole router, so a handler cannot forget it: whatever may change something
//! (any method but GET and HEAD) is recorded, by a name that is made up from its path if [`CHANGES`] has
//! none for it. Of what only reads, [`READS`] is recorded. A handler may add what only it knows (which
//! artifact, which revision now) to the [`Note`] that comes with the request.

use super::App;
use super::body::{Asked, Bounded};
use super::error::ApiError;
use super::lines;
use super::peer::Peer;
use crate::audit::{Filter, Reading};
use crate::clock;
use crate::sync::lock;
use axum::Json;
use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use insula_model::api::{AuditCheck, AuditEvent, AuditRecord, AuditStage, ErrorBody, ErrorCode};
use insula_model::{Digest, TenantName};
use serde::Deserialize;
use std::sync::{Arc, Mutex};
use utoipa::IntoParams;

/// What changes are called. Another one gets the last word of its path, and how: `stop`, `widget-set`.
const CHANGES: [(&str, &str); 10] = [
    ("PUT /v1/artifacts/{digest}", "upload"),
    ("PUT /v1/tenants/{name}", "deploy"),
    ("DELETE /v1/tenants/{name}", "remove"),
    ("POST /v1/tenants/{name}/rollback", "rollback"),
    ("POST /v1/tenants/{name}/promote", "promote"),
    ("POST /v1/tenants/{name}/runs", "trigger"),
    ("PUT /v1/tenants/{name}/secrets/{key}", "secret-set"),
    ("DELETE /v1/tenants/{name}/secrets/{key}", "secret-remove"),
    ("PUT /v1/namespaces/{name}", "namespace-set"),
    ("DELETE /v1/namespaces/{name}", "namespace-remove"),
];
/// What is sensitive to read: by the end of the path.
const READS: [(&str, &str); 5] = [
    ("/tenants/{name}", "inspect"),
    ("/secrets", "secret-list"),
    ("/logs", "logs"),
    ("/export", "export"),
    ("/audit", "audit"),
];
/// Bytes of a name in a path that are recorded.
const TARGET_BYTES_MAX: usize = 128;

/// What only the handler of a call knows.
#[derive(Debug, Default)]
pub(super) struct Note {
    artifact: Mutex<Option<Digest>>,
    revision: Mutex<Option<u32>>,
}

impl Note {
    /// What is to be deployed.
    pub(super) fn artifact(&self, digest: Digest) {
        *lock(&self.artifact) = Some(digest);
    }

    /// The revision that is active now.
    pub(super) fn revision(&self, revision: u32) {
        *lock(&self.revision) = Some(revision);
    }
}

/// How a call is recorded.
enum Kind {
    Change(String),
    Read(&'static str),
}

fn kind_of(method: &Method, path: &str) -> Option<Kind> {
    if *method == Method::GET || *method == Method::HEAD || *method == Method::OPTIONS {
        let read = READS.iter().find(|(end, _)| path.ends_with(end));
        return read.filter(|_| *method == Method::GET).map(|(_, action)| Kind::Read(action));
    }
    let call = format!("{method} {path}");
    if let Some((_, action)) = CHANGES.iter().find(|(known, _)| *known == call) {
        return Some(Kind::Change((*action).into()));
    }
    let mut words = path.split('/').filter(|word| !word.is_empty() && !word.starts_with('{'));
    let word = words.next_back().unwrap_or("host");
    Some(Kind::Change(match *method {
        Method::PUT | Method::PATCH => format!("{word}-set"),
        Method::DELETE => format!("{word}-remove"),
        _ => word.into(),
    }))
}

/// What a path names: the value of the last parameter of its pattern under each word.
fn named(pattern: &str, path: &str) -> (Option<String>, Option<String>, Option<String>) {
    let (mut tenant, mut namespace, mut target) = (None, None, None);
    let mut before = "";
    for (pattern, word) in pattern.split('/').zip(path.split('/')) {
        if pattern.starts_with('{') {
            let value = Some(word[..word.floor_char_boundary(TARGET_BYTES_MAX)].to_owned());
            match before {
                "tenants" => tenant = value,
                "namespaces" => namespace = value,
                _ => target = value,
            }
        }
        before = pattern;
    }
    (tenant, namespace, target)
}

/// Records what passes through; see the top of this file.
pub(super) async fn layer(
    State(app): State<Arc<App>>,
    mut request: Request,
    next: Next,
) -> Response {
    let pattern = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let kind = pattern.as_ref().and_then(|pattern| kind_of(request.method(), pattern));
    let (Some(pattern), Some(kind)) = (pattern, kind) else { return next.run(request).await };
    let peer = request.extensions().get::<ConnectInfo<Peer>>().map(|info| info.0);
    let (tenant, namespace, target) = named(&pattern, request.uri().path());
    let (stage, action) = match kind {
        Kind::Change(action) => (AuditStage::Began, action),
        Kind::Read(action) => (AuditStage::Read, action.to_owned()),
    };
    let known = tenant.as_ref().and_then(|name| app.tenant(name));
    let mut event = AuditEvent {
        stage,
        action,
        call: format!("{} {pattern}", request.method()),
        revision_before: known.as_ref().map(|tenant| tenant.entry.revision),
        namespace: namespace.or_else(|| known.map(|tenant| tenant.namespace.to_string())),
        tenant,
        target,
        revision_after: None,
        artifact: None,
        result: None,
        reason: None,
        of: None,
        actor: insula_model::api::AuditActor::default(),
    };
    let actor = move || peer.unwrap_or_default().actor();
    if stage == AuditStage::Read {
        event.revision_before = None;
        let response = next.run(request).await;
        event.result = Some(result_of(&response));
        let recorded = app.audit.read_by(move || AuditEvent { actor: actor(), ..event }).await;
        if let Err(error) = recorded {
            // Who makes room on a full disk needs to look around.
            tracing::error!(%error, "a read could not be recorded in the audit log");
        }
        return response;
    }
    let note = Arc::new(Note::default());
    request.extensions_mut().insert(Arc::clone(&note));
    let began = app.audit.began(move || AuditEvent { actor: actor(), ..event }).await;
    let (of, event) = match began {
        Ok(began) => began,
        Err(error) => {
            // Or a client that still sends an artifact would lose the answer.
            Bounded::new(request.into_body(), u64::MAX).discard().await;
            return unrecorded("nothing was changed", &error).into_response();
        }
    };
    let mut call = Call { app: Some(app), event: Some(event), of, note };
    let response = next.run(request).await;
    match call.end(result_of(&response)).await {
        Ok(()) => response,
        Err(error) => {
            let done = match response.status().is_success() {
                true => "what was asked for was done all the same",
                false => "nothing was changed",
            };
            unrecorded(done, &error).into_response()
        }
    }
}

fn unrecorded(done: &str, error: &std::io::Error) -> ApiError {
    let message = format!("this call cannot be recorded in the audit log: {error}; {done}");
    ApiError::new(ErrorCode::Storage, message)
        .hint("free some space on the disk of the data directory, and look after DATA/audit")
}

/// `ok`, or the word of the error.
fn result_of(response: &Response) -> String {
    let status = response.status();
    if status.as_u16() < 400 {
        return "ok".into();
    }
    let code = response.extensions().get::<ErrorCode>();
    code.map_or_else(|| status.as_u16().to_string(), |code| code.as_str().to_owned())
}

/// A change under way. Dropped before its end, its client has gone.
struct Call {
    app: Option<Arc<App>>,
    event: Option<AuditEvent>,
    of: u64,
    note: Arc<Note>,
}

impl Call {
    /// Records how it ended.
    async fn end(&mut self, result: String) -> std::io::Result<()> {
        let (Some(app), Some(event)) = (self.app.take(), self.event.take()) else { return Ok(()) };
        let event = ended(&app, event, self.of, &self.note, result);
        app.audit.ended(event).await
    }
}

fn ended(app: &App, event: AuditEvent, of: u64, note: &Note, result: String) -> AuditEvent {
    let active = event.tenant.as_ref().and_then(|name| app.tenant(name));
    AuditEvent {
        stage: AuditStage::Ended,
        revision_after: (*lock(&note.revision)).or(active.as_ref().map(|a| a.entry.revision)),
        namespace: event.namespace.or_else(|| active.map(|active| active.namespace.to_string())),
        artifact: (*lock(&note.artifact)).map(|digest| digest.to_string()),
        result: Some(result),
        of: Some(of),
        ..event
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let (Some(app), Some(event)) = (self.app.take(), self.event.take()) else { return };
        let (of, note) = (self.of, Arc::clone(&self.note));
        tokio::spawn(async move {
            // A publish goes on without its client: what came of it is known when it has ended.
            drop(app.deployer.publishing.lock().await);
            let event = ended(&app, event, of, &note, "client-gone".into());
            if let Err(error) = app.audit.ended(event).await {
                tracing::error!(%error, "the end of a change could not be recorded in the audit log");
            }
        });
    }
}

impl App {
    fn tenant(&self, name: &str) -> Option<Arc<crate::registry::Tenant>> {
        self.deployer.registry.get(&name.parse::<TenantName>().ok()?)
    }
}

/// Which records are wanted.
#[derive(Debug, Default, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct AuditQuery {
    /// Only about this tenant, which may be gone.
    #[param(value_type = Option<String>)]
    tenant: Option<TenantName>,
    /// Only from this time on (RFC 3339).
    since: Option<String>,
    /// Only before this time (RFC 3339).
    until: Option<String>,
    /// Only these actions, with commas between them; `secret` means all that begin with `secret-`.
    action: Option<String>,
    /// Only so many of the last ones. Default: everything that is kept.
    tail: Option<usize>,
    /// Whether to go on with the records to come, until the client closes.
    #[serde(default)]
    follow: bool,
    /// Only records after this one: its `seq`.
    after: Option<u64>,
    /// Whether begins of changes are wanted as well as their ends.
    #[serde(default)]
    begins: bool,
}

impl AuditQuery {
    fn filter(&self) -> Result<Filter, ApiError> {
        let time = |at: &Option<String>| match at {
            None => Ok(None),
            Some(at) => match clock::to_millis(at) {
                Some(ms) => Ok(Some(clock::from_millis(ms))),
                None => Err(ApiError::bad_request(format!("`{at}` is not a time (RFC 3339)"))),
            },
        };
        let actions = self.action.iter().flat_map(|all| all.split(','));
        Ok(Filter {
            tenant: self.tenant.as_ref().map(ToString::to_string),
            since: time(&self.since)?,
            until: time(&self.until)?,
            actions: actions.filter(|one| !one.is_empty()).map(str::to_owned).collect(),
            begins: self.begins,
            after: self.after.unwrap_or(0),
        })
    }
}

/// What was changed, or read, through this API: by whom, when, from where.
#[utoipa::path(
    get, path = "/v1/audit", tag = "audit",
    params(AuditQuery),
    responses(
        (status = 200, description = "One record a line, oldest first",
            body = AuditRecord, content_type = "application/x-ndjson"),
        (status = 400, description = "An unknown query, or not a time", body = ErrorBody),
        (status = 500, description = "The log cannot be read", body = ErrorBody),
    )
)]
pub(super) async fn list(
    State(app): State<Arc<App>>,
    Asked(query): Asked<AuditQuery>,
) -> Result<Response, ApiError> {
    let reading = app.audit.read(query.filter()?, query.tail, query.follow).await;
    let reading = reading.map_err(ApiError::internal)?;
    Ok(lines::answer(&app, reading, Reading::next))
}

/// Whether every record that is kept is as it was written, and none is missing.
#[utoipa::path(
    get, path = "/v1/audit/verify", tag = "audit",
    responses(
        (status = 200, description = "What was found", body = AuditCheck),
        (status = 500, description = "The log cannot be read", body = ErrorBody),
    )
)]
pub(super) async fn verify(State(app): State<Arc<App>>) -> Result<Json<AuditCheck>, ApiError> {
    Ok(Json(app.audit.verify().await.map_err(ApiError::internal)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn action(method: Method, path: &str) -> String {
        match kind_of(&method, path) {
            Some(Kind::Change(action)) => action,
            Some(Kind::Read(action)) => format!("read {action}"),
            None => "-".into(),
        }
    }

    #[test]
    fn a_call_that_nobody_has_named_is_recorded_all_the_same() {
        assert_eq!(action(Method::POST, "/v1/tenants/{name}/stop"), "stop");
        assert_eq!(action(Method::DELETE, "/v1/widgets/{name}"), "widgets-remove");
        assert_eq!(action(Method::PATCH, "/v1/host"), "host-set");
        assert_eq!(action(Method::DELETE, "/v1/tenants/{name}"), "remove");
        assert_eq!(action(Method::GET, "/v1/tenants/{name}"), "read inspect");
        assert_eq!(action(Method::GET, "/v1/tenants"), "-");
    }

    #[test]
    fn a_path_says_whom_it_is_about() {
        let pattern = "/v1/tenants/{name}/secrets/{key}";
        let found = named(pattern, "/v1/tenants/shop/secrets/TOKEN");
        assert_eq!(found, (Some("shop".into()), None, Some("TOKEN".into())));
    }
}
