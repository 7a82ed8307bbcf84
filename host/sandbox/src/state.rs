//! What a store holds for the host: WASI's contexts, the resource table, the limiter, the deadline.
//!
//! Bounds: [`RESOURCES_MAX`] table entries at most, [`FIELDS_BYTES_MAX`] for header fields; memory through the
//! limiter. Belongs to one tenant and one revision; ends with the store.

use crate::capabilities::directories::{DirectoryError, Given};
use crate::capabilities::{Capabilities, config, keyvalue};
use crate::files::Files;
use crate::held;
use crate::invoke::Invocation;
use crate::limiter::{Gauge, MemoryLimiter};
use crate::log::{GuestStream, LineSink};
use crate::outbound::{self, CallContext};
use crate::roster::Roster;
use http::header::HeaderName;
use insula_model::RequestId;
use insula_model::api::LogStream;
use std::sync::Arc;
use std::time::Instant;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::p1::WasiP1Ctx;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{
    Error, RequestOptions, WasiBody, WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView,
};

/// Host-side resources (streams, fields, bodies, pollables …) that an instance may hold: one for each such part
/// of the memory that it may have, within bounds. The largest of them, a set of fields or what waits in a body,
/// holds about as much, so what the host holds for an instance is in proportion to what the instance may.
const RESOURCE_BYTES: usize = 64 << 10;
const RESOURCES_MIN: usize = 256;
/// Of a shared instance too, which serves many requests.
const RESOURCES_MAX: usize = 4_096;
/// Bytes of a response's or a call's body that wait in the host at once.
pub(crate) const BODY_CHUNK_BYTES: usize = 64 << 10;
/// The same for a preview 1 program, whose every entry may be an open file and so a descriptor of the
/// worker's: as many files as other guests may have open, and some for streams and waiting.
const PREVIEW1_RESOURCES_MAX: usize = 256 + 64;
/// In-memory bytes of one set of header fields; above what [`insula_model::Ceilings`] lets in.
pub(crate) const FIELDS_BYTES_MAX: usize = 128 << 10;

/// The data of a [`wasmtime::Store`].
pub(crate) struct State {
    wasi: Wasi,
    /// A preview 1 program's, with descriptors and a resource table of its own.
    preview1: Option<Box<WasiP1Ctx>>,
    http: WasiHttpCtx,
    pub(crate) table: ResourceTable,
    /// None until the guest asks for its directories.
    pub(crate) files: Option<Box<Files>>,
    pub(crate) limiter: MemoryLimiter,
    pub(crate) deadline: Instant,
    /// Fuel the current request started with; none if it is not counted.
    pub(crate) fuel: Option<u64>,
    /// Who is inside, if the instance is shared.
    pub(crate) roster: Option<Arc<Roster>>,
}

/// A program's WASI context, streams and all.
pub(crate) enum ProgramCtx {
    Component(Box<WasiCtx>),
    Preview1(Box<WasiP1Ctx>),
}

/// WASI's context is a dozen allocations and two seeded generators, and most requests never look at
/// it: it is made when a guest first does.
struct Wasi {
    ctx: Option<Box<WasiCtx>>,
    streams: Option<[GuestStream; 2]>,
    log: LineSink,
    request: RequestId,
    /// Calls from tenant to tenant that led to the request.
    hops: u32,
    /// The same as [`State::deadline`], for the calls that the request makes.
    deadline: Instant,
    capabilities: Arc<Capabilities>,
    directories: Result<Given, DirectoryError>,
}

impl State {
    /// For a request of a tenant.
    pub(crate) fn serving(
        limiter: MemoryLimiter,
        fuel: Option<u64>,
        deadline: Instant,
        log: LineSink,
        request: RequestId,
        hops: u32,
        capabilities: Arc<Capabilities>,
    ) -> Self {
        let directories = Ok(Given::default());
        let wasi = Wasi {
            ctx: None,
            streams: None,
            log,
            request,
            hops,
            deadline,
            capabilities,
            directories,
        };
        Self::with(wasi, limiter, fuel, deadline)
    }

    /// For a program, which has its streams already.
    pub(crate) fn program(
        limiter: MemoryLimiter,
        invocation: &Invocation,
        ctx: ProgramCtx,
        directories: Result<Given, DirectoryError>,
    ) -> Self {
        let (ctx, preview1) = match ctx {
            ProgramCtx::Component(ctx) => (Some(ctx), None),
            ProgramCtx::Preview1(mut ctx) => {
                ctx.ctx().table.set_max_capacity(PREVIEW1_RESOURCES_MAX);
                (None, Some(ctx))
            }
        };
        let Invocation { fuel, deadline, request, hops, .. } = *invocation;
        let (log, capabilities) = (invocation.log.clone(), invocation.capabilities.clone());
        let streams = None;
        let wasi = Wasi { ctx, streams, log, request, hops, deadline, capabilities, directories };
        Self { preview1, ..Self::with(wasi, limiter, fuel, deadline) }
    }

    /// What preview 1's functions work on. It is there wherever they are linked.
    pub(crate) fn preview1(&mut self) -> &mut WasiP1Ctx {
        self.preview1.get_or_insert_with(|| Box::new(WasiCtxBuilder::new().build_p1()))
    }

    fn with(wasi: Wasi, limiter: MemoryLimiter, fuel: Option<u64>, deadline: Instant) -> Self {
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(FIELDS_BYTES_MAX);
        let mut table = ResourceTable::new();
        let resources = (limiter.limit() / RESOURCE_BYTES).clamp(RESOURCES_MIN, RESOURCES_MAX);
        table.set_max_capacity(resources);
        let (preview1, files, roster) = (None, None, None);
        Self { wasi, preview1, http, table, files, limiter, deadline, fuel, roster }
    }

    /// Several requests are inside from now on.
    pub(crate) fn share(&mut self, roster: Arc<Roster>) {
        self.table.set_max_capacity(RESOURCES_MAX);
        self.roster = Some(roster);
    }

    /// Makes the guest's directories ready; why they are not, if so.
    pub(crate) fn directories(&mut self) -> Result<(), DirectoryError> {
        self.wasi.ctx();
        let given = self.wasi.directories.as_ref().map_err(Clone::clone)?;
        self.files.get_or_insert_with(|| Box::new(Files::new(given.quotas.clone())));
        Ok(())
    }

    /// What the guest has open.
    pub(crate) fn files(&mut self) -> &mut Files {
        self.files.get_or_insert_default()
    }

    pub(crate) fn files_and_table(&mut self) -> (&mut Files, &ResourceTable) {
        (self.files.get_or_insert_default(), &self.table)
    }

    /// One more request has entered a shared instance. Calls that the guest makes cannot be told apart
    /// by request: they are as deep as the deepest inside, and may last as long as the longest.
    pub(crate) fn entered(&mut self, deadline: Instant, speaker: RequestId, hops: u32) {
        self.deadline = self.deadline.max(deadline);
        self.wasi.deadline = self.deadline;
        self.wasi.request = speaker;
        self.wasi.hops = hops;
    }

    /// Takes stock of what the host holds for the guest, on its tenant's account; whether that may be.
    pub(crate) fn hold(&mut self) -> bool {
        self.limiter.hold(self.table.iter_mut().map(|entry| held::bytes(entry)).sum())
    }

    /// What `wasi:config` works on.
    pub(crate) fn config(&mut self) -> config::View<'_> {
        config::View(&self.wasi.capabilities.config)
    }

    /// What `wasi:keyvalue` works on.
    pub(crate) fn keyvalue(&mut self) -> keyvalue::View<'_> {
        let granted = self.wasi.capabilities.keyvalue.as_ref();
        keyvalue::View { table: &mut self.table, granted }
    }

    /// Prepares a reused instance for its next request.
    pub(crate) fn rebind(
        &mut self,
        gauge: Arc<Gauge>,
        fuel: Option<u64>,
        deadline: Instant,
        next: RequestId,
        hops: u32,
    ) {
        self.limiter.rebind(gauge);
        self.fuel = fuel;
        self.deadline = deadline;
        self.wasi.request = next;
        self.wasi.hops = hops;
        self.wasi.deadline = deadline;
        for stream in self.wasi.streams.iter().flatten() {
            stream.rebind(next);
        }
    }
}

impl Wasi {
    fn ctx(&mut self) -> &mut WasiCtx {
        let Self { ctx, streams, log, request, capabilities, directories, .. } = self;
        ctx.get_or_insert_with(|| {
            let out = GuestStream::new(LogStream::Stdout, log.clone(), *request);
            let err = GuestStream::new(LogStream::Stderr, log.clone(), *request);
            let mut wasi = capabilities.wasi();
            // A failure is the guest's end when it asks for its directories, and not before.
            *directories = capabilities.give(&mut wasi);
            wasi.stdout(out.clone()).stderr(err.clone());
            *streams = Some([out, err]);
            Box::new(wasi.build())
        })
    }
}

impl WasiView for State {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: self.wasi.ctx(), table: &mut self.table }
    }
}

impl WasiHttpView for State {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { hooks: &mut self.wasi, table: &mut self.table, ctx: &mut self.http }
    }
}

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

/// Policy of `wasi:http`.
impl WasiHttpHooks for Wasi {
    fn is_forbidden_header(&mut self, name: &HeaderName) -> bool {
        is_forbidden(name)
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        BODY_CHUNK_BYTES
    }

    fn forbidden_header_filter(&mut self) -> wasmtime_wasi_http::ForbiddenHeaderFilter {
        std::sync::Arc::new(is_forbidden)
    }

    /// Hands the call to what the tenant was granted; without a grant it is refused, in the words that
    /// `wasi:http` has for it, and the tenant's log says how to allow it.
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _io: Box<dyn Future<Output = Result<(), Error>> + Send>,
    ) -> Box<
        dyn Future<
                Output = wasmtime_wasi_http::Result<(
                    http::Response<WasiBody>,
                    Box<dyn Future<Output = Result<(), Error>> + Send>,
                )>,
            > + Send,
    > {
        let Some(send) = self.capabilities.outbound.clone() else {
            (self.log)(self.request, LogStream::Host, &outbound::refusal(&request));
            return Box::new(async { Err(Error::HttpRequestDenied) });
        };
        let context = CallContext { id: self.request, deadline: self.deadline, hops: self.hops };
        Box::new(async move {
            let answer = outbound::call(send, request, options, context).await?;
            // Whatever the connection still has to do, its own task does.
            let nothing: Box<dyn Future<Output = Result<(), Error>> + Send> =
                Box::new(async { Ok(()) });
            Ok((answer, nothing))
        })
    }
}
