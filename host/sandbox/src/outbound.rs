//! The seam for a guest's HTTP calls: what is asked for, in plain types, and how failure is told.
//!
//! The sandbox sends nothing itself. A tenant that was granted outbound calls has a [`SendRequest`]
//! among its capabilities; without one every call is refused here. Bounds, pooling and TLS are the
//! sender's. A call ends when its future, or the body of its answer, is dropped.

use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::UnsyncBoxBody;
use insula_model::RequestId;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use wasmtime_wasi_http::{Error as HttpError, RequestOptions, WasiBody};

/// A body of a call, in either direction.
pub type CallBody = UnsyncBoxBody<Bytes, CallError>;
/// The answer, or why there is none.
pub type OutboundFuture =
    Pin<Box<dyn Future<Output = Result<http::Response<CallBody>, CallError>> + Send>>;
/// Makes one call. Called on the worker's thread; must not block.
pub type SendRequest = Arc<dyn Fn(OutboundCall) -> OutboundFuture + Send + Sync>;

/// One call, as the guest asked for it. Nothing in it has been checked against the tenant's grants.
pub struct OutboundCall {
    /// Scheme and authority are in its URI.
    pub request: http::Request<CallBody>,
    /// The guest's own bound on connecting.
    pub connect_timeout: Option<Duration>,
    /// The guest's own bound on the time until the answer's head.
    pub first_byte_timeout: Option<Duration>,
    /// The guest's own bound on the time between two frames of the answer's body.
    pub between_bytes_timeout: Option<Duration>,
    /// The request that the call belongs to.
    pub context: CallContext,
}

/// What a call inherits from the request that it is made for.
#[derive(Debug, Clone, Copy)]
pub struct CallContext {
    /// Whose it is, for the log.
    pub id: RequestId,
    /// When that request ends; the call ends before.
    pub deadline: Instant,
    /// Calls from tenant to tenant that led to that request.
    pub hops: u32,
}

/// Why a call failed, as the guest is told.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No grant allows it.
    #[error("the call is not allowed")]
    Denied,
    /// The name resolves to addresses that no grant allows.
    #[error("the address is not allowed")]
    AddressDenied,
    /// The target is not a URL that can be called.
    #[error("the URL cannot be called")]
    Uri,
    /// The method is not for guests.
    #[error("the method cannot be called")]
    Method,
    /// There is no such name.
    #[error("the name does not resolve")]
    NoSuchName,
    /// Nobody answered whether there is such a name.
    #[error("the name did not resolve in time")]
    DnsTimeout,
    /// Nobody listens there.
    #[error("the connection was refused")]
    ConnectionRefused,
    /// Nobody answered in time.
    #[error("the connection was not established in time")]
    ConnectionTimeout,
    /// The connection broke off.
    #[error("the connection broke off")]
    Terminated,
    /// The server's certificate is not trusted.
    #[error("the server's certificate is not trusted")]
    TlsCertificate,
    /// TLS failed otherwise.
    #[error("TLS failed")]
    TlsProtocol,
    /// The request is longer than so many bytes.
    #[error("the request is longer than {0} bytes")]
    RequestTooLarge(u64),
    /// The answer's head is longer than so many bytes.
    #[error("the answer's head is longer than {0} bytes")]
    ResponseHeadTooLarge(u32),
    /// The answer is longer than so many bytes.
    #[error("the answer is longer than {0} bytes")]
    ResponseTooLarge(u64),
    /// No answer, or not all of it, in time.
    #[error("the answer did not come in time")]
    Timeout,
    /// Tenants call each other in too long a chain.
    #[error("too many tenants call each other")]
    LoopDetected,
    /// The tenant makes too many calls at once.
    #[error("too many calls at once")]
    TooManyCalls,
    /// What was received is not HTTP.
    #[error("the answer is not valid HTTP")]
    Protocol,
    /// The host's own failure.
    #[error("{0}")]
    Internal(String),
}

impl From<CallError> for HttpError {
    fn from(error: CallError) -> Self {
        use CallError as E;
        match error {
            E::Denied => Self::HttpRequestDenied,
            E::AddressDenied => Self::DestinationIpProhibited,
            E::Uri => Self::HttpRequestUriInvalid,
            E::Method => Self::HttpRequestMethodInvalid,
            E::NoSuchName => Self::DnsError { rcode: Some("NXDOMAIN".into()), info_code: None },
            E::DnsTimeout => Self::DnsTimeout,
            E::ConnectionRefused => Self::ConnectionRefused,
            E::ConnectionTimeout => Self::ConnectionTimeout,
            E::Terminated => Self::ConnectionTerminated,
            E::TlsCertificate => Self::TlsCertificateError,
            E::TlsProtocol => Self::TlsProtocolError,
            E::RequestTooLarge(limit) => Self::HttpRequestBodySize(Some(limit)),
            E::ResponseHeadTooLarge(limit) => Self::HttpResponseHeaderSectionSize(Some(limit)),
            E::ResponseTooLarge(limit) => Self::HttpResponseBodySize(Some(limit)),
            E::Timeout => Self::HttpResponseTimeout,
            E::LoopDetected => Self::LoopDetected,
            E::TooManyCalls => Self::ConnectionLimitReached,
            E::Protocol => Self::HttpProtocolError,
            E::Internal(detail) => Self::InternalError(Some(detail)),
        }
    }
}

/// A guest's own failure to write its request, which is the guest's to explain.
fn request_broke(_: HttpError) -> CallError {
    CallError::Terminated
}

/// Makes a call on a guest's behalf, from `wasi:http`'s types to plain ones and back.
pub(crate) async fn call(
    send: SendRequest,
    request: http::Request<WasiBody>,
    options: Option<RequestOptions>,
    context: CallContext,
) -> Result<http::Response<WasiBody>, HttpError> {
    let options = options.unwrap_or_default();
    let request = request.map(|body| body.map_err(request_broke).boxed_unsync());
    let answer = send(OutboundCall {
        request,
        connect_timeout: options.connect_timeout,
        first_byte_timeout: options.first_byte_timeout,
        between_bytes_timeout: options.between_bytes_timeout,
        context,
    });
    Ok(answer.await?.map(|body| body.map_err(HttpError::from).boxed_unsync()))
}

/// What the tenant's log says of a call that nothing was granted for.
pub(crate) fn refusal(request: &http::Request<WasiBody>) -> String {
    let uri = request.uri();
    let scheme = uri.scheme_str().unwrap_or("https");
    let authority: String =
        uri.authority().map_or("", |authority| authority.as_str()).chars().take(300).collect();
    format!(
        "outbound: {scheme}://{authority} was refused: this tenant is granted no outbound calls; allow \
         it in the manifest with [outbound] hosts = [\"{scheme}://{authority}\"]"
    )
}
