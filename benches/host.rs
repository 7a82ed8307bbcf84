//! Starting the real `insula`, in a data directory of its own.

use crate::groups::Group;
use crate::process::Server;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const START_MAX: Duration = Duration::from_secs(60);
const JSON: &str = "application/json";

/// The repository's root.
pub fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// What `INSULA_TEST_BINARY` names; without it builds the release binary, as `cargo run --release` would, and says where it is.
pub fn binary() -> Result<PathBuf> {
    if let Some(given) = std::env::var_os("INSULA_TEST_BINARY") {
        return Ok(std::path::absolute(given)?);
    }
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--release", "--bin", "insula"]).current_dir(root());
    without_package(&mut command);
    let built = command.status()?;
    ensure!(built.success(), "insula does not build");
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    Ok(target.join("release/insula"))
}

/// `cargo bench` and `cargo test` tell what they run about its own package. A build that inherited it
/// would look changed to Cargo, since a dependency's build script depends on these.
pub(crate) fn without_package(cargo: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|start| text.starts_with(start)) {
            cargo.env_remove(&name);
        }
    }
}

/// A running host.
pub struct Host {
    /// Its processes.
    pub server: Server,
    /// The port that tenants are served on.
    pub port: u16,
    binary: PathBuf,
    data: PathBuf,
    _owned: Option<TempDir>,
}

impl Host {
    /// Starts a host with an empty data directory.
    pub fn start(binary: &Path, workers: u32) -> Result<Self> {
        let dir = TempDir::new()?;
        let mut host = Self::start_in(binary, workers, dir.path())?;
        host._owned = Some(dir);
        Ok(host)
    }

    /// Starts a host on a data directory that stays.
    pub fn start_in(binary: &Path, workers: u32, data: &Path) -> Result<Self> {
        Self::start_within(binary, workers, data, None, &[])
    }

    /// The same in a control group, if one is given, and with more flags of `insula serve`.
    pub fn start_within(
        binary: &Path,
        workers: u32,
        data: &Path,
        group: Option<&Group>,
        flags: &[&str],
    ) -> Result<Self> {
        let mut command = Command::new("sh");
        let entrance = group.map(Group::entrance).unwrap_or_default();
        command
            .args(["-c", &format!("{entrance}exec \"$@\""), "sh"])
            .arg(binary)
            .args(["serve", "--listen", "127.0.0.1:0", "--workers", &workers.to_string()])
            .arg("--data")
            .arg(data)
            .args(flags)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let server = Server::start(&mut command)?;
        let mut host =
            Self { server, port: 0, binary: binary.into(), data: data.into(), _owned: None };
        let until = Instant::now() + START_MAX;
        while Instant::now() < until {
            ensure!(host.server.is_alive(), "insula ended at once");
            if let Ok((200, info)) = host.api("GET", "/v1/host", b"")
                && let Ok(info) = serde_json::from_slice::<serde_json::Value>(&info)
                && let Some(listen) = info["listen"].as_str()
                && info["workers"]
                    .as_array()
                    .is_some_and(|all| all.iter().all(|w| w["state"] == "serving"))
            {
                host.port = listen.rsplit(':').next().unwrap_or_default().parse()?;
                return Ok(host);
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        bail!("insula does not serve after {START_MAX:?}")
    }

    /// Uploads an artifact through the control API; its digest.
    pub fn upload(&self, component: &[u8]) -> Result<String> {
        let hex: String = Sha256::digest(component).iter().map(|b| format!("{b:02x}")).collect();
        let digest = format!("sha256:{hex}");
        let (status, answer) = self.api("PUT", &format!("/v1/artifacts/{digest}"), component)?;
        ensure!(status < 300, "artifact: {status} {}", String::from_utf8_lossy(&answer));
        Ok(digest)
    }

    /// Deploys an artifact that is there, with what the manifest says beyond the tenant's name.
    pub fn deploy(&self, name: &str, digest: &str, manifest: &Value) -> Result<()> {
        let mut manifest = manifest.clone();
        manifest["name"] = json!(name);
        let body = json!({ "manifest": manifest, "artifact": digest }).to_string();
        let (status, answer) = self.api("PUT", &format!("/v1/tenants/{name}"), body.as_bytes())?;
        ensure!(status < 300, "{name}: {status} {}", String::from_utf8_lossy(&answer));
        Ok(())
    }

    /// Runs a client verb.
    pub fn cli(&self, args: &[&str]) -> Result<String> {
        let output =
            Command::new(&self.binary).arg("--data").arg(&self.data).args(args).output()?;
        let output = if output.status.code() == Some(2) {
            // The flag belongs to the verb.
            let (verb, rest) = args.split_first().context("a verb")?;
            Command::new(&self.binary)
                .arg(verb)
                .arg("--data")
                .arg(&self.data)
                .args(rest)
                .output()?
        } else {
            output
        };
        ensure!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// One call of the control API; status and body.
    pub fn api(&self, method: &str, path: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        let stream = UnixStream::connect(self.data.join("control.sock"))?;
        stream.set_read_timeout(Some(START_MAX))?;
        exchange(stream, method, "insula", path, body, JSON)
    }

    /// One request to a tenant on a connection of its own.
    pub fn get(&self, tenant: &str) -> Result<u16> {
        let stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(Some(START_MAX))?;
        Ok(exchange(stream, "GET", &format!("{tenant}.localhost"), "/", b"", JSON)?.0)
    }
}

/// One request on a connection that closes after it; status and body.
pub(crate) fn exchange(
    mut stream: impl Read + Write,
    method: &str,
    host: &str,
    path: &str,
    body: &[u8],
    kind: &str,
) -> Result<(u16, Vec<u8>)> {
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\
         Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("half an answer")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1).context("a status")?.parse()?;
    let body = answer.split_off(end + 4);
    if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return Ok((status, unchunk(&body)));
    }
    Ok((status, body))
}

fn unchunk(mut body: &[u8]) -> Vec<u8> {
    let mut whole = Vec::new();
    while let Some(end) = body.windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&body[..end])
            .ok()
            .and_then(|hex| usize::from_str_radix(hex, 16).ok());
        let Some(chunk) =
            size.filter(|size| *size > 0).and_then(|size| body.get(end + 2..end + 2 + size))
        else {
            break;
        };
        whole.extend_from_slice(chunk);
        body = body.get(end + 4 + chunk.len()..).unwrap_or_default();
    }
    whole
}
