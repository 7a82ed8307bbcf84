//! What a store holds for the host: WASI's contexts, the resource table, the limiter, the deadline.
//!
//! Bounds: [`RESOURCES_MAX`] table entries, [`FIELDS_BYTES_MAX`] for header fields; memory through the
//! limiter. Belongs to one tenant and one revision; ends with the store.

use crate::limiter::{Gauge, MemoryLimiter};
use crate::log::{GuestStream, LineSink};
use http::header::HeaderName;
use insula_model::api::LogStream;
use std::sync::Arc;
use std::time::Instant;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

/// Host-side resources (streams, fields, bodies, pollables …) that one instance may hold.
const RESOURCES_MAX: usize = 4_096;
/// In-memory bytes of one set of header fields; above what [`insula_model::Ceilings`] lets in.
const FIELDS_BYTES_MAX: usize = 128 << 10;
/// Bytes of randomness in one call.
const RANDOM_BYTES_MAX: u64 = 64 << 10;

/// The data of a [`wasmtime::Store`].
pub(crate) struct State {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    hooks: Hooks,
    streams: Option<[GuestStream; 2]>,
    pub(crate) limiter: MemoryLimiter,
    pub(crate) deadline: Instant,
    /// Fuel the current request started with.
    pub(crate) fuel: u64,
}

impl State {
    /// Everything denied, standard output and error to `log`.
    pub(crate) fn serving(
        limiter: MemoryLimiter,
        fuel: u64,
        deadline: Instant,
        log: &LineSink,
    ) -> Self {
        let out = GuestStream::new(LogStream::Stdout, log.clone());
        let err = GuestStream::new(LogStream::Stderr, log.clone());
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(out.clone()).stderr(err.clone());
        Self { streams: Some([out, err]), ..Self::with(&mut wasi, limiter, fuel, deadline) }
    }

    /// Prepares a reused instance for its next request.
    pub(crate) fn rebind(
        &mut self,
        gauge: Arc<Gauge>,
        fuel: u64,
        deadline: Instant,
        log: &LineSink,
    ) {
        self.limiter.rebind(gauge);
        self.fuel = fuel;
        self.deadline = deadline;
        for stream in self.streams.iter().flatten() {
            stream.rebind(log.clone());
        }
    }

    /// A command with this process's standard streams.
    pub(crate) fn command(
        limiter: MemoryLimiter,
        fuel: u64,
        deadline: Instant,
        args: &[String],
    ) -> Self {
        let mut wasi = WasiCtxBuilder::new();
        wasi.inherit_stdio().args(args);
        Self::with(&mut wasi, limiter, fuel, deadline)
    }

    fn with(
        wasi: &mut WasiCtxBuilder,
        limiter: MemoryLimiter,
        fuel: u64,
        deadline: Instant,
    ) -> Self {
        wasi.max_random_size(RANDOM_BYTES_MAX);
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELDS_BYTES_MAX);
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        Self {
            wasi: wasi.build(),
            http,
            table,
            hooks: Hooks,
            streams: None,
            limiter,
            deadline,
            fuel,
        }
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.hooks, table: &mut self.table, ctx: &mut self.http }
    }
}

/// Policy of `wasi:http`.
struct Hooks;

/// The connection's own fields (RFC 9110, section 7.6.1) are the host's to write. `Host` is the
/// client's word and stays visible to the guest, since the host routed by it.
fn is_forbidden(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

impl WasiHttpHooks for Hooks {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        is_forbidden(name)
    }

    fn forbidden_header_filter(&mut self) -> wasmtime_wasi_http::ForbiddenHeaderFilter {
        std::sync::Arc::new(is_forbidden)
    }

    /// No tenant is granted any outbound host yet, so every call is refused, in the words that
    /// `wasi:http` has for it.
    fn send_request(
        &mut self,
        _request: http::Request<WasiBody>,
        _options: Option<RequestOptions>,
        _io: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<
        dyn Future<
                Output = wasmtime_wasi_http::Result<(
                    http::Response<WasiBody>,
                    Box<dyn Future<Output = Result<(), Error>> + Send>,
                )>,
            > + Send,
    > {
        Box::new(async { Err(Error::HttpRequestDenied) })
    }
}
