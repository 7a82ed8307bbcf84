//! The one shape of an error, and the only place that chooses the API's status codes.

use crate::deploy::DeployError;
use axum::Json;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use insula_model::api::{ErrorBody, ErrorCode};

/// An answer of 400 or above.
#[derive(Debug)]
pub(super) struct ApiError {
    status: Option<StatusCode>,
    body: ErrorBody,
}

impl ApiError {
    /// With the status that goes with `code`.
    pub(super) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { status: None, body: ErrorBody { code, message: message.into(), hint: None } }
    }

    /// With a mend.
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.body.hint = Some(hint.into());
        self
    }

    /// Its word for programs.
    pub(super) fn code(&self) -> ErrorCode {
        self.body.code
    }

    /// A request that cannot be read.
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadRequest, message)
            .hint("GET /v1/openapi.json describes every request")
    }

    /// A failure of the host's own; details go to its log as well.
    pub(super) fn internal(error: impl std::fmt::Display) -> Self {
        Self::new(ErrorCode::Internal, error.to_string())
    }

    /// No such tenant.
    pub(super) fn no_tenant(name: &insula_model::TenantName) -> Self {
        Self::new(ErrorCode::NotFound, format!("no tenant is named `{name}`"))
            .hint("`insula ps` lists the tenants")
    }

    /// For paths that are none of the API's.
    pub(super) async fn no_route(uri: Uri) -> Self {
        Self::new(ErrorCode::NotFound, format!("the control API has no path `{}`", uri.path()))
            .hint("GET /v1/openapi.json lists them; tenants are served on the host's own address")
    }

    /// For methods that a path does not have. The `Allow` field is the router's.
    pub(super) async fn no_method(method: Method, uri: Uri) -> Self {
        let message = format!("`{}` does not take {method}", uri.path());
        let mut error = Self::bad_request(message);
        error.status = Some(StatusCode::METHOD_NOT_ALLOWED);
        error
    }
}

impl From<DeployError> for ApiError {
    fn from(error: DeployError) -> Self {
        Self { status: None, body: error.into() }
    }
}

impl From<crate::state::StateError> for ApiError {
    fn from(error: crate::state::StateError) -> Self {
        DeployError::from(error).into()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        if self.body.code == ErrorCode::Internal {
            tracing::error!(message = self.body.message, "the control API answered 500");
        }
        let status = StatusCode::from_u16(self.body.code.status());
        let status = self.status.or(status.ok()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let code = self.body.code;
        let mut response = (status, Json(self.body)).into_response();
        // For the audit log.
        response.extensions_mut().insert(code);
        response
    }
}
