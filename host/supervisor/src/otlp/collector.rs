//! One POST to a collector: a connection of its own, plain HTTP.
//!
//! Once a second at most, so a connection that is kept would save little; and a collector is beside the host, or a
//! proxy to one is, so TLS is not spoken.

use super::Signal;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, RETRY_AFTER};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimeParser;
use serde::Deserialize;
use serde_json::Value;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tokio::net::TcpStream;

/// The collector's port, if none is named.
const PORT_DEFAULT: u16 = 4_318;
/// How long one export may take, in milliseconds.
const POST_MS_MAX: u64 = 5_000;
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// The longest `Retry-After` that is believed, in seconds.
const RETRY_AFTER_S_MAX: u64 = 3_600;

/// A collector's URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    host: String,
    port: u16,
    /// Without `/v1/traces` or `/v1/metrics`.
    base: String,
}

/// What a collector says that has taken something.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Items that it did not take all the same.
    pub(super) rejected: u64,
    /// Why.
    pub(super) words: String,
}

/// The part of an answer that is looked at.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Answer {
    partial_success: Partial,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Partial {
    rejected_spans: Value,
    rejected_data_points: Value,
    error_message: String,
}

impl Taken {
    /// What cannot be read says nothing.
    fn read(body: &[u8]) -> Self {
        let Answer { partial_success: part } = serde_json::from_slice(body).unwrap_or_default();
        // 64-bit numbers are strings in this form, but not everywhere.
        let count = |value: &Value| {
            value.as_u64().or_else(|| value.as_str()?.parse().ok()).unwrap_or_default()
        };
        let rejected = count(&part.rejected_spans).max(count(&part.rejected_data_points));
        Self { rejected, words: part.error_message }
    }
}

/// Why a URL is not a collector's, or why it has not taken what it was sent.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    /// Not a URL that can be called.
    #[error(
        "`{0}` is not the URL of a collector; write http://HOST:PORT, such as http://127.0.0.1:4318"
    )]
    Url(String),
    /// TLS.
    #[error(
        "`{0}`: TLS is not spoken here; run a collector on this machine, and name it as http://127.0.0.1:4318"
    )]
    Tls(String),
    /// No connection, or it broke.
    #[error("it cannot be reached: {0}")]
    Unreachable(String),
    /// It does not answer.
    #[error("it did not answer within {POST_MS_MAX} ms")]
    Late,
    /// It says no.
    #[error("it answered {status}")]
    Refused {
        /// Its answer's status.
        status: u16,
        /// When it may be asked again; only where that could help.
        retry_after: Option<Duration>,
    },
    /// It said no before, and until when.
    #[error("it asked not to be called for another {} s", .0.as_secs())]
    Waits(Duration),
}

impl CollectorError {
    /// Whether the same could be taken a little later.
    pub(super) fn is_passing(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Late | Self::Waits(_) => true,
            Self::Refused { status, .. } => asks_again(*status),
            Self::Url(_) | Self::Tls(_) => false,
        }
    }
}

/// The statuses after which OTLP has a client come back.
fn asks_again(status: u16) -> bool {
    matches!(status, 429 | 502..=504)
}

/// How long an answer asks to wait: in seconds, or until a time.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = text.parse::<u64>().ok().or_else(|| {
        // A date of HTTP is one of mails.
        let at = DateTimeParser::new().parse_timestamp(text).ok()?;
        let left = at.as_second().saturating_sub(Timestamp::now().as_second());
        Some(u64::try_from(left).unwrap_or(0))
    });
    seconds.map(|seconds| Duration::from_secs(seconds.min(RETRY_AFTER_S_MAX)))
}

impl FromStr for Collector {
    type Err = CollectorError;

    fn from_str(text: &str) -> Result<Self, CollectorError> {
        let wrong = || CollectorError::Url(text.chars().take(200).collect());
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => return Err(CollectorError::Tls(text.chars().take(200).collect())),
            _ => return Err(wrong()),
        }
        let host = uri.host().filter(|host| !host.is_empty()).ok_or_else(wrong)?;
        if uri.query().is_some() || uri.authority().is_some_and(|a| a.as_str().contains('@')) {
            return Err(wrong());
        }
        let base = uri.path().trim_end_matches('/');
        let signals = [Signal::Traces, Signal::Metrics];
        let base =
            signals.iter().find_map(|signal| base.strip_suffix(signal.path())).unwrap_or(base);
        Ok(Self {
            host: host.into(),
            port: uri.port_u16().unwrap_or(PORT_DEFAULT),
            base: base.into(),
        })
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}{}", self.host, self.port, self.base)
    }
}

impl Collector {
    /// Sends one batch, once.
    pub(super) async fn post(&self, signal: Signal, json: Bytes) -> Result<Taken, CollectorError> {
        let within = Duration::from_millis(POST_MS_MAX);
        let exchange = tokio::time::timeout(within, self.exchange(signal, json));
        exchange.await.map_err(|_| CollectorError::Late)?
    }

    async fn exchange(&self, signal: Signal, json: Bytes) -> Result<Taken, CollectorError> {
        let unreachable = |error: &dyn fmt::Display| CollectorError::Unreachable(error.to_string());
        // An IPv6 address stands in brackets in a URL, and without them here.
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, self.port)).await.map_err(|e| unreachable(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(&error))?;
        let request = Request::post(format!("{}{}", self.base, signal.path()))
            .header(HOST, format!("{}:{}", self.host, self.port))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(json))
            .map_err(|error| unreachable(&error))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let (head, body) = response.into_parts();
            // A connection that is cut early looks like a fault there.
            let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
            let body = body.map(|body| body.to_bytes()).unwrap_or_default();
            Ok::<_, hyper::Error>((head, body))
        };
        tokio::pin!(exchange);
        let answer = tokio::select! {
            answer = &mut exchange => answer,
            _ = connection => exchange.await,
        };
        let (head, body) = answer.map_err(|error| unreachable(&error))?;
        if head.status.is_success() {
            return Ok(Taken::read(&body));
        }
        let status = head.status.as_u16();
        let retry_after = asks_again(status).then(|| retry_after(&head.headers)).flatten();
        Err(CollectorError::Refused { status, retry_after })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn urls_of_collectors() {
        for (text, shown) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318"),
            ("http://localhost", "http://localhost:4318"),
            ("http://[::1]:80/", "http://[::1]:80"),
            ("http://c:1/otlp/v1/traces", "http://c:1/otlp"),
            ("http://c:1/v1/metrics/", "http://c:1"),
        ] {
            assert_eq!(text.parse::<Collector>().unwrap().to_string(), shown);
        }
        for text in ["", "127.0.0.1:4318", "ftp://x", "http://", "http://a@b", "http://x/?q"] {
            assert!(text.parse::<Collector>().is_err(), "{text}");
        }
        assert!("https://x".parse::<Collector>().unwrap_err().to_string().contains("TLS"));
    }

    #[test]
    fn what_a_collector_asks_for_is_understood() {
        let of =
            |text: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]));
        assert_eq!(of("7"), Some(Duration::from_secs(7)));
        assert_eq!(of("99999999"), Some(Duration::from_secs(RETRY_AFTER_S_MAX)));
        assert_eq!(of("Sun, 06 Nov 1994 08:49:37 GMT"), Some(Duration::ZERO));
        assert_eq!(
            of("Fri, 31 Dec 2399 23:59:59 GMT"),
            Some(Duration::from_secs(RETRY_AFTER_S_MAX))
        );
        assert_eq!(of("soon"), None);
        for (status, again) in [(200, false), (400, false), (429, true), (500, false), (503, true)]
        {
            assert_eq!(asks_again(status), again, "{status}");
        }
        let part = br#"{"partialSuccess":{"rejectedDataPoints":"3","errorMessage":"too old"}}"#;
        let taken = Taken::read(part);
        assert_eq!((taken.rejected, taken.words.as_str()), (3, "too old"));
        assert_eq!(Taken::read(b"{\"partialSuccess\":{\"rejectedSpans\":2}}").rejected, 2);
        assert_eq!(Taken::read(b"").rejected, 0);
    }
}
