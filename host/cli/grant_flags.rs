//! The flags that grant a tenant what it may reach. Each adds to what the manifest says; an entry of the
//! same name, or the same place in the guest, is replaced.

use crate::host_args::absolute;
use clap::Args;
use insula_model::Manifest;
use insula_model::grants::mounts::{Access, MountSpec};
use insula_model::grants::outbound::OutboundRule;
use insula_model::grants::schedule::Schedule;
use insula_model::grants::secrets::{SecretKey, SecretVia};
use std::path::Path;

/// Name and value.
type Pair = (String, String);

/// What a tenant may reach beyond its own memory.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Grants (nothing is granted by default)")]
pub(crate) struct GrantFlags {
    /// Set an environment variable; repeatable
    #[arg(long, value_name = "NAME=VALUE", value_parser = parse_pair)]
    env: Vec<Pair>,
    /// Pass an argument after the program's name; repeatable, and all of them replace the manifest's
    #[arg(long = "arg", value_name = "ARG", allow_hyphen_values = true)]
    args: Vec<String>,
    /// Set a key of wasi:config/store; repeatable
    #[arg(long = "config", value_name = "KEY=VALUE", value_parser = parse_pair)]
    config: Vec<Pair>,
    /// Give it a secret, as an environment variable or a key of wasi:config; repeatable. Its value is
    /// set with `insula secret set`
    #[arg(long = "secret", value_name = "KEY[=env|config]", value_parser = parse_secret)]
    secrets: Vec<(SecretKey, SecretVia)>,
    /// Let it read (ro, the default) or also write (rw) a directory of the host; repeatable
    #[arg(long = "mount", value_name = "HOST:GUEST[:ro|rw]", value_parser = parse_mount)]
    mounts: Vec<MountSpec>,
    /// Let it call `https://api.example.com`, `http://*.example.com:8080`, `http://NAME.internal`
    /// (a tenant) or `self`; repeatable
    #[arg(long = "allow-outbound", value_name = "RULE")]
    outbound: Vec<OutboundRule>,
    /// Let it open a key-value store; repeatable [default store: default]
    #[arg(long = "keyvalue", value_name = "STORE", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "default")]
    stores: Vec<String>,
    /// Run it at these times (cron, UTC) instead of serving it: commands only
    #[arg(long, value_name = "CRON")]
    schedule: Option<Schedule>,
}

fn parse_pair(text: &str) -> Result<Pair, String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.into(), value.into())),
        _ => Err("write NAME=VALUE".into()),
    }
}

fn parse_secret(text: &str) -> Result<(SecretKey, SecretVia), String> {
    let (key, via) = match text.split_once('=') {
        None => (text, SecretVia::Env),
        Some((key, "env")) => (key, SecretVia::Env),
        Some((key, "config")) => (key, SecretVia::Config),
        // What stands there may be the value.
        Some(_) => {
            return Err("write KEY, KEY=env or KEY=config; its value is set with \
                        `insula secret set`, never by a flag"
                .into());
        }
    };
    key.parse()
        .map(|key| (key, via))
        .map_err(|error: insula_model::grants::secrets::SecretKeyError| error.to_string())
}

/// As docker writes them. A relative host path is meant from where the command runs.
fn parse_mount(text: &str) -> Result<MountSpec, String> {
    let (rest, access) = match text.rsplit_once(':') {
        Some((rest, "ro")) => (rest, Access::Ro),
        Some((rest, "rw")) => (rest, Access::Rw),
        _ => (text, Access::Ro),
    };
    let wrong = || format!("`{text}`: write HOST:GUEST, HOST:GUEST:ro or HOST:GUEST:rw");
    let (host, guest) = rest.rsplit_once(':').ok_or_else(wrong)?;
    if host.is_empty() || !guest.starts_with('/') {
        return Err(format!("{}; GUEST is an absolute path", wrong()));
    }
    let host = from_here(Path::new(""), host).ok_or_else(wrong)?;
    Ok(MountSpec { host, guest: guest.into(), access, quota: None })
}

/// A directory of the host as messages carry it: from the root, `.` and `..` taken out as the shell
/// would; none if it is not UTF-8. `dir` is where relative ones start.
pub(crate) fn from_here(dir: &Path, host: &str) -> Option<String> {
    let mut path = std::path::PathBuf::new();
    for part in absolute(&dir.join(host)).components() {
        match part {
            std::path::Component::ParentDir => drop(path.pop()),
            part => path.push(part),
        }
    }
    path.into_os_string().into_string().ok()
}

impl GrantFlags {
    /// Writes what was given over `manifest`.
    pub(crate) fn apply(self, manifest: &mut Manifest) {
        if !self.env.is_empty() {
            manifest.env.get_or_insert_default().extend(self.env);
        }
        if !self.args.is_empty() {
            manifest.args = Some(self.args);
        }
        if !self.config.is_empty() {
            manifest.config.get_or_insert_default().extend(self.config);
        }
        if !self.secrets.is_empty() {
            manifest.secrets.get_or_insert_default().extend(self.secrets);
        }
        if !self.mounts.is_empty() {
            let mounts = manifest.mounts.get_or_insert_default();
            let place = |mount: &MountSpec| mount.guest.trim_end_matches('/').to_owned();
            mounts.retain(|mount| self.mounts.iter().all(|given| place(given) != place(mount)));
            mounts.extend(self.mounts);
        }
        if !self.outbound.is_empty() {
            let hosts = &mut manifest.outbound.get_or_insert_default().hosts;
            hosts.extend(self.outbound);
        }
        if !self.stores.is_empty() {
            let keyvalue = manifest.keyvalue.get_or_insert_default();
            let stores = keyvalue.stores.get_or_insert_default();
            for store in self.stores {
                if !stores.contains(&store) {
                    stores.push(store);
                }
            }
        }
        manifest.schedule = self.schedule.or(manifest.schedule.take());
    }
}
