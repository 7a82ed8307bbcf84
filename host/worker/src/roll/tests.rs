#![allow(clippy::unwrap_used)]
use super::*;
use crate::tenant_log::TenantLog;
use insula_model::api::GuestKind;
use insula_model::{Ceilings, Digest, Manifest};
use proptest::prelude::*;
use std::collections::BTreeMap;

const SLOTS: u32 = 6;
const HOSTS: [&str; 3] = ["a.example", "b.example", "c.example"];
const PREFIXES: [&str; 4] = ["/", "/x", "/x/y", "/z"];

fn entry(slot: u32, name: u32, routes: &[(usize, usize)]) -> TenantEntry {
    let routes: Vec<String> =
        routes.iter().map(|(host, prefix)| HOSTS[*host].to_owned() + PREFIXES[*prefix]).collect();
    let manifest: Manifest = serde_json::from_value(serde_json::json!({
        "name": format!("tenant-{name}"), "component": "a.wasm", "routes": routes,
    }))
    .unwrap();
    let resolved = manifest.resolve(&Ceilings::default()).unwrap();
    TenantEntry {
        slot,
        name: resolved.name,
        revision: 1,
        digest: Digest([1; 32]),
        kind: GuestKind::Http02,
        routes: resolved.routes,
        limits: resolved.limits,
        grants: None,
        secrets: Vec::new(),
        job: false,
        stopped: false,
        access_log: None,
        canary: None,
    }
}

fn woken(entry: TenantEntry) -> Rc<Tenant> {
    let (lines, _) = tokio::sync::mpsc::channel(1);
    let log = TenantLog::new(entry.slot, entry.name.clone(), entry.revision, lines);
    let share = insula_model::access_log::Sample::default();
    Rc::new(Tenant::new(entry, None, log, share, crate::pool::Total::new(1)))
}

#[derive(Debug, Clone)]
enum Step {
    Put { slot: u32, routes: Vec<(usize, usize)>, awake: bool },
    Wake { slot: u32 },
    Remove { slot: u32 },
}

fn step() -> impl Strategy<Value = Step> {
    let route = (0..HOSTS.len(), 0..PREFIXES.len());
    let routes = proptest::collection::btree_set(route, 1..5)
        .prop_map(|routes| routes.into_iter().collect());
    prop_oneof![
        4 => (0..SLOTS, routes, any::<bool>())
            .prop_map(|(slot, routes, awake)| Step::Put { slot, routes, awake }),
        1 => (0..SLOTS).prop_map(|slot| Step::Wake { slot }),
        1 => (0..SLOTS).prop_map(|slot| Step::Remove { slot }),
    ]
}

/// The same by lists.
#[derive(Default)]
struct Plain {
    routes: BTreeMap<(usize, usize), u32>,
    there: BTreeMap<u32, Vec<(usize, usize)>>,
}

impl Plain {
    fn remove(&mut self, slot: u32) {
        for route in self.there.remove(&slot).unwrap_or_default() {
            if self.routes.get(&route) == Some(&slot) {
                self.routes.remove(&route);
            }
        }
    }

    fn find(&self, host: usize, path: &str) -> Option<u32> {
        let led = self
            .routes
            .iter()
            .filter(|((own, prefix), _)| *own == host && prefix_matches(PREFIXES[*prefix], path));
        led.max_by_key(|((_, prefix), _)| PREFIXES[*prefix].len()).map(|(_, slot)| *slot)
    }
}

proptest! {
    #[test]
    fn names_and_routes_lead_where_they_were_put_last(steps in proptest::collection::vec(step(), 1..40)) {
        let (mut roll, mut plain) = (Roll::default(), Plain::default());
        for step in steps {
            match step {
                Step::Put { slot, routes, awake } => {
                    let entry = entry(slot, slot, &routes);
                    if awake {
                        roll.put_awake(&woken(entry));
                    } else {
                        roll.put_asleep(entry).unwrap();
                    }
                    plain.remove(slot);
                    plain.routes.extend(routes.iter().map(|route| (*route, slot)));
                    plain.there.insert(slot, routes);
                }
                Step::Wake { slot } => {
                    if let Some(entry) = roll.asleep(slot) {
                        roll.put_in_place(&woken(entry));
                        prop_assert!(roll.awake(slot).is_some());
                    }
                }
                Step::Remove { slot } => {
                    roll.remove(slot);
                    plain.remove(slot);
                }
            }
            for slot in 0..SLOTS {
                let there = plain.there.contains_key(&slot);
                prop_assert_eq!(roll.has(slot), there);
                prop_assert_eq!(roll.named(&format!("tenant-{slot}")), there.then_some(slot));
            }
            for (number, host) in HOSTS.iter().enumerate() {
                for path in ["/", "/x", "/x/y/z", "/xy", "/z/", "/q"] {
                    prop_assert_eq!(roll.find(host, path), plain.find(number, path), "{}{}", host, path);
                }
            }
        }
    }
}

#[test]
fn a_name_that_comes_back_in_another_slot_is_the_new_ones() {
    let mut roll = Roll::default();
    roll.put_asleep(entry(1, 9, &[(0, 0)])).unwrap();
    roll.put_asleep(entry(2, 9, &[(0, 0)])).unwrap();
    roll.remove(1);
    assert_eq!((roll.named("tenant-9"), roll.find("a.example", "/")), (Some(2), Some(2)));
}

#[test]
fn who_has_secrets_is_not_put_to_sleep() {
    let mut entry = entry(1, 1, &[(0, 0)]);
    let value = insula_model::grants::secrets::SecretValue::new("value".into());
    entry.secrets.push(("KEY".parse().unwrap(), value));
    assert!(Roll::default().put_asleep(entry).is_err());
}
