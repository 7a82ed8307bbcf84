//! Reading requests: path parameters, queries and bounded bodies, each failing in the one shape.

use super::error::ApiError;
use axum::body::{Body, BodyDataStream};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::request::Parts;
use bytes::Bytes;
use futures_util::StreamExt;
use insula_model::api::ErrorCode;
use insula_model::grants::secrets::{SecretKey, SecretKeyError};
use insula_model::{ByteSize, Digest, Namespace, TenantName};
use serde::de::DeserializeOwned;
use std::fmt::Display;
use std::str::FromStr;
use std::time::Duration;

/// The longest JSON body, in bytes: a manifest is at most 64 KiB.
pub(super) const JSON_BYTES_MAX: u64 = 256 << 10;
/// How long a client may pause within a body, in milliseconds.
const STALL_MS_MAX: u64 = 30_000;
/// How long the rest of a refused body is read and thrown away, in milliseconds: closing the
/// connection on a client that still writes would cost it the answer.
const DISCARD_MS_MAX: u64 = 5_000;

/// A path parameter that names something.
pub(super) struct Named<T>(pub(super) T);

impl<S: Send + Sync, T> FromRequestParts<S> for Named<T>
where
    T: FromStr<Err: Display> + PathName,
{
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path(text): Path<String> = Path::from_request_parts(parts, state)
            .await
            .map_err(|error: PathRejection| ApiError::bad_request(error.body_text()))?;
        text.parse().map(Self).map_err(|error: T::Err| ApiError::bad_request(error.to_string()))
    }
}

/// The path of one secret: its tenant's name, and its own.
pub(super) struct NamedSecret(pub(super) TenantName, pub(super) SecretKey);

impl<S: Send + Sync> FromRequestParts<S> for NamedSecret {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        let Path((name, key)): Path<(String, String)> = Path::from_request_parts(parts, state)
            .await
            .map_err(|error: PathRejection| ApiError::bad_request(error.body_text()))?;
        let bad = |error: &dyn Display| ApiError::bad_request(error.to_string());
        let name = name.parse().map_err(|error: <TenantName as FromStr>::Err| bad(&error))?;
        Ok(Self(name, key.parse().map_err(|error: SecretKeyError| bad(&error))?))
    }
}

/// What the API's paths name.
pub(super) trait PathName {}
impl PathName for TenantName {}
impl PathName for Digest {}
impl PathName for Namespace {}

/// A query string.
pub(super) struct Asked<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Asked<T> {
    type Rejection = ApiError;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, ApiError> {
        Query::from_request_parts(parts, state)
            .await
            .map(|Query(asked)| Self(asked))
            .map_err(|error: QueryRejection| ApiError::bad_request(error.body_text()))
    }
}

/// A JSON body of at most [`JSON_BYTES_MAX`], whatever its declared type.
pub(super) struct Sent<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Sent<T> {
    type Rejection = ApiError;
    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let mut body = Bounded::new(request.into_body(), JSON_BYTES_MAX);
        let mut bytes = Vec::new();
        while let Some(chunk) = body.next("the body").await? {
            bytes.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|error| ApiError::bad_request(format!("the body cannot be read: {error}")))
    }
}

/// A body that is read up to a bound.
pub(super) struct Bounded {
    stream: BodyDataStream,
    bytes: u64,
    bytes_max: u64,
}

impl Bounded {
    pub(super) fn new(body: Body, bytes_max: u64) -> Self {
        Self { stream: body.into_data_stream(), bytes: 0, bytes_max }
    }

    /// The next chunk; `what` is what the body is called in errors.
    pub(super) async fn next(&mut self, what: &str) -> Result<Option<Bytes>, ApiError> {
        let stall = Duration::from_millis(STALL_MS_MAX);
        let chunk = tokio::time::timeout(stall, self.stream.next()).await.map_err(|_| {
            ApiError::bad_request(format!("{what} paused for more than {} s", stall.as_secs()))
        })?;
        let Some(chunk) = chunk else { return Ok(None) };
        let chunk =
            chunk.map_err(|error| ApiError::bad_request(format!("{what} broke off: {error}")))?;
        self.bytes = self.bytes.saturating_add(chunk.len() as u64);
        if self.bytes > self.bytes_max {
            self.discard().await;
            let message = format!("{what} is larger than {}", ByteSize(self.bytes_max));
            return Err(ApiError::new(ErrorCode::TooLarge, message));
        }
        Ok(Some(chunk))
    }

    /// Reads the rest and throws it away.
    pub(super) async fn discard(&mut self) {
        let rest = async { while let Some(Ok(_)) = self.stream.next().await {} };
        // Whoever still writes after that loses the answer.
        let _ = tokio::time::timeout(Duration::from_millis(DISCARD_MS_MAX), rest).await;
    }
}
