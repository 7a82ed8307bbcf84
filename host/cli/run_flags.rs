//! What `insula run` gives its program: the grants of a manifest, as flags.
//!
//! Whoever types them is both user and operator, so no ceiling is held against directories, they can
//! be written to unless a flag says otherwise, and clocks are as fine as the machine's.

use crate::failure::{Exit, Failure};
use crate::host_args::absolute;
use anyhow::Result;
use clap::Args;
use clap::builder::ValueHint;
use insula_model::Manifest;
use insula_model::grants::mounts::{Access, Mount};
use insula_model::grants::sockets::SocketRule;
use insula_model::grants::{ClockSpec, Precision};
use std::path::Path;

/// What the program may reach.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Grants (nothing is granted by default)")]
pub(crate) struct RunGrants {
    /// Set an environment variable; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = pair)]
    env: Vec<(String, String)>,
    /// Let it use a directory under the same name, or as GUEST; with :ro only read it; repeatable
    #[arg(long, value_name = "HOST[::GUEST][:ro]", value_parser = dir, value_hint = ValueHint::DirPath)]
    dir: Vec<Mount>,
    /// The same as docker writes it; repeatable
    #[arg(long, value_name = "HOST:GUEST[:ro|rw]", value_parser = mount, value_hint = ValueHint::DirPath)]
    mount: Vec<Mount>,
    /// Draw all randomness from this seed, for reproducible runs
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Let all clocks stand still at this time (RFC 3339)
    #[arg(long, value_name = "TIME")]
    clock_fixed: Option<String>,
    /// Let raw sockets reach this peer, such as tcp://127.0.0.1:5432; repeatable
    #[arg(long = "socket", value_name = "RULE")]
    sockets: Vec<SocketRule>,
}

impl RunGrants {
    /// Writes all but the directories over `manifest`, and gives those.
    pub(crate) fn apply(self, manifest: &mut Manifest) -> Result<Vec<Mount>> {
        if !self.env.is_empty() {
            manifest.env = Some(self.env.into_iter().collect());
        }
        manifest.seed = self.seed;
        manifest.clock =
            Some(ClockSpec { precision: Some(Precision::Exact), fixed: self.clock_fixed });
        if !self.sockets.is_empty() {
            manifest.sockets = Some(self.sockets);
        }
        let mounts: Vec<Mount> = self.dir.into_iter().chain(self.mount).collect();
        for (at, mount) in mounts.iter().enumerate() {
            if mounts[..at].iter().any(|before| before.guest == mount.guest) {
                let message = format!("`{}` is given twice", mount.guest);
                return Err(Failure::new(Exit::Usage, message)
                    .hint("give each directory a name of its own: --dir HOST::GUEST")
                    .into());
            }
            if !Path::new(&mount.host).is_dir() {
                let message = format!("{} is not a directory", mount.host);
                return Err(Failure::new(Exit::Usage, message)
                    .hint("make it first, or check the path")
                    .into());
            }
        }
        Ok(mounts)
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("write NAME=VALUE".into()),
    }
}

/// As wasmtime writes them.
fn dir(text: &str) -> Result<Mount, String> {
    let (rest, access) = match text.strip_suffix(":ro") {
        Some(rest) => (rest, Access::Ro),
        None => (text, Access::Rw),
    };
    let (host, guest) = rest.split_once("::").unwrap_or((rest, rest));
    given(host, guest, access).ok_or_else(|| "write HOST, HOST::GUEST or HOST::GUEST:ro".into())
}

fn mount(text: &str) -> Result<Mount, String> {
    let (rest, access) = match text.rsplit_once(':') {
        Some((rest, "ro")) => (rest, Access::Ro),
        Some((rest, "rw")) => (rest, Access::Rw),
        _ => (text, Access::Rw),
    };
    rest.rsplit_once(':')
        .and_then(|(host, guest)| given(host, guest, access))
        .ok_or_else(|| "write HOST:GUEST, HOST:GUEST:ro or HOST:GUEST:rw".into())
}

fn given(host: &str, guest: &str, access: Access) -> Option<Mount> {
    if host.is_empty() || guest.is_empty() || guest.contains('\0') {
        return None;
    }
    let host = absolute(Path::new(host)).into_os_string().into_string().ok()?;
    Some(Mount { host, guest: guest.into(), access, quota_bytes: None })
}
