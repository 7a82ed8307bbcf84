//! The meta-variables of a request (RFC 3875, section 4.1), as a program finds them in its environment.
//!
//! Beyond the RFC's: `REQUEST_URI`, `REQUEST_SCHEME`, `HTTPS`, `REMOTE_PORT` and `REDIRECT_STATUS`,
//! which programs have come to expect. `AUTH_TYPE`, `REMOTE_USER` and `REMOTE_IDENT` are never set,
//! because this host asks nobody who they are; for the same reason `Authorization` is passed on like
//! any other field: the program alone can check it.

use std::net::SocketAddr;

/// A request, as far as its variables go.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `GET`, `POST` …
    pub method: &'a str,
    /// The path as the client sent it.
    pub path: &'a str,
    /// What follows the first `?`.
    pub query: Option<&'a str>,
    /// `HTTP/1.1`, `HTTP/2.0` …
    pub protocol: &'a str,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// The path prefix of the route that led here: `/`, or `/a/b`.
    pub prefix: &'a str,
    /// What the client sent as `Host`.
    pub host: &'a str,
    /// The port that the request came in at.
    pub port: u16,
    /// The client.
    pub client: SocketAddr,
}

/// The path cannot be a variable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the path is not UTF-8, or holds a NUL, when its %-escapes are decoded: no variable can hold it"
)]
pub struct PathError;

/// The variables of `request`, whose header is `fields`: names in lower case, equal names together or
/// not.
///
/// # Errors
/// [`PathError`], which is the client's doing.
pub fn variables<'a>(
    request: &Request<'_>,
    fields: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> Result<Vec<(String, String)>, PathError> {
    let prefix = if request.prefix == "/" { "" } else { request.prefix };
    let rest = request.path.strip_prefix(prefix).unwrap_or(request.path);
    let target = match request.query {
        Some(query) => format!("{}?{query}", request.path),
        None => request.path.into(),
    };
    let client = request.client.ip().to_canonical().to_string();
    let mut all: Vec<(String, String)> = [
        ("GATEWAY_INTERFACE", "CGI/1.1"),
        ("SERVER_SOFTWARE", concat!("insula/", env!("CARGO_PKG_VERSION"))),
        ("SERVER_PROTOCOL", request.protocol),
        ("SERVER_NAME", server_name(request.host)),
        ("SERVER_PORT", &request.port.to_string()),
        ("REQUEST_METHOD", request.method),
        ("REQUEST_SCHEME", request.scheme),
        ("REQUEST_URI", &target),
        ("SCRIPT_NAME", prefix),
        ("PATH_INFO", &decoded(rest)?),
        ("QUERY_STRING", request.query.unwrap_or_default()),
        ("REMOTE_ADDR", &client),
        ("REMOTE_HOST", &client),
        ("REMOTE_PORT", &request.client.port().to_string()),
        // php-cgi refuses to run without it.
        ("REDIRECT_STATUS", "200"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    if request.scheme == "https" {
        all.push(("HTTPS".into(), "on".into()));
    }
    for (name, value) in fields {
        let Some(variable) = variable(name) else { continue };
        let value = String::from_utf8_lossy(value);
        match all.iter_mut().find(|(known, _)| *known == variable) {
            // One variable for all fields of a name (RFC 3875, section 4.1.18); cookies have their own
            // separator (RFC 9113, section 8.2.3).
            Some((_, list)) => {
                list.push_str(if variable == "HTTP_COOKIE" { "; " } else { ", " });
                list.push_str(&value);
            }
            None => all.push((variable, value.into_owned())),
        }
    }
    Ok(all)
}

/// The variable for a field. None for `Proxy`, which as `HTTP_PROXY` would tell HTTP libraries whom
/// to call through (CVE-2016-5385 and others); and none for a name with anything but letters, digits
/// and hyphens, since `X_Y` could pass for `X-Y`.
fn variable(field: &str) -> Option<String> {
    if field == "proxy" || !field.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return None;
    }
    let upper = field.to_ascii_uppercase().replace('-', "_");
    Some(match field {
        "content-type" | "content-length" => upper,
        _ => format!("HTTP_{upper}"),
    })
}

/// `Host` without its port; an IPv6 address keeps its brackets (RFC 3875, section 4.1.14).
fn server_name(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if !host[colon..].contains(']') => &host[..colon],
        _ => host,
    }
}

fn decoded(path: &str) -> Result<String, PathError> {
    let hex = |at: usize| char::from(*path.as_bytes().get(at)?).to_digit(16);
    let mut bytes = Vec::with_capacity(path.len());
    let mut at = 0;
    while let Some(byte) = path.as_bytes().get(at) {
        match (byte, hex(at + 1), hex(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                bytes.extend(u8::try_from(high * 16 + low));
                at += 3;
            }
            _ => {
                bytes.push(*byte);
                at += 1;
            }
        }
    }
    if bytes.contains(&0) {
        return Err(PathError);
    }
    String::from_utf8(bytes).map_err(|_| PathError)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn of(
        change: impl FnOnce(&mut Request<'_>),
        fields: &[(&str, &str)],
    ) -> Result<HashMap<String, String>, PathError> {
        let mut request = Request {
            method: "POST",
            path: "/cart/a%20b/%C3%A9",
            query: Some("x=1&y"),
            protocol: "HTTP/1.1",
            scheme: "http",
            prefix: "/cart",
            host: "shop.example:8080",
            port: 80,
            client: "192.0.2.7:4711".parse().unwrap(),
        };
        change(&mut request);
        let fields = fields.iter().map(|(name, value)| (*name, value.as_bytes()));
        let all = variables(&request, fields)?;
        let count = all.len();
        let map: HashMap<_, _> = all.into_iter().collect();
        assert_eq!(map.len(), count, "a name twice");
        Ok(map)
    }

    #[test]
    fn a_request_in_variables() {
        let fields =
            [("content-type", "text/plain"), ("content-length", "5"), ("x-request-id", "7")];
        let map = of(|_| (), &fields).unwrap();
        for (name, value) in [
            ("GATEWAY_INTERFACE", "CGI/1.1"),
            ("SERVER_PROTOCOL", "HTTP/1.1"),
            ("SERVER_NAME", "shop.example"),
            ("SERVER_PORT", "80"),
            ("REQUEST_METHOD", "POST"),
            ("REQUEST_URI", "/cart/a%20b/%C3%A9?x=1&y"),
            ("SCRIPT_NAME", "/cart"),
            ("PATH_INFO", "/a b/é"),
            ("QUERY_STRING", "x=1&y"),
            ("REMOTE_ADDR", "192.0.2.7"),
            ("CONTENT_TYPE", "text/plain"),
            ("CONTENT_LENGTH", "5"),
            ("HTTP_X_REQUEST_ID", "7"),
        ] {
            assert_eq!(map.get(name).map(String::as_str), Some(value), "{name}");
        }
        for absent in ["HTTP_CONTENT_TYPE", "HTTP_CONTENT_LENGTH", "HTTPS", "REMOTE_USER"] {
            assert!(!map.contains_key(absent), "{absent}");
        }
    }

    #[test]
    fn fields_become_variables_that_cannot_be_forged() {
        let fields = [
            ("proxy", "http://evil.example"),
            ("x_forwarded_for", "1.2.3.4"),
            ("x.y", "z"),
            ("accept", "a"),
            ("accept", "b"),
            ("cookie", "c=1"),
            ("cookie", "d=2"),
            ("authorization", "Basic x"),
        ];
        let map = of(|_| (), &fields).unwrap();
        assert_eq!(map["HTTP_ACCEPT"], "a, b");
        assert_eq!(map["HTTP_COOKIE"], "c=1; d=2");
        assert_eq!(map["HTTP_AUTHORIZATION"], "Basic x");
        for absent in ["HTTP_PROXY", "HTTP_X_FORWARDED_FOR", "HTTP_X.Y"] {
            assert!(!map.contains_key(absent), "{absent}");
        }
    }

    #[test]
    fn the_edges_of_a_path_and_of_a_host() {
        let whole = of(|request| request.prefix = "/", &[]).unwrap();
        assert_eq!((&*whole["SCRIPT_NAME"], &*whole["PATH_INFO"]), ("", "/cart/a b/é"));
        let none = of(|request| (request.path, request.query) = ("/cart", None), &[]).unwrap();
        assert_eq!((&*none["PATH_INFO"], &*none["QUERY_STRING"]), ("", ""));
        assert_eq!(none["REQUEST_URI"], "/cart");
        assert_eq!(of(|request| request.path = "/cart/%00", &[]), Err(PathError));
        assert_eq!(of(|request| request.path = "/cart/%ff", &[]), Err(PathError));
        assert_eq!(of(|request| request.path = "/cart/%g1%", &[]).unwrap()["PATH_INFO"], "/%g1%");
        for (host, name) in [("[::1]:80", "[::1]"), ("[::1]", "[::1]"), ("a.b", "a.b")] {
            assert_eq!(of(|request| request.host = host, &[]).unwrap()["SERVER_NAME"], name);
        }
        assert_eq!(of(|request| request.scheme = "https", &[]).unwrap()["HTTPS"], "on");
    }

    proptest! {
        #[test]
        fn no_field_writes_a_variable_of_the_hosts(
            fields in proptest::collection::vec(("[a-z0-9_.-]{1,20}", "[ -~]{0,20}"), 0..30),
        ) {
            let fields: Vec<_> = fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
            let (with, without) = (of(|_| (), &fields).unwrap(), of(|_| (), &[]).unwrap());
            for (name, value) in &without {
                prop_assert_eq!(&with[name], value);
            }
            for name in with.keys().filter(|name| !without.contains_key(*name)) {
                prop_assert!(name.starts_with("HTTP_") || name == "CONTENT_TYPE" || name == "CONTENT_LENGTH");
                prop_assert!(name != "HTTP_PROXY");
            }
        }
    }
}
