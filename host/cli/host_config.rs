//! The configuration of `serve` and `up`: flags, variables and a file, read raw and resolved once.

use crate::failure::{Exit, Failure};
use crate::host_args::{absolute, default_data_dir};
use crate::metrics_flags::MetricsFlags;
use crate::otlp_flags::OtlpFlags;
use anyhow::{Context, Result};
use clap::Args;
use clap::builder::ValueHint;
use insula_model::access_log::Sample;
use insula_model::config::ConfigFile;
use insula_model::grants::mounts::is_clean_path;
use insula_model::{ByteSize, DurationMs};
use insula_sandbox::engine::{
    LIVE_INSTANCES, LIVE_INSTANCES_MAX, LIVE_INSTANCES_MIN, MAPPINGS_EACH, MAPPINGS_OF_WORKER,
    MEMORY_BYTES_MAX,
};
use insula_supervisor::{HostConfig, KEY_FILE_BYTES_MAX, Passed, SecretsKey, SecretsKeyError};
use std::fs::File;
use std::io::Read;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use tracing_subscriber::EnvFilter;
use zeroize::Zeroizing;

/// Where tenants answer if nobody says otherwise: this machine only.
const LISTEN_DEFAULT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 8080);
/// Workers of one host at most.
const WORKERS_MAX: u32 = 256;
/// Running requests get this long at shutdown if nobody says otherwise.
const DRAIN_MS_DEFAULT: u64 = 10_000;
/// The longest drain that can be asked for.
const DRAIN_MS_MAX: u64 = 3_600_000;
/// The most a pooled slot can hold.
const MEMORY_CEILING_MAX: ByteSize = ByteSize(MEMORY_BYTES_MAX as u64);
/// The most that can be passed to a guest.
const HEADER_CEILING_MAX: ByteSize = ByteSize(128 << 10);
/// The largest file of certificates that is read: it travels in one message to each worker.
const CA_BYTES_MAX: usize = 1 << 20;
/// Holds the key for secrets itself. Not a flag's variable: a flag's value would be shown by `ps`.
const SECRETS_KEY_VARIABLE: &str = "INSULA_SECRETS_KEY";
/// The largest configuration file that is read.
const CONFIG_BYTES_MAX: usize = 1 << 20;

/// What was written on the command line or in variables; nothing filled in.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Host")]
pub(crate) struct HostFlags {
    /// Address and port that tenants are served on [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR", env = "INSULA_LISTEN", value_parser = parse_listen)]
    listen: Option<SocketAddr>,
    /// Directory of state, artifacts, compiled code and the control socket [default: the XDG data
    /// directory, ~/.local/share/insula]
    #[arg(long, value_name = "DIR", env = "INSULA_DATA", value_hint = ValueHint::DirPath)]
    data: Option<PathBuf>,
    /// Worker processes, 1 to 256 [default: the cores this process may use]
    #[arg(long, value_name = "N", env = "INSULA_WORKERS")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=i64::from(WORKERS_MAX)))]
    workers: Option<u32>,
    /// Live instances that each worker has room for, running and idle ones together, 64 to 16384
    /// [default: 4096]
    #[arg(long, value_name = "N", env = "INSULA_INSTANCES")]
    #[arg(value_parser = clap::value_parser!(u32).range(i64::from(LIVE_INSTANCES_MIN)..=i64::from(LIVE_INSTANCES_MAX)))]
    instances: Option<u32>,
    /// Memory that all workers may hold: near it, best-effort tenants are refused first, guaranteed ones
    /// last [default: 80% of what this machine, or its cgroup, has]
    #[arg(long, value_name = "SIZE", env = "INSULA_MEMORY")]
    memory: Option<ByteSize>,
    /// How long running requests may take to finish at shutdown [default: 10s]
    #[arg(long, value_name = "DURATION", env = "INSULA_DRAIN", value_parser = parse_drain)]
    drain: Option<DurationMs>,
    /// Filter of the host's log on standard error: info, debug, insula_worker=trace …
    /// [default: info; `up`: warn]
    #[arg(long, value_name = "FILTER", env = "INSULA_LOG", value_parser = parse_log)]
    log: Option<String>,
    /// Keep an access log of tenants that do not say so themselves: all requests, or a share such as 1%; see
    /// `insula logs --access` [default: false]
    #[arg(long, value_name = "SHARE", env = "INSULA_ACCESS_LOG")]
    #[arg(num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    access_log: Option<Sample>,
    /// File with the key that secrets are encrypted with: 64 hexadecimal digits. INSULA_SECRETS_KEY
    /// holds the key itself [default: secrets.key in the data directory, made when needed]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    secrets_key: Option<PathBuf>,
    /// Configuration file (TOML): listen, data, workers, instances, memory, drain, log, access_log, secrets_key, [metrics],
    /// [otlp], [ceilings], [compiler], [outbound]
    #[arg(long, value_name = "FILE", env = "INSULA_CONFIG", value_hint = ValueHint::FilePath)]
    config: Option<PathBuf>,
    #[command(flatten)]
    metrics: MetricsFlags,
    #[command(flatten)]
    otlp: OtlpFlags,
}

fn parse_listen(text: &str) -> Result<SocketAddr, String> {
    text.parse()
        .map_err(|_| "write an IP address and a port, such as 127.0.0.1:8080 or [::]:80".into())
}

fn parse_workers(workers: u32) -> Result<u32, String> {
    let mend = || format!("{workers} is not in 1..={WORKERS_MAX}");
    if (1..=WORKERS_MAX).contains(&workers) { Ok(workers) } else { Err(mend()) }
}

fn check_instances(instances: u32) -> Result<u32, String> {
    if !(LIVE_INSTANCES_MIN..=LIVE_INSTANCES_MAX).contains(&instances) {
        return Err(format!("{instances} is not in {LIVE_INSTANCES_MIN}..={LIVE_INSTANCES_MAX}"));
    }
    Ok(instances)
}

/// Whether the kernel lets a process have the mappings that so many live instances take.
fn check_mappings(instances: u32) -> Result<()> {
    const SETTING: &str = "/proc/sys/vm/max_map_count";
    let most = std::fs::read_to_string(SETTING).ok().and_then(|text| text.trim().parse().ok());
    let needed = u64::from(instances) * MAPPINGS_EACH + MAPPINGS_OF_WORKER;
    let Some(most) = most.filter(|most: &u64| *most < needed) else { return Ok(()) };
    let fit = most.saturating_sub(MAPPINGS_OF_WORKER) / MAPPINGS_EACH;
    let what = format!(
        "{instances} live instances in each worker need {needed} memory mappings, and vm.max_map_count is {most}"
    );
    let hint = format!("`sysctl -w vm.max_map_count={needed}`, or `--instances {fit}`");
    Err(Failure::new(Exit::Usage, what).hint(hint).into())
}

fn parse_drain(text: &str) -> Result<DurationMs, String> {
    text.parse()
        .map_err(|error: insula_model::quantity::QuantityError| error.to_string())
        .and_then(check_drain)
}

fn check_drain(drain: DurationMs) -> Result<DurationMs, String> {
    let longest = DurationMs(DRAIN_MS_MAX);
    if drain <= longest {
        Ok(drain)
    } else {
        Err(format!("{drain} is too long; at most {longest}"))
    }
}

fn parse_log(text: &str) -> Result<String, String> {
    let mend = "write a level or TARGET=LEVEL, separated by commas, such as `info` or `insula_worker=debug`";
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("{error}; {mend}")),
    }
}

/// Reads a configuration file. Errors point at line and column.
pub(crate) fn read_file(path: &Path) -> Result<ConfigFile> {
    let wrong = |what: &str| {
        Failure::new(Exit::Usage, format!("configuration file {} {what}", path.display()))
    };
    let mut text = String::new();
    let file = File::open(path).map_err(|error| wrong("cannot be read").caused_by(error))?;
    file.take(CONFIG_BYTES_MAX as u64 + 1)
        .read_to_string(&mut text)
        .map_err(|error| wrong("cannot be read").caused_by(error))?;
    if text.len() > CONFIG_BYTES_MAX {
        return Err(wrong(&format!("has more than {CONFIG_BYTES_MAX} bytes")).into());
    }
    let file: ConfigFile =
        toml::from_str(&text).map_err(|error| wrong("is wrong").caused_by(error))?;
    match out_of_bounds(&file) {
        Some(why) => Err(wrong("asks for what no host can do").hint(why).into()),
        None => Ok(file),
    }
}

/// What of the tables is outside of what a host can do, and what would be inside.
fn out_of_bounds(file: &ConfigFile) -> Option<String> {
    let (ceilings, compiler) = (&file.ceilings, &file.compiler);
    let too_much = |key: &str, asked: ByteSize, most: ByteSize| {
        (asked > most).then(|| format!("`{key} = {asked}`: set at most {most}"))
    };
    too_much("ceilings.memory", ceilings.memory, MEMORY_CEILING_MAX)
        .or_else(|| {
            too_much("ceilings.request_header", ceilings.request_header, HEADER_CEILING_MAX)
        })
        .or_else(|| {
            let relative = ceilings.mounts.iter().find(|root| {
                !is_clean_path(root.strip_suffix('/').filter(|r| !r.is_empty()).unwrap_or(root))
            })?;
            Some(format!(
                "`ceilings.mounts`: `{relative}` is not an absolute path without `.` and `..`"
            ))
        })
        .or_else(|| {
            (compiler.at_once == 0).then(|| "`compiler.at_once = 0`: set at least 1".into())
        })
}

/// Reads certificates that outbound TLS is to trust.
fn read_ca(path: &Path) -> Result<String, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("{}: {why}", path.display());
    let file = File::open(path).map_err(|error| wrong(&error))?;
    let mut pem = String::new();
    file.take(CA_BYTES_MAX as u64 + 1).read_to_string(&mut pem).map_err(|error| wrong(&error))?;
    if pem.len() > CA_BYTES_MAX {
        return Err(wrong(&format!("it has more than {CA_BYTES_MAX} bytes")));
    }
    insula_worker::check_ca(&pem).map_err(|error| wrong(&error))?;
    Ok(pem)
}

impl HostFlags {
    /// The same as if no file had been named, of configuration or with a key.
    pub(crate) fn without_file(self) -> Self {
        Self { config: None, secrets_key: None, ..self }
    }

    /// Flag over variable over file over default, and all of it checked. The log's default is the
    /// verb's.
    pub(crate) fn resolve(self, log_default: &str) -> Result<HostConfig> {
        let file = match &self.config {
            Some(path) => read_file(path)?,
            None => ConfigFile::default(),
        };
        let path = self.config.unwrap_or_default();
        let in_file = |key: &'static str| {
            let path = path.display().to_string();
            move |why: String| Failure::new(Exit::Usage, format!("`{key}` in {path}: {why}"))
        };
        let from_file = file.listen.as_deref().map(parse_listen).transpose();
        let listen = self.listen.or(from_file.map_err(in_file("listen"))?);
        let from_file = file.workers.map(parse_workers).transpose();
        let workers = self.workers.or(from_file.map_err(in_file("workers"))?);
        let from_file = file.instances.map(check_instances).transpose();
        let instances = self.instances.or(from_file.map_err(in_file("instances"))?);
        instances.map_or(Ok(()), check_mappings)?;
        let from_file = file.drain.map(check_drain).transpose();
        let drain = self.drain.or(from_file.map_err(in_file("drain"))?);
        let from_file = file.log.as_deref().map(parse_log).transpose();
        let log = self.log.or(from_file.map_err(in_file("log"))?);
        // A relative path in a file is meant from where the file is.
        let beside = |data: String| path.parent().unwrap_or(Path::new("")).join(data);
        let in_file_key = file.secrets_key.filter(|key| !key.is_empty()).map(&beside);
        let secrets_key = secrets_key(self.secrets_key, in_file_key)?;
        let data = match self.data.or(file.data.filter(|data| !data.is_empty()).map(&beside)) {
            Some(data) => absolute(&data),
            None => default_data_dir()?,
        };
        let outbound_ca = match file.outbound.ca.filter(|ca| !ca.is_empty()) {
            Some(ca) => read_ca(&beside(ca)).map_err(in_file("outbound.ca"))?,
            None => String::new(),
        };
        let metrics = self.metrics.resolve(file.metrics);
        let metrics = metrics.map_err(|(key, why)| in_file(key)(why))?;
        let otlp = self.otlp.resolve(file.otlp);
        let otlp = otlp.map_err(|(key, why)| in_file(key)(why))?;
        Ok(HostConfig {
            metrics,
            otlp,
            listen: listen.unwrap_or(LISTEN_DEFAULT),
            data,
            workers: workers.unwrap_or_else(cores),
            instances: instances.unwrap_or(LIVE_INSTANCES),
            memory_bytes: self.memory.or(file.memory).map(|memory| memory.0),
            drain_ms: drain.map_or(DRAIN_MS_DEFAULT, |drain| drain.0),
            log: log.unwrap_or_else(|| log_default.into()),
            access_log: self.access_log.or(file.access_log).unwrap_or_default(),
            ceilings: file.ceilings,
            compiler: file.compiler,
            outbound_ca,
            secrets_key,
            origin: None,
            passed: Passed::default(),
        })
    }
}

/// The key for secrets: from the flag's file, the variable, or the configuration's file. None for the
/// host's own.
fn secrets_key(flag: Option<PathBuf>, in_file: Option<PathBuf>) -> Result<Option<SecretsKey>> {
    let wrong = |error: SecretsKeyError| Failure::new(Exit::Usage, error.to_string());
    if flag.is_none()
        && let Some(text) = std::env::var_os(SECRETS_KEY_VARIABLE).filter(|text| !text.is_empty())
    {
        let text = Zeroizing::new(text.to_string_lossy().into_owned());
        return Ok(Some(SecretsKey::parse(&text, SECRETS_KEY_VARIABLE).map_err(wrong)?));
    }
    let Some(path) = flag.or(in_file) else { return Ok(None) };
    let path = absolute(&path);
    let unreadable = || format!("the key for secrets, {}, cannot be read", path.display());
    let file = File::open(&path).with_context(unreadable)?;
    let mut text = Zeroizing::new(String::with_capacity(KEY_FILE_BYTES_MAX as usize));
    file.take(KEY_FILE_BYTES_MAX).read_to_string(&mut text).with_context(unreadable)?;
    let key = SecretsKey::parse(&text, path.display().to_string()).map_err(wrong)?;
    Ok(Some(key.in_file(path)))
}

/// The cores this process may use: affinity and cgroup quota count.
fn cores() -> u32 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u32::try_from(cores).unwrap_or(WORKERS_MAX).clamp(1, WORKERS_MAX)
}
