//! One tenant, closer: its limits, its revisions, the end of its log.

use crate::client::Client;
use anyhow::Result;
use insula_model::TenantName;
use insula_model::api::{LogRecord, RevisionInfo, TenantDetail};

/// Lines of a log that are fetched: what a tall terminal shows.
const LOG_LINES: usize = 60;

/// What the host says about one tenant.
pub(super) struct Detail {
    pub(super) tenant: TenantDetail,
    /// Newest first.
    pub(super) revisions: Vec<RevisionInfo>,
    /// Oldest first.
    pub(super) log: Vec<LogRecord>,
}

impl Detail {
    /// Asks for all of it.
    pub(super) async fn fetch(client: &Client, name: &TenantName) -> Result<Self> {
        let tenant = client.get(&format!("/v1/tenants/{name}")).await?.read()?;
        let revisions = client.get(&format!("/v1/tenants/{name}/revisions")).await?.read()?;
        let log = client.get(&format!("/v1/tenants/{name}/logs?tail={LOG_LINES}")).await?;
        let log = log.json().split(|byte| *byte == b'\n');
        let log = log.filter_map(|line| serde_json::from_slice(line).ok()).collect();
        Ok(Self { tenant, revisions, log })
    }
}
