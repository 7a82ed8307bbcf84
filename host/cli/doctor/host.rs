//! The host that runs, if one does: who holds the data directory and the port, and whether it answers.

use super::{Finding, fail, ok, warn};
use crate::client::{Client, no_body};
use crate::text;
use hyper::Method;
use insula_model::api::{HostInfo, WorkerState};
use insula_supervisor::HostConfig;
use rustix::net::{AddressFamily, SocketType, sockopt};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

/// How long the host may take to say what it is, in milliseconds.
const ANSWER_MS_MAX: u64 = 5_000;

/// What is known of the host on this data directory.
pub(super) struct Held {
    /// Who holds the directory's lock.
    pub(super) pid: Option<u32>,
    /// Why that is not known.
    unknown: Option<String>,
    socket: PathBuf,
    /// What it says of itself, or why nobody does.
    info: Result<HostInfo, String>,
}

impl Held {
    pub(super) async fn look(config: &HostConfig) -> Self {
        let (pid, unknown) = match insula_supervisor::holder(&config.data) {
            Ok(pid) => (pid, None),
            Err(error) => (None, Some(error.to_string())),
        };
        let socket = insula_supervisor::control_socket(&config.data);
        let client = Client::new(socket.clone());
        let answer = client.send(Method::GET, "/v1/host", None, no_body(), ANSWER_MS_MAX).await;
        let info = answer.and_then(|answer| answer.read::<HostInfo>());
        Self { pid, unknown, socket, info: info.map_err(|error| format!("{error:#}")) }
    }

    pub(super) fn look_at(&self, config: &HostConfig) -> Vec<Finding> {
        let mut findings = vec![self.lock(), self.control()];
        findings.extend(self.workers());
        findings.push(self.port(config.listen));
        findings
    }

    fn lock(&self) -> Finding {
        const WHAT: &str = "lock";
        match (&self.unknown, self.pid) {
            (Some(why), _) => {
                fail(WHAT, why.clone(), "become the user whom the directory belongs to")
            }
            (None, None) => ok(WHAT, "free: no host runs"),
            (None, Some(0)) => ok(WHAT, "a host runs"),
            (None, Some(pid)) => ok(WHAT, format!("a host runs, process {pid}")),
        }
    }

    fn control(&self) -> Finding {
        const WHAT: &str = "control socket";
        let is_there = fs::symlink_metadata(&self.socket).is_ok();
        match (&self.info, self.pid, is_there) {
            (Ok(info), ..) => {
                let ours = env!("CARGO_PKG_VERSION");
                let found =
                    format!("Insula {} answers, with {} tenants", info.version, info.tenants);
                match info.version == ours {
                    true => ok(WHAT, found),
                    false => warn(
                        WHAT,
                        format!("{found}; this is {ours}"),
                        "use the `insula` that the host was started with, or restart it with this one",
                    ),
                }
            }
            (Err(_), None, false) => ok(WHAT, "none, as no host runs"),
            (Err(_), None, true) => warn(
                WHAT,
                "stale: the host that made it is gone",
                "nothing: the next start replaces it; it had been killed, so see its log",
            ),
            (Err(_), Some(_), false) => fail(
                WHAT,
                "a host runs, and its socket is gone",
                "restart the host: nobody can reach it; tenants are served meanwhile",
            ),
            (Err(why), Some(_), true) => fail(
                WHAT,
                why.clone(),
                "see the host's log; if it hangs, restart it: what was acknowledged is kept",
            ),
        }
    }

    fn workers(&self) -> Option<Finding> {
        const WHAT: &str = "workers";
        let info = self.info.as_ref().ok()?;
        let serving =
            info.workers.iter().filter(|worker| worker.state == WorkerState::Serving).count();
        let restarts: u64 = info.workers.iter().map(|worker| worker.restarts).sum();
        let mut found = format!("{serving} of {} serve", info.workers.len());
        if restarts > 0 {
            let died = text::plural(restarts, "time");
            found.push_str(&format!("; they were replaced {restarts} {died}"));
        }
        let mend = "insula ps --workers says how they died; the host's log says more";
        Some(match (serving, restarts) {
            (0, _) => fail(WHAT, found, mend),
            (_, 0) if serving == info.workers.len() => ok(WHAT, found),
            _ => warn(WHAT, found, mend),
        })
    }

    fn port(&self, listen: SocketAddr) -> Finding {
        const WHAT: &str = "port";
        if let Ok(info) = &self.info {
            return ok(WHAT, format!("{} is this host's", info.listen));
        }
        match bind(listen) {
            Ok(()) => ok(WHAT, format!("{listen} is free")),
            Err(rustix::io::Errno::ADDRINUSE) => {
                let by = listener(listen.port());
                let by = by.map_or_else(String::new, |by| format!(" by {by}"));
                fail(
                    WHAT,
                    format!("{listen} is taken{by}"),
                    "stop that program, or listen elsewhere with --listen",
                )
            }
            Err(errno) => fail(
                WHAT,
                format!("{listen}: {}", std::io::Error::from(errno)),
                "name an address of this machine with --listen; ports below 1024 need CAP_NET_BIND_SERVICE",
            ),
        }
    }
}

/// Binds as a host does, and lets go again.
fn bind(listen: SocketAddr) -> rustix::io::Result<()> {
    let family = if listen.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    rustix::net::bind(&socket, &listen)?;
    rustix::net::listen(&socket, 1)
}

/// Who listens on a port, as far as this user may know: `nginx (process 123)`.
fn listener(port: u16) -> Option<String> {
    const LISTENS: &str = "0A";
    let local = format!(":{port:04X}");
    let inode = ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let table = fs::read_to_string(table).ok()?;
        table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let listens = fields.get(1)?.ends_with(&local) && *fields.get(3)? == LISTENS;
            listens.then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
        })
    })?;
    let holds = |pid: u32| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        open.filter_map(|entry| fs::read_link(entry.path()).ok())
            .any(|link| link.to_str() == Some(inode.as_str()))
    };
    let all = fs::read_dir("/proc").ok()?.flatten();
    let pid =
        all.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).find(|pid| holds(*pid))?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(format!("{} (process {pid})", name.trim()))
}
