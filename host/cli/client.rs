//! The client of the control API: HTTP/1.1 over the host's Unix socket, one connection a request.
//!
//! Bounded by: the waits and sizes below. A connection ends with its answer.

use crate::client_errors::{refusal, unreachable};
use crate::failure::{Exit, Failure};
use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use insula_model::api::PASSPHRASE_FIELD;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;
use tokio::net::UnixStream;

/// How long connecting may take.
const CONNECT_MS_MAX: u64 = 5_000;
/// How long the host may take to answer what it only looks up.
pub(crate) const ANSWER_MS_MAX: u64 = 30_000;
/// How long the host may take over what waits in its queue for a compiler. The host bounds that queue
/// itself; this only ends a wait on a host that hangs.
pub(crate) const DEPLOY_MS_MAX: u64 = 3_600_000;
/// The largest answer that is read: a list of 131,072 tenants with a few routes each.
const ANSWER_BYTES_MAX: usize = 256 << 20;
/// `sockaddr_un` has room for this many bytes of path.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// A request's body.
pub(crate) type Body = UnsyncBoxBody<Bytes, io::Error>;

/// A host that may or may not be there.
#[derive(Debug, Clone)]
pub(crate) struct Client {
    socket: PathBuf,
}

/// A request's body that is empty.
pub(crate) fn no_body() -> Body {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

/// A whole answer, its status below 400.
#[derive(Debug)]
pub(crate) struct Answer {
    body: Bytes,
}

impl Answer {
    /// The JSON as the host sent it.
    pub(crate) fn json(&self) -> &[u8] {
        &self.body
    }

    /// The answer as the type it should have.
    pub(crate) fn read<T: DeserializeOwned>(&self) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|error| {
            Failure::new(Exit::Failure, "the host's answer is not what this version expects")
                .hint("use the `insula` that the host was started with")
                .caused_by(error)
                .into()
        })
    }
}

impl Client {
    /// A client of the host behind `socket`.
    pub(crate) fn new(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// `GET path`.
    pub(crate) async fn get(&self, path: &str) -> Result<Answer> {
        self.send(Method::GET, path, None, no_body(), ANSWER_MS_MAX).await
    }

    /// A request with a JSON body.
    pub(crate) async fn send_json(
        &self,
        method: Method,
        path: &str,
        body: &impl Serialize,
        wait_ms_max: u64,
    ) -> Result<Answer> {
        let json = serde_json::to_vec(body).context("cannot write the request as JSON")?;
        let body = Full::from(json).map_err(|never| match never {}).boxed_unsync();
        self.send(method, path, Some("application/json"), body, wait_ms_max).await
    }

    /// A request and its whole answer.
    pub(crate) async fn send(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        body: Body,
        wait_ms_max: u64,
    ) -> Result<Answer> {
        let exchange = async {
            let response = self.start(method, path, content_type, None, body).await?;
            self.whole(response).await
        };
        let (status, body) = self.within(wait_ms_max, exchange).await?;
        Self::accepted(status, body)
    }

    /// `POST path` with an archive, and the passphrase for its secrets in hexadecimal digits.
    pub(crate) async fn post_archive(
        &self,
        path: &str,
        passphrase: Option<&str>,
        body: Body,
        wait_ms_max: u64,
    ) -> Result<Answer> {
        let exchange = async {
            let content_type = Some("application/x-tar");
            let response = self.start(Method::POST, path, content_type, passphrase, body).await?;
            self.whole(response).await
        };
        let (status, body) = self.within(wait_ms_max, exchange).await?;
        Self::accepted(status, body)
    }

    async fn whole(&self, response: Response<Incoming>) -> Result<(StatusCode, Bytes)> {
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| match error.downcast::<LengthLimitError>() {
            Ok(_) => Failure::new(Exit::Failure, "the host's answer is too long to be right"),
            Err(error) => self.lost("while it answered").caused_by(error),
        })?;
        Ok((status, body.to_bytes()))
    }

    fn accepted(status: StatusCode, body: Bytes) -> Result<Answer> {
        if status.is_client_error() || status.is_server_error() {
            return Err(refusal(status, &body).into());
        }
        Ok(Answer { body })
    }

    /// `HEAD path`: whether it is there.
    pub(crate) async fn has(&self, path: &str) -> Result<bool> {
        let exchange = self.start(Method::HEAD, path, None, None, no_body());
        match self.within(ANSWER_MS_MAX, exchange).await?.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            status => Err(refusal(status, &[]).into()),
        }
    }

    /// `GET path` whose answer may never end; the caller reads it as it comes.
    pub(crate) async fn stream(&self, path: &str) -> Result<Incoming> {
        self.read_as_it_comes(self.start(Method::GET, path, None, None, no_body())).await
    }

    /// `POST path` with a JSON body, whose answer the caller reads as it comes.
    pub(crate) async fn post_stream(&self, path: &str, body: &impl Serialize) -> Result<Incoming> {
        let json = serde_json::to_vec(body).context("cannot write the request as JSON")?;
        let body = Full::from(json).map_err(|never| match never {}).boxed_unsync();
        let content_type = Some("application/json");
        self.read_as_it_comes(self.start(Method::POST, path, content_type, None, body)).await
    }

    async fn read_as_it_comes(
        &self,
        exchange: impl Future<Output = Result<Response<Incoming>>>,
    ) -> Result<Incoming> {
        let response = self.within(ANSWER_MS_MAX, exchange).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response.into_body());
        }
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
        let body = self.within(ANSWER_MS_MAX, async { Ok(body.await.ok()) }).await?;
        Err(refusal(status, &body.map(|b| b.to_bytes()).unwrap_or_default()).into())
    }

    /// The host was there and is no longer.
    pub(crate) fn lost(&self, when: &str) -> Failure {
        Failure::new(Exit::Unreachable, format!("the host closed the connection {when}"))
            .hint("its log says why; `insula ps` shows whether it is back")
    }

    /// A request, and its answer as soon as it begins, whatever its status.
    pub(crate) async fn start(
        &self,
        method: Method,
        path: &str,
        content_type: Option<&str>,
        passphrase: Option<&str>,
        body: Body,
    ) -> Result<Response<Incoming>> {
        let stream = self.connect().await?;
        let connection = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) =
            connection.map_err(|error| self.lost("at once").caused_by(error))?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(path).header(HOST, "insula");
        if let Some(content_type) = content_type {
            request = request.header(CONTENT_TYPE, content_type);
        }
        if let Some(passphrase) = passphrase {
            request = request.header(PASSPHRASE_FIELD, passphrase);
        }
        if let Some(length) = hyper::body::Body::size_hint(&body).exact().filter(|n| *n > 0) {
            request = request.header(CONTENT_LENGTH, length);
        }
        let request = request.body(body).context("cannot form the request")?;
        let response = sender.send_request(request).await;
        response.map_err(|error| self.lost("before it answered").caused_by(error).into())
    }

    async fn connect(&self) -> Result<UnixStream> {
        let path_bytes = self.socket.as_os_str().as_bytes().len();
        if path_bytes > SOCKET_PATH_BYTES_MAX {
            let message = format!(
                "the path of the control socket has {path_bytes} bytes, and a Unix socket's has at \
                 most {SOCKET_PATH_BYTES_MAX}: {}",
                self.socket.display()
            );
            return Err(Failure::new(Exit::Unreachable, message)
                .hint("give the host a data directory with a shorter path, and name it with --data")
                .into());
        }
        let connecting = async { Ok(UnixStream::connect(&self.socket).await) };
        let stream = self.within(CONNECT_MS_MAX, connecting).await?;
        Ok(stream.map_err(|error| unreachable(&self.socket, error))?)
    }

    async fn within<T>(
        &self,
        wait_ms_max: u64,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let late = || {
            let seconds = wait_ms_max / 1_000;
            Failure::new(Exit::Unreachable, format!("the host did not answer within {seconds} s"))
                .hint(format!("it listens on {}, but seems stuck", self.socket.display()))
        };
        tokio::time::timeout(Duration::from_millis(wait_ms_max), work).await.map_err(|_| late())?
    }
}
