//! No container: the same static binary, forked and executed.

use super::{Peer, Place, Tenant, words};
use crate::groups::Group;
use crate::process::detached;
use anyhow::Result;
use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

pub(super) struct Exec {
    running: Mutex<HashMap<String, Child>>,
    place: Place,
}

impl Exec {
    pub(super) fn new(place: Place) -> Self {
        Self { running: Mutex::default(), place }
    }
}

impl Peer for Exec {
    fn start(&self, tenant: &Tenant) -> Result<()> {
        let mut command = Command::new(&self.place.twin);
        let [_, role, port] = words(tenant);
        command.args([role, port]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = detached(&mut command).spawn()?;
        // What it used until here, a fraction of a millisecond, is not accounted.
        if let Some(group) = &self.place.group {
            group.add(child.id())?;
        }
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.insert(tenant.name.clone(), child);
        Ok(())
    }

    fn remove(&self, tenant: &Tenant) -> Result<()> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(mut child) = running.remove(&tenant.name) {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    fn group(&self) -> Option<&Group> {
        self.place.group.as_ref()
    }
}

impl Drop for Exec {
    fn drop(&mut self) {
        let running = self.running.get_mut().unwrap_or_else(PoisonError::into_inner);
        for child in running.values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
