//! One POST to a collector: a connection of its own, plain HTTP.
//!
//! Once a second at most, so a connection that is kept would save little; and a collector is beside the host, or a
//! proxy to one is, so TLS is not spoken.

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Request, Uri};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;
use tokio::net::TcpStream;

/// The collector's port, if none is named.
const PORT_DEFAULT: u16 = 4_318;
/// What is appended to the collector's URL.
const PATH: &str = "/v1/traces";
/// How long one export may take, in milliseconds.
const POST_MS_MAX: u64 = 5_000;
/// Bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// A collector's URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Collector {
    host: String,
    port: u16,
    /// Without `/v1/traces`.
    base: String,
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
    #[error("it answered {0}")]
    Refused(u16),
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
        let base = base.strip_suffix(PATH).unwrap_or(base);
        Ok(Self {
            host: host.into(),
            port: uri.port_u16().unwrap_or(PORT_DEFAULT),
            base: base.into(),
        })
    }
}

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}:{}{}{PATH}", self.host, self.port, self.base)
    }
}

impl Collector {
    /// Sends one batch.
    pub(super) async fn post(&self, json: String) -> Result<(), CollectorError> {
        let within = Duration::from_millis(POST_MS_MAX);
        tokio::time::timeout(within, self.exchange(json)).await.map_err(|_| CollectorError::Late)?
    }

    async fn exchange(&self, json: String) -> Result<(), CollectorError> {
        let unreachable = |error: &dyn fmt::Display| CollectorError::Unreachable(error.to_string());
        // An IPv6 address stands in brackets in a URL, and without them here.
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let stream = TcpStream::connect((host, self.port)).await.map_err(|e| unreachable(&e))?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| unreachable(&error))?;
        let request = Request::post(format!("{}{PATH}", self.base))
            .header(HOST, format!("{}:{}", self.host, self.port))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(json)))
            .map_err(|error| unreachable(&error))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            // What it says is not looked at, but a connection that is cut early looks like a fault there.
            let _ = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
            Ok::<_, hyper::Error>(status)
        };
        tokio::pin!(exchange);
        let status = tokio::select! {
            status = &mut exchange => status,
            _ = connection => exchange.await,
        };
        match status.map_err(|error| unreachable(&error))? {
            status if status.is_success() => Ok(()),
            status => Err(CollectorError::Refused(status.as_u16())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn urls_of_collectors() {
        for (text, shown) in [
            ("http://127.0.0.1:4318", "http://127.0.0.1:4318/v1/traces"),
            ("http://localhost", "http://localhost:4318/v1/traces"),
            ("http://[::1]:80/", "http://[::1]:80/v1/traces"),
            ("http://c:1/otlp/v1/traces", "http://c:1/otlp/v1/traces"),
        ] {
            assert_eq!(text.parse::<Collector>().unwrap().to_string(), shown);
        }
        for text in ["", "127.0.0.1:4318", "ftp://x", "http://", "http://a@b", "http://x/?q"] {
            assert!(text.parse::<Collector>().is_err(), "{text}");
        }
        assert!("https://x".parse::<Collector>().unwrap_err().to_string().contains("TLS"));
    }
}
