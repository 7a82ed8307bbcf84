//! What tenants are added to, one by one, and weighed.

use crate::embedded::HELLO;
use crate::first;
use crate::groups::{Group, Held};
use crate::peers::{Peer, Tenant};
use crate::process::resident;
use crate::subject::{Subject, limits, limits_with_reuse};
use crate::wire;
use anyhow::{Context, Result, ensure};
use std::time::Instant;

/// Memory of a whole stack, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Memory {
    /// Of its control group; none where there is none.
    pub(super) held: Option<Held>,
    /// Resident pages of its processes, shared ones in proportion.
    pub(super) pss: u64,
    /// Their page tables.
    pub(super) tables: u64,
}

impl Memory {
    /// Of everything that runs in a group, or of these processes.
    fn of(group: Option<&Group>, pids: &[u32]) -> Result<Self> {
        let held = group.map(Group::held).transpose()?;
        let pids = group.map_or_else(|| pids.to_vec(), Group::pids);
        let (pss, tables) = resident(&pids);
        Ok(Self { held, pss, tables })
    }

    /// The figure that counts most: all that the kernel charges for it, less page cache that nobody has
    /// mapped; pages and page tables where there are no control groups.
    pub(super) fn whole(&self) -> u64 {
        self.held.map_or(self.pss + self.tables, |held| held.kept)
    }
}

/// A subject to which tenants are added.
pub(super) trait Stack {
    /// Adds the tenant of this number, and has it in the state that is weighed.
    fn add(&mut self, number: usize) -> Result<()>;
    /// What all of it takes now.
    fn memory(&self) -> Result<Memory>;
    /// Whether a tenant answers.
    fn answers(&self, number: usize) -> bool;
    /// How many of so many are in the state that is weighed, if that can be told apart.
    fn ready(&self) -> Result<Option<usize>> {
        Ok(None)
    }
}

/// Containers, or processes.
pub(super) struct Native<'a> {
    peer: &'a dyn Peer,
    tenants: Vec<Tenant>,
}

impl<'a> Native<'a> {
    pub(super) fn new(peer: &'a dyn Peer) -> Self {
        Self { peer, tenants: Vec::new() }
    }
}

impl Stack for Native<'_> {
    fn add(&mut self, number: usize) -> Result<()> {
        let tenant = Tenant { name: format!("insula-d{number:06}"), port: first::free_port()? };
        self.tenants.push(tenant.clone());
        first::of_peer(self.peer, &tenant).map(drop)
    }

    fn memory(&self) -> Result<Memory> {
        Memory::of(self.peer.group(), &self.peer.pids())
    }

    fn answers(&self, number: usize) -> bool {
        self.tenants.get(number).is_some_and(|tenant| {
            first::ask(tenant.port, &wire::get(&tenant.name, "/")).is_ok_and(|status| status == 200)
        })
    }
}

impl Drop for Native<'_> {
    fn drop(&mut self) {
        for tenant in self.tenants.drain(..).rev() {
            // The driver itself puts away what does not go.
            let _ = self.peer.remove(&tenant);
        }
    }
}

/// What a tenant of Insula's is weighed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    /// On disk and in the tables; never asked.
    Deployed,
    /// Asked once, with a fresh instance that is gone again: its code is mapped.
    Loaded,
    /// Asked once, with an instance that stays for the next request.
    Live,
}

/// A host.
pub(super) struct Hosted<'a> {
    subject: &'a Subject,
    state: State,
    /// The one artifact of all; none where each has its own.
    shared: Option<String>,
}

impl<'a> Hosted<'a> {
    pub(super) fn new(subject: &'a Subject, state: State, shared: bool) -> Result<Self> {
        let host = subject.host()?;
        let shared = if shared { Some(host.upload(HELLO)?) } else { None };
        // Whatever a worker makes with its first guest is no tenant's.
        subject.deploy_distinct("warm-up", &limits())?;
        for _ in 0..8 {
            first::answer(host.port, "warm-up", Instant::now())?;
        }
        Ok(Self { subject, state, shared })
    }

    fn name(number: usize) -> String {
        format!("tenant-{number:06}")
    }
}

impl Stack for Hosted<'_> {
    fn add(&mut self, number: usize) -> Result<()> {
        let name = Self::name(number);
        let manifest = if self.state == State::Live { limits_with_reuse() } else { limits() };
        let host = self.subject.host()?;
        match &self.shared {
            Some(digest) => host.deploy(&name, digest, &manifest)?,
            None => drop(self.subject.deploy_distinct(&name, &manifest)?),
        }
        if self.state != State::Deployed {
            first::answer(host.port, &name, Instant::now())?;
        }
        Ok(())
    }

    fn memory(&self) -> Result<Memory> {
        let host = self.subject.host()?;
        let family = crate::process::family(host.server.pid());
        Memory::of(self.subject.group(), &family)
    }

    fn answers(&self, number: usize) -> bool {
        self.subject.host().is_ok_and(|host| {
            let request = wire::get(&Self::name(number), "/");
            first::ask(host.port, &request).is_ok_and(|status| status == 200)
        })
    }

    fn ready(&self) -> Result<Option<usize>> {
        if self.state != State::Live {
            return Ok(None);
        }
        let (status, body) = self.subject.host()?.api("GET", "/v1/tenants", b"")?;
        ensure!(status == 200, "the list of tenants: {status}");
        let all: serde_json::Value = serde_json::from_slice(&body)?;
        let all = all.as_array().context("a list")?;
        // An instance that lives holds memory in its tenant's name.
        let live =
            |one: &&serde_json::Value| one["counters"]["memory_bytes"].as_u64().unwrap_or(0) > 0;
        Ok(Some(all.iter().filter(live).count()))
    }
}
