//! Quotas of namespaces: what all tenants of one may be promised together.
//!
//! What counts is what revisions are allowed, not what they use at the moment: so the sum is known when a
//! revision is deployed, and no tenant can be short of what it was promised because another one grew.
//!
//! A quota refuses what would add to a sum that is then above it, and nothing else. It may be set below
//! what is promised already; then tenants may shrink or stay as they are, as with Kubernetes' ResourceQuota.

use crate::grants::mounts::Access;
use crate::quantity::{ByteSize, MilliCpu};
use crate::{Grants, Limits};
use serde::{Deserialize, Serialize};
use std::fmt;
use utoipa::ToSchema;

/// What a namespace's tenants may have together. Each figure may be none: no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Quota {
    /// Thousandths of a core: the sum of `cpu.limit`.
    pub cpu_m: Option<u64>,
    /// Bytes: the sum of `memory.limit`.
    pub memory_bytes: Option<u64>,
    /// Tenants.
    pub tenants: Option<u64>,
    /// Bytes: the sum of `scratch.quota`, `keyvalue.quota` and the quotas of mounts that can be written.
    pub storage_bytes: Option<u64>,
}

/// A quota as it is written; what is left out has no bound.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct QuotaSpec {
    /// The sum of `cpu.limit`. Every tenant then needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub cpu: Option<MilliCpu>,
    /// The sum of `memory.limit`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub memory: Option<ByteSize>,
    /// How many tenants.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenants: Option<u32>,
    /// The sum of `scratch.quota`, `keyvalue.quota` and the quotas of mounts that can be written. Every
    /// such mount then needs one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub storage: Option<ByteSize>,
}

impl From<QuotaSpec> for Quota {
    fn from(spec: QuotaSpec) -> Self {
        Self {
            cpu_m: spec.cpu.map(|cpu| cpu.0.into()),
            memory_bytes: spec.memory.map(|memory| memory.0),
            tenants: spec.tenants.map(u64::from),
            storage_bytes: spec.storage.map(|storage| storage.0),
        }
    }
}

/// What one revision counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    /// Thousandths of a core; none if it may have the whole machine.
    pub cpu_m: Option<u64>,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Bytes on disk; none if it may write as long as the disk has room.
    pub storage_bytes: Option<u64>,
}

impl Share {
    /// Of a revision with these limits and grants.
    pub fn of(limits: &Limits, grants: Option<&Grants>) -> Self {
        let resources = &limits.resources;
        Self {
            cpu_m: resources.cpu_limit_m.map(u64::from),
            memory_bytes: resources.memory_limit_bytes,
            storage_bytes: grants.map_or(Some(0), storage),
        }
    }
}

fn storage(grants: &Grants) -> Option<u64> {
    let scratch = grants.scratch.iter().map(|scratch| Some(scratch.quota_bytes));
    let stores = grants.keyvalue.iter().map(|stores| Some(stores.quota_bytes));
    let written = grants.mounts.iter().filter(|mount| mount.access == Access::Rw);
    let mut all = scratch.chain(stores).chain(written.map(|mount| mount.quota_bytes));
    all.try_fold(0, |sum: u64, one| Some(sum.saturating_add(one?)))
}

/// What a namespace's tenants have together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Used {
    /// Thousandths of a core, of those with a limit.
    pub cpu_m: u64,
    /// Bytes of memory.
    pub memory_bytes: u64,
    /// Tenants.
    pub tenants: u64,
    /// Bytes on disk, of those with a quota for everything they may write.
    pub storage_bytes: u64,
    /// Tenants without a CPU limit; they were there before the quota for it.
    pub without_cpu_limit: u64,
    /// Tenants that may write to a directory without a quota; they were there before the quota for it.
    pub without_storage_quota: u64,
}

/// The same, while it is kept: wide enough that what was added can be taken away again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    cpu_m: u128,
    memory_bytes: u128,
    tenants: u64,
    storage_bytes: u128,
    without_cpu_limit: u64,
    without_storage_quota: u64,
}

impl Sums {
    /// A tenant has come.
    pub fn add(&mut self, share: Share) {
        self.tenants += 1;
        self.memory_bytes += u128::from(share.memory_bytes);
        match share.cpu_m {
            Some(cpu) => self.cpu_m += u128::from(cpu),
            None => self.without_cpu_limit += 1,
        }
        match share.storage_bytes {
            Some(storage) => self.storage_bytes += u128::from(storage),
            None => self.without_storage_quota += 1,
        }
    }

    /// A tenant that was added has gone.
    pub fn remove(&mut self, share: Share) {
        self.tenants -= 1;
        self.memory_bytes -= u128::from(share.memory_bytes);
        match share.cpu_m {
            Some(cpu) => self.cpu_m -= u128::from(cpu),
            None => self.without_cpu_limit -= 1,
        }
        match share.storage_bytes {
            Some(storage) => self.storage_bytes -= u128::from(storage),
            None => self.without_storage_quota -= 1,
        }
    }

    /// Whether no tenant is left.
    pub fn is_empty(&self) -> bool {
        self.tenants == 0
    }

    /// As it is shown.
    pub fn used(&self) -> Used {
        Used {
            cpu_m: narrow(self.cpu_m),
            memory_bytes: narrow(self.memory_bytes),
            tenants: self.tenants,
            storage_bytes: narrow(self.storage_bytes),
            without_cpu_limit: self.without_cpu_limit,
            without_storage_quota: self.without_storage_quota,
        }
    }
}

fn narrow(sum: u128) -> u64 {
    u64::try_from(sum).unwrap_or(u64::MAX)
}

/// What there are quotas of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Thousandths of a core.
    Cpu,
    /// Bytes.
    Memory,
    /// Tenants.
    Tenants,
    /// Bytes.
    Storage,
}

impl Kind {
    /// The word of the flag and of messages.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
            Self::Tenants => "tenants",
            Self::Storage => "storage",
        }
    }

    /// An amount of it, as it is written in a quota.
    pub fn amount(self, value: u64) -> String {
        match self {
            Self::Cpu => match u32::try_from(value) {
                Ok(milli) => MilliCpu(milli).to_string(),
                Err(_) => format!("{value}m"),
            },
            Self::Memory | Self::Storage => ByteSize(value).to_string(),
            Self::Tenants => value.to_string(),
        }
    }
}

/// Why a revision does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// The sum would be above the quota.
    Sum {
        /// Of what.
        kind: Kind,
        /// The most that it may be.
        quota: u64,
        /// What the namespace's other tenants have.
        used: u64,
        /// What the revision asks for.
        asked: u64,
    },
    /// It asks for no bounded amount, so no sum would hold.
    Unbounded {
        /// Of what.
        kind: Kind,
        /// The most that the sum may be.
        quota: u64,
    },
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Sum { kind, quota, used, asked } => {
                let sum = used.saturating_add(asked);
                let [quota, used, asked, sum] = [quota, used, asked, sum].map(|n| kind.amount(n));
                let kind = kind.as_str();
                write!(
                    f,
                    "{kind}: {used} used by others + {asked} asked = {sum}, above the quota of {quota}"
                )
            }
            Self::Unbounded { kind: Kind::Cpu, quota } => {
                let quota = Kind::Cpu.amount(quota);
                write!(f, "cpu: it has no `cpu.limit`, and a quota of {quota} needs one")
            }
            Self::Unbounded { kind, quota } => {
                let (kind, quota) = (kind.as_str(), kind.amount(quota));
                write!(
                    f,
                    "{kind}: it has a mount with `rw` and no `quota`, and a quota of {quota} needs one"
                )
            }
        }
    }
}

impl Quota {
    /// Everything that keeps a revision out; nothing if it fits. `before` is the share of the tenant's
    /// active revision, which is in `sums`.
    pub fn excesses(&self, mut sums: Sums, before: Option<Share>, asked: Share) -> Vec<Excess> {
        if let Some(before) = before {
            sums.remove(before);
        }
        let others = sums.used();
        let before = |of: fn(Share) -> Option<u64>| before.map(of);
        let checks = [
            (
                Kind::Memory,
                self.memory_bytes,
                others.memory_bytes,
                before(|share| Some(share.memory_bytes)),
                Some(asked.memory_bytes),
            ),
            (Kind::Cpu, self.cpu_m, others.cpu_m, before(|share| share.cpu_m), asked.cpu_m),
            (Kind::Tenants, self.tenants, others.tenants, before(|_| Some(1)), Some(1)),
            (
                Kind::Storage,
                self.storage_bytes,
                others.storage_bytes,
                before(|share| share.storage_bytes),
                asked.storage_bytes,
            ),
        ];
        let check = |(kind, quota, used, before, asked)| excess(kind, quota?, used, before, asked);
        checks.into_iter().filter_map(check).collect()
    }
}

/// One sum. Of `before` and `asked`, `None` within is without a bound, so more than any amount.
fn excess(
    kind: Kind,
    quota: u64,
    used: u64,
    before: Option<Option<u64>>,
    asked: Option<u64>,
) -> Option<Excess> {
    let adds = match (before, asked) {
        (None, _) => asked != Some(0),
        (Some(None), _) => false,
        (Some(Some(_)), None) => true,
        (Some(Some(before)), Some(asked)) => asked > before,
    };
    match asked {
        _ if !adds => None,
        None => Some(Excess::Unbounded { kind, quota }),
        Some(asked) if used.saturating_add(asked) > quota => {
            Some(Excess::Sum { kind, quota, used, asked })
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Ceilings, Manifest};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn share(text: &str) -> Share {
        let manifest = Manifest::from_toml(&format!("name = 'a'\n{text}")).unwrap();
        let resolved = manifest.resolve(&Ceilings::default()).unwrap();
        Share::of(&resolved.limits, Some(&resolved.grants))
    }

    #[test]
    fn a_share_is_what_the_manifest_allows() {
        let plain = share("");
        let default = Share { cpu_m: None, memory_bytes: 1 << 30, storage_bytes: Some(0) };
        assert_eq!(plain, default);
        let full = share(
            "cpu = { request = '100m', limit = '500m' }
             memory = { instance = '1Mi', request = '2Mi', limit = '8Mi' }
             scratch = { quota = '1Mi' }
             keyvalue = { quota = '2Mi' }
             mounts = [{ host = '/a', guest = '/a' },
                       { host = '/b', guest = '/b', access = 'rw', quota = '4Mi' }]",
        );
        let sums = Share { cpu_m: Some(500), memory_bytes: 8 << 20, storage_bytes: Some(7 << 20) };
        assert_eq!(full, sums);
        let open = share("mounts = [{ host = '/b', guest = '/b', access = 'rw' }]");
        assert_eq!(open.storage_bytes, None);
    }

    #[test]
    fn a_refusal_names_the_sums() {
        let quota = Quota {
            cpu_m: Some(1_500),
            memory_bytes: Some(4 << 30),
            tenants: Some(1),
            storage_bytes: Some(0),
        };
        let mut sums = Sums::default();
        sums.add(Share { cpu_m: Some(1_000), memory_bytes: 3 << 30, storage_bytes: Some(0) });
        let asked = Share { cpu_m: Some(750), memory_bytes: 2 << 30, storage_bytes: None };
        let told: Vec<String> =
            quota.excesses(sums, None, asked).iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "memory: 3Gi used by others + 2Gi asked = 5Gi, above the quota of 4Gi",
                "cpu: 1 used by others + 750m asked = 1750m, above the quota of 1500m",
                "tenants: 1 used by others + 1 asked = 2, above the quota of 1",
                "storage: it has a mount with `rw` and no `quota`, and a quota of 0 needs one",
            ]
        );
        let open = Share { cpu_m: None, ..asked };
        let told = quota.excesses(sums, None, open)[1].to_string();
        assert_eq!(told, "cpu: it has no `cpu.limit`, and a quota of 1500m needs one");
    }

    #[test]
    fn a_quota_below_what_is_there_refuses_only_what_adds() {
        let one = |cpu_m| Share { cpu_m, memory_bytes: 10, storage_bytes: Some(0) };
        let quota = Quota { cpu_m: Some(5), ..Quota::default() };
        let mut sums = Sums::default();
        sums.add(one(Some(10)));
        for (asked, fits) in [(Some(10), true), (Some(9), true), (Some(11), false), (None, false)] {
            let excesses = quota.excesses(sums, Some(one(Some(10))), one(asked));
            assert_eq!(excesses.is_empty(), fits, "{asked:?}: {excesses:?}");
        }
        assert!(!quota.excesses(sums, None, one(Some(1))).is_empty());
        // One that was there before the quota may be deployed again as it was, or with a limit.
        let mut sums = Sums::default();
        sums.add(one(None));
        for asked in [None, Some(4)] {
            assert_eq!(quota.excesses(sums, Some(one(None)), one(asked)), []);
        }
    }

    proptest! {
        #[test]
        fn no_order_of_deploys_and_removals_passes_a_quota(
            steps in prop::collection::vec(
                (0_u8..6, any::<bool>(), prop::option::of(0_u64..60), 0_u64..60, prop::option::of(0_u64..60)),
                1..60,
            ),
            bounds in (0_u64..200, 0_u64..200, 0_u64..5, 0_u64..200),
        ) {
            let quota = Quota {
                cpu_m: Some(bounds.0),
                memory_bytes: Some(bounds.1),
                tenants: Some(bounds.2),
                storage_bytes: Some(bounds.3),
            };
            let (mut sums, mut tenants) = (Sums::default(), BTreeMap::new());
            for (tenant, removed, cpu_m, memory_bytes, storage_bytes) in steps {
                let before: Option<Share> = tenants.get(&tenant).copied();
                let asked = Share { cpu_m, memory_bytes, storage_bytes };
                if removed {
                    if let Some(before) = tenants.remove(&tenant) {
                        sums.remove(before);
                    }
                } else if quota.excesses(sums, before, asked).is_empty() {
                    if let Some(before) = before {
                        sums.remove(before);
                    }
                    sums.add(asked);
                    tenants.insert(tenant, asked);
                }
                let used = sums.used();
                prop_assert!(used.cpu_m <= bounds.0 && used.memory_bytes <= bounds.1);
                prop_assert!(used.tenants <= bounds.2 && used.storage_bytes <= bounds.3);
                prop_assert_eq!((used.without_cpu_limit, used.without_storage_quota), (0, 0));
                let mut again = Sums::default();
                tenants.values().for_each(|share| again.add(*share));
                prop_assert_eq!(again, sums);
            }
        }

        #[test]
        fn sums_of_the_largest_shares_are_exact(count in 1_usize..5, cpu_m: u64) {
            let huge = Share { cpu_m: Some(cpu_m), memory_bytes: u64::MAX, storage_bytes: Some(u64::MAX) };
            let mut sums = Sums::default();
            (0..count).for_each(|_| sums.add(huge));
            (1..count).for_each(|_| sums.remove(huge));
            prop_assert_eq!(sums.used().cpu_m, cpu_m);
            prop_assert_eq!(sums.used().memory_bytes, u64::MAX);
        }
    }
}
