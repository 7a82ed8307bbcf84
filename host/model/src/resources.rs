//! What a tenant may use of the machine beside its neighbours: CPU share and quota, memory over all of
//! its instances, and request rate.
//!
//! The words and rules are Kubernetes': a request is what a tenant is weighed by, a limit is what it never
//! passes, and both together give its class of service.

use crate::breaker::Breaker;
use crate::manifest::{ManifestError, within};
use crate::quantity::{ByteSize, MilliCpu};
use crate::{Ceilings, Manifest};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Weight of a tenant that requested no CPU, as cgroup v1's least `cpu.shares` in Kubernetes: it gets what
/// others leave, and its part of a full machine is 2 against 1 for each requested millicore of others.
const WEIGHT_MIN: u32 = 2;
/// A tenant's memory limit where its manifest has none.
const MEMORY_LIMIT_DEFAULT: ByteSize = ByteSize(1 << 30);

/// All of it, resolved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(default)]
pub struct Resources {
    /// Thousandths of a core that the tenant is weighed by when the machine is full; 0 for none.
    pub cpu_request_m: u32,
    /// Thousandths of a core that it never passes, over all workers; none for the whole machine.
    pub cpu_limit_m: Option<u32>,
    /// Bytes that it asked for over all of its instances; 0 for none.
    pub memory_request_bytes: u64,
    /// Bytes of memories and tables that all of its instances may have together.
    pub memory_limit_bytes: u64,
    /// Its class of service.
    pub qos: Qos,
    /// How often it may be called.
    pub rate: Option<Rate>,
    /// When it is taken out of service for failing.
    pub breaker: Breaker,
}

impl Default for Resources {
    fn default() -> Self {
        Self {
            cpu_request_m: 0,
            cpu_limit_m: None,
            memory_request_bytes: 0,
            memory_limit_bytes: MEMORY_LIMIT_DEFAULT.0,
            qos: Qos::default(),
            rate: None,
            breaker: Breaker::default(),
        }
    }
}

impl Resources {
    /// Its weight against other tenants when the machine is full.
    pub fn weight(&self) -> u32 {
        self.cpu_request_m.max(WEIGHT_MIN)
    }
}

/// Class of service, by Kubernetes' rule for pods
/// (<https://kubernetes.io/docs/concepts/workloads/pods/pod-qos/>). In the order in which
/// tenants are refused when the host's memory runs low.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema,
)]
#[serde(rename_all = "kebab-case")]
pub enum Qos {
    /// Neither requests nor limits.
    #[default]
    BestEffort,
    /// Some requests or limits.
    Burstable,
    /// Limits on CPU and memory, and requests that equal them.
    Guaranteed,
}

impl Qos {
    /// The word that CLI and API show.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BestEffort => "best-effort",
            Self::Burstable => "burstable",
            Self::Guaranteed => "guaranteed",
        }
    }
}

/// A token bucket of requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Rate {
    /// Requests in a second, over all workers.
    pub requests: u32,
    /// Requests that may come at once after a pause.
    pub burst: u32,
}

/// `memory = "64Mi"`, or `memory = { instance = "64Mi", request = "256Mi", limit = "1Gi" }`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "MemoryWritten", into = "MemoryWritten")]
pub struct MemorySpec {
    /// Memory of one instance: all linear memories and tables. Default 64Mi.
    pub instance: Option<ByteSize>,
    /// What the tenant asks for over all of its instances. Default: `limit`, if there is one.
    pub request: Option<ByteSize>,
    /// What all of its instances may hold together, all linear memories and tables. Default 1Gi.
    pub limit: Option<ByteSize>,
}

/// `[memory]`; a single size stands for `instance`.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MemoryTable {
    /// Memory of one instance: all linear memories and tables. Default 64Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub instance: Option<ByteSize>,
    /// What the tenant asks for over all of its instances. Default: `limit`, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub request: Option<ByteSize>,
    /// What all of its instances may hold together, all linear memories and tables. Default 1Gi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub limit: Option<ByteSize>,
}

/// `memory` as it is written.
#[derive(Debug, Clone, Copy, Serialize, ToSchema)]
#[serde(untagged)]
pub enum MemoryWritten {
    /// An instance's.
    #[schema(value_type = String)]
    Size(ByteSize),
    /// An instance's and the tenant's.
    Table(MemoryTable),
}

/// By hand, since what `untagged` derives would forget where and why a size could not be read.
impl<'de> Deserialize<'de> for MemoryWritten {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        use serde::de::value::MapAccessDeserializer;
        use serde::de::{Error, MapAccess, Visitor};
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = MemoryWritten;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a size such as `64Mi`, or a table with `instance`, `request`, `limit`")
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<MemoryWritten, E> {
                text.parse().map(MemoryWritten::Size).map_err(E::custom)
            }
            fn visit_u64<E: Error>(self, bytes: u64) -> Result<MemoryWritten, E> {
                Ok(MemoryWritten::Size(ByteSize(bytes)))
            }
            fn visit_i64<E: Error>(self, bytes: i64) -> Result<MemoryWritten, E> {
                let bytes =
                    u64::try_from(bytes).map_err(|_| E::custom("a size is not negative"))?;
                Ok(MemoryWritten::Size(ByteSize(bytes)))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<MemoryWritten, A::Error> {
                MemoryTable::deserialize(MapAccessDeserializer::new(map)).map(MemoryWritten::Table)
            }
        }
        from.deserialize_any(Either)
    }
}

impl From<MemoryWritten> for MemorySpec {
    fn from(written: MemoryWritten) -> Self {
        match written {
            MemoryWritten::Size(size) => Self { instance: Some(size), ..Self::default() },
            MemoryWritten::Table(MemoryTable { instance, request, limit }) => {
                Self { instance, request, limit }
            }
        }
    }
}

impl From<MemorySpec> for MemoryWritten {
    fn from(spec: MemorySpec) -> Self {
        match spec {
            MemorySpec { instance: Some(size), request: None, limit: None } => Self::Size(size),
            MemorySpec { instance, request, limit } => {
                Self::Table(MemoryTable { instance, request, limit })
            }
        }
    }
}

/// `cpu = { request = "100m", limit = "500m" }`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CpuSpec {
    /// What the tenant is weighed by when the machine is full. Default: `limit`, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub request: Option<MilliCpu>,
    /// What it never passes, over all workers; after a pause, a tenth of a second's worth may come at
    /// once. Default: the whole machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub limit: Option<MilliCpu>,
}

/// `rate = { requests = 100, burst = 200 }`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RateSpec {
    /// Requests in a second, over all workers; more get 429.
    pub requests: u32,
    /// Requests that may come at once after a pause. Default: `requests`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<u32>,
}

impl Manifest {
    pub(crate) fn resolve_resources(&self, c: &Ceilings) -> Result<Resources, ManifestError> {
        let memory = self.memory.unwrap_or_default();
        let cpu = self.cpu.unwrap_or_default();
        let asked = memory.limit.unwrap_or(MEMORY_LIMIT_DEFAULT.min(c.tenant_memory));
        let floor = ByteSize(64 << 10);
        let memory_limit = within("memory.limit", "tenant_memory", asked, floor, c.tenant_memory)?;
        let memory_request = memory.request.or(memory.limit).unwrap_or(ByteSize(0));
        not_above("memory", memory_request, memory_limit)?;
        let (least, most) = (MilliCpu(1), c.cpu);
        let cpu_limit =
            cpu.limit.map(|limit| within("cpu.limit", "cpu", limit, least, most)).transpose()?;
        let cpu_request = cpu.request.or(cpu.limit);
        let cpu_request = cpu_request
            .map(|request| within("cpu.request", "cpu", request, least, most))
            .transpose()?;
        if let (Some(request), Some(limit)) = (cpu_request, cpu_limit) {
            not_above("cpu", request, limit)?;
        }
        let rate = match self.rate {
            None => None,
            Some(RateSpec { requests, burst }) => Some(Rate {
                requests: within("rate.requests", "rate", requests, 1, c.rate)?,
                burst: within("rate.burst", "rate", burst.unwrap_or(requests), 1, c.rate)?,
            }),
        };
        let set = [memory.limit.is_some(), memory.request.is_some(), cpu_request.is_some()];
        let qos = if memory.limit.is_some_and(|limit| limit == memory_request)
            && cpu_limit.is_some()
            && cpu_limit == cpu_request
        {
            Qos::Guaranteed
        } else if set.contains(&true) {
            Qos::Burstable
        } else {
            Qos::BestEffort
        };
        Ok(Resources {
            cpu_request_m: cpu_request.map_or(0, |request| request.0),
            cpu_limit_m: cpu_limit.map(|limit| limit.0),
            memory_request_bytes: memory_request.0,
            memory_limit_bytes: memory_limit.0,
            qos,
            rate,
            breaker: self.breaker.unwrap_or_default().resolve(c)?,
        })
    }
}

/// A request above its limit could never be given.
fn not_above<T: Ord + ToString>(
    field: &'static str,
    request: T,
    limit: T,
) -> Result<(), ManifestError> {
    if request <= limit {
        return Ok(());
    }
    let why = format!(
        "request {} is above limit {}; ask for no more than the limit",
        request.to_string(),
        limit.to_string()
    );
    Err(ManifestError::Grant { field, why })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn resolved(text: &str) -> Resources {
        let manifest = Manifest::from_toml(&format!("name = 'a'\n{text}")).unwrap();
        manifest.resolve(&Ceilings::default()).unwrap().limits.resources
    }

    fn refused(text: &str) -> String {
        match Manifest::from_toml(&format!("name = 'a'\n{text}")) {
            Err(error) => error.to_string(),
            Ok(manifest) => manifest.resolve(&Ceilings::default()).unwrap_err().to_string(),
        }
    }

    #[test]
    fn classes_follow_the_rule_for_pods() {
        for (text, qos) in [
            ("", Qos::BestEffort),
            ("memory = '32Mi'", Qos::BestEffort),
            ("cpu = { request = '100m' }", Qos::Burstable),
            ("cpu = { limit = '100m' }", Qos::Burstable),
            ("memory = { limit = '64Mi' }", Qos::Burstable),
            ("memory = { request = '64Mi' }", Qos::Burstable),
            ("memory = { limit = '64Mi' }\ncpu = { limit = 1 }", Qos::Guaranteed),
            ("memory = { limit = '64Mi', request = '32Mi' }\ncpu = { limit = 1 }", Qos::Burstable),
            ("memory = { limit = '64Mi' }\ncpu = { request = 1, limit = 2 }", Qos::Burstable),
            ("memory = { request = '1Gi' }\ncpu = { limit = 1 }", Qos::Burstable),
        ] {
            assert_eq!(resolved(text).qos, qos, "{text}");
        }
    }

    #[test]
    fn a_limit_alone_is_also_the_request() {
        let resources = resolved("cpu = { limit = '250m' }\nmemory = { limit = '64Mi' }");
        assert_eq!((resources.cpu_request_m, resources.cpu_limit_m), (250, Some(250)));
        assert_eq!(resources.memory_request_bytes, 64 << 20);
        assert_eq!(resolved("").weight(), 2);
    }

    #[test]
    fn what_cannot_be_given_is_refused_with_its_reason() {
        for (text, says) in [
            ("cpu = { request = '2', limit = '1' }", "request 2 is above limit 1"),
            ("cpu = { limit = '0' }", "too little"),
            ("cpu = { limit = 100000 }", "ceiling"),
            ("cpu = { limits = 1 }", "unknown field"),
            ("memory = { limit = '32Mi', request = '64Mi' }", "above limit"),
            ("memory = { lmit = '32Mi' }", "unknown field"),
            ("memory = '64MB'", "unknown unit `MB`"),
            ("rate = { requests = 0 }", "too little"),
        ] {
            let error = refused(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    proptest! {
        #[test]
        fn memory_reads_back_as_it_was_written(instance: Option<u64>, limit: Option<u64>) {
            let spec = MemorySpec {
                instance: instance.map(ByteSize),
                request: None,
                limit: limit.map(ByteSize),
            };
            let json = serde_json::to_string(&spec).unwrap();
            prop_assert_eq!(serde_json::from_str::<MemorySpec>(&json).unwrap(), spec);
        }
    }
}
