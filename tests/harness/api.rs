//! The control API, as a program would use it.

use crate::wait::{PATIENCE, eventually};
use crate::{Answer, Connection, Host};
use insula_model::api::{
    Counters, DeployResponse, HostInfo, LogRecord, LogStream, RevisionInfo, TenantDetail,
    TenantSummary, WorkerInfo, WorkerState,
};
use serde_json::{Value, json};
use std::os::unix::net::UnixStream;

impl Host {
    /// One exchange with the control API; JSON both ways.
    #[track_caller]
    pub fn api(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        let body = body.map(|body| body.to_string().into_bytes());
        let answer = self.api_raw(method, path, body.as_deref());
        let value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        (answer.status(), value)
    }

    /// One exchange with the control API.
    #[track_caller]
    pub fn api_raw(&self, method: &str, path: &str, body: Option<&[u8]>) -> Answer {
        let stream = UnixStream::connect(self.data().join("control.sock")).expect("control.sock");
        stream.set_read_timeout(Some(PATIENCE)).expect("socket");
        let json = [("content-type", "application/json"), ("connection", "close")];
        Connection::over(stream).ask(method, "insula", path, &json, body)
    }

    /// One exchange with the control API; none if the host goes away before it has answered.
    pub fn try_api(&self, method: &str, path: &str, body: &[u8]) -> Option<(u16, Value)> {
        let stream = UnixStream::connect(self.data().join("control.sock")).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).expect("socket");
        let json = [("content-type", "application/json"), ("connection", "close")];
        let answer = Connection::over(stream).try_ask(method, "insula", path, &json, Some(body));
        let answer = answer.ok().filter(|answer| answer.whole)?;
        Some((answer.status(), serde_json::from_slice(&answer.body).unwrap_or(Value::Null)))
    }

    #[track_caller]
    fn read<T: serde::de::DeserializeOwned>(&self, path: &str) -> T {
        let answer = self.api_raw("GET", path, None);
        assert_eq!(answer.status(), 200, "{path}: {}", answer.text());
        serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    /// What this host is.
    #[track_caller]
    pub fn info(&self) -> HostInfo {
        self.read("/v1/host")
    }

    /// Its workers.
    #[track_caller]
    pub fn workers(&self) -> Vec<WorkerInfo> {
        self.info().workers
    }

    /// Its workers' process ids.
    #[track_caller]
    pub fn worker_pids(&self) -> Vec<u32> {
        self.workers().iter().filter_map(|worker| worker.pid).collect()
    }

    /// Waits until every worker serves.
    #[track_caller]
    pub fn eventually_serves(&self) -> Vec<WorkerInfo> {
        eventually("every worker serves", || {
            let workers = self.workers();
            let serving = workers.iter().all(|worker| worker.state == WorkerState::Serving);
            serving.then_some(workers)
        })
    }

    /// Every tenant.
    #[track_caller]
    pub fn tenants(&self) -> Vec<TenantSummary> {
        self.read("/v1/tenants")
    }

    /// One tenant.
    #[track_caller]
    pub fn tenant(&self, name: &str) -> TenantDetail {
        self.read(&format!("/v1/tenants/{name}"))
    }

    /// What one tenant has done.
    #[track_caller]
    pub fn counters(&self, name: &str) -> Counters {
        self.tenant(name).summary.counters
    }

    /// The revisions of a tenant, newest first.
    #[track_caller]
    pub fn revisions(&self, name: &str) -> Vec<RevisionInfo> {
        self.read(&format!("/v1/tenants/{name}/revisions"))
    }

    /// Deploys an artifact that the host has already.
    #[track_caller]
    pub fn api_deploy(&self, name: &str, artifact: &str) -> DeployResponse {
        let body = json!({"manifest": {"name": name}, "artifact": artifact});
        let (status, value) = self.api("PUT", &format!("/v1/tenants/{name}"), Some(&body));
        assert_eq!(status, 200, "{value}");
        serde_json::from_value(value).expect("DeployResponse")
    }

    /// A tenant's log so far.
    #[track_caller]
    pub fn records(&self, name: &str) -> Vec<LogRecord> {
        let answer = self.api_raw("GET", &format!("/v1/tenants/{name}/logs"), None);
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let record = |line: &str| {
            serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
        };
        answer.text().lines().map(record).collect()
    }

    /// Waits until the host says about one request of a tenant a line that begins with `words`.
    #[track_caller]
    pub fn eventually_told(&self, name: &str, request: &str, words: &str) -> LogRecord {
        eventually(&format!("`{words}` in the log of {name} for request {request}"), || {
            self.records(name).into_iter().find(|record| {
                record.stream == LogStream::Host
                    && record.request == request
                    && record.text.starts_with(words)
            })
        })
    }
}
