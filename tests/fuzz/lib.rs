//! What more than one target asserts.

use insula_model::api::GuestKind;
use insula_model::grants::mounts::is_clean_path;
use insula_model::manifest::Resolved;
use insula_model::wire::{MESSAGE_BYTES_MAX, TenantEntry};
use insula_model::{Ceilings, Digest, Manifest};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// Writes a value as JSON and reads it back: the state database and the control API do.
pub fn json_round_trip<T: Serialize + DeserializeOwned>(value: &T) -> T {
    let written = serde_json::to_string(value).expect("what was read can be written");
    let read: T = serde_json::from_str(&written)
        .unwrap_or_else(|error| panic!("{written} does not read back: {error}"));
    assert_eq!(serde_json::to_string(&read).expect("twice"), written, "it changed on the way");
    read
}

/// The same, for what can be compared.
pub fn json_is_faithful<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    assert_eq!(json_round_trip(value), *value);
}

/// Everything that must hold for a manifest that was read, from wherever.
pub fn manifest_holds(manifest: &Manifest) {
    json_is_faithful(manifest);
    let ceilings = Ceilings::default();
    let Ok(resolved) = manifest.resolve(&ceilings) else { return };
    json_is_faithful(&resolved);
    is_within(&resolved, &ceilings);
    reaches_a_worker(&resolved);
    if let Some(schedule) = &resolved.schedule {
        for now in [0, 1_709_164_799_999, 4_102_444_800_000] {
            if let Some(next) = schedule.next_after(now) {
                assert!(next > now, "{schedule}: {next} is not after {now}");
            }
        }
    }
}

/// Nothing that resolves is more than the host allows, or unfit for what it is passed to.
fn is_within(resolved: &Resolved, ceilings: &Ceilings) {
    let Resolved { limits, grants, routes, schedule, .. } = resolved;
    assert!(limits.memory_bytes <= ceilings.memory.0 && limits.fuel <= ceilings.fuel.0);
    assert!((1..=ceilings.timeout.0).contains(&limits.timeout_ms));
    assert!((1..=ceilings.concurrency).contains(&limits.concurrency));
    assert!(limits.queue <= ceilings.queue && limits.queue_wait_ms <= ceilings.queue_wait.0);
    assert!(limits.request_body_bytes <= ceilings.request_body.0);
    assert!(u64::from(limits.request_header_bytes) <= ceilings.request_header.0);
    assert!(limits.response_body_bytes <= ceilings.response_body.0);
    let resources = &limits.resources;
    assert!(resources.memory_limit_bytes <= ceilings.tenant_memory.0);
    assert!(resources.memory_request_bytes <= resources.memory_limit_bytes);
    assert!(resources.cpu_request_m <= resources.cpu_limit_m.unwrap_or(ceilings.cpu.0));
    assert!(schedule.is_some() || !routes.is_empty(), "a tenant that nothing can reach");
    for mount in &grants.mounts {
        assert!(is_clean_path(&mount.host) && is_clean_path(&mount.guest), "{mount:?}");
    }
    for (name, value) in &grants.env {
        assert!(!name.is_empty() && !name.contains(['=', '\0']) && !value.contains('\0'));
    }
    assert!(grants.args.iter().all(|arg| !arg.contains('\0')));
}

/// What resolves arrives at a worker as it left the supervisor, in one message.
fn reaches_a_worker(resolved: &Resolved) {
    let entry = TenantEntry {
        slot: 0,
        name: resolved.name.clone(),
        revision: 1,
        digest: Digest([7; 32]),
        kind: GuestKind::Http02,
        routes: resolved.routes.clone(),
        limits: resolved.limits.clone(),
        grants: Some(Box::new(resolved.grants.clone())),
        secrets: Vec::new(),
        stopped: false,
        job: resolved.schedule.is_some(),
        access_log: resolved.access_log,
        canary: None,
    };
    let sent = postcard::to_stdvec(&entry).expect("what resolves can be sent");
    assert!(sent.len() < MESSAGE_BYTES_MAX as usize, "{} bytes", sent.len());
    let arrived: TenantEntry = postcard::from_bytes(&sent)
        .unwrap_or_else(|error| panic!("{entry:?} does not arrive: {error}"));
    assert_eq!(arrived, entry);
}
