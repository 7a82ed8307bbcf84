//! Host names and routes: one normal form, whoever wrote it and however.
#![no_main]

use insula_model::Route;
use insula_model::route::{PREFIX_BYTES_MAX, normalise_host, prefix_matches};
use libfuzzer_sys::fuzz_target;
use std::net::{IpAddr, Ipv6Addr};

/// A normal form as it is written in a URL.
fn in_url(host: &str) -> String {
    if host.contains(':') { format!("[{host}]") } else { host.into() }
}

fn host(text: &str) {
    let Some(normal) = normalise_host(text) else { return };
    let url = in_url(&normal);
    assert_eq!(normalise_host(&url).as_deref(), Some(&*normal), "twice is not once");
    assert!(!normal.bytes().any(|b| b.is_ascii_uppercase() || b"@/[] ".contains(&b)), "{normal}");
    assert!(!normal.ends_with('.') && !normal.contains(".."), "{normal}");
    if normal.contains(':') {
        let address: Ipv6Addr = normal.parse().expect("only an address has colons");
        assert_eq!(address.to_string(), *normal, "one address, one form");
    }
    for same in [format!("{url}:65535"), format!("{url}:"), url.to_ascii_uppercase()] {
        assert_eq!(normalise_host(&same).as_deref(), Some(&*normal), "{same}");
    }
}

fn route(text: &str) {
    let Ok(route) = text.parse::<Route>() else { return };
    let shown = route.to_string();
    assert_eq!(shown.parse::<Route>().as_ref(), Ok(&route), "{shown} is another route");
    let (host, prefix) = (route.host(), route.prefix());
    assert_eq!(normalise_host(&in_url(host)).as_deref(), Some(host));
    let written = text.split_once('/').map_or(text, |(host, _)| host);
    let port = written.rsplit_once(']').map_or(written, |(_, rest)| rest).contains(':');
    assert!(!port, "{text}: its port was dropped");
    assert!(host != "internal" && !host.ends_with(".internal"), "tenants' own hosts need no route");

    assert!(prefix.starts_with('/') && prefix.len() <= PREFIX_BYTES_MAX);
    assert!(prefix == "/" || !prefix.ends_with('/'));
    assert!(!prefix[1..].split('/').any(|part| matches!(part, "." | "..")), "{prefix}");
    assert!(prefix_matches(prefix, prefix) && prefix_matches(prefix, &format!("{prefix}/x")));
    assert_eq!(prefix_matches(prefix, &format!("{prefix}x")), prefix == "/");

    // As the front end sees a request that goes there.
    let uri: http::Uri = format!("http://{}{prefix}", in_url(host)).parse().expect("a URL");
    let authority = uri.authority().expect("a host").as_str();
    assert_eq!(normalise_host(authority).as_deref(), Some(host));
    assert_eq!(uri.path(), prefix);
    if let Ok(address) = host.parse::<IpAddr>() {
        assert_eq!(address.to_string(), host, "one address, one form");
    }
}

fuzz_target!(|text: &str| {
    host(text);
    route(text);
    if let Some((prefix, path)) = text.split_once(' ') {
        let expected = prefix == "/" || path == prefix || path.starts_with(&format!("{prefix}/"));
        assert_eq!(prefix_matches(prefix, path), expected, "{prefix} {path}");
    }
});
