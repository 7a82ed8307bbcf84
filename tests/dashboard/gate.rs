//! Who may talk to a host through the dashboard's address, and what for.

use super::Dashboard;
use insula_tests::cli::run;
use insula_tests::{Answer, Connection, Host};

struct Asking<'a> {
    dashboard: &'a Dashboard,
    host: String,
    token: String,
}

impl Asking<'_> {
    fn ask(&self, method: &str, path: &str, more: &[(&str, &str)]) -> Answer {
        let token = format!("Bearer {}", self.token);
        let mut fields = vec![("connection", "close")];
        if !self.token.is_empty() {
            fields.push(("authorization", &token));
        }
        fields.extend(more);
        let body: Option<&[u8]> = (method == "POST" || method == "PUT").then_some(b"{}");
        Connection::open(self.dashboard.addr()).ask(method, &self.host, path, &fields, body)
    }

    fn get(&self, path: &str, more: &[(&str, &str)]) -> u16 {
        self.ask("GET", path, more).status()
    }
}

#[test]
fn only_the_page_itself_gets_through_the_gate() {
    let host = Host::with_guests(&["hello"]);
    let dashboard = Dashboard::of(&host);
    let addr = dashboard.addr();
    assert!(addr.ip().is_loopback(), "{addr}");
    let own =
        |token: &str, host: String| Asking { dashboard: &dashboard, host, token: token.into() };
    let page = own(dashboard.token(), addr.to_string());
    assert_eq!(page.get("/v1/host", &[]), 200);
    assert_eq!(page.get("/v1/host", &[("origin", &format!("http://{addr}"))]), 200);
    assert_eq!(page.get("/v1/host", &[("sec-fetch-site", "same-origin")]), 200);
    // A tunnel changes the port, and `localhost` is this machine.
    assert_eq!(own(dashboard.token(), "localhost:9000".into()).get("/v1/host", &[]), 200);

    // Without the key, or with another, there is nothing but the page's files.
    let stranger = own("", addr.to_string());
    assert_eq!(stranger.get("/", &[]), 200);
    let guess = dashboard.token().replace(|one: char| one != '0', "0");
    for path in
        ["/v1/host", "/v1/tenants", "/v1/events", "/v1/tenants/hello/logs", "/healthz", "/x"]
    {
        assert_eq!(stranger.get(path, &[]), 401, "{path}");
        assert_eq!(own(&guess, addr.to_string()).get(path, &[]), 401, "{path}");
        let cookie = format!("token={}; insula-token={}", dashboard.token(), dashboard.token());
        assert_eq!(stranger.get(path, &[("cookie", &cookie)]), 401, "no cookie opens {path}");
    }
    // A name that somebody else has pointed here gets nothing at all.
    for name in ["evil.example", "127.0.0.1.evil.example", "hello.localhost:8080", "[::2]:80"] {
        for path in ["/", "/dashboard/app.js", "/v1/host"] {
            assert_eq!(own(dashboard.token(), name.into()).get(path, &[]), 421, "{name} {path}");
        }
    }
    // Other pages get nothing either, be they a tenant's on another port of this machine.
    for origin in ["http://evil.example", "null", "http://127.0.0.1:8080", "https://127.0.0.1"] {
        assert_eq!(page.get("/v1/host", &[("origin", origin)]), 403, "{origin}");
    }
    for site in ["cross-site", "same-site"] {
        assert_eq!(page.get("/v1/host", &[("sec-fetch-site", site)]), 403, "{site}");
    }
    assert_eq!(page.ask("OPTIONS", "/v1/host", &[("origin", "http://evil.example")]).status(), 403);

    // The page may see what it shows and act a little; the rest stays with the socket.
    for path in
        ["/v1/tenants", "/v1/tenants/hello", "/v1/tenants/hello/revisions", "/v1/namespaces"]
    {
        assert_eq!(page.get(path, &[]), 200, "{path}");
    }
    for (method, path) in [
        ("DELETE", "/v1/tenants/hello"),
        ("PUT", "/v1/tenants/hello"),
        ("PUT", "/v1/tenants/hello/secrets/KEY"),
        ("PUT", "/v1/namespaces/mine"),
        ("POST", "/v1/tenants/hello"),
        ("POST", "/v1/tenants/hello/secrets"),
        ("HEAD", "/v1/host"),
        ("GET", "/v1/tenants/hello/secrets"),
        ("GET", "/v1/audit"),
        ("GET", "/v1/export"),
        ("GET", "/metrics"),
    ] {
        let answer = page.ask(method, path, &[]);
        assert_eq!(answer.status(), 403, "{method} {path}: {}", answer.text());
    }
    let refused = page.ask("POST", "/v1/tenants/hello/rollback", &[]);
    assert_eq!(refused.status(), 404, "the host itself says so: {}", refused.text());
    let refused = page.ask("POST", "/v1/tenants/hello/promote", &[]);
    assert_eq!(refused.status(), 409, "{}", refused.text());
    host.get("hello", "/").expect_ok();
    assert_eq!(page.ask("POST", "/v1/tenants/hello/stop", &[]).status(), 200);
    host.get("hello", "/").expect_fault("tenant-stopped");
    assert_eq!(page.ask("POST", "/v1/tenants/hello/start", &[]).status(), 200);
    host.get("hello", "/").expect_ok();
}

#[test]
fn everything_it_serves_is_fenced_in() {
    let host = Host::start();
    let dashboard = Dashboard::of(&host);
    let page = Asking {
        dashboard: &dashboard,
        host: dashboard.addr().to_string(),
        token: dashboard.token().into(),
    };
    for path in ["/", "/dashboard/app.js", "/dashboard/base.css", "/v1/host", "/v1/nothing"] {
        let answer = page.ask("GET", path, &[]);
        let field = |name: &str| answer.field(name).unwrap_or_default().to_owned();
        let policy = field("content-security-policy");
        assert!(policy.contains("default-src 'none'"), "{path}: {policy}");
        assert!(policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(field("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(field("referrer-policy"), "no-referrer", "{path}");
        assert_eq!(field("set-cookie"), "", "{path}");
        assert_eq!(field("access-control-allow-origin"), "", "{path}");
    }
    assert_eq!(page.get("/dashboard/../index.html", &[]), 404);
    assert_eq!(page.get("/dashboard/nothing.js", &[]), 404);
    // What the page loads is all there, and it loads from nowhere else.
    let index = page.ask("GET", "/", &[]).text();
    let parts: Vec<&str> = index
        .split(['"', '\''])
        .filter(|word| word.starts_with("/dashboard/") || word.contains("//"))
        .collect();
    assert!(parts.len() >= 4, "{parts:?}");
    for part in parts {
        assert_eq!(page.get(part, &[]), 200, "{part}");
    }
}

#[test]
fn it_listens_on_this_machine_alone_and_says_when_there_is_no_host() {
    let home = tempfile::tempdir().unwrap();
    let listen = |addr: &str| run(home.path(), ["dashboard", "--listen", addr]);
    listen("0.0.0.0:0").expect(2, &["0.0.0.0", "loopback", "ssh -L"]);
    listen("[::]:0").expect(2, &["loopback"]);
    listen("somewhere").expect(2, &["somewhere", "127.0.0.1:8081"]);
    run(home.path(), ["dashboard"]).expect(5, &["control.sock", "insula serve"]);
}

#[test]
fn a_host_that_is_gone_is_said_to_be_gone() {
    let mut host = Host::start();
    let dashboard = Dashboard::of(&host);
    let page = Asking {
        dashboard: &dashboard,
        host: dashboard.addr().to_string(),
        token: dashboard.token().into(),
    };
    assert_eq!(page.get("/v1/host", &[]), 200);
    host.stop(rustix::process::Signal::TERM);
    let gone = page.ask("GET", "/v1/host", &[]);
    assert_eq!(gone.status(), 502, "{}", gone.text());
    assert!(gone.text().contains("\"hint\""), "{}", gone.text());
    host.restart();
    assert_eq!(page.get("/v1/host", &[]), 200);
}
