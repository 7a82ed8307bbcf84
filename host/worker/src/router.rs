//! Routes: host and path → tenant.
//!
//! One hash look-up and a scan of the host's prefixes, longest first; no lock and no allocation.
//! Changed in place between two requests: the worker has one thread, so no request ever sees half a
//! change, and a deploy among 100,000 tenants does not copy a table.

use crate::tenant::Tenant;
use insula_model::route::{Route, prefix_matches};
use std::collections::HashMap;
use std::rc::Rc;

/// A path prefix of one host, and whose it is.
type Prefixed = (Box<str>, Rc<Tenant>);

#[derive(Default)]
pub(crate) struct Router {
    hosts: HashMap<Box<str>, Vec<Prefixed>>,
}

impl Router {
    /// The tenant with the longest matching prefix; `host` in normal form.
    pub(crate) fn find(&self, host: &str, path: &str) -> Option<&Rc<Tenant>> {
        let prefixes = self.hosts.get(host)?;
        prefixes.iter().find(|(prefix, _)| prefix_matches(prefix, path)).map(|(_, tenant)| tenant)
    }

    pub(crate) fn insert(&mut self, route: &Route, tenant: &Rc<Tenant>) {
        let prefixes = self.hosts.entry(route.host().into()).or_default();
        prefixes.retain(|(prefix, _)| **prefix != *route.prefix());
        let at = prefixes.partition_point(|(prefix, _)| prefix.len() >= route.prefix().len());
        prefixes.insert(at, (route.prefix().into(), tenant.clone()));
    }

    /// Removes a route if it still leads to `tenant`: another may have taken it over since.
    pub(crate) fn remove(&mut self, route: &Route, tenant: &Rc<Tenant>) {
        if let Some(prefixes) = self.hosts.get_mut(route.host()) {
            prefixes.retain(|(prefix, to)| **prefix != *route.prefix() || !Rc::ptr_eq(to, tenant));
            if prefixes.is_empty() {
                self.hosts.remove(route.host());
            }
        }
    }
}
