//! What a call is for: scheme, host and port, in the form that policies are written in.

use super::Failure;
use http::Uri;
use http::uri::{PathAndQuery, Scheme};
use insula_model::grants::outbound::CallScheme;
use insula_model::route::normalise_host;
use insula_sandbox::outbound::CallError;
use std::fmt;

/// A URL without its path.
pub(super) struct Url {
    pub(super) scheme: CallScheme,
    /// In normal form: no brackets, no port, lower case.
    pub(super) host: String,
    pub(super) port: u16,
}

impl Url {
    /// None if it cannot be called: no host, user information, a port that is none.
    pub(super) fn of(uri: &Uri) -> Option<Self> {
        let scheme = match uri.scheme_str()? {
            "http" => CallScheme::Http,
            "https" => CallScheme::Https,
            _ => return None,
        };
        let authority = uri.authority()?.as_str();
        let host = normalise_host(authority)?.into_owned();
        // After the brackets of an IPv6 address, if there are any.
        let rest = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
        let port = match rest.split_once(':') {
            None | Some((_, "")) => scheme.default_port(),
            Some((_, port)) => port.parse().ok().filter(|port| *port != 0)?,
        };
        Some(Self { scheme, host, port })
    }

    /// `http://host:port`, as `outbound.hosts` would list it.
    pub(super) fn origin(&self) -> String {
        self.to_string()
    }

    /// The whole URL of a call, in normal form: what is connected to is what was checked.
    pub(super) fn uri(&self, called: &Uri) -> Result<Uri, Failure> {
        let scheme = match self.scheme {
            CallScheme::Http => Scheme::HTTP,
            CallScheme::Https => Scheme::HTTPS,
        };
        let target = called.path_and_query().cloned();
        let uri = Uri::builder()
            .scheme(scheme)
            .authority(self.authority())
            .path_and_query(target.unwrap_or_else(|| PathAndQuery::from_static("/")))
            .build();
        uri.map_err(|_| CallError::Uri.into())
    }

    fn authority(&self) -> String {
        let bracketed = self.host.contains(':');
        let host = if bracketed { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == self.scheme.default_port() { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.scheme {
            CallScheme::Http => "http",
            CallScheme::Https => "https",
        };
        write!(f, "{scheme}://{}", self.authority())
    }
}
