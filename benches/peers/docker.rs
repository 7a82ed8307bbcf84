//! Docker, through the API of a daemon of this run's own: its command line would add some 25 ms.

use super::{CORES, MEMORY_BYTES, Peer, Place, Started, Tenant, end, image, words};
use crate::groups::Group;
use crate::host::exchange;
use anyhow::{Result, ensure};
use serde_json::json;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

pub(super) struct Docker {
    daemon: u32,
    socket: PathBuf,
    started: Started,
    place: Place,
}

impl Docker {
    pub(super) fn new(place: Place) -> Result<Self> {
        let socket = place.path("d.sock");
        let log = place.path("daemon.log");
        let (data, state, pid) = (place.text("data"), place.text("state"), place.text("pid"));
        let address = format!("unix://{}", socket.display());
        let daemon = place.shell()?.stay(
            &[
                "dockerd",
                "--data-root",
                &data,
                "--exec-root",
                &state,
                "--pidfile",
                &pid,
                "--host",
                &address,
                "--iptables=false",
                "--ip6tables=false",
                "--bridge=none",
                "--log-level",
                "error",
                "--exec-opt",
                "native.cgroupdriver=cgroupfs",
            ],
            &log,
        )?;
        let this = Self { daemon, socket, started: Started::default(), place };
        this.place.wait_for(&this.socket, &log)?;
        let image = image::make(&this.place.rootfs()?, this.place.dir.path())?;
        this.call("POST", "/images/load?quiet=1", &std::fs::read(image)?, "application/x-tar")?;
        Ok(this)
    }

    fn call(&self, method: &str, path: &str, body: &[u8], kind: &str) -> Result<()> {
        let stream = UnixStream::connect(&self.socket)?;
        let (status, answer) = exchange(stream, method, "docker", path, body, kind)?;
        ensure!(status < 300, "{method} {path}: {status} {}", String::from_utf8_lossy(&answer));
        Ok(())
    }

    fn forget(&self, name: &str) -> Result<()> {
        self.call("DELETE", &format!("/containers/{name}?force=1"), b"", "application/json")?;
        self.started.remove(name);
        Ok(())
    }
}

impl Peer for Docker {
    fn start(&self, tenant: &Tenant) -> Result<()> {
        let body = json!({
            "Image": image::NAME,
            "Cmd": words(tenant),
            "HostConfig": {
                "NetworkMode": "host",
                "Memory": MEMORY_BYTES,
                "NanoCpus": 1_000_000_000 * u64::from(CORES),
                "CgroupParent": self.place.group()?.path(),
                "LogConfig": { "Type": "none" },
            },
        });
        let name = &tenant.name;
        self.started.add(name);
        let (path, kind) = (format!("/containers/create?name={name}"), "application/json");
        self.call("POST", &path, body.to_string().as_bytes(), kind)?;
        self.call("POST", &format!("/containers/{name}/start"), b"", kind)
    }

    fn remove(&self, tenant: &Tenant) -> Result<()> {
        self.forget(&tenant.name)
    }

    fn group(&self) -> Option<&Group> {
        self.place.group.as_ref()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        for name in self.started.take() {
            let _ = self.forget(&name);
        }
        end(self.daemon);
    }
}
