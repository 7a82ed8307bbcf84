//! Containers under `crun` (Debian package `crun`), for a comparison: a static binary in a root of its
//! own, with CPU shares and a memory limit by cgroup, on the host's network.

use crate::host::root;
use crate::process::family_cpu_seconds;
use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

/// Whether `crun` is there and may be used at all.
pub fn available() -> bool {
    rustix::process::geteuid().is_root()
        && Command::new("crun").arg("--version").output().is_ok_and(|out| out.status.success())
}

/// Builds what runs in the containers, as a static binary.
pub fn build_peer() -> Result<PathBuf> {
    let sources = root();
    ensure!(
        sources.join("Cargo.toml").is_file(),
        "the sources that this binary was built from, {}, are gone",
        sources.display()
    );
    let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args(["build", "--release", "-p", "insula-peer"])
        .args(["--target", &triple])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .current_dir(sources);
    crate::host::without_package(&mut command);
    let built = command.output().context("cargo cannot be started")?;
    let said = String::from_utf8_lossy(&built.stderr);
    ensure!(built.status.success(), "the containers' binary does not build: {said}");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join(triple).join("release/insula-peer"))
}

/// One container that runs.
pub struct Container {
    name: String,
    group: String,
    pid: u32,
}

impl Container {
    /// Its first process.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// CPU time of its control group so far, so of processes that have ended as well.
    pub fn cpu_seconds(&self) -> f64 {
        let read = |path: String| std::fs::read_to_string(path).ok();
        let first = || -> Option<f64> {
            let usage = read(format!("/sys/fs/cgroup/cpuacct/{}/cpuacct.usage", self.group))?;
            Some(usage.trim().parse::<f64>().ok()? / 1e9)
        };
        let second = || -> Option<f64> {
            let stat = read(format!("/sys/fs/cgroup/{}/cpu.stat", self.group))?;
            let usage = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
            Some(usage.trim().parse::<f64>().ok()? / 1e6)
        };
        first().or_else(second).unwrap_or_else(|| family_cpu_seconds(self.pid))
    }

    /// Stops its first process, or lets it go on.
    pub fn stop(&self, stopped: bool) -> Result<()> {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw).context("a process id")?;
        Ok(kill_process(pid, if stopped { Signal::STOP } else { Signal::CONT })?)
    }
}

/// What a container is started with.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// `cpu.shares` of cgroup v1; v2's `cpu.weight` follows from it.
    pub shares: u32,
    /// Bytes.
    pub memory: u64,
}

/// All containers of one benchmark; they end, and leave nothing, when this is dropped.
pub struct Containers {
    dir: TempDir,
    group: String,
    running: Vec<Container>,
}

impl Containers {
    /// None yet; they will run this binary.
    pub fn new(peer: &Path) -> Result<Self> {
        let dir = TempDir::new()?;
        let tree = dir.path().join("root");
        for inner in ["proc", "dev", "sys", "tmp"] {
            std::fs::create_dir_all(tree.join(inner))?;
        }
        std::fs::copy(peer, tree.join("peer"))?;
        // Its own: hosts under test may have one beside it.
        let group = format!("insula-bench-{}-containers", std::process::id());
        Ok(Self { dir, group, running: Vec::new() })
    }

    /// Those that run, in the order of their start.
    pub fn running(&self) -> &[Container] {
        &self.running
    }

    /// Starts one that plays a role of `benches/peer`.
    pub fn start(&mut self, role: &[&str], limits: Limits) -> Result<()> {
        self.run(&[&["/peer"][..], role].concat(), &[], limits)
    }

    /// Starts one with a program of this machine's, for which it sees these directories as they are here, and may
    /// not write to them.
    pub fn run(&mut self, words: &[&str], directories: &[PathBuf], limits: Limits) -> Result<()> {
        let name = format!("{}-{:03}", self.group, self.running.len());
        let bundle = self.dir.path().join(&name);
        std::fs::create_dir(&bundle)?;
        let made = Command::new("crun").arg("spec").arg("-b").arg(&bundle).output()?;
        ensure!(made.status.success(), "crun spec: {}", String::from_utf8_lossy(&made.stderr));
        let file = bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
        self.configure(&mut config, &name, limits)?;
        config["process"]["args"] = json!(words);
        let mounts = config["mounts"].as_array_mut().context("mounts")?;
        mounts.extend(directories.iter().map(|dir| {
            let options = ["rbind", "ro", "nosuid", "nodev"];
            json!({ "destination": dir, "source": dir, "type": "bind", "options": options })
        }));
        std::fs::write(&file, serde_json::to_vec(&config)?)?;
        let pid_file = bundle.join("pid");
        let log = bundle.join("log");
        let (bundle, pid_text) = (bundle.to_string_lossy(), pid_file.to_string_lossy());
        let words = ["run", "-d", "--bundle", &bundle, "--pid-file", &pid_text, &name];
        // Standard error goes to a file: a pipe would stay open as long as the container lives.
        let mut command = self.crun(&words);
        let output = std::fs::File::create(&log)?;
        command.stdin(std::process::Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let good = command.status()?.success();
        ensure!(good, "crun run: {}", std::fs::read_to_string(&log).unwrap_or_default());
        let pid = std::fs::read_to_string(&pid_file)?.trim().parse()?;
        let group = format!("{}/{name}", self.group);
        self.running.push(Container { name, group, pid });
        Ok(())
    }

    fn configure(&self, config: &mut Value, name: &str, limits: Limits) -> Result<()> {
        config["process"]["terminal"] = json!(false);
        // As many connections as the load generator may open.
        config["process"]["rlimits"] =
            json!([{ "type": "RLIMIT_NOFILE", "hard": 8192, "soft": 8192 }]);
        config["root"] = json!({ "path": self.dir.path().join("root"), "readonly": true });
        let linux = &mut config["linux"];
        let spaces = linux["namespaces"].as_array_mut().context("namespaces")?;
        spaces.retain(|space| space["type"] != "network" && space["type"] != "cgroup");
        linux["cgroupsPath"] = json!(format!("/{}/{name}", self.group));
        linux["resources"] = json!({
            "devices": [{ "allow": false, "access": "rwm" }],
            "cpu": { "shares": limits.shares },
            "memory": { "limit": limits.memory },
            "pids": { "limit": 64 },
        });
        // The host's control groups are none of its business, and not every version can mount them.
        if let Some(mounts) = config["mounts"].as_array_mut() {
            mounts.retain(|mount| mount["type"] != "cgroup");
        }
        Ok(())
    }

    /// In a mount namespace without the second hierarchy of a hybrid machine, which crun refuses.
    fn crun(&self, words: &[&str]) -> Command {
        let script = "umount /sys/fs/cgroup/unified 2>/dev/null; exec crun \"$@\"";
        let mut command = Command::new("unshare");
        command
            .args(["-m", "--propagation", "slave", "sh", "-c", script, "crun"])
            .args(["--cgroup-manager=cgroupfs", "--root"])
            .arg(self.dir.path().join("state"))
            .args(words);
        command
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        for container in &self.running {
            let gone = self.crun(&["delete", "-f", &container.name]).output();
            if !gone.is_ok_and(|gone| gone.status.success()) {
                eprintln!("container {} may still be there", container.name);
            }
        }
        // The group that held theirs, in each hierarchy. The kernel may take a moment to let theirs go.
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        let mut groups: Vec<PathBuf> =
            hierarchies.map(|dir| dir.path().join(&self.group)).collect();
        groups.push(Path::new("/sys/fs/cgroup").join(&self.group));
        for _ in 0..100 {
            groups.retain(|group| std::fs::remove_dir(group).is_err() && group.exists());
            if groups.is_empty() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        eprintln!("left behind: {groups:?}");
    }
}
