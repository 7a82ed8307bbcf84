//! `insula.toml`: what a user writes about one tenant.
//!
//! Two steps, as ripgrep does with its arguments: [`Manifest`] is what was written (nothing filled
//! in), [`Manifest::resolve`] fills in defaults and holds the result against the host's
//! [`Ceilings`].

use crate::access_log::Sample;
use crate::breaker::BreakerSpec;
use crate::grants::mounts::{MountSpec, ScratchSpec};
use crate::grants::outbound::OutboundSpec;
use crate::grants::schedule::Schedule;
use crate::grants::secrets::{SecretKey, SecretVia};
use crate::grants::sockets::SocketRule;
use crate::grants::{BuildSpec, ClockSpec, Grants, KeyValueSpec};
pub use crate::limits::ReuseSpec;
use crate::limits::resolve_max_age;
use crate::probe::{Probe, ProbeSpec};
use crate::quantity::{ByteSize, Count, DurationMs};
use crate::resources::{CpuSpec, MemorySpec, RateSpec};
use crate::rollout::{Rollout, RolloutSpec};
use crate::{Ceilings, Limits, Metering, Namespace, Route, TenantName};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// The name of a manifest file.
pub const MANIFEST_FILE: &str = "insula.toml";
/// The largest manifest that is read, in bytes.
pub const MANIFEST_BYTES_MAX: usize = 64 << 10;

/// One tenant as written in `insula.toml`, or as put together from the flags of `insula deploy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// The tenant's name.
    #[schema(value_type = String)]
    pub name: TenantName,
    /// The group of tenants whose quota it counts against; it must exist. Default: `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub namespace: Option<Namespace>,
    /// Path of the component, relative to the manifest. The CLI reads the file and sends its digest;
    /// the host never opens this path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub component: Option<String>,
    /// `host[/prefix]` entries. Default: `NAME.localhost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub routes: Option<Vec<Route>>,
    /// Memory of one instance, and of all of them. Default 64Mi and 1Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<crate::resources::MemoryWritten>)]
    pub memory: Option<MemorySpec>,
    /// Share of the CPU, and bound on it. Default: what others leave, up to the whole machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<CpuSpec>,
    /// Requests in a second. Default: as many as come.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<RateSpec>,
    /// When it is taken out of service for failing. Default: 100 faults within 10s in one worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub breaker: Option<BreakerSpec>,
    /// Fuel of one request. Default 1G.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub fuel: Option<Count>,
    /// What computing is measured by: `fuel`, counted exactly, or `time` alone, which makes computing
    /// cheaper. Default fuel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metering: Option<Metering>,
    /// Wall-clock time of one request. Default 10s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub timeout: Option<DurationMs>,
    /// Requests running at once, over all workers. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub concurrency: Option<u32>,
    /// Requests waiting for a place, in each worker. Default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<u32>,
    /// How long a request waits for a place. Default 1s.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub queue_wait: Option<DurationMs>,
    /// Limits on what a client sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<RequestLimits>,
    /// Limits on what the guest sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub response: Option<ResponseLimits>,
    /// Let one instance serve several requests. Default: a fresh instance for every request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reuse: Option<ReuseSpec>,
    /// How old instances and loaded code may get, from 1s. Default: as old as they are used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub max_age: Option<DurationMs>,
    /// Requests that the access log gets: true, false or a percentage. Default: the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub access_log: Option<Sample>,
    /// Arguments after the program's name. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<String>>,
    /// Environment variables. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env: Option<BTreeMap<String, String>>,
    /// What the guest reads through `wasi:config/store`. Default: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<BTreeMap<String, String>>,
    /// Secrets that the guest gets, and how: `{ API_KEY = "env" }`, or `"config"`. Their values are set
    /// with `insula secret set`. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<BTreeMap<String, SecretVia>>)]
    pub secrets: Option<BTreeMap<SecretKey, SecretVia>>,
    /// Directories of the host. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mounts: Option<Vec<MountSpec>>,
    /// A private directory. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<ScratchSpec>,
    /// HTTP calls to other hosts and tenants. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outbound: Option<OutboundSpec>,
    /// `wasi:keyvalue`. Default: no store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keyvalue: Option<KeyValueSpec>,
    /// What clocks show. Default: the time, to the millisecond.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clock: Option<ClockSpec>,
    /// Draw all randomness from this seed. Default: real randomness.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seed: Option<u64>,
    /// Peers that raw sockets may reach. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Vec<String>>)]
    pub sockets: Option<Vec<SocketRule>>,
    /// Run a command at these times instead of serving it. Default: it is served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub schedule: Option<Schedule>,
    /// What a revision must answer before it is published. Default: it is loaded, and a handler is
    /// instantiated, but it is asked nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<ProbeSpec>,
    /// Give a new revision a part of the requests at first. Default: it gets all of them at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<RolloutSpec>,
    /// How the component is made: for `insula dev`; the host ignores it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub build: Option<BuildSpec>,
}

/// `[request]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RequestLimits {
    /// Bytes of the body. Default 10Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub body: Option<ByteSize>,
    /// Bytes of the head: target, field names and values. Default 32Ki.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub header: Option<ByteSize>,
}

/// `[response]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ResponseLimits {
    /// Bytes of the body. Default 10Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub body: Option<ByteSize>,
}

/// A manifest with every default filled in and every ceiling checked: what a revision keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolved {
    /// The tenant's name.
    pub name: TenantName,
    /// Its namespace. Left out where it is the default, so that revisions of before there were any read
    /// as they did.
    #[serde(default, skip_serializing_if = "Namespace::is_default")]
    pub namespace: Namespace,
    /// Routes, without repetitions. At least one, unless it has a schedule.
    pub routes: Vec<Route>,
    /// All limits.
    pub limits: Limits,
    /// All that it may reach.
    #[serde(default)]
    pub grants: Grants,
    /// When it runs, if it is a job.
    #[serde(default)]
    pub schedule: Option<Schedule>,
    /// What it must answer before it is published. Left out where there is none, as is `rollout`, so that
    /// revisions of before there were any read as they did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Probe>,
    /// How it takes over from the revision before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollout: Option<Rollout>,
    /// Which requests the access log gets; none leaves it to the host.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access_log: Option<Sample>,
}

/// Why a manifest was refused.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// Not TOML, an unknown or missing field, or a value that cannot be read. The text points at line
    /// and column.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// The file is larger than any manifest.
    #[error("a manifest has at most {MANIFEST_BYTES_MAX} bytes; this one has {0}")]
    TooLong(usize),
    /// More than the host allows.
    #[error(
        "`{field} = {asked}` is above this host's ceiling of {ceiling}; ask for at most {ceiling}, or have the operator raise `ceilings.{key}`"
    )]
    AboveCeiling {
        /// The manifest's field.
        field: &'static str,
        /// The key in the host's `[ceilings]`.
        key: &'static str,
        /// What was asked for.
        asked: String,
        /// What the host allows.
        ceiling: String,
    },
    /// Less than anything could run with.
    #[error("`{field} = {asked}` is too little; ask for at least {floor}")]
    BelowFloor {
        /// The manifest's field.
        field: &'static str,
        /// What was asked for.
        asked: String,
        /// The least that makes sense.
        floor: String,
    },
    /// `routes = []`.
    #[error(
        "`routes` is empty; leave it out for the default `NAME.localhost`, or name at least one"
    )]
    NoRoutes,
    /// The same route twice.
    #[error("route `{0}` is named twice")]
    RepeatedRoute(Route),
    /// A grant that cannot be given as it is written.
    #[error("`{field}`: {why}")]
    Grant {
        /// The manifest's field.
        field: &'static str,
        /// The cause and the mend.
        why: String,
    },
}

pub(crate) fn within<T: Ord + Copy + ToString>(
    field: &'static str,
    key: &'static str,
    asked: T,
    floor: T,
    ceiling: T,
) -> Result<T, ManifestError> {
    if asked > ceiling {
        return Err(ManifestError::AboveCeiling {
            field,
            key,
            asked: asked.to_string(),
            ceiling: ceiling.to_string(),
        });
    }
    if asked < floor {
        return Err(ManifestError::BelowFloor {
            field,
            asked: asked.to_string(),
            floor: floor.to_string(),
        });
    }
    Ok(asked)
}

impl Manifest {
    /// A manifest that names nothing but the tenant.
    pub fn named(name: TenantName) -> Self {
        Self {
            name,
            namespace: None,
            component: None,
            routes: None,
            memory: None,
            cpu: None,
            rate: None,
            breaker: None,
            fuel: None,
            metering: None,
            timeout: None,
            concurrency: None,
            queue: None,
            queue_wait: None,
            request: None,
            response: None,
            reuse: None,
            max_age: None,
            access_log: None,
            args: None,
            env: None,
            config: None,
            secrets: None,
            mounts: None,
            scratch: None,
            outbound: None,
            keyvalue: None,
            clock: None,
            seed: None,
            sockets: None,
            schedule: None,
            probe: None,
            rollout: None,
            build: None,
        }
    }

    /// Reads `insula.toml`. Errors point at line and column.
    pub fn from_toml(text: &str) -> Result<Self, ManifestError> {
        if text.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLong(text.len()));
        }
        Ok(toml::from_str(text)?)
    }

    /// Fills in the defaults and holds everything against `ceilings`. A default above a ceiling is
    /// lowered to it: only what was asked for can be too much.
    pub fn resolve(&self, ceilings: &Ceilings) -> Result<Resolved, ManifestError> {
        let c = ceilings;
        let request = self.request.clone().unwrap_or_default();
        let response = self.response.clone().unwrap_or_default();
        let routes = match &self.routes {
            None if self.schedule.is_some() => Vec::new(),
            None => vec![Route::default_for(&self.name)],
            Some(routes) if routes.is_empty() => return Err(ManifestError::NoRoutes),
            Some(routes) => routes.clone(),
        };
        let count = u32::try_from(routes.len()).unwrap_or(u32::MAX);
        within("routes", "routes", count, 0, c.routes)?;
        if let Some((i, again)) = routes.iter().enumerate().find(|(i, r)| routes[..*i].contains(r))
        {
            debug_assert!(i > 0);
            return Err(ManifestError::RepeatedRoute(again.clone()));
        }
        let memory = self.memory.and_then(|memory| memory.instance);
        let memory = memory.unwrap_or(ByteSize(64 << 20).min(c.memory));
        let metering = self.metering.unwrap_or_default();
        let fuel = self.resolve_fuel(metering, c)?;
        let timeout = self.timeout.unwrap_or(DurationMs(10_000).min(c.timeout));
        let concurrency = self.concurrency.unwrap_or(100.min(c.concurrency));
        let queue = self.queue.unwrap_or(100.min(c.queue));
        let queue_wait = self.queue_wait.unwrap_or(DurationMs(1_000).min(c.queue_wait));
        let request_body = request.body.unwrap_or(ByteSize(10 << 20).min(c.request_body));
        let header = request.header.unwrap_or(ByteSize(32 << 10).min(c.request_header));
        let response_body = response.body.unwrap_or(ByteSize(10 << 20).min(c.response_body));
        let header = within(
            "request.header",
            "request_header",
            header,
            ByteSize(1 << 10),
            c.request_header,
        )?;
        let reuse = self.reuse.as_ref().map(|reuse| reuse.resolve(c)).transpose()?;
        let limits = Limits {
            memory_bytes: within("memory", "memory", memory, ByteSize(64 << 10), c.memory)?.0,
            fuel,
            metering,
            timeout_ms: within("timeout", "timeout", timeout, DurationMs(1), c.timeout)?.0,
            concurrency: within("concurrency", "concurrency", concurrency, 1, c.concurrency)?,
            queue: within("queue", "queue", queue, 0, c.queue)?,
            queue_wait_ms: within(
                "queue_wait",
                "queue_wait",
                queue_wait,
                DurationMs(0),
                c.queue_wait,
            )?
            .0,
            request_body_bytes: within(
                "request.body",
                "request_body",
                request_body,
                ByteSize(0),
                c.request_body,
            )?
            .0,
            request_header_bytes: u32::try_from(header.0).unwrap_or(u32::MAX),
            response_body_bytes: within(
                "response.body",
                "response_body",
                response_body,
                ByteSize(0),
                c.response_body,
            )?
            .0,
            reuse,
            max_age_ms: resolve_max_age(self.max_age, c)?,
            resources: self.resolve_resources(c)?,
        };
        let grants = self.resolve_grants(limits.timeout_ms, c)?;
        self.refuse_requests_of_jobs()?;
        Ok(Resolved {
            name: self.name.clone(),
            namespace: self.namespace.clone().unwrap_or_default(),
            routes,
            limits,
            grants,
            schedule: self.schedule.clone(),
            access_log: self.access_log,
            probe: self.probe.as_ref().map(ProbeSpec::resolve).transpose()?,
            rollout: self.rollout.as_ref().map(|spec| spec.resolve(c)).transpose()?,
        })
    }

    /// A job that is not served as well has no requests that could be probed or shared.
    fn refuse_requests_of_jobs(&self) -> Result<(), ManifestError> {
        let refuse = |field| {
            let why = "a job answers no requests; leave it out, or leave out `schedule`".into();
            Err(ManifestError::Grant { field, why })
        };
        match self {
            Self { schedule: None, .. } | Self { routes: Some(_), .. } => Ok(()),
            Self { probe: Some(_), .. } => refuse("probe"),
            Self { rollout: Some(_), .. } => refuse("rollout"),
            _ => Ok(()),
        }
    }

    fn resolve_fuel(&self, metering: Metering, c: &Ceilings) -> Result<u64, ManifestError> {
        match (metering, self.fuel) {
            (Metering::Fuel, asked) => {
                let fuel = asked.unwrap_or(Count(1_000_000_000).min(c.fuel));
                Ok(within("fuel", "fuel", fuel, Count(10_000), c.fuel)?.0)
            }
            (Metering::Time, None) => Ok(0),
            (Metering::Time, Some(_)) => Err(ManifestError::Grant {
                field: "fuel",
                why: "it is not counted with `metering = \"time\"`; leave it out and bound the guest \
                      by `timeout` and `cpu`, or leave out `metering`"
                    .into(),
            }),
        }
    }
}

#[cfg(test)]
mod tests;
