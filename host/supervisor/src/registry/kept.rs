//! A tenant as the registry keeps it: in some two hundred bytes, because most of what is deployed is idle.
//!
//! Whoever asks for a tenant gets it unpacked, a microsecond's work. Kept whole are those with a schedule
//! (the board of jobs has them anyway), canaries, and whoever is granted secrets, since a value that is no
//! longer needed is erased from memory only as a [`insula_model::grants::secrets::SecretValue`].

use super::Tenant;
use insula_model::Namespace;
use insula_model::wire::TenantEntry;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A slot's tenant, and which one it is of those that the registry has had, in order.
#[derive(Debug, Clone)]
pub(super) enum Kept {
    Packed { version: u32, bytes: Arc<[u8]> },
    Whole { version: u32, tenant: Arc<Tenant> },
}

#[derive(Serialize)]
struct Packing<'a> {
    entry: &'a TenantEntry,
    namespace: &'a Namespace,
    deployed_at: &'a str,
    stopped_at: Option<&'a str>,
}

/// The same, unpacked; the same fields in the same order.
#[derive(Deserialize)]
struct Unpacked {
    entry: TenantEntry,
    namespace: Namespace,
    deployed_at: String,
    stopped_at: Option<String>,
}

impl Kept {
    pub(super) fn new(tenant: Tenant, version: u32) -> Self {
        let entry = &tenant.entry;
        let is_plain =
            tenant.schedule.is_none() && entry.secrets.is_empty() && entry.canary.is_none();
        let packed = is_plain.then(|| {
            postcard::to_stdvec(&Packing {
                entry,
                namespace: &tenant.namespace,
                deployed_at: &tenant.deployed_at,
                stopped_at: tenant.stopped_at.as_deref(),
            })
        });
        match packed {
            Some(Ok(bytes)) => Self::Packed { version, bytes: bytes.into() },
            _ => Self::Whole { version, tenant: Arc::new(tenant) },
        }
    }

    pub(super) fn whole(tenant: Arc<Tenant>, version: u32) -> Self {
        Self::Whole { version, tenant }
    }

    pub(super) fn version(&self) -> u32 {
        let (Self::Packed { version, .. } | Self::Whole { version, .. }) = self;
        *version
    }

    /// The tenant, if it is kept whole.
    pub(super) fn as_whole(&self) -> Option<&Arc<Tenant>> {
        match self {
            Self::Packed { .. } => None,
            Self::Whole { tenant, .. } => Some(tenant),
        }
    }

    pub(super) fn get(&self) -> Option<Arc<Tenant>> {
        let bytes = match self {
            Self::Whole { tenant, .. } => return Some(tenant.clone()),
            Self::Packed { bytes, .. } => bytes,
        };
        match postcard::from_bytes::<Unpacked>(bytes) {
            Ok(Unpacked { entry, namespace, deployed_at, stopped_at }) => {
                let tenant = Tenant { entry, schedule: None, namespace, deployed_at, stopped_at };
                Some(Arc::new(tenant))
            }
            Err(error) => {
                tracing::error!(%error, "a tenant in the registry cannot be read: a bug");
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use insula_model::api::GuestKind;
    use insula_model::{Ceilings, Digest, Manifest};
    use serde_json::{Value, json};

    fn tenant(manifest: Value) -> Tenant {
        let manifest: Manifest = serde_json::from_value(manifest).unwrap();
        let resolved = manifest.resolve(&Ceilings::default()).unwrap();
        Tenant {
            entry: TenantEntry {
                slot: 70_000,
                name: resolved.name,
                revision: 3,
                digest: Digest([9; 32]),
                kind: GuestKind::Http02,
                routes: resolved.routes,
                limits: resolved.limits,
                grants: (!resolved.grants.is_empty()).then(|| Box::new(resolved.grants)),
                secrets: Vec::new(),
                stopped: false,
                job: resolved.schedule.is_some(),
                access_log: resolved.access_log,
                canary: None,
            },
            schedule: resolved.schedule,
            namespace: Namespace::default(),
            deployed_at: "2026-01-02T03:04:05.678901Z".into(),
            stopped_at: None,
        }
    }

    #[test]
    fn what_is_asked_for_is_what_was_put_in() {
        let plain = json!({"name": "plain", "component": "a.wasm"});
        let rich = json!({
            "name": "rich", "component": "a.wasm", "routes": ["example.org/a", "example.org/b"],
            "env": {"A": "B"}, "reuse": {"requests": 10, "idle": "1s"}, "access_log": "1%",
            "cpu": {"request": "100m", "limit": "500m"}, "keyvalue": {"quota": "1Mi"},
        });
        for manifest in [plain, rich] {
            let (before, same) = (tenant(manifest.clone()), tenant(manifest));
            let kept = Kept::new(same, 5);
            assert!(kept.as_whole().is_none());
            let after = kept.get().unwrap();
            assert_eq!((&after.entry, &after.namespace), (&before.entry, &before.namespace));
            assert_eq!(after.deployed_at, before.deployed_at);
            assert_eq!((after.stopped_at.as_ref(), kept.version()), (None, 5));
        }
    }

    #[test]
    fn a_plain_tenant_is_kept_in_few_bytes() {
        let name = "a-name-of-some-length";
        let kept = Kept::new(tenant(json!({"name": name, "component": "a.wasm"})), 1);
        let Kept::Packed { bytes, .. } = kept else { panic!("it is kept whole") };
        assert!(bytes.len() < 250, "{} bytes", bytes.len());
    }

    #[test]
    fn who_has_a_schedule_is_kept_whole() {
        let nightly = json!({"name": "n", "component": "a.wasm", "schedule": "0 3 * * *"});
        assert!(Kept::new(tenant(nightly), 1).as_whole().is_some());
    }
}
