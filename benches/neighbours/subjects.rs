//! Who is tested: a host with tenants, and containers that do the same.

use super::Settings;
use crate::clients::Clients;
use crate::containers::{Containers, Limits};
use crate::host::Host;
use crate::threads::Spinners;
use crate::{embedded, guests, wire};
use anyhow::{Context, Result, bail, ensure};
use std::borrow::Cow;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Memory that one filler fills.
const FILL_MIB: u32 = 64;
/// Memory that one grower grows to.
const GROW_MIB: u32 = 32;
/// Connections of each slow client and kind.
const SLOW: usize = 4;
/// Room above what the aggressors use, for the process around it.
const ROOM_MIB: u32 = 32;
const WORKERS_MAX: usize = 256;

/// What aggressors do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Class {
    /// Compute without end.
    Spin,
    /// Grow memory and touch it.
    Grow,
    /// Be called as often as can be, each time in a fresh instance.
    Churn,
    /// Call the host without end.
    Hostcalls,
    /// Fill much memory in single operations.
    Fill,
    /// Have clients that send and read a little at a time.
    Slow,
    /// No tenant at all: a thread of the lowest priority on each core, which takes nothing that anybody wants.
    /// What the victim notices of it, it notices of the machine: a virtual one whose cores are all busy is
    /// itself kept waiting.
    Machine,
}

impl Class {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Machine,
        Self::Spin,
        Self::Grow,
        Self::Churn,
        Self::Hostcalls,
        Self::Fill,
        Self::Slow,
    ];

    /// Its word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spin => "spin",
            Self::Grow => "grow",
            Self::Churn => "churn",
            Self::Hostcalls => "hostcalls",
            Self::Fill => "fill",
            Self::Slow => "slow",
            Self::Machine => "machine",
        }
    }

    /// The class of this word.
    pub fn named(name: &str) -> Result<Self> {
        let known = Self::ALL.into_iter().find(|class| class.name() == name);
        known.with_context(|| format!("CLASSES: there is no {name}"))
    }

    /// What a container does in its place.
    pub fn role(self) -> Option<[String; 2]> {
        let (role, number) = match self {
            Self::Spin => ("spin", 0),
            Self::Grow => ("grow", GROW_MIB),
            Self::Churn => ("churn", 0),
            Self::Fill => ("fill", FILL_MIB),
            Self::Hostcalls | Self::Slow | Self::Machine => return None,
        };
        Some([role.to_owned(), number.to_string()])
    }

    fn guest(self) -> Result<Cow<'static, [u8]>> {
        Ok(Cow::Borrowed(match self {
            Self::Spin => embedded::SPIN,
            Self::Grow => embedded::GROW,
            Self::Churn | Self::Machine => embedded::HELLO,
            Self::Hostcalls => embedded::HOSTCALLS,
            Self::Slow => embedded::ECHO,
            Self::Fill => return Ok(Cow::Owned(guests::filler(FILL_MIB)?)),
        }))
    }

    fn path(self) -> &'static str {
        if matches!(self, Self::Churn) { "/" } else { "/go" }
    }

    fn flags(self) -> Vec<String> {
        let endless = |mib: u32| {
            ["--memory", &format!("{mib}Mi"), "--fuel", "1T", "--timeout", "2s"].map(str::to_owned)
        };
        match self {
            Self::Spin | Self::Hostcalls | Self::Grow => endless(GROW_MIB).to_vec(),
            Self::Fill => endless(FILL_MIB + ROOM_MIB).to_vec(),
            Self::Churn | Self::Slow | Self::Machine => vec![],
        }
    }
}

/// Something with a victim, and with aggressors that wait for their turn.
pub trait Subject {
    /// As in `--against`.
    fn name(&self) -> &'static str;
    /// Where the victim answers.
    fn port(&self) -> u16;
    /// What it is asked.
    fn request(&self) -> Vec<u8>;
    /// CPU time of all of it.
    fn cpu_seconds(&self) -> f64;
    /// Sets the first so many aggressors to work.
    fn attack(&self, aggressors: usize) -> Result<Box<dyn Aggression + '_>>;
    /// Waits until nothing of an attack is left.
    fn settle(&self) -> Result<()>;
}

/// An attack under way.
pub trait Aggression {
    /// Ends it, and says what became of its requests.
    fn end(self: Box<Self>) -> Result<String>;
}

/// A host with tenants.
pub struct Hosted<'a> {
    host: Host,
    class: Class,
    settings: &'a Settings,
    _dir: TempDir,
}

impl<'a> Hosted<'a> {
    /// Starts a host with a victim and as many aggressors as will be needed.
    pub fn start(binary: &Path, class: Class, settings: &'a Settings) -> Result<Self> {
        let workers = u32::try_from(settings.cores.server.len().min(WORKERS_MAX))?;
        let host = Host::start(binary, workers)?;
        let dir = TempDir::new()?;
        let hello = dir.path().join("victim.wasm");
        std::fs::write(&hello, embedded::HELLO)?;
        let hello = hello.to_str().context("path")?;
        // Nothing but the machine is to bound the victim.
        let mut victim =
            vec!["deploy", "victim", hello, "--concurrency", "1000", "--queue", "1000"];
        if !settings.equal {
            victim.extend(["--cpu-request", "500m"]);
        }
        host.cli(&victim)?;
        let file = dir.path().join("aggressor.wasm");
        std::fs::write(&file, class.guest()?)?;
        let flags = class.flags();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        for number in 0..settings.most() {
            let file = file.to_str().context("path")?;
            host.cli(&[&["deploy", &aggressor(number), file], &flags[..]].concat())?;
        }
        Ok(Self { host, class, settings, _dir: dir })
    }
}

fn aggressor(number: usize) -> String {
    format!("aggressor-{number}")
}

impl Subject for Hosted<'_> {
    fn name(&self) -> &'static str {
        "insula"
    }

    fn port(&self) -> u16 {
        self.host.port
    }

    fn request(&self) -> Vec<u8> {
        wire::get("victim", "/")
    }

    fn cpu_seconds(&self) -> f64 {
        self.host.server.cpu_seconds()
    }

    fn attack(&self, aggressors: usize) -> Result<Box<dyn Aggression + '_>> {
        let cores = &self.settings.cores.generator;
        let tenants = (0..aggressors).map(aggressor);
        if matches!(self.class, Class::Machine) {
            let server = &self.settings.cores.server;
            return Ok(Box::new(Spinners::start(server.iter().chain(cores))));
        }
        if matches!(self.class, Class::Slow) {
            let each = SLOW * self.settings.connections;
            return Ok(Box::new(Clients::slow(self.host.port, tenants.collect(), each, cores)));
        }
        let requests = tenants.flat_map(|tenant| {
            let request = wire::get(&tenant, self.class.path());
            std::iter::repeat_n(request, self.settings.connections)
        });
        Ok(Box::new(Clients::closed_loop(self.host.port, requests.collect(), cores)?))
    }

    fn settle(&self) -> Result<()> {
        let until = Instant::now() + Duration::from_secs(30);
        while Instant::now() < until {
            std::thread::sleep(Duration::from_millis(250));
            let (_, body) = self.host.api("GET", "/v1/host", b"")?;
            let info: serde_json::Value = serde_json::from_slice(&body)?;
            let workers = info["workers"].as_array().context("workers")?;
            if workers.iter().all(|worker| worker["running"] == 0) {
                return Ok(());
            }
        }
        bail!("requests still run although their clients have gone")
    }
}

impl Aggression for Spinners {
    fn end(self: Box<Self>) -> Result<String> {
        drop(self);
        Ok(String::new())
    }
}

impl Aggression for Clients {
    fn end(self: Box<Self>) -> Result<String> {
        Ok(Clients::end(*self)?.text())
    }
}

/// Containers that do the same.
pub struct Containered {
    containers: Containers,
    port: u16,
}

impl Containered {
    /// Starts a victim, and as many aggressors as will be needed, which are stopped at once.
    pub fn start(peer: &Path, class: Class, settings: &Settings) -> Result<Self> {
        // As Kubernetes turns requests into shares.
        let (victim, others) = if settings.equal { (1024, 1024) } else { (512, 2) };
        let mut containers = Containers::new(peer)?;
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let memory = u64::from(FILL_MIB + ROOM_MIB) << 20;
        containers.start(&["serve", &port.to_string()], Limits { shares: victim, memory })?;
        let until = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            ensure!(Instant::now() < until, "the server in the container does not answer");
            std::thread::sleep(Duration::from_millis(5));
        }
        let role = class.role().context("no such container")?;
        let role: Vec<&str> = role.iter().map(String::as_str).collect();
        for _ in 0..settings.most() * settings.connections {
            containers.start(&role, Limits { shares: others, memory })?;
            // Until its turn comes.
            containers.running().last().context("just started")?.stop(true)?;
        }
        Ok(Self { containers, port })
    }
}

impl Subject for Containered {
    fn name(&self) -> &'static str {
        "crun"
    }

    fn port(&self) -> u16 {
        self.port
    }

    fn request(&self) -> Vec<u8> {
        wire::get("victim", "/")
    }

    fn cpu_seconds(&self) -> f64 {
        self.containers.running().iter().map(|container| container.cpu_seconds()).sum()
    }

    fn attack(&self, aggressors: usize) -> Result<Box<dyn Aggression + '_>> {
        let attack = Unstopped(&self.containers, aggressors);
        attack.stop(false)?;
        Ok(Box::new(attack))
    }

    fn settle(&self) -> Result<()> {
        std::thread::sleep(Duration::from_millis(250));
        Ok(())
    }
}

/// Containers whose turn it is.
struct Unstopped<'a>(&'a Containers, usize);

impl Unstopped<'_> {
    fn stop(&self, stopped: bool) -> Result<()> {
        // The first is the victim.
        self.0.running().iter().skip(1).take(self.1).try_for_each(|one| one.stop(stopped))
    }
}

impl Aggression for Unstopped<'_> {
    fn end(self: Box<Self>) -> Result<String> {
        self.stop(true)?;
        Ok(String::new())
    }
}
