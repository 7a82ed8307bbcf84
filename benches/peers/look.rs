//! Which peers this machine can run, and what would add the others.

use super::{CORES, MEMORY_BYTES, RUNTIMES, SERVERS};
use crate::groups;
use crate::machine::says;
use crate::results::Subject;
use std::path::PathBuf;

/// Names the `wasmtime` to compare with.
const WASMTIME: &str = "WASMTIME";
/// Names the `workerd` to compare with.
const WORKERD: &str = "WORKERD";

/// The peer of this id, and whether it can be run; none where there is no such peer.
pub fn look(id: &str) -> Option<Subject> {
    let debian = |package: &str| Some(format!("apt-get install --no-install-recommends {package}"));
    let limits = format!("memory {} MiB, {CORES} core", MEMORY_BYTES >> 20);
    let host = "host network, image from scratch";
    let (name, version, settings, mend) = match id {
        "exec" => ("plain process", Some("fork and exec".into()), "no limits".into(), None),
        "hyper" => ("plain hyper", Some("one process".into()), "two threads, no limits".into(), None),
        "crun" => (
            "crun",
            says("crun", &["--version"]),
            format!("{limits}, host network, called from a shell in its cgroup"),
            debian("crun"),
        ),
        "runc" => (
            "runc",
            says("runc", &["--version"]),
            format!("{limits}, host network, called from a shell in its cgroup"),
            debian("runc"),
        ),
        "runsc" => (
            "gVisor",
            says("runsc", &["--version"]),
            format!("{limits}, host network, systrap"),
            debian("-t bookworm-backports runsc"),
        ),
        "ctr" => (
            "containerd",
            says("containerd", &["--version"]).filter(|_| says("ctr", &["--version"]).is_some()),
            format!("{limits}, {host}, ctr, CRI plugin off"),
            debian("containerd"),
        ),
        "docker" => (
            "Docker",
            says("dockerd", &["--version"]),
            format!("{limits}, {host}, API on its socket, no log driver"),
            debian("docker.io iptables"),
        ),
        "podman" => (
            "podman",
            says("podman", &["--version"]).filter(|_| says("crun", &["--version"]).is_some()),
            format!("{limits}, {host}, crun, cgroupfs, no events, no log driver"),
            debian("podman crun conmon"),
        ),
        "wasmtime" => (
            "wasmtime serve",
            says(&wasmtime(), &["--version"]),
            "a fresh instance for each request unless said otherwise; timeout 10 s, fuel 1 G, memory 64 MiB".into(),
            Some(format!("cargo install wasmtime-cli@48.0.8 --locked (or {WASMTIME}=FILE)")),
        ),
        "workerd" => (
            "workerd",
            says(&workerd(), &["--version"]),
            "the same handler in JavaScript, one shared isolate".into(),
            Some(format!("npm install --prefix DIR workerd, and {WORKERD}=DIR/node_modules/@cloudflare/workerd-linux-64/bin/workerd")),
        ),
        _ => return None,
    };
    let contained = RUNTIMES.contains(&id) && id != "exec";
    let missing = match (&version, groups::available()) {
        (None, _) => Some("not installed".into()),
        (Some(_), Err(why)) if contained => Some(why.to_owned()),
        _ => None,
    };
    // Root cannot be installed.
    let mend = mend.filter(|_| version.is_none());
    Some(Subject { id: id.into(), name: name.into(), version, settings, missing, mend })
}

/// All peers, in the order in which they are shown.
pub(crate) fn all() -> impl Iterator<Item = Subject> {
    RUNTIMES.iter().chain(&SERVERS).filter_map(|id| look(id))
}

/// The `wasmtime` to compare with.
pub(crate) fn wasmtime() -> String {
    std::env::var(WASMTIME).unwrap_or_else(|_| "wasmtime".into())
}

/// The `workerd` to compare with: named, or on the path.
pub(crate) fn workerd() -> String {
    let given = std::env::var_os(WORKERD).map(PathBuf::from);
    given.map_or_else(|| "workerd".into(), |path| path.to_string_lossy().into_owned())
}
