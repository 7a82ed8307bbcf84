//! What stands on a request's way and can be called by itself, under criterion: a host name's normal form, a
//! manifest, the loading of compiled code, an instance and its request.
//!
//! ```text
//! cargo bench -p insula-benches --bench micro
//! ```
//! The code is compiled by the real binary (`INSULA_TEST_BINARY`, or the one that is built for it). No clock of
//! preemption runs, no socket and no tenant is involved: what a request costs a host is what `insula bench
//! throughput` says.
#![forbid(unsafe_code)]

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use criterion::{BatchSize, Criterion};
use http_body_util::{BodyExt, Empty};
use insula_benches::embedded::HELLO;
use insula_benches::host::binary;
use insula_model::grants::Grants;
use insula_model::route::normalise_host;
use insula_model::{Ceilings, CodeId, Digest, Manifest, Metering, RequestId};
use insula_sandbox::code::Loader;
use insula_sandbox::invoke::{Gauge, RequestBodyError};
use insula_sandbox::store::ArtifactStore;
use insula_sandbox::{Capabilities, Engines, Invocation, Loaded, Running};
use sha2::Digest as _;
use std::hint::black_box;
use std::process::Command;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const MANIFEST: &str = r#"
name = "shop"
component = "shop.wasm"
routes = ["shop.example.com", "example.com/shop"]
memory = { instance = "64Mi" }
cpu = { request = "100m", limit = "500m" }
timeout = "2s"
config = { currency = "EUR" }
"#;
/// Live instances that the engine has room for.
const LIVE: u32 = 64;

fn main() -> Result<()> {
    let mut criterion = Criterion::default().configure_from_args();
    criterion.bench_function("a host name's normal form", |bencher| {
        bencher.iter(|| normalise_host(black_box("tenant-000123.localhost:8080")).is_some());
    });
    let parse = |text: &str| -> Result<Manifest> { Ok(toml::from_str(text)?) };
    parse(MANIFEST)?.resolve(&Ceilings::default()).context("the manifest")?;
    criterion.bench_function("a manifest, read and resolved", |bencher| {
        bencher.iter(|| {
            parse(black_box(MANIFEST)).is_ok_and(|one| one.resolve(&Ceilings::default()).is_ok())
        });
    });
    let dir = TempDir::new()?;
    let (loader, id) = compiled(&dir)?;
    criterion.bench_function("code: found, mapped, linked, and dropped", |bencher| {
        bencher.iter(|| loader.find(&id).and_then(|found| loader.load(&found)).is_ok());
    });
    let loaded = Arc::new(loader.load(&loader.find(&id)?)?);
    // Guests that wait would do so on its clock.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let _inside = runtime.enter();
    ensure!(request(&loaded) == Some(200), "hello does not answer");
    criterion.bench_function("an instance, its request, and its end", |bencher| {
        bencher.iter_batched(|| (), |()| request(&loaded), BatchSize::SmallInput);
    });
    criterion.final_summary();
    Ok(())
}

/// `hello`, compiled and sealed in this directory, and who loads it.
fn compiled(dir: &TempDir) -> Result<(Loader, CodeId)> {
    let artifact = Digest(sha2::Sha256::digest(HELLO).into());
    let id = CodeId { artifact, metering: Metering::Fuel };
    let store = ArtifactStore::open(dir.path())?;
    let mut upload = store.upload()?;
    upload.write(HELLO)?;
    upload.finish(&artifact)?;
    let code = store.code_tmp();
    let hex = artifact.to_string();
    let output = Command::new(binary()?)
        .arg("__compile")
        .args([store.artifact_path(&artifact), code.path().into()])
        .args(["4294967296", "60", "fuel", hex.trim_start_matches("sha256:")])
        .arg(std::process::id().to_string())
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    store.seal(&id, insula_model::api::GuestKind::Http02, code.path())?;
    store.settle(&id)?;
    let engines = Arc::new(Engines::new(LIVE)?);
    Ok((Loader::new(engines, store.code_dir(), store.code_key()), id))
}

/// The status of one answer.
fn request(loaded: &Arc<Loaded>) -> Option<u16> {
    let invocation = Invocation {
        memory_bytes: 64 << 20,
        budget: None,
        fuel: Some(1_000_000_000),
        deadline: Instant::now() + Duration::from_secs(10),
        log: Arc::new(|_, _, _| ()),
        request: RequestId::new(0, 0),
        keep: false,
        gauge: Arc::new(Gauge::default()),
        hops: 0,
        capabilities: Arc::new(Capabilities::new("bench", &Grants::default(), &[])),
        edge: None,
    };
    let body = Empty::<Bytes>::new().map_err(|never| -> RequestBodyError { match never {} });
    let request = http::Request::get("http://hello.localhost/").body(body).ok()?;
    let mut running = Running::start(Arc::clone(loaded), None, request, invocation);
    let cx = &mut Context::from_waker(Waker::noop());
    let mut status = None;
    loop {
        let ended = running.poll_guest(cx);
        if let Some(head) = running.poll_head(cx) {
            status = head.ok().map(|head| head.status().as_u16());
        }
        if let Poll::Ready(finished) = ended {
            return status.filter(|_| finished.fault.is_none());
        }
    }
}
