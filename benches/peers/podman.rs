//! podman: no daemon, but a monitor for each container.

use super::{CORES, MEMORY_BYTES, Peer, Place, Started, Tenant, image, words};
use crate::groups::Group;
use anyhow::Result;

pub(super) struct Podman {
    flags: Vec<String>,
    started: Started,
    place: Place,
}

impl Podman {
    pub(super) fn new(place: Place) -> Result<Self> {
        let (data, state, tmp) = (place.text("data"), place.text("state"), place.text("tmp"));
        let flags = [
            "--root",
            &data,
            "--runroot",
            &state,
            "--tmpdir",
            &tmp,
            "--cgroup-manager=cgroupfs",
            "--events-backend=none",
            "--runtime=crun",
            "--log-level=error",
        ];
        let flags = flags.iter().map(|flag| (*flag).to_owned()).collect();
        let this = Self { flags, started: Started::default(), place };
        let image = image::make(&this.place.rootfs()?, this.place.dir.path())?;
        this.run(&["load", "--quiet", "--input", &image.to_string_lossy()])?;
        Ok(this)
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        let flags = self.flags.iter().map(String::as_str);
        let all: Vec<&str> =
            std::iter::once("podman").chain(flags).chain(words.iter().copied()).collect();
        self.place.shell()?.run(&all)
    }

    fn forget(&self, name: &str) -> Result<()> {
        self.run(&["rm", "--force", "--time", "0", name])?;
        self.started.remove(name);
        Ok(())
    }
}

impl Peer for Podman {
    fn start(&self, tenant: &Tenant) -> Result<()> {
        let (memory, cores) = (MEMORY_BYTES.to_string(), CORES.to_string());
        let group = self.place.group()?.path();
        self.started.add(&tenant.name);
        let [peer, role, port] = words(tenant);
        self.run(&[
            "run",
            "--detach",
            "--network=host",
            "--memory",
            &memory,
            "--cpus",
            &cores,
            "--cgroup-parent",
            &group,
            "--ulimit=nofile=1024:1024",
            "--ulimit=nproc=1024:1024",
            "--log-driver=none",
            "--name",
            &tenant.name,
            image::NAME,
            &peer,
            &role,
            &port,
        ])
    }

    fn remove(&self, tenant: &Tenant) -> Result<()> {
        self.forget(&tenant.name)
    }

    fn group(&self) -> Option<&Group> {
        self.place.group.as_ref()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        for name in self.started.take() {
            let _ = self.forget(&name);
        }
    }
}
