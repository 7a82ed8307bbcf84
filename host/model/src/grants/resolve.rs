//! From what a manifest asks for to [`Grants`]: defaults filled in, bounds and ceilings checked.

use super::mounts::{Access, MOUNTS_MAX, Mount, Scratch, is_clean_path};
use super::outbound::{Outbound, RULES_MAX};
use super::secrets::{SECRETS_MAX, is_variable_name};
use super::sockets::SOCKETS_MAX;
use super::{Clock, Grants, KeyValue, STORES_MAX, TEXT_BYTES_MAX};
use crate::manifest::{ManifestError, within};
use crate::quantity::{ByteSize, DurationMs};
use crate::{Ceilings, Manifest};
use std::collections::BTreeMap;

type Result<T> = std::result::Result<T, ManifestError>;

fn bad<T>(field: &'static str, why: impl Into<String>) -> Result<T> {
    Err(ManifestError::Grant { field, why: why.into() })
}

fn at_most(field: &'static str, count: usize, max: usize) -> Result<()> {
    if count > max {
        return bad(field, format!("{count} entries; at most {max} are possible"));
    }
    Ok(())
}

impl Manifest {
    pub(crate) fn resolve_grants(&self, timeout_ms: u64, c: &Ceilings) -> Result<Grants> {
        self.check_texts()?;
        let secrets = self.secrets.clone().unwrap_or_default();
        at_most("secrets", secrets.len(), SECRETS_MAX)?;
        let sockets = self.sockets.clone().unwrap_or_default();
        at_most("sockets", sockets.len(), SOCKETS_MAX)?;
        Ok(Grants {
            args: self.args.clone().unwrap_or_default(),
            env: pairs(self.env.as_ref()),
            config: pairs(self.config.as_ref()),
            secrets: secrets.into_iter().collect(),
            mounts: self.resolve_mounts(c)?,
            scratch: self.resolve_scratch(c)?,
            outbound: self.resolve_outbound(timeout_ms, c)?,
            keyvalue: self.resolve_keyvalue(c)?,
            clock: self.resolve_clock()?,
            seed: self.seed,
            sockets,
        })
    }

    fn check_texts(&self) -> Result<()> {
        let mut bytes = 0;
        for arg in self.args.iter().flatten() {
            if arg.contains('\0') {
                return bad("args", "an argument cannot hold a NUL");
            }
            bytes += arg.len() + 1;
        }
        for (name, value) in self.env.iter().flatten() {
            if !is_variable_name(name) {
                return bad(
                    "env",
                    format!(
                        "`{name}` is not the name of a variable: write letters, digits and underscores"
                    ),
                );
            }
            if value.contains('\0') {
                return bad("env", format!("the value of `{name}` cannot hold a NUL"));
            }
            if self.secrets.iter().flatten().any(|(secret, _)| secret.as_str() == name) {
                return bad("env", format!("`{name}` is a secret too; keep one of them"));
            }
            bytes += name.len() + value.len() + 2;
        }
        for (key, value) in self.config.iter().flatten() {
            if key.is_empty() {
                return bad("config", "a key cannot be empty");
            }
            bytes += key.len() + value.len() + 2;
        }
        if bytes > TEXT_BYTES_MAX {
            return bad(
                "env",
                format!(
                    "args, env and config have {bytes} bytes; at most {TEXT_BYTES_MAX} are possible, larger data belongs in a mount"
                ),
            );
        }
        Ok(())
    }

    fn resolve_mounts(&self, c: &Ceilings) -> Result<Vec<Mount>> {
        let specs = self.mounts.as_deref().unwrap_or_default();
        at_most("mounts", specs.len(), MOUNTS_MAX)?;
        let mut mounts: Vec<Mount> = Vec::new();
        for spec in specs {
            let host = match spec.host.strip_suffix('/') {
                Some(shorter) if !shorter.is_empty() => shorter,
                _ => &spec.host,
            };
            if !is_clean_path(host) {
                return bad(
                    "mounts",
                    format!("`{host}` is not an absolute path without `.` and `..`"),
                );
            }
            let guest = guest_path("mounts", &spec.guest)?;
            let allowed = |root: &String| {
                root == "/"
                    || host
                        .strip_prefix(root.trim_end_matches('/'))
                        .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            if !c.mounts.iter().any(allowed) {
                return bad(
                    "mounts",
                    format!(
                        "`{host}` is outside of what this host allows ({}); use a directory there, or have the operator extend `ceilings.mounts`",
                        if c.mounts.is_empty() { "nothing".into() } else { c.mounts.join(", ") }
                    ),
                );
            }
            if mounts.iter().any(|mount| mount.guest == guest) {
                return bad("mounts", format!("`{guest}` is mounted twice"));
            }
            if spec.quota.is_some() && spec.access == Access::Ro {
                return bad(
                    "mounts",
                    format!(
                        "a quota for `{guest}`, which nothing can be written to; set `access = \"rw\"` or leave out `quota`"
                    ),
                );
            }
            let quota =
                spec.quota.map(|quota| self.storage("mounts.quota", quota, c)).transpose()?;
            mounts.push(Mount {
                host: host.into(),
                guest,
                access: spec.access,
                quota_bytes: quota.map(|quota| quota.0),
            });
        }
        Ok(mounts)
    }

    fn storage(&self, field: &'static str, asked: ByteSize, c: &Ceilings) -> Result<ByteSize> {
        within(field, "storage", asked, ByteSize(1), c.storage)
    }

    fn resolve_scratch(&self, c: &Ceilings) -> Result<Option<Scratch>> {
        let Some(spec) = &self.scratch else { return Ok(None) };
        let guest = guest_path("scratch", spec.guest.as_deref().unwrap_or("/tmp"))?;
        if self.mounts.iter().flatten().any(|mount| mount.guest == guest) {
            return bad("scratch", format!("`{guest}` is a mount too"));
        }
        let quota = spec.quota.unwrap_or(ByteSize(64 << 20).min(c.storage));
        let quota_bytes = self.storage("scratch.quota", quota, c)?.0;
        Ok(Some(Scratch { guest, per: spec.per, quota_bytes }))
    }

    fn resolve_outbound(&self, timeout_ms: u64, c: &Ceilings) -> Result<Option<Outbound>> {
        let Some(spec) = &self.outbound else { return Ok(None) };
        at_most("outbound.hosts", spec.hosts.len(), RULES_MAX)?;
        let private = spec.private.clone().unwrap_or_default();
        at_most("outbound.private", private.len(), RULES_MAX)?;
        let concurrency = spec.concurrency.unwrap_or(16.min(c.outbound_concurrency));
        let timeout = spec.timeout.unwrap_or(DurationMs(timeout_ms));
        let bytes = |field, asked: Option<ByteSize>| {
            let asked = asked.unwrap_or(ByteSize(10 << 20).min(c.outbound_body));
            within(field, "outbound_body", asked, ByteSize(0), c.outbound_body)
        };
        Ok(Some(Outbound {
            hosts: spec.hosts.clone(),
            private: private.iter().map(ipnet::IpNet::trunc).collect(),
            concurrency: within(
                "outbound.concurrency",
                "outbound_concurrency",
                concurrency,
                1,
                c.outbound_concurrency,
            )?,
            timeout_ms: within("outbound.timeout", "timeout", timeout, DurationMs(1), c.timeout)?.0,
            request_bytes: bytes("outbound.request", spec.request)?.0,
            response_bytes: bytes("outbound.response", spec.response)?.0,
        }))
    }

    fn resolve_keyvalue(&self, c: &Ceilings) -> Result<Option<KeyValue>> {
        let Some(spec) = &self.keyvalue else { return Ok(None) };
        let stores = spec.stores.clone().unwrap_or_else(|| vec!["default".into()]);
        at_most("keyvalue.stores", stores.len(), STORES_MAX)?;
        for (i, store) in stores.iter().enumerate() {
            if store.len() > 64 || stores[..i].contains(store) {
                return bad(
                    "keyvalue.stores",
                    format!("`{store}` is named twice, or longer than 64 bytes"),
                );
            }
        }
        let quota = spec.quota.unwrap_or(ByteSize(16 << 20).min(c.keyvalue));
        let quota = within("keyvalue.quota", "keyvalue", quota, ByteSize(1), c.keyvalue)?;
        Ok(Some(KeyValue { stores, quota_bytes: quota.0 }))
    }

    fn resolve_clock(&self) -> Result<Clock> {
        let Some(spec) = &self.clock else { return Ok(Clock::default()) };
        let precision_ns =
            spec.precision.map_or(Clock::default().precision_ns, super::Precision::nanoseconds);
        let fixed_ms = match &spec.fixed {
            None => None,
            Some(text) => match text.parse::<jiff::Timestamp>() {
                Ok(at) if at.as_millisecond() >= 0 => u64::try_from(at.as_millisecond()).ok(),
                _ => {
                    return bad(
                        "clock.fixed",
                        format!(
                            "`{text}` is not a time since 1970; write it as 2026-01-31T12:00:00Z"
                        ),
                    );
                }
            },
        };
        Ok(Clock { precision_ns, fixed_ms })
    }
}

fn pairs(map: Option<&BTreeMap<String, String>>) -> Vec<(String, String)> {
    map.into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect()
}

fn guest_path(field: &'static str, path: &str) -> Result<String> {
    let path = match path.strip_suffix('/') {
        Some(shorter) if !shorter.is_empty() => shorter,
        _ => path,
    };
    if !is_clean_path(path) {
        return bad(
            field,
            format!("the guest's path `{path}` is not an absolute path without `.` and `..`"),
        );
    }
    Ok(path.into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn resolve(text: &str) -> std::result::Result<Grants, String> {
        let manifest =
            Manifest::from_toml(&format!("name = 'a'\n{text}")).map_err(|e| e.to_string())?;
        manifest.resolve(&Ceilings::default()).map(|r| r.grants).map_err(|e| e.to_string())
    }

    #[test]
    fn nothing_is_granted_unless_it_is_written() {
        assert!(resolve("").unwrap().is_empty());
    }

    #[test]
    fn all_grants_can_be_written() {
        let grants = resolve(
            "args = ['-v']\nenv = { A = '1' }\nconfig = { 'a.b' = '2' }\nsecrets = { KEY = 'env' }\n\
             mounts = [{ host = '/srv/a/', guest = '/data' }]\nscratch = {}\n\
             outbound = { hosts = ['https://a.example', 'self'], private = ['10.0.0.0/8'] }\n\
             keyvalue = {}\nclock = { precision = 'exact', fixed = '2026-01-01T00:00:00Z' }\nseed = 7\n\
             sockets = ['tcp://10.0.0.1:5432']",
        )
        .unwrap();
        assert_eq!(grants.mounts[0].host, "/srv/a");
        assert_eq!(grants.mounts[0].access, Access::Ro);
        assert_eq!(grants.clock.fixed_ms, Some(1_767_225_600_000));
        assert_eq!(grants.keyvalue.unwrap().stores, ["default"]);
    }

    #[test]
    fn what_cannot_be_granted_says_why() {
        for (text, says) in [
            ("env = { 'A-B' = '1' }", "name of a variable"),
            ("env = { KEY = '1' }\nsecrets = { KEY = 'env' }", "is a secret too"),
            ("mounts = [{ host = 'data', guest = '/data' }]", "absolute path"),
            ("mounts = [{ host = '/a/../etc', guest = '/data' }]", "absolute path"),
            ("mounts = [{ host = '/a', guest = '/d' }, { host = '/b', guest = '/d/' }]", "twice"),
            ("mounts = [{ host = '/a', guest = '/d', quota = '1Mi' }]", "nothing can be written"),
            ("scratch = { quota = '2Gi' }", "ceiling of 1Gi"),
            ("outbound = { hosts = ['api.example.com'] }", "no scheme"),
            ("clock = { fixed = 'yesterday' }", "not a time"),
            ("clock = { precision = 'fine' }", "exact"),
            ("schedule = 'sometimes'", "cron"),
        ] {
            let error = resolve(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn an_operator_can_bound_mounts() {
        let ceilings = Ceilings { mounts: vec!["/srv".into()], ..Ceilings::default() };
        let mount = |host: &str| {
            let text = format!("name = 'a'\nmounts = [{{ host = '{host}', guest = '/d' }}]");
            Manifest::from_toml(&text).unwrap().resolve(&ceilings).is_ok()
        };
        assert!(mount("/srv") && mount("/srv/a"));
        assert!(!mount("/srvx") && !mount("/etc"));
    }
}
