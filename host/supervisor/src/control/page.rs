//! The dashboard: a page and its parts, embedded as they are written, without a build step.
//!
//! They hold nothing of the host; everything that is shown comes through the API. The policy lets the page
//! run its own files and talk to its own origin, and nothing else: no inline script or style, no text
//! taken for markup, no frame around it.

use super::error::ApiError;
use axum::extract::Path;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, REFERRER_POLICY,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::response::{IntoResponse, Response};
use insula_model::api::ErrorCode;

const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'";

macro_rules! parts {
    ($($name:literal: $kind:literal),* $(,)?) => {
        &[$(($name, $kind, include_str!(concat!("../dashboard/", $name)))),*]
    };
}

/// Name, media type and text of every part.
const PARTS: &[(&str, &str, &str)] = parts! {
    "index.html": "text/html; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "acts.css": "text/css; charset=utf-8",
    "base.css": "text/css; charset=utf-8",
    "controls.css": "text/css; charset=utf-8",
    "pages.css": "text/css; charset=utf-8",
    "plots.css": "text/css; charset=utf-8",
    "tenants.css": "text/css; charset=utf-8",
    "app.js": "text/javascript; charset=utf-8",
    "acts.js": "text/javascript; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "canary.js": "text/javascript; charset=utf-8",
    "chart.js": "text/javascript; charset=utf-8",
    "diff.js": "text/javascript; charset=utf-8",
    "dom.js": "text/javascript; charset=utf-8",
    "format.js": "text/javascript; charset=utf-8",
    "grid.js": "text/javascript; charset=utf-8",
    "host.js": "text/javascript; charset=utf-8",
    "logs.js": "text/javascript; charset=utf-8",
    "marks.js": "text/javascript; charset=utf-8",
    "overview.js": "text/javascript; charset=utf-8",
    "panels.js": "text/javascript; charset=utf-8",
    "revisions.js": "text/javascript; charset=utf-8",
    "store.js": "text/javascript; charset=utf-8",
    "table.js": "text/javascript; charset=utf-8",
    "tenant.js": "text/javascript; charset=utf-8",
};

/// The page.
pub(super) async fn page() -> Result<Response, ApiError> {
    answer("index.html")
}

/// One of its parts.
pub(super) async fn part(Path(name): Path<String>) -> Result<Response, ApiError> {
    answer(&name)
}

fn answer(name: &str) -> Result<Response, ApiError> {
    let part = PARTS.iter().find(|(part, ..)| *part == name);
    let Some((_, kind, text)) = part else {
        let message = format!("the dashboard has no part `{name}`");
        return Err(ApiError::new(ErrorCode::NotFound, message)
            .hint("reload the page: it may be another version's"));
    };
    let head: [(HeaderName, &str); 5] = [
        (CONTENT_TYPE, kind),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        // Another version of the host may answer the next time.
        (CACHE_CONTROL, "no-cache"),
    ];
    Ok((head, *text).into_response())
}
