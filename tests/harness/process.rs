//! Processes: signals, what `/proc` knows, and an end for whatever a test has started.

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A long-lived child, and what it prints.
///
/// It ends when this is dropped, and also when the test process ends in any other way: a watchdog
/// waits for that at the end of a pipe. A host in a `static` is never dropped.
#[derive(Debug)]
pub struct Server {
    child: Child,
    watchdog: Child,
    printed: Arc<Mutex<String>>,
}

impl Server {
    /// Starts `command`; the watchdog removes `dir`.
    #[track_caller]
    pub fn start(command: &mut Command, dir: &Path) -> Self {
        use std::os::unix::process::CommandExt;
        // Ctrl-C ends the tests; the watchdog then ends the child.
        let mut child = command.process_group(0).stdout(Stdio::piped()).spawn().expect("insula");
        let watchdog = Command::new("sh")
            .args(["-c", r#"read -r _; kill -KILL "$1"; rm -rf -- "$2""#, "watchdog"])
            .arg(child.id().to_string())
            .arg(dir)
            .process_group(0)
            .stdin(Stdio::piped())
            .spawn()
            .expect("sh");
        let stdout = child.stdout.take().expect("piped");
        let printed = Arc::new(Mutex::new(String::new()));
        let to = Arc::clone(&printed);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let mut printed = to.lock().expect("printed");
                printed.push_str(&line);
                printed.push('\n');
            }
        });
        Self { child, watchdog, printed }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed to standard output so far.
    pub fn printed(&self) -> String {
        self.printed.lock().expect("printed").clone()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("child").is_none()
    }

    /// How it ended, if it does within `patience`.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + patience;
        loop {
            let ended = self.child.try_wait().expect("child");
            if ended.is_some() || Instant::now() > until {
                return ended;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Sends SIGKILL, and waits for the end. Its children are left to themselves.
    pub fn kill(&mut self) {
        self.child.kill().expect("kill");
        self.child.wait().expect("wait");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.is_running() {
            let children = children(self.pid());
            self.kill();
            // They would go by themselves, but not at once if a request runs in one.
            for child in children {
                signal(child, Signal::KILL);
            }
        }
        let _ = self.watchdog.kill();
        let _ = self.watchdog.wait();
    }
}

/// Sends a signal; whether the process was there.
pub fn signal(pid: u32, signal: Signal) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("process id");
    kill_process(pid, signal).is_ok()
}

/// Whether a process is there and not merely waiting to be reaped.
pub fn is_alive(pid: u32) -> bool {
    stat(pid).is_some_and(|fields| fields[0] != "Z")
}

/// The processes whose parent is `pid`.
pub fn children(pid: u32) -> Vec<u32> {
    let parent = pid.to_string();
    let all = fs::read_dir("/proc").expect("/proc");
    all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|child| stat(*child).is_some_and(|fields| fields[1] == parent))
        .collect()
}

/// `/proc/PID/stat` from the state on, which is behind the command in parentheses.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    Some(rest.split(' ').map(str::to_owned).collect())
}

/// Processor time of a process so far, user and system, all threads.
pub fn cpu(pid: u32) -> Duration {
    let fields = stat(pid).unwrap_or_else(|| panic!("process {pid} is gone"));
    let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("stat")).sum();
    Duration::from_millis(ticks * 1_000 / rustix::param::clock_ticks_per_second())
}

/// Bytes of memory that a process holds now.
pub fn resident_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).expect("statm");
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).expect("statm");
    pages * rustix::param::page_size() as u64
}

/// Bytes of address space that a process has mapped.
pub fn mapped_bytes(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).expect("statm");
    let pages: u64 = text.split(' ').next().and_then(|pages| pages.parse().ok()).expect("statm");
    pages * rustix::param::page_size() as u64
}

/// Sets what a process may have of `resource` (its soft limit; none for no limit), and returns what
/// it might have before.
pub fn limit(pid: u32, resource: Resource, to: Option<u64>) -> Option<u64> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("process id");
    let text = fs::read_to_string(format!("/proc/{}/limits", pid.as_raw_pid())).expect("limits");
    let name = match resource {
        Resource::Nofile => "Max open files",
        Resource::As => "Max address space",
        other => panic!("no name for {other:?}"),
    };
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("limit");
    let mut words = line.split_whitespace().map(|word| word.parse().ok());
    let (current, maximum) = (words.next().flatten(), words.next().flatten());
    prlimit(Some(pid), resource, Rlimit { current: to, maximum }).expect("prlimit");
    current
}

/// Which of `pids` holds the far end of the connection from `client` to `server`.
pub fn owner(client: SocketAddr, server: SocketAddr, pids: &[u32]) -> Option<u32> {
    let (near, far) = (format!(":{:04X}", server.port()), format!(":{:04X}", client.port()));
    let table = fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let matches = fields.get(1)?.ends_with(&near) && fields.get(2)?.ends_with(&far);
        matches.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
    })?;
    let holds = |pid: &&u32| {
        let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten();
        descriptors
            .filter_map(|entry| fs::read_link(entry.ok()?.path()).ok())
            .any(|link| link.to_str() == Some(inode.as_str()))
    };
    pids.iter().find(holds).copied()
}
