//! The schema of the control API, generated from handlers and types.

use axum::Json;
use utoipa::OpenApi;
use utoipa::openapi::OpenApi as Schema;

/// Every path and every type.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "Insula control API",
        description = "HTTP with JSON on the Unix socket `DATA/control.sock`. Every answer of 400 or \
                       above carries an ErrorBody.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    tags(
        (name = "host", description = "The host itself"),
        (name = "artifacts", description = "The bytes that are deployed, by digest"),
        (name = "tenants", description = "Named applications and their revisions"),
        (name = "namespaces", description = "Groups of tenants, each within one quota"),
        (name = "moving", description = "Tenants from one host to another, or to a backup"),
        (name = "audit", description = "Who changed or read what through this API"),
        (name = "secrets", description = "Values that tenants are granted by name"),
    ),
    components(schemas(insula_model::api::AccessRecord)),
    paths(
        super::system::healthz,
        super::system::readyz,
        super::system::host,
        super::upgrade::upgrade,
        super::events::events,
        super::metrics::metrics,
        schema,
        super::artifacts::look,
        super::artifacts::upload,
        super::activity::activity,
        super::tenants::list,
        super::tenants::deploy,
        super::tenants::inspect,
        super::tenants::remove,
        super::tenants::revisions,
        super::tenants::roll_back,
        super::moving::export,
        super::moving::import,
        super::operate::repave,
        super::operate::stop,
        super::operate::start,
        super::tenants::promote,
        super::secrets::list,
        super::secrets::set,
        super::secrets::remove,
        super::runs::start,
        super::runs::list,
        super::logs::logs,
        super::namespaces::list,
        super::namespaces::set,
        super::namespaces::inspect,
        super::namespaces::remove,
        super::usage::usage,
        super::audit::list,
        super::audit::verify,
    )
)]
struct Api;

/// This schema.
#[utoipa::path(
    get, path = "/v1/openapi.json", tag = "host",
    responses((status = 200, description = "OpenAPI", content_type = "application/json"))
)]
pub(super) async fn schema() -> Json<Schema> {
    Json(Api::openapi())
}
