//! How a request ended and what it cost. Every admitted request ends in exactly one of each.

use serde::{Deserialize, Serialize};

/// How an admitted request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// The guest's response went out whole.
    Response,
    /// The client's doing: it went away, stalled, or sent too much or less than it declared.
    ClientFault(Fault),
    /// The guest's doing.
    GuestFault(Fault),
    /// The host's doing.
    HostFault(Fault),
    /// Refused before anything was instantiated.
    Shed(Fault),
}

impl Outcome {
    /// Whose doing it was, as a word, and what went wrong.
    pub fn in_words(self) -> (&'static str, Option<Fault>) {
        match self {
            Self::Response => ("response", None),
            Self::ClientFault(fault) => ("client-fault", Some(fault)),
            Self::GuestFault(fault) => ("guest-fault", Some(fault)),
            Self::HostFault(fault) => ("host-fault", Some(fault)),
            Self::Shed(fault) => ("shed", Some(fault)),
        }
    }
}

/// What exactly went wrong. Each has its own status, message and log entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Fault {
    /// The client closed the connection before the response was complete.
    ClientGone,
    /// The request body is longer than the tenant allows.
    RequestBodyTooLarge,
    /// The request head is longer than the tenant allows.
    RequestHeaderTooLarge,
    /// The request body broke off or was malformed.
    RequestBodyBroken,
    /// The request body did not arrive before the deadline.
    RequestTimeout,
    /// A request that cannot be passed to a guest as it is.
    BadRequest,
    /// The guest trapped (unreachable, out of bounds, stack overflow …).
    Trap,
    /// The guest used up its fuel.
    OutOfFuel,
    /// The guest was denied memory or table growth, or a host-side resource, and did not survive it.
    OutOfMemory,
    /// A preview 1 program wrote more into a directory than its quota allows.
    OutOfStorage,
    /// The deadline passed.
    Deadline,
    /// The guest returned without a response.
    NoResponse,
    /// The guest called `wasi:cli/exit`.
    Exit,
    /// The guest's response body is longer than the tenant allows.
    ResponseBodyTooLarge,
    /// The guest's response is not valid HTTP, or shorter or longer than it declared.
    BadResponse,
    /// The tenant's compiled code could not be loaded (yet).
    CodeUnavailable,
    /// A directory that the tenant was granted cannot be opened, or a scratch one not be made.
    DirectoryUnavailable,
    /// No instance slot, mapping or memory is left in this worker.
    WorkerFull,
    /// A bug in the host: caught, counted, answered with 500.
    Panic,
    /// The tenant runs as many requests as it may, and its queue is full or the wait was too long.
    Concurrency,
    /// The tenant is called more often than its `rate` allows.
    RateLimit,
    /// The tenant's instances hold as much memory together as they may.
    TenantMemory,
    /// The host's memory runs low, and the tenant is of a class that is refused for it.
    HostMemory,
    /// The host's memory ran out, and the guest was of a class that is ended for it.
    Evicted,
    /// The tenant's circuit breaker is open: it kept failing.
    CircuitOpen,
    /// The tenant was stopped by whoever operates it.
    TenantStopped,
    /// The host is shutting down.
    Draining,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 26] = [
        Self::ClientGone,
        Self::RequestBodyTooLarge,
        Self::RequestHeaderTooLarge,
        Self::RequestBodyBroken,
        Self::RequestTimeout,
        Self::BadRequest,
        Self::Trap,
        Self::OutOfFuel,
        Self::OutOfMemory,
        Self::OutOfStorage,
        Self::Deadline,
        Self::NoResponse,
        Self::Exit,
        Self::ResponseBodyTooLarge,
        Self::BadResponse,
        Self::CodeUnavailable,
        Self::DirectoryUnavailable,
        Self::WorkerFull,
        Self::Panic,
        Self::Concurrency,
        Self::RateLimit,
        Self::TenantMemory,
        Self::HostMemory,
        Self::Evicted,
        Self::CircuitOpen,
        Self::Draining,
    ];

    /// A stable, machine-readable word for logs, metrics and the `insula-fault` response header.
    pub fn code(self) -> &'static str {
        match self {
            Self::ClientGone => "client-gone",
            Self::RequestBodyTooLarge => "request-body-too-large",
            Self::RequestHeaderTooLarge => "request-header-too-large",
            Self::RequestBodyBroken => "request-body-broken",
            Self::RequestTimeout => "request-timeout",
            Self::BadRequest => "bad-request",
            Self::Trap => "trap",
            Self::OutOfFuel => "out-of-fuel",
            Self::OutOfMemory => "out-of-memory",
            Self::OutOfStorage => "out-of-storage",
            Self::Deadline => "deadline",
            Self::NoResponse => "no-response",
            Self::Exit => "exit",
            Self::ResponseBodyTooLarge => "response-body-too-large",
            Self::BadResponse => "bad-response",
            Self::CodeUnavailable => "code-unavailable",
            Self::DirectoryUnavailable => "directory-unavailable",
            Self::WorkerFull => "worker-full",
            Self::Panic => "host-panic",
            Self::Concurrency => "concurrency",
            Self::RateLimit => "rate-limit",
            Self::TenantMemory => "tenant-memory",
            Self::HostMemory => "host-memory",
            Self::Evicted => "evicted",
            Self::CircuitOpen => "circuit-open",
            Self::TenantStopped => "tenant-stopped",
            Self::Draining => "draining",
        }
    }
}

/// The first digit of an answer's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StatusClass {
    /// 200 to 299.
    Success,
    /// 300 to 399.
    Redirection,
    /// 400 to 499.
    ClientError,
    /// 500 and above.
    ServerError,
}

impl StatusClass {
    /// The class of a final status; below 200 nothing has been answered yet.
    pub fn of(status: u16) -> Option<Self> {
        match status {
            ..200 => None,
            200..300 => Some(Self::Success),
            300..400 => Some(Self::Redirection),
            400..500 => Some(Self::ClientError),
            500.. => Some(Self::ServerError),
        }
    }
}

/// What a request cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Fuel consumed.
    pub fuel: u64,
    /// Nanoseconds during which the guest held the worker's thread.
    pub cpu_ns: u64,
    /// Most bytes of linear memory and tables that the instance held.
    pub memory_peak_bytes: u64,
    /// Request body bytes that were passed to the guest.
    pub bytes_in: u64,
    /// Response body bytes that were passed to the client.
    pub bytes_out: u64,
}
