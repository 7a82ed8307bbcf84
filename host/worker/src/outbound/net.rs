//! One tenant's pooled client.
//!
//! HTTP/1.1 and HTTP/2, whichever TLS agrees on. Nothing is followed, unpacked or added: redirects and
//! encodings are the guest's, and no variable names a proxy. A request is sent again only if a pooled
//! connection turned out to be closed before a byte of it was written. Bounded by the constants below;
//! idle connections close after [`IDLE_MAX`], or with their tenant's revision.

use super::body::Sending;
use super::connect::Connector;
use super::{Failure, Meter, Outbound, Policy};
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::client::legacy::connect::capture_connection;
use hyper_util::client::legacy::{Client, Error as ClientError};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use insula_sandbox::outbound::CallError;
use std::error::Error as StdError;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

/// A connection without a call is closed after this time.
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Idle connections to one host and port.
const IDLE_HOST_MAX: usize = 8;
/// Bytes of an answer's head, a tenant's included.
pub(super) const HEAD_BYTES_MAX: u32 = 64 << 10;
/// Fields of one head.
const FIELDS_MAX: usize = 128;
/// HTTP/2 bytes in flight towards one call, and on one connection.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;

pub(super) type Pooled = Client<Connector, Sending>;

pub(super) struct Net {
    connector: Connector,
    client: Pooled,
}

impl Net {
    pub(super) fn new(policy: Arc<Policy>, outbound: Arc<Outbound>, meter: Arc<Meter>) -> Self {
        let connector = Connector::new(policy, outbound, meter);
        Self { client: pooled(connector.clone()), connector }
    }

    pub(super) fn client(&self) -> Pooled {
        self.client.clone()
    }

    /// Connections that are open, idle ones included.
    pub(super) fn connections(&self) -> usize {
        self.connector.connections()
    }

    /// Closes what is idle: the pool goes, the connections in use stay with their calls.
    pub(super) fn renew(&mut self) {
        self.client = pooled(self.connector.clone());
    }
}

fn pooled(connector: Connector) -> Pooled {
    Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE_MAX)
        .pool_max_idle_per_host(IDLE_HOST_MAX)
        .http1_max_buf_size(HEAD_BYTES_MAX as usize)
        .http1_max_headers(FIELDS_MAX)
        .http2_max_header_list_size(HEAD_BYTES_MAX)
        .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
        .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .build(connector)
}

/// Sends a request; ready with the answer's head.
pub(super) async fn exchange(
    client: Pooled,
    mut request: Request<Sending>,
    connect_timeout: Option<Duration>,
) -> Result<Response<Incoming>, Failure> {
    let Some(connect_timeout) = connect_timeout else {
        return client.request(request).await.map_err(|error| read(&error));
    };
    let mut captured = capture_connection(&mut request);
    let mut answer = pin!(client.request(request));
    tokio::select! {
        biased;
        answer = &mut answer => return answer.map_err(|error: ClientError| read(&error)),
        _ = captured.wait_for_connection_metadata() => {}
        () = tokio::time::sleep(connect_timeout) => return Err(CallError::ConnectionTimeout.into()),
    }
    answer.await.map_err(|error| read(&error))
}

/// What an error of the client's means: ours if it is one that we raised underneath, else hyper's.
pub(super) fn read(error: &(dyn StdError + 'static)) -> Failure {
    let mut of_hyper = None;
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(failure) = error.downcast_ref::<Failure>() {
            return failure.clone();
        }
        if let Some(error) = error.downcast_ref::<CallError>() {
            return error.clone().into();
        }
        of_hyper = error.downcast_ref::<hyper::Error>().or(of_hyper);
        cause = error.source();
    }
    let kind = match of_hyper {
        Some(error) if error.is_parse_too_large() => {
            CallError::ResponseHeadTooLarge(HEAD_BYTES_MAX)
        }
        Some(error) if error.is_parse() => CallError::Protocol,
        Some(error) if error.is_timeout() => CallError::Timeout,
        Some(_) => CallError::Terminated,
        None => CallError::Protocol,
    };
    Failure::new(kind.clone(), format!("{kind}: {}", root(error)))
}

fn root(error: &(dyn StdError + 'static)) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    root.to_string()
}
