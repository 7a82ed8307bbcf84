//! A door from a browser on this machine to the control socket.
//!
//! Everything that a browser may be made to send by somebody else's page is refused here:
//! * `Host` must name this machine, so a name of the attacker's that resolves to 127.0.0.1 gets nothing;
//! * `Origin` and `Sec-Fetch-Site`, where sent, must be the page's own;
//! * everything but the page's files takes a key in `Authorization`. It is in the part of the URL that
//!   browsers do not send, the page keeps it for its own origin, and no browser adds it by itself. A cookie
//!   would be sent to every port of this machine, and on one of them tenants answer.
//!
//! And what the page has no use for is refused whatever comes with it: see [`is_offered`]. Bounded by
//! [`CONNECTIONS_MAX`] connections, [`HEAD_MS_MAX`] and [`BODY_BYTES_MAX`]. A connection ends when its
//! client closes it; what is streamed to it then ends at the host, too.

use crate::client::{Body, Client};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST, HeaderName,
    HeaderValue, ORIGIN, REFERRER_POLICY, RETRY_AFTER, X_CONTENT_TYPE_OPTIONS,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use insula_model::api::{ErrorBody, ErrorCode};
use sha2::{Digest as _, Sha256};
use std::convert::Infallible;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections at once; more wait in the kernel's backlog. A browser opens six for a page.
const CONNECTIONS_MAX: usize = 64;
/// How long a request's head may take to arrive, in milliseconds.
const HEAD_MS_MAX: u64 = 10_000;
/// Bytes of a request's body. The page's own are a few dozen.
const BODY_BYTES_MAX: usize = 16 << 10;
/// How long a request's body may take to arrive, in milliseconds.
const BODY_MS_MAX: u64 = 10_000;
/// Time until the next accept after one has failed, in milliseconds.
const ACCEPT_AGAIN_MS: u64 = 100;
/// Random bytes of a key.
const TOKEN_BYTES: usize = 16;

/// What opens the gate.
pub(crate) struct Token(String);

impl Token {
    /// A new one.
    pub(crate) fn new() -> io::Result<Self> {
        let mut bytes = [0; TOKEN_BYTES];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let mut text = String::with_capacity(2 * TOKEN_BYTES);
        for byte in bytes {
            // Writing into a string does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        Ok(Self(text))
    }

    /// As it stands in the URL.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// Whether a request has it. Digests are compared, so that the time taken says nothing about it.
    fn is_in(&self, head: &HeaderMap) -> bool {
        let sent = head.get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        let sent = sent.and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        Sha256::digest(sent) == Sha256::digest(&self.0)
    }
}

/// The gate to one host.
pub(crate) struct Gate {
    client: Client,
    token: Token,
}

impl Gate {
    /// Of the host that `client` talks to.
    pub(crate) fn new(client: Client, token: Token) -> Self {
        Self { client, token }
    }

    /// Serves for ever.
    pub(crate) async fn serve(self, listener: TcpListener) {
        let gate = Arc::new(self);
        let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            // The semaphore is never closed.
            let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
            let Ok((stream, _)) = listener.accept().await else {
                tokio::time::sleep(Duration::from_millis(ACCEPT_AGAIN_MS)).await;
                continue;
            };
            let gate = Arc::clone(&gate);
            tokio::spawn(async move {
                let service = service_fn(|request| async {
                    Ok::<_, Infallible>(secured(gate.answer(request).await))
                });
                let mut http = http1::Builder::new();
                http.timer(TokioTimer::new());
                http.header_read_timeout(Duration::from_millis(HEAD_MS_MAX));
                // A client that breaks off or speaks no HTTP is nobody's concern.
                let _ = http.serve_connection(TokioIo::new(stream), service).await;
                drop(place);
            });
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (head, body) = request.into_parts();
        if let Some(refusal) = self.refused(&head.method, head.uri.path(), &head.headers) {
            return refusal;
        }
        let body = Limited::new(body, BODY_BYTES_MAX).collect();
        let body = match tokio::time::timeout(Duration::from_millis(BODY_MS_MAX), body).await {
            Ok(Ok(body)) => Full::from(body.to_bytes()).map_err(|never| match never {}),
            _ => {
                return refusal(
                    StatusCode::BAD_REQUEST,
                    ErrorCode::BadRequest,
                    "the body is too long, too late or broken",
                    "send at most 16 KiB",
                );
            }
        };
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
        let json = (head.method == Method::POST).then_some("application/json");
        match self.client.start(head.method, path, json, None, body.boxed_unsync()).await {
            Ok(response) => response.map(|body| body.map_err(io::Error::other).boxed_unsync()),
            Err(error) => refusal(
                StatusCode::BAD_GATEWAY,
                ErrorCode::Draining,
                &error.to_string(),
                "start the host again; this page goes on by itself",
            ),
        }
    }

    fn refused(&self, method: &Method, path: &str, head: &HeaderMap) -> Option<Response<Body>> {
        let refuse = |status, message: &str, hint: &str| {
            Some(refusal(status, ErrorCode::BadRequest, message, hint))
        };
        let text = |name: &HeaderName| head.get(name).and_then(|value| value.to_str().ok());
        let Some(host) = text(&HOST).filter(|host| is_this_machine(host)) else {
            return refuse(
                StatusCode::MISDIRECTED_REQUEST,
                "the dashboard answers under this machine's own names alone",
                "use 127.0.0.1 or localhost, as in the URL that `insula dashboard` printed",
            );
        };
        let is_file = *method == Method::GET && (path == "/" || path.starts_with("/dashboard/"));
        if is_file {
            return None;
        }
        let is_foreign = match head.get(ORIGIN) {
            Some(origin) => origin.as_bytes() != format!("http://{host}").as_bytes(),
            None => false,
        };
        let site = text(&HeaderName::from_static("sec-fetch-site"));
        if is_foreign || site.is_some_and(|site| site != "same-origin" && site != "none") {
            return refuse(
                StatusCode::FORBIDDEN,
                "another site's page may not talk to this host",
                "open the dashboard by the URL that `insula dashboard` printed",
            );
        }
        if !self.token.is_in(head) {
            return refuse(
                StatusCode::UNAUTHORIZED,
                "the dashboard's key is missing or out of date",
                "open the URL that `insula dashboard` printed; each start makes a new one",
            );
        }
        if !is_offered(method, path) {
            return refuse(
                StatusCode::FORBIDDEN,
                "the dashboard does not do that",
                "use the command line, or the control socket",
            );
        }
        None
    }
}

/// What the page may ask the control API for: what it shows, and a few acts that can be undone. Whatever
/// the API gets besides is not offered here until somebody has thought about it.
fn is_offered(method: &Method, path: &str) -> bool {
    let tenant = path.strip_prefix("/v1/tenants/").map(|rest| rest.split_once('/'));
    match (method, tenant) {
        (&Method::GET, Some(None)) => true,
        (&Method::GET, Some(Some((_, of)))) => ["revisions", "logs", "runs"].contains(&of),
        (&Method::GET, None) => {
            let all = ["/v1/host", "/v1/events", "/v1/tenants", "/v1/namespaces", "/v1/usage"];
            all.contains(&path)
        }
        (&Method::POST, Some(Some((_, act)))) => {
            ["rollback", "promote", "stop", "start", "runs"].contains(&act)
        }
        _ => false,
    }
}

/// Whether a `Host` is one of the names that this machine has for itself. Any port: `ssh -L` changes it.
fn is_this_machine(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    ["127.0.0.1", "localhost", "[::1]"].contains(&name)
}

fn refusal(status: StatusCode, code: ErrorCode, message: &str, hint: &str) -> Response<Body> {
    let body = ErrorBody { code, message: message.into(), hint: Some(hint.into()) };
    // Of this type, nothing fails to be written.
    let json = serde_json::to_vec(&body).unwrap_or_default();
    let body = Full::from(Bytes::from(json)).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::BAD_GATEWAY {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// Nothing that leaves here is kept, framed, or taken for what it is not. The page's own files say more.
fn secured(mut response: Response<Body>) -> Response<Body> {
    let head = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, "default-src 'none'; frame-ancestors 'none'"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ] {
        head.entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}
