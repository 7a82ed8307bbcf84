//! Insula as a subject: a host in a control group of its own, with tenants that are deployed through its
//! control API.

use crate::embedded::{HELLO, distinct};
use crate::groups::{self, Group};
use crate::host::Host;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::path::Path;
use tempfile::TempDir;

/// A host under test, with its data. It can be stopped and started again.
pub struct Subject {
    // Dropped in this order: what runs, then where it ran.
    host: Option<Host>,
    group: Option<Group>,
    dir: TempDir,
    workers: u32,
    flags: &'static [&'static str],
}

impl Subject {
    /// Starts one.
    pub fn start(binary: &Path, workers: u32, name: &str) -> Result<Self> {
        Self::start_with(binary, workers, name, &[])
    }

    /// Starts one with more flags of `insula serve`.
    pub fn start_with(
        binary: &Path,
        workers: u32,
        name: &str,
        flags: &'static [&'static str],
    ) -> Result<Self> {
        let group = groups::available().is_ok().then(|| Group::new(name)).transpose()?;
        let dir = tempfile::Builder::new().prefix("insula-").tempdir()?;
        let mut this = Self { host: None, group, dir, workers, flags };
        this.begin(binary)?;
        Ok(this)
    }

    /// Starts it after [`Self::stop`].
    pub fn begin(&mut self, binary: &Path) -> Result<()> {
        let group = self.group.as_ref();
        let (workers, dir) = (self.workers, self.dir.path());
        self.host = Some(Host::start_within(binary, workers, dir, group, self.flags)?);
        Ok(())
    }

    /// Stops it; what is deployed stays.
    pub fn stop(&mut self) {
        self.host = None;
    }

    /// The host, which must run.
    pub fn host(&self) -> Result<&Host> {
        self.host.as_ref().context("the host does not run")
    }

    /// Where all that it takes is accounted.
    pub fn group(&self) -> Option<&Group> {
        self.group.as_ref()
    }

    /// Its data directory.
    pub fn data(&self) -> &Path {
        self.dir.path()
    }

    /// CPU time of all its processes so far, in microseconds; to 10 ms where there are no control groups.
    pub fn cpu_us(&self) -> Result<f64> {
        match &self.group {
            Some(group) => group.cpu_us(),
            None => Ok(self.host()?.server.cpu_seconds() * 1e6),
        }
    }

    /// The hexadecimal digest that files of an artifact are named by.
    pub fn digest(component: &[u8]) -> String {
        Sha256::digest(component).iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Deploys `hello` under a digest of its own; the digest.
    pub fn deploy_distinct(&self, name: &str, manifest: &Value) -> Result<String> {
        let host = self.host()?;
        let digest = host.upload(&distinct(HELLO, name))?;
        host.deploy(name, &digest, manifest)?;
        Ok(digest)
    }
}

/// The limits of every tenant, the same as those of the containers.
pub fn limits() -> Value {
    json!({ "memory": { "instance": "64Mi" }, "cpu": { "limit": "1" }, "fuel": "1G", "timeout": "10s" })
}

/// The same with instances that stay, ready for the next request.
pub fn limits_with_reuse() -> Value {
    let mut manifest = limits();
    manifest["reuse"] = json!({ "requests": "1M", "idle": "1h" });
    manifest
}
