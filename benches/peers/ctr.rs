//! containerd, through its own client `ctr`.

use super::{CORES, MEMORY_BYTES, Peer, Place, Started, Tenant, end, image, words};
use crate::groups::Group;
use anyhow::Result;

pub(super) struct Ctr {
    daemon: u32,
    socket: String,
    started: Started,
    place: Place,
}

impl Ctr {
    pub(super) fn new(place: Place) -> Result<Self> {
        let socket = place.text("c.sock");
        let config = format!(
            "version = 2\nroot = \"{}\"\nstate = \"{}\"\n\
             disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{socket}\"\n",
            place.text("data"),
            place.text("state"),
        );
        let file = place.text("config.toml");
        std::fs::write(&file, config)?;
        let log = place.path("daemon.log");
        let daemon = place
            .shell()?
            .stay(&["containerd", "--config", &file, "--log-level", "error"], &log)?;
        let this = Self { daemon, socket, started: Started::default(), place };
        this.place.wait_for(this.socket.as_ref(), &log)?;
        let image = image::make(&this.place.rootfs()?, this.place.dir.path())?;
        this.run(&["images", "import", &image.to_string_lossy()])?;
        Ok(this)
    }

    fn run(&self, words: &[&str]) -> Result<()> {
        self.place.shell()?.run(&[&["ctr", "--address", &self.socket], words].concat())
    }

    fn forget(&self, name: &str) -> Result<()> {
        self.run(&["task", "delete", "--force", name])?;
        self.run(&["container", "delete", name])?;
        self.started.remove(name);
        Ok(())
    }
}

impl Peer for Ctr {
    fn start(&self, tenant: &Tenant) -> Result<()> {
        let group = format!("{}/{}", self.place.group()?.path(), tenant.name);
        let (memory, cores) = (MEMORY_BYTES.to_string(), CORES.to_string());
        self.started.add(&tenant.name);
        let [peer, role, port] = words(tenant);
        self.run(&[
            "run",
            "--detach",
            "--net-host",
            "--cgroup",
            &group,
            "--memory-limit",
            &memory,
            "--cpus",
            &cores,
            image::NAME,
            &tenant.name,
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

impl Drop for Ctr {
    fn drop(&mut self) {
        for name in self.started.take() {
            let _ = self.forget(&name);
        }
        end(self.daemon);
    }
}
