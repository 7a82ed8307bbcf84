//! Whom Insula is measured against: one small driver each, behind [`Peer`].
//!
//! A driver starts real containers, or processes, of the native twin of `hello`. Daemons run on private
//! directories and sockets, within the driver's own control group; all of it ends when the driver is
//! dropped.

mod ctr;
mod docker;
mod exec;
mod image;
mod look;
mod oci;
mod podman;

use crate::groups::Group;
use crate::session::Session;
use crate::shell::Shell;
use crate::{first, native};
use anyhow::{Context, Result, ensure};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

pub use look::look;
pub(crate) use look::{all, wasmtime, workerd};

/// What runs the native twin once for each tenant.
pub const RUNTIMES: [&str; 7] = ["exec", "crun", "runc", "ctr", "docker", "podman", "runsc"];
/// What serves HTTP as one process.
pub const SERVERS: [&str; 3] = ["hyper", "wasmtime", "workerd"];
/// Memory of each tenant, in bytes: the same for guests and containers.
pub const MEMORY_BYTES: u64 = 64 << 20;
/// CPU of each tenant, in cores.
pub const CORES: u32 = 1;
/// Daemons take this long to start at most.
const START_MAX: Duration = Duration::from_secs(30);

/// One tenant of a peer: a process or a container that serves on a port of its own.
#[derive(Debug, Clone)]
pub struct Tenant {
    /// Unique within the run, all of one length: some runtimes take a prefix for a name.
    pub name: String,
    /// On loopback; nobody listens there yet.
    pub port: u16,
}

/// Names of containers that were started and are not removed yet: who drops the peer removes them.
#[derive(Default)]
struct Started(Mutex<HashSet<String>>);

impl Started {
    fn names(&self) -> MutexGuard<'_, HashSet<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self, name: &str) {
        self.names().insert(name.to_owned());
    }

    fn remove(&self, name: &str) {
        self.names().remove(name);
    }

    fn take(&self) -> HashSet<String> {
        std::mem::take(&mut *self.names())
    }
}

/// What starts and removes tenants.
pub trait Peer: Send + Sync {
    /// Prepares the calling thread to start tenants.
    fn enter(&self) -> Result<()> {
        Ok(())
    }
    /// Creates and starts a tenant; returns when the runtime says that it has. The tenant may answer
    /// sooner.
    fn start(&self, tenant: &Tenant) -> Result<()>;
    /// Stops a tenant and removes all of it.
    fn remove(&self, tenant: &Tenant) -> Result<()>;
    /// Its processes, where there is no group to ask.
    fn pids(&self) -> Vec<u32> {
        self.group().map(Group::pids).unwrap_or_default()
    }
    /// The static binary of its tenants, where it is a file of the machine's own.
    fn binary(&self) -> Option<PathBuf> {
        None
    }
    /// Where all that it takes is accounted, daemons included.
    fn group(&self) -> Option<&Group>;
}

/// What every driver has.
pub(crate) struct Place {
    // Dropped in this order: what runs, then where it ran.
    shell: Option<Shell>,
    group: Option<Group>,
    dir: TempDir,
    twin: PathBuf,
}

impl Place {
    fn new(id: &str, twin: &Path) -> Result<Self> {
        let group = match crate::groups::available() {
            Ok(()) => Some(Group::new(id)?),
            Err(_) => None,
        };
        let dir = tempfile::Builder::new().prefix("insula-").tempdir()?;
        let shell = match id {
            // A thread can be in a group of its own only with v1.
            "exec" if group.is_none() || !crate::groups::is_two() => None,
            _ => Some(Shell::start(group.as_ref(), dir.path(), ["crun", "podman"].contains(&id))?),
        };
        Ok(Self { shell, group, dir, twin: twin.to_owned() })
    }

    fn shell(&self) -> Result<&Shell> {
        self.shell.as_ref().context("no shell")
    }

    fn group(&self) -> Result<&Group> {
        self.group.as_ref().context("no control group")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_string_lossy().into_owned()
    }

    /// Waits for a daemon's socket.
    fn wait_for(&self, socket: &Path, log: &Path) -> Result<()> {
        let until = Instant::now() + START_MAX;
        while std::os::unix::net::UnixStream::connect(socket).is_err() {
            let said = || std::fs::read_to_string(log).unwrap_or_default();
            ensure!(Instant::now() < until, "{} does not answer: {}", socket.display(), said());
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }

    /// A root file system that holds the twin and nothing else.
    fn rootfs(&self) -> Result<PathBuf> {
        let tree = self.path("root");
        for inner in ["proc", "dev", "sys", "tmp"] {
            std::fs::create_dir_all(tree.join(inner))?;
        }
        std::fs::copy(&self.twin, tree.join("peer"))?;
        Ok(tree)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Daemons leave name spaces and file systems mounted below their directories.
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
        // The latest first: it may stand on an earlier one.
        for point in points.filter(|point| Path::new(point).starts_with(self.dir.path())).rev() {
            let _ = std::process::Command::new("umount").args(["--lazy", point]).output();
        }
    }
}

/// Gets a peer ready to start tenants: daemons run and images are there.
pub fn launch(id: &str, twin: &Path) -> Result<Box<dyn Peer>> {
    let place = Place::new(id, twin)?;
    Ok(match id {
        "exec" => Box::new(exec::Exec::new(place)),
        "crun" | "runc" | "runsc" => Box::new(oci::Oci::new(id, place)?),
        "ctr" => Box::new(ctr::Ctr::new(place)?),
        "docker" => Box::new(docker::Docker::new(place)?),
        "podman" => Box::new(podman::Podman::new(place)?),
        _ => anyhow::bail!("{id} starts no tenants"),
    })
}

/// Starts what the peers need that were asked for. One that cannot is not measured, and said to be missing.
pub(crate) fn launch_all(
    session: &mut Session,
    bench: &str,
) -> Result<Vec<(String, Box<dyn Peer>)>> {
    let wanted = session.peers(&RUNTIMES)?;
    if wanted.is_empty() {
        return Ok(Vec::new());
    }
    session.step(&format!("{bench}: building the native twin"), 0, 0)?;
    let twin = match native::twin() {
        Ok(twin) => twin,
        Err(error) => {
            wanted.iter().for_each(|peer| session.lost(&peer.id, &error));
            return Ok(Vec::new());
        }
    };
    let mut launched = Vec::new();
    for peer in wanted {
        session.step(&format!("{bench}: preparing {}", peer.name), 0, 0)?;
        let tried = launch(&peer.id, &twin).and_then(|driver| {
            // The first of each is slower, and shows whether it works at all.
            let tenant = Tenant { name: "insula-first".into(), port: first::free_port()? };
            let answered = first::of_peer(driver.as_ref(), &tenant);
            driver.remove(&tenant)?;
            answered.map(|_| driver)
        });
        match tried {
            Ok(driver) => launched.push((peer.id, driver)),
            Err(error) => session.lost(&peer.id, &error),
        }
    }
    Ok(launched)
}

/// A tenant's command within its root.
fn words(tenant: &Tenant) -> [String; 3] {
    ["/peer".into(), "serve".into(), tenant.port.to_string()]
}

/// Ends a daemon, and waits until it has.
fn end(pid: u32) {
    use rustix::process::{Pid, Signal, kill_process, test_kill_process};
    let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) else { return };
    let _ = kill_process(pid, Signal::TERM);
    let until = Instant::now() + Duration::from_secs(10);
    while test_kill_process(pid).is_ok() {
        let running = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
        let zombie = running.is_ok_and(|stat| stat.contains(") Z "));
        if zombie || Instant::now() > until {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
