//! `crun`, `runc` and gVisor's `runsc`: the runtimes that containerd, Docker and podman end up calling,
//! without any of those.

use super::{CORES, MEMORY_BYTES, Peer, Place, Tenant, words};
use crate::groups::Group;
use anyhow::Result;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

pub(super) struct Oci {
    program: &'static str,
    flags: Vec<String>,
    running: Mutex<HashSet<String>>,
    place: Place,
}

impl Oci {
    pub(super) fn new(id: &str, place: Place) -> Result<Self> {
        place.rootfs()?;
        let state = place.text("state");
        let (program, flags): (_, &[&str]) = match id {
            "crun" => ("crun", &["--cgroup-manager=cgroupfs"]),
            "runc" => ("runc", &[]),
            // The host's network, as for the others.
            _ => ("runsc", &["--network=host", "--platform=systrap"]),
        };
        let mut flags: Vec<String> = flags.iter().map(|flag| (*flag).to_owned()).collect();
        flags.extend(["--root".into(), state]);
        Ok(Self { program, flags, running: Mutex::default(), place })
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        let flags = self.flags.iter().map(String::as_str);
        let all: Vec<&str> =
            std::iter::once(self.program).chain(flags).chain(words.iter().copied()).collect();
        self.place.shell()?.run(&all)
    }

    fn forget(&self, name: &str) -> Result<()> {
        self.run(&["delete", "--force", name])?;
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        let _ = std::fs::remove_dir_all(self.place.path(name));
        Ok(())
    }
}

impl Peer for Oci {
    fn start(&self, tenant: &Tenant) -> Result<()> {
        // Written here for want of another place; it takes some 50 µs.
        let bundle = self.place.path(&tenant.name);
        std::fs::create_dir(&bundle)?;
        let group = format!("{}/{}", self.place.group()?.path(), tenant.name);
        let config = config(tenant, &self.place.text("root"), &group);
        std::fs::write(bundle.join("config.json"), serde_json::to_vec(&config)?)?;
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(tenant.name.clone());
        self.run(&["run", "--detach", "--bundle", &bundle.to_string_lossy(), &tenant.name])
    }

    fn remove(&self, tenant: &Tenant) -> Result<()> {
        self.forget(&tenant.name)
    }

    fn binary(&self) -> Option<PathBuf> {
        Some(self.place.path("root/peer"))
    }

    fn group(&self) -> Option<&Group> {
        self.place.group.as_ref()
    }
}

impl Drop for Oci {
    fn drop(&mut self) {
        let running = self.running.get_mut().unwrap_or_else(PoisonError::into_inner);
        for name in std::mem::take(running) {
            let _ = self.forget(&name);
        }
    }
}

/// What `runc spec` writes, less a terminal and a network namespace, with limits.
fn config(tenant: &Tenant, root: &str, group: &str) -> Value {
    let capabilities = json!(["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let quiet = ["nosuid", "noexec", "nodev"];
    let options = |more: &[&str]| json!([&quiet[..], more].concat());
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": false,
            "user": { "uid": 0, "gid": 0 },
            "args": words(tenant),
            "env": ["PATH=/"],
            "cwd": "/",
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": root, "readonly": true },
        "hostname": "tenant",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
              "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts",
              "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"] },
            { "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
              "options": options(&["mode=1777", "size=65536k"]) },
            { "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
              "options": options(&[]) },
        ],
        "linux": {
            "cgroupsPath": group,
            "namespaces": [
                { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" },
            ],
            "resources": {
                "devices": [{ "allow": false, "access": "rwm" }],
                "memory": { "limit": MEMORY_BYTES },
                "cpu": { "quota": 100_000 * CORES, "period": 100_000 },
                "pids": { "limit": 64 },
            },
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
                "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi",
            ],
            "readonlyPaths": [
                "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger",
            ],
        },
    })
}
