//! Control groups of this run's own: who is in one, what it used, and nothing left of it afterwards.
//!
//! A machine has the old hierarchies (v1, one for each controller, perhaps with an empty v2 beside
//! them), or the one of v2.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const ROOT: &str = "/sys/fs/cgroup";
/// What figures are read from, and what limits are set by.
const CONTROLLERS: [&str; 4] = ["memory", "cpuacct", "cpu", "pids"];
/// How long a group may take to become empty when it ends.
const PATIENCE: Duration = Duration::from_secs(5);

fn one() -> bool {
    Path::new(ROOT).join("memory").is_dir()
}

/// Whether this machine has v2 alone.
pub fn is_two() -> bool {
    Path::new(ROOT).join("cgroup.controllers").is_file()
}

/// `v1`, `v2`, or `none`.
pub fn version() -> &'static str {
    if is_two() {
        "v2"
    } else if one() {
        "v1"
    } else {
        "none"
    }
}

/// Whether groups can be made here; if not, why.
pub fn available() -> Result<(), &'static str> {
    if !rustix::process::geteuid().is_root() {
        return Err("control groups need root");
    }
    if !one() && !is_two() {
        return Err("no control groups with a memory controller");
    }
    Ok(())
}

/// What a group holds, in bytes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Held {
    /// All that is charged to it, page cache included.
    pub all: u64,
    /// The same without page cache that nobody has mapped, which the kernel takes back at once.
    pub kept: u64,
}

/// A group, with those below it. Whatever still runs in it is killed when this is dropped.
#[derive(Debug)]
pub struct Group {
    name: String,
}

impl Group {
    /// A new one; `insula-bench-PID/NAME`.
    pub fn new(name: &str) -> Result<Self> {
        let group = Self { name: format!("insula-bench-{}/{name}", std::process::id()) };
        if is_two() {
            let outer = Path::new(ROOT).join(format!("insula-bench-{}", std::process::id()));
            fs::create_dir_all(&outer)?;
            for above in [Path::new(ROOT), &outer] {
                fs::write(above.join("cgroup.subtree_control"), "+memory +cpu +pids")
                    .with_context(|| format!("controllers of {}", above.display()))?;
            }
        }
        for dir in group.dirs() {
            fs::create_dir_all(&dir).with_context(|| format!("{}", dir.display()))?;
        }
        Ok(group)
    }

    /// Its place in every hierarchy, from the root of it.
    pub fn path(&self) -> String {
        format!("/{}", self.name)
    }

    fn dirs(&self) -> Vec<PathBuf> {
        if is_two() {
            return vec![Path::new(ROOT).join(&self.name)];
        }
        let all = CONTROLLERS.iter().map(|one| Path::new(ROOT).join(one));
        all.filter(|dir| dir.is_dir()).map(|dir| dir.join(&self.name)).collect()
    }

    /// Where members of a group below are listed that holds processes itself: v2 lets no group with
    /// controllers for those below it have any.
    fn rooms(&self) -> Vec<PathBuf> {
        if !is_two() {
            return self.dirs();
        }
        let room = Path::new(ROOT).join(&self.name).join("room");
        let _ = fs::create_dir_all(&room);
        vec![room]
    }

    /// Puts the calling thread, and what it starts from now on, into it; v1 only. A process that joined
    /// after its start would have to wait for the kernel, some 10 ms.
    pub fn enter(&self) -> Result<()> {
        let thread = rustix::thread::gettid().as_raw_nonzero().to_string();
        self.dirs().iter().try_for_each(|dir| {
            let file = dir.join("tasks");
            fs::write(&file, &thread).with_context(|| format!("{}", file.display()))
        })
    }

    /// Shell words that put the shell itself into it.
    pub fn entrance(&self) -> String {
        let all = self.rooms();
        all.iter().map(|dir| format!("echo $$ > '{}/cgroup.procs'; ", dir.display())).collect()
    }

    /// Limits the CPU time of all in it together, in cores.
    pub fn limit_cores(&self, cores: u32) -> Result<()> {
        let period = 100_000;
        if is_two() {
            let file = Path::new(ROOT).join(&self.name).join("cpu.max");
            return Ok(fs::write(file, format!("{} {period}", cores * period))?);
        }
        let dir = Path::new(ROOT).join("cpu").join(&self.name);
        Ok(fs::write(dir.join("cpu.cfs_quota_us"), (cores * period).to_string())?)
    }

    /// CPU time of all that is or was in it, in microseconds.
    pub fn cpu_us(&self) -> Result<f64> {
        if is_two() {
            let text = fs::read_to_string(Path::new(ROOT).join(&self.name).join("cpu.stat"))?;
            return field(&text, "usage_usec").map(|us| us as f64).context("cpu.stat");
        }
        let file = Path::new(ROOT).join("cpuacct").join(&self.name).join("cpuacct.usage");
        Ok(fs::read_to_string(file)?.trim().parse::<f64>()? / 1e3)
    }

    /// Memory that is charged to it.
    pub fn held(&self) -> Result<Held> {
        let (dir, all, names) = if is_two() {
            let names = ["file", "shmem", "file_mapped"];
            (Path::new(ROOT).join(&self.name), "memory.current", names)
        } else {
            let names = ["total_cache", "total_shmem", "total_mapped_file"];
            (Path::new(ROOT).join("memory").join(&self.name), "memory.usage_in_bytes", names)
        };
        let all = fs::read_to_string(dir.join(all))?.trim().parse::<u64>()?;
        let stat = fs::read_to_string(dir.join("memory.stat"))?;
        let [cache, shared, mapped] = names.map(|name| field(&stat, name).unwrap_or(0));
        // What is mapped of a shared memory counts twice in these two.
        let idle = cache.saturating_sub(shared.max(mapped));
        Ok(Held { all, kept: all.saturating_sub(idle) })
    }

    /// Everything that runs in it and below.
    pub fn pids(&self) -> Vec<u32> {
        let mut all = Vec::new();
        if let Some(dir) = self.dirs().first() {
            collect(dir, &mut all);
        }
        all
    }
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

fn collect(dir: &Path, into: &mut Vec<u32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    into.extend(text.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    let below = fs::read_dir(dir).into_iter().flatten().flatten();
    below.filter(|entry| entry.path().is_dir()).for_each(|entry| collect(&entry.path(), into));
}

impl Drop for Group {
    fn drop(&mut self) {
        let steps = PATIENCE.as_millis() / 20;
        for _ in 0..steps {
            for pid in self.pids() {
                let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
                if let Some(pid) = pid {
                    let _ = kill_process(pid, Signal::KILL);
                }
            }
            if remove(&self.name) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // The one above goes with its last.
        if let Some((above, _)) = self.name.split_once('/') {
            for dir in everywhere(above) {
                let _ = fs::remove_dir(dir);
            }
        }
    }
}

/// Runtimes make groups of this name in hierarchies that are not ours, too.
fn everywhere(name: &str) -> Vec<PathBuf> {
    let hierarchies = fs::read_dir(ROOT).into_iter().flatten().flatten();
    let mut all: Vec<PathBuf> = hierarchies.map(|dir| dir.path().join(name)).collect();
    all.push(Path::new(ROOT).join(name));
    all.retain(|dir| dir.is_dir());
    all
}

/// Whether nothing of it is left.
fn remove(name: &str) -> bool {
    everywhere(name).iter().all(|dir| {
        remove_below(dir);
        !dir.exists()
    })
}

fn remove_below(dir: &Path) {
    let below = fs::read_dir(dir).into_iter().flatten().flatten();
    below.filter(|entry| entry.path().is_dir()).for_each(|entry| remove_below(&entry.path()));
    let _ = fs::remove_dir(dir);
}
