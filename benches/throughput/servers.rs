//! Who serves: Insula, other Wasm hosts, and a plain server as the floor.

use crate::embedded::{ECHO, HELLO, HELLO_P3};
use crate::first;
use crate::groups::{self, Group};
use crate::native;
use crate::peers::{wasmtime, workerd};
use crate::process::Server;
use crate::subject::Subject;
use crate::wire;
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Instant;
use tempfile::TempDir;

const LIMITS: &str = "timeout=10s,fuel=1000000000,max-memory-size=67108864";
const TUNED: &str = "pooling-allocator=y,pooling-memory-keep-resident=2097152,\
pooling-table-keep-resident=65536,pooling-async-stack-keep-resident=65536,pooling-pagemap-scan=y";
/// Requests that one instance serves where it serves more than one.
const REUSE: &str = "1000";

/// One that is asked.
pub(super) struct Contender {
    pub(super) id: &'static str,
    pub(super) case: &'static str,
    pub(super) port: u16,
    /// What it is asked.
    pub(super) request: Vec<u8>,
    /// Whether it answers with what it is sent, so that bodies are compared, not hello.
    pub(super) body: bool,
    served: Served,
}

enum Served {
    Insula(Arc<Subject>),
    Other(Arc<Other>),
}

/// A server of somebody else's, in a control group of its own.
struct Other {
    // Dropped in this order.
    server: Server,
    group: Option<Group>,
    _dir: TempDir,
}

impl Contender {
    /// CPU time so far, in microseconds.
    pub(super) fn cpu_us(&self) -> Result<f64> {
        match &self.served {
            Served::Insula(subject) => subject.cpu_us(),
            Served::Other(other) => match &other.group {
                Some(group) => group.cpu_us(),
                None => Ok(other.server.cpu_seconds() * 1e6),
            },
        }
    }
}

/// A body of 64 KiB.
fn post(tenant: &str) -> Vec<u8> {
    let body = vec![b'x'; 64 << 10];
    let head = format!(
        "POST / HTTP/1.1\r\nHost: {tenant}.localhost\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body].concat()
}

/// Insula with a tenant for each case. Nothing but the machine bounds how many requests run at once.
pub(super) fn insula(binary: &Path, workers: u32) -> Result<Vec<Contender>> {
    let subject = Arc::new(Subject::start(binary, workers, "insula")?);
    let host = subject.host()?;
    let limits = |reuse: Option<Value>| {
        let mut manifest = json!({
            "memory": { "instance": "64Mi", "limit": "16Gi" }, "fuel": "1G", "timeout": "10s",
            "concurrency": 1000, "queue": 1000,
        });
        if let Some(reuse) = reuse {
            manifest["reuse"] = reuse;
        }
        manifest
    };
    let (hello, hello_p3, echo) = (host.upload(HELLO)?, host.upload(HELLO_P3)?, host.upload(ECHO)?);
    let once = json!({ "requests": REUSE });
    let shared = json!({ "requests": REUSE, "concurrent": 16 });
    let mut all = Vec::new();
    for (case, name, digest, reuse, body) in [
        ("fresh", "fresh", &hello, None, false),
        ("reuse", "reuse", &hello, Some(once), false),
        ("WASI 0.3, fresh", "fresh-p3", &hello_p3, None, false),
        ("WASI 0.3, reuse, 16 at once", "shared-p3", &hello_p3, Some(shared), false),
        ("64 KiB echoed, fresh", "echo", &echo, None, true),
    ] {
        host.deploy(name, digest, &limits(reuse))?;
        all.push(Contender {
            id: "insula",
            case,
            port: host.port,
            request: if body { post(name) } else { wire::get(name, "/") },
            body,
            served: Served::Insula(Arc::clone(&subject)),
        });
    }
    Ok(all)
}

/// One of [`crate::peers::SERVERS`], in all its cases.
pub(super) fn other(id: &str) -> Result<Vec<Contender>> {
    let cases: &[(&'static str, &'static str, bool)] = match id {
        "hyper" => &[("hyper", "", false)],
        "workerd" => &[("workerd", "", false)],
        _ => &[
            ("wasmtime", "defaults, fresh", false),
            ("wasmtime", "tuned, fresh", false),
            ("wasmtime", "reuse", false),
            ("wasmtime", "64 KiB echoed, defaults, fresh", true),
        ],
    };
    let mut all = Vec::new();
    for (id, case, body) in cases.iter().copied() {
        let (other, port) = begin(id, case, body)?;
        let other = Arc::new(other);
        let served = || Served::Other(Arc::clone(&other));
        let request = if body { post("hello") } else { wire::get("hello", "/") };
        all.push(Contender { id, case, port, request, body, served: served() });
        if id == "hyper" {
            let case = "64 KiB echoed";
            all.push(Contender {
                id,
                case,
                port,
                request: post("hello"),
                body: true,
                served: served(),
            });
        }
    }
    Ok(all)
}

fn begin(id: &str, case: &str, body: bool) -> Result<(Other, u16)> {
    let dir = tempfile::Builder::new().prefix("insula-").tempdir()?;
    let port = first::free_port()?;
    let words: Vec<String> = match id {
        "hyper" => {
            vec![native::twin()?.to_string_lossy().into_owned(), "serve".into(), port.to_string()]
        }
        "workerd" => {
            let file = dir.path().join("config.capnp");
            std::fs::write(&file, script(port))?;
            vec![workerd(), "serve".into(), file.to_string_lossy().into_owned()]
        }
        _ => {
            let file = dir.path().join("guest.wasm");
            std::fs::write(&file, if body { ECHO } else { HELLO })?;
            let reuse = if case == "reuse" { REUSE } else { "1" };
            let address = format!("127.0.0.1:{port}");
            let file = file.to_string_lossy();
            let mut words =
                vec!["serve", "-Scli", "-W", LIMITS, "--max-instance-reuse-count", reuse];
            if case.starts_with("tuned") {
                words.extend(["-O", TUNED]);
            }
            words.extend(["--addr", &address, &file]);
            let words = words.into_iter().map(str::to_owned);
            std::iter::once(wasmtime()).chain(words).collect()
        }
    };
    let name = format!("{id}-{port}");
    let group = groups::available().is_ok().then(|| Group::new(&name)).transpose()?;
    let entrance = group.as_ref().map(Group::entrance).unwrap_or_default();
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{entrance}exec \"$@\""), "sh"]).args(words);
    let server = Server::start(command.stdout(Stdio::null()).stderr(Stdio::null()))?;
    let other = Other { server, group, _dir: dir };
    first::answer(port, "hello", Instant::now()).with_context(|| format!("{id} {case}"))?;
    Ok((other, port))
}

/// The same handler, for workerd.
fn script(port: u16) -> String {
    format!(
        r#"using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [(name = "main", worker = .hello)],
  sockets = [(name = "http", address = "127.0.0.1:{port}", http = (), service = "main")],
);
const hello :Workerd.Worker = (
  modules = [(name = "hello.js", esModule =
    "export default {{ fetch() {{ return new Response('Hello from Insula!\\n', {{ headers: {{ 'content-type': 'text/plain' }} }}); }} }};")],
  compatibilityDate = "2024-01-01",
);
"#
    )
}
