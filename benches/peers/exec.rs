//! No container: the same static binary, forked and executed.

use super::{Peer, Place, Tenant, end, words};
use crate::groups::Group;
use crate::process::detached;
use anyhow::Result;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

pub(super) struct Exec {
    running: Mutex<HashMap<String, Running>>,
    place: Place,
}

enum Running {
    Child(Child),
    /// A child of the shell's.
    Of(u32),
}

impl Running {
    fn end(self) {
        match self {
            Self::Child(mut child) => {
                let _ = child.kill();
                let _ = child.wait();
            }
            Self::Of(pid) => end(pid),
        }
    }
}

impl Exec {
    pub(super) fn new(place: Place) -> Self {
        Self { running: Mutex::default(), place }
    }

    fn spawn(&self, tenant: &Tenant) -> Result<Running> {
        let [_, role, port] = words(tenant);
        if let Some(shell) = &self.place.shell {
            let twin = self.place.twin.to_string_lossy();
            let pid = shell.stay(&[&twin, &role, &port], Path::new("/dev/null"))?;
            return Ok(Running::Of(pid));
        }
        let mut command = Command::new(&self.place.twin);
        command.args([role, port]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        Ok(Running::Child(detached(&mut command).spawn()?))
    }
}

impl Peer for Exec {
    fn enter(&self) -> Result<()> {
        match (&self.place.shell, &self.place.group) {
            (None, Some(group)) => group.enter(),
            _ => Ok(()),
        }
    }

    fn start(&self, tenant: &Tenant) -> Result<()> {
        let started = self.spawn(tenant)?;
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(tenant.name.clone(), started);
        Ok(())
    }

    fn remove(&self, tenant: &Tenant) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(one) = running.remove(&tenant.name) {
            one.end();
        }
        Ok(())
    }

    fn pids(&self) -> Vec<u32> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let pid = |one: &Running| match one {
            Running::Child(child) => child.id(),
            Running::Of(pid) => *pid,
        };
        running.values().map(pid).collect()
    }

    fn binary(&self) -> Option<PathBuf> {
        Some(self.place.twin.clone())
    }

    fn group(&self) -> Option<&Group> {
        self.place.group.as_ref()
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        let running = self.running.get_mut().unwrap_or_else(PoisonError::into_inner);
        running.drain().for_each(|(_, one)| one.end());
    }
}
