//! Thousands of tenants, as a host of a busy company has them, and clients that keep them at work.

use insula_tests::{Connection, Host, repo};
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const NAMESPACES: [&str; 12] = [
    "checkout", "edge-eu", "edge-us", "growth", "identity", "internal", "labs", "media",
    "payments", "platform", "search", "support",
];
const WORDS: [&str; 8] = ["api", "auth", "cart", "feed", "hooks", "images", "mail", "push"];

/// The name of the tenant of this number.
pub(crate) fn name(number: usize) -> String {
    format!("{}-{number:04}", WORDS[number % WORDS.len()])
}

/// Its namespace; the first has many, the last few.
pub(crate) fn namespace(number: usize) -> &'static str {
    let spread = number.wrapping_mul(2_654_435_761) % 144;
    NAMESPACES
        [NAMESPACES.len() - 1 - (0..NAMESPACES.len()).rev().find(|n| n * n <= spread).unwrap()]
}

/// Whether it traps whenever it is asked.
pub(crate) fn fails(number: usize) -> bool {
    number % 61 == 7
}

/// Whether it may be asked once a second.
pub(crate) fn sheds(number: usize) -> bool {
    number % 83 == 11
}

/// Deploys so many.
pub(crate) fn deploy(host: &Host, tenants: usize) {
    for namespace in NAMESPACES {
        host.must(["namespace", "set", namespace]);
    }
    let artifact = |guest: &str| {
        host.deploy(guest, &repo::guest(guest), &[]);
        host.tenant(guest).summary.artifact.to_string()
    };
    let (well, ill) = (artifact("hello"), artifact("hostile-trap"));
    let next = std::sync::atomic::AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= tenants {
                        return;
                    }
                    let name = name(number);
                    let mut manifest = json!({
                        "name": name, "namespace": namespace(number),
                        "cpu": {"request": "50m", "limit": if number.is_multiple_of(3) { "500m" } else { "1" }},
                        "memory": {"instance": "16Mi", "limit": "128Mi"},
                    });
                    if sheds(number) {
                        manifest["rate"] = json!({"requests": 1, "burst": 1});
                    }
                    let artifact = if fails(number) { &ill } else { &well };
                    let body = json!({"manifest": manifest, "artifact": artifact});
                    let (status, said) =
                        host.api("PUT", &format!("/v1/tenants/{name}"), Some(&body));
                    assert_eq!(status, 200, "{said}");
                }
            });
        }
    });
    host.must(["rm", "hello", "hostile-trap"]);
}

/// Clients that go on until this is dropped.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// On the first `tenants`, some of them much more than others.
    pub(crate) fn on(addr: SocketAddr, tenants: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |seed: usize| {
            let stop = Arc::clone(&stop);
            std::thread::spawn(move || ask(addr, tenants, seed, &stop))
        };
        Self { clients: (0..4).map(client).collect(), stop }
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

fn ask(addr: SocketAddr, tenants: usize, seed: usize, stop: &AtomicBool) {
    let mut random = 88_172_645_463_325_252_u64.wrapping_mul(seed as u64 + 1);
    let mut connection = Connection::open(addr);
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..40 {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            // Squared, so that most requests are for few: but spread over all numbers.
            let part = (random >> 40) as usize % tenants;
            let rank = part * part / tenants;
            let number = rank.wrapping_mul(2_654_435_761) % tenants;
            let target = if fails(number) { "/go" } else { "/" };
            let host = format!("{}.localhost", name(number));
            if connection.try_ask("GET", &host, target, &[], None).is_err() {
                connection = Connection::open(addr);
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}
