//! Processes under measurement: their CPU time and memory, with all their descendants.

use anyhow::{Context, Result};
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Clock ticks per second of `/proc/PID/stat`, fixed in Linux's user interface.
const TICKS_PER_SECOND: f64 = 100.0;

/// A server that is ended when dropped.
pub struct Server {
    child: Child,
}

impl Server {
    /// Starts a command with no standard input and an environment without `RUST_BACKTRACE`, which
    /// slows wasmtime's errors down in every program that embeds it.
    pub fn start(command: &mut Command) -> Result<Self> {
        let program = command.get_program().to_string_lossy().into_owned();
        let child = detached(command)
            .env_remove("RUST_BACKTRACE")
            .stdin(Stdio::null())
            .spawn()
            .with_context(|| format!("{program} cannot be started"))?;
        Ok(Self { child })
    }

    /// Takes charge of a process that was started elsewhere.
    pub fn adopt(child: Child) -> Self {
        Self { child }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it and its descendants have used so far, in CPU seconds.
    pub fn cpu_seconds(&self) -> f64 {
        family_cpu_seconds(self.pid())
    }

    /// Resident memory of it and its descendants, shared pages counted in proportion, in KiB.
    pub fn pss_kib(&self) -> u64 {
        family(self.pid()).into_iter().filter_map(pss_kib).sum()
    }

    /// Whether it still runs.
    pub fn is_alive(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Politely first: a host ends its workers.
        let _ = Command::new("kill").arg(self.pid().to_string()).status();
        let until = Instant::now() + Duration::from_secs(15);
        while Instant::now() < until {
            if !self.is_alive() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command whose process a Ctrl-C at the terminal does not reach: this program ends it itself, when what
/// it measures is put away.
pub fn detached(command: &mut Command) -> &mut Command {
    use std::os::unix::process::CommandExt;
    command.process_group(0)
}

/// A process and its descendants.
pub fn family(root: u32) -> Vec<u32> {
    let mut found = vec![root];
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        next += 1;
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        for task in tasks {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            found.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    found
}

/// What a process and its descendants have used so far, in CPU seconds.
pub fn family_cpu_seconds(root: u32) -> f64 {
    family(root).into_iter().filter_map(cpu_seconds).sum()
}

fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name may hold anything, so fields are counted from its closing bracket.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some((ticks(11)? + ticks(12)?) / TICKS_PER_SECOND)
}

/// Resident pages of these processes, shared ones in proportion, and their page tables, in bytes.
pub fn resident(pids: &[u32]) -> (u64, u64) {
    let pages = pids.iter().filter_map(|pid| pss_kib(*pid)).sum::<u64>();
    let tables = pids.iter().filter_map(|pid| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmPTE:"))?;
        line.split_whitespace().next()?.parse::<u64>().ok()
    });
    (pages << 10, tables.sum::<u64>() << 10)
}

fn pss_kib(pid: u32) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let line = rollup.lines().find(|line| line.starts_with("Pss:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
