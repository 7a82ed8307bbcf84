//! What a tenant may reach, in words: the audit in `insula inspect`.

use crate::secret::via_word;
use crate::text::printable;
use insula_model::api::TenantDetail;
use insula_model::grants::mounts::{Access, ScratchPer};
use insula_model::grants::{CLOCK_PRECISION_NS_DEFAULT, Clock};
use insula_model::{ByteSize, DurationMs};

/// Lines of key and value, the key on the first line of each kind.
pub(crate) fn lines(detail: &TenantDetail) -> Vec<(&'static str, String)> {
    let grants = &detail.grants;
    let mut lines = Vec::new();
    let mut add = |key: &'static str, values: Vec<String>| {
        for (at, value) in values.into_iter().enumerate() {
            lines.push((if at == 0 { key } else { "" }, printable(&value)));
        }
    };
    let pairs = |pairs: &[(String, String)]| {
        pairs.iter().map(|(name, value)| format!("{name}={value}")).collect()
    };
    add("args", grants.args.iter().map(|arg| format!("{arg:?}")).collect());
    add("env", pairs(&grants.env));
    add("config", pairs(&grants.config));
    let secret = |(key, via): &(_, _)| format!("{key}, by {}", via_word(*via));
    add("secrets", grants.secrets.iter().map(secret).collect());
    let mount = |mount: &insula_model::grants::mounts::Mount| {
        let access = match mount.access {
            Access::Ro => "ro",
            Access::Rw => "rw",
        };
        let quota = mount.quota_bytes.map(|bytes| format!(", {}", ByteSize(bytes)));
        format!("{} → {} ({access}{})", mount.host, mount.guest, quota.unwrap_or_default())
    };
    add("mounts", grants.mounts.iter().map(mount).collect());
    if let Some(scratch) = &grants.scratch {
        let per = match scratch.per {
            ScratchPer::Request => "empty for each instance",
            ScratchPer::Tenant => "kept",
        };
        add(
            "scratch",
            vec![format!("{} ({}, {per})", scratch.guest, ByteSize(scratch.quota_bytes))],
        );
    }
    if let Some(outbound) = &grants.outbound {
        let mut values: Vec<String> = outbound.hosts.iter().map(ToString::to_string).collect();
        values.extend(outbound.private.iter().map(|net| format!("private network {net}")));
        values.push(format!(
            "at most {} calls at once, {} each, {} out, {} in",
            outbound.concurrency,
            DurationMs(outbound.timeout_ms),
            ByteSize(outbound.request_bytes),
            ByteSize(outbound.response_bytes)
        ));
        add("outbound", values);
    }
    if let Some(keyvalue) = &grants.keyvalue {
        let quota = ByteSize(keyvalue.quota_bytes);
        add("keyvalue", vec![format!("{} ({quota} together)", keyvalue.stores.join(", "))]);
    }
    add("clock", clock(&grants.clock).into_iter().collect());
    add(
        "seed",
        grants.seed.map(|seed| format!("{seed}: no real randomness")).into_iter().collect(),
    );
    add("sockets", grants.sockets.iter().map(ToString::to_string).collect());
    if lines.is_empty() {
        lines.push(("nothing", "beyond its own memory".to_owned()));
    }
    lines
}

/// Nothing for the clock that everyone has.
fn clock(clock: &Clock) -> Option<String> {
    if let Some(fixed) = clock.fixed_ms {
        let at =
            i64::try_from(fixed).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
        return Some(format!("stands still at {}", at?));
    }
    match clock.precision_ns {
        CLOCK_PRECISION_NS_DEFAULT => None,
        1 => Some("exact".to_owned()),
        ns => Some(format!("to {}", DurationMs(ns / 1_000_000))),
    }
}
