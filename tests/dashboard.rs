//! The dashboard: the gate in front of it, the events behind it, and the page in a real browser.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "dashboard/acts.rs"]
mod acts;
#[path = "dashboard/crowd.rs"]
mod crowd;
#[path = "dashboard/events.rs"]
mod events;
#[path = "dashboard/gate.rs"]
mod gate;
#[path = "dashboard/many.rs"]
mod many;
#[path = "dashboard/page.rs"]
mod page;

use insula_tests::Host;
use insula_tests::cli::insula;
use insula_tests::process::Server;
use insula_tests::wait::eventually;
use std::net::SocketAddr;
use std::process::Stdio;

/// `insula dashboard` of a host.
struct Dashboard {
    _server: Server,
    url: String,
}

impl Dashboard {
    #[track_caller]
    fn of(host: &Host) -> Self {
        let dir = tempfile::tempdir().unwrap().keep();
        let mut command = insula(&dir);
        command.env("INSULA_DATA", host.data()).arg("dashboard").stderr(Stdio::null());
        let server = Server::start(&mut command, &dir);
        let url = eventually("the dashboard's URL", || {
            let printed = server.printed();
            let url = printed.split_whitespace().find(|word| word.contains("/#token="));
            url.map(str::to_owned)
        });
        Self { _server: server, url }
    }

    fn addr(&self) -> SocketAddr {
        let rest = self.url.strip_prefix("http://").expect("a URL");
        rest.split('/').next().unwrap().parse().expect("an address")
    }

    fn token(&self) -> &str {
        self.url.split_once("/#token=").expect("a key").1
    }
}
