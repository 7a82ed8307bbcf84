//! Who is inside a shared instance, what each has used, and what becomes of the rest when one fails.
//!
//! Bounded by the manifest's `reuse`: so many requests at once, so many in all. One lock, taken on the
//! worker's only thread and never across an await; ends with the instance.

use crate::fault::GuestFault;
use crate::invoke::{GuestBody, Head, Invocation};
use crate::limiter::Gauge;
use futures_channel::oneshot;
use insula_model::{Fault, RequestId};
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};
use wasmtime::component::GuestTaskId;

/// How long an instance may compute and still take another request.
const COMPUTES_MAX: Duration = Duration::from_millis(5);

/// In logs, the request of a line that one of several may have written.
fn nobody() -> RequestId {
    RequestId::new(0, 0)
}

/// What a shared instance may take.
#[derive(Debug, Clone, Copy)]
pub struct Sharing {
    /// Requests at once.
    pub concurrent: u32,
    /// Requests in all.
    pub requests: u32,
    /// Fuel that each request brings along; 0 if it is not counted.
    pub fuel: u64,
    /// How long the instance may be without a request.
    pub idle: Duration,
}

/// One request's place.
pub(crate) struct Place {
    pub(crate) request: RequestId,
    pub(crate) deadline: Instant,
    pub(crate) gauge: Arc<Gauge>,
    /// Calls from tenant to tenant that led to it.
    hops: u32,
    task: OnceLock<GuestTaskId>,
}

/// A request at the door.
pub(crate) struct Entrant {
    pub(crate) request: http::Request<GuestBody>,
    pub(crate) place: Arc<Place>,
    pub(crate) head: oneshot::Sender<Head>,
}

/// Why a request's instance ended under it.
pub(crate) struct End {
    pub(crate) fault: GuestFault,
    /// The request, if the guest has not seen it.
    pub(crate) refused: Option<Box<http::Request<GuestBody>>>,
}

struct Present {
    place: Arc<Place>,
    end: oneshot::Sender<End>,
    /// Whether its fuel is in the tank, and the guest has seen it.
    entered: bool,
}

/// Whether the instance goes on.
pub(crate) enum Life {
    Open,
    /// Nobody is in it, but a guest's task may still work: until then.
    Lingers(Instant),
    Over,
}

pub(crate) struct Roster {
    sharing: Sharing,
    inner: Mutex<Inner>,
    /// Memory and denials of the instance as a whole.
    pub(crate) gauge: Arc<Gauge>,
}

struct Inner {
    queued: VecDeque<Entrant>,
    present: Vec<Present>,
    /// Whose each guest task is; of those that have ended too, until no task is left.
    tasks: HashMap<GuestTaskId, Arc<Place>>,
    taken: u32,
    /// Takes no more requests.
    retired: bool,
    /// Since when a guest has computed for longer than a slice, so that nobody else in here can go on.
    computing: Option<Instant>,
    idle_since: Instant,
    /// Deadlines, the first and the last, of requests that left while their guest task may have worked
    /// on: wasmtime has no way to end one task of a store.
    stray: Option<(Instant, Instant)>,
    /// Fuel in the tank when it was last looked at.
    tank: u64,
    /// Used while nobody was inside; the next pays.
    unpaid_fuel: u64,
    unpaid_cpu: Duration,
    waker: Option<Waker>,
}

impl Roster {
    pub(crate) fn new(sharing: Sharing) -> Self {
        let inner = Inner {
            queued: VecDeque::new(),
            present: Vec::new(),
            tasks: HashMap::new(),
            taken: 0,
            retired: false,
            computing: None,
            idle_since: Instant::now(),
            stray: None,
            tank: sharing.fuel,
            unpaid_fuel: 0,
            unpaid_cpu: Duration::ZERO,
            waker: None,
        };
        Self { sharing, inner: Mutex::new(inner), gauge: Arc::default() }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // --- from outside the store: the requests and the worker

    /// Lets a request in.
    pub(crate) fn enter(
        &self,
        request: http::Request<GuestBody>,
        invocation: &Invocation,
        head: oneshot::Sender<Head>,
    ) -> (Arc<Place>, oneshot::Receiver<End>) {
        let (end, ended) = oneshot::channel();
        let Invocation { request: id, deadline, hops, .. } = *invocation;
        let gauge = invocation.gauge.clone();
        let place = Arc::new(Place { request: id, deadline, gauge, hops, task: OnceLock::new() });
        let mut inner = self.inner();
        inner.taken += 1;
        inner.retired |= inner.taken >= self.sharing.requests;
        inner.present.push(Present { place: place.clone(), end, entered: false });
        inner.queued.push_back(Entrant { request, place: place.clone(), head });
        inner.wake();
        (place, ended)
    }

    /// A request is through, or given up.
    pub(crate) fn leave(&self, place: &Arc<Place>) {
        let mut inner = self.inner();
        let Some(at) = inner.present.iter().position(|p| Arc::ptr_eq(&p.place, place)) else {
            return;
        };
        inner.present.swap_remove(at);
        place.gauge.memory_peak_bytes.store(self.gauge.memory_peak_bytes.load(Relaxed), Relaxed);
        inner.queued.retain(|entrant| !Arc::ptr_eq(&entrant.place, place));
        let task = place.task.get().and_then(|task| inner.tasks.get(task));
        if task.is_some_and(|of| Arc::ptr_eq(of, place)) {
            let until = place.deadline;
            let (first, last) = inner.stray.unwrap_or((until, until));
            inner.stray = Some((first.min(until), last.max(until)));
        }
        if inner.present.is_empty() {
            inner.idle_since = Instant::now();
            if inner.retired {
                inner.wake();
            }
        }
    }

    /// How many are inside, if there is room for one more.
    pub(crate) fn room(&self, now: Instant) -> Option<usize> {
        let inner = self.inner();
        let count = inner.present.len();
        // A slice or two is nothing to start another instance for.
        let computes = inner
            .computing
            .is_some_and(|since| now.saturating_duration_since(since) > COMPUTES_MAX);
        let open = !inner.retired && !computes && !inner.has_overstayed(now);
        (open && count < self.sharing.concurrent as usize).then_some(count)
    }

    /// Takes no more requests if its time has come; whether it still takes any.
    pub(crate) fn is_kept(&self, now: Instant) -> bool {
        let mut inner = self.inner();
        let idle = inner.present.is_empty()
            && now.saturating_duration_since(inner.idle_since) >= self.sharing.idle;
        if idle || inner.has_overstayed(now) {
            inner.retire();
        }
        !inner.retired
    }

    pub(crate) fn retire(&self) {
        self.inner().retire();
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.inner().present.is_empty()
    }

    /// Whether the instance goes on; if so, `waker` hears of what changes that.
    pub(crate) fn life(&self, waker: &Waker, now: Instant) -> Life {
        let mut inner = self.inner();
        if !inner.retired || !inner.present.is_empty() {
            if !inner.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
                inner.waker = Some(waker.clone());
            }
            return Life::Open;
        }
        match inner.stray {
            Some((_, last)) if last > now => Life::Lingers(last),
            _ => Life::Over,
        }
    }

    /// Processor time of one slice, in equal parts to those who are inside.
    pub(crate) fn spend(&self, cpu: Duration) {
        let mut inner = self.inner();
        let cpu = cpu + std::mem::take(&mut inner.unpaid_cpu);
        let Ok(count @ 1..) = u32::try_from(inner.present.len()) else {
            inner.unpaid_cpu = cpu;
            return;
        };
        let part = u64::try_from((cpu / count).as_nanos()).unwrap_or(u64::MAX);
        for present in &inner.present {
            present.place.gauge.cpu_ns.fetch_add(part, Relaxed);
        }
    }

    /// Whose line the guest writes now.
    pub(crate) fn speaker(&self) -> RequestId {
        match self.inner().present.as_slice() {
            [only] => only.place.request,
            _ => nobody(),
        }
    }

    /// The deepest call inside.
    pub(crate) fn hops(&self) -> u32 {
        self.inner().present.iter().map(|present| present.place.hops).max().unwrap_or(0)
    }

    // --- from inside the store

    /// The next request at the door, with what is to be in the tank from now on: what is left of the
    /// others' fuel, but never more than they may have, and its own.
    pub(crate) fn admit(&self, left: u64) -> Option<(Entrant, u64)> {
        let mut inner = self.inner();
        inner.computing = None;
        inner.settle(left);
        let entrant = inner.queued.pop_front()?;
        let inside = inner.present.iter().filter(|present| present.entered).count() as u64;
        let fuel = self.sharing.fuel;
        inner.tank = left.min(inside.saturating_mul(fuel)).saturating_add(fuel);
        if let Some(present) =
            inner.present.iter_mut().find(|present| Arc::ptr_eq(&present.place, &entrant.place))
        {
            present.entered = true;
            present.place.gauge.ready();
        }
        Some((entrant, inner.tank))
    }

    pub(crate) fn started(&self, place: &Arc<Place>, task: GuestTaskId) {
        let _first = place.task.set(task);
        self.inner().tasks.insert(task, place.clone());
    }

    /// No guest task is left, and no call under way.
    pub(crate) fn clear(&self) {
        let mut inner = self.inner();
        inner.tasks.clear();
        inner.stray = None;
        if inner.retired && inner.present.is_empty() {
            inner.wake();
        }
    }

    /// A slice has ended in the task `of`; its deadline, if it is known whose it is.
    pub(crate) fn end_of_slice(&self, of: Option<GuestTaskId>, left: u64) -> Option<Instant> {
        let mut inner = self.inner();
        inner.computing.get_or_insert_with(Instant::now);
        inner.settle(left);
        of.and_then(|task| inner.tasks.get(&task)).map(|place| place.deadline)
    }

    /// Lets go of the requests at the door.
    pub(crate) fn turn_away(&self) {
        self.inner().queued.clear();
    }

    /// The instance has ended. Whoever caused it gets the fault, the others a word about it; those the
    /// guest has not seen yet get their request back.
    pub(crate) fn die(&self, fault: GuestFault, of: Option<GuestTaskId>) {
        let mut inner = self.inner();
        inner.retired = true;
        let culprit = of.and_then(|task| inner.tasks.get(&task)).cloned();
        let all = inner.present.len() == 1 || fault.fault == Fault::Panic;
        let cause = culprit.as_ref().map_or_else(|| "unknown".into(), |p| p.request.to_string());
        let what = if culprit.is_some() { fault.fault.code() } else { fault.detail.as_str() };
        let detail = format!("another request ({cause}) ended the instance they shared: {what}");
        let mut queued: Vec<Entrant> = std::mem::take(&mut inner.queued).into();
        for present in std::mem::take(&mut inner.present) {
            let Present { place, end, entered } = present;
            let own = culprit.as_ref().is_some_and(|culprit| Arc::ptr_eq(culprit, &place));
            let peak = self.gauge.memory_peak_bytes.load(Relaxed);
            place.gauge.memory_peak_bytes.store(peak, Relaxed);
            let at = queued.iter().position(|entrant| Arc::ptr_eq(&entrant.place, &place));
            let refused = at.map(|at| Box::new(queued.swap_remove(at).request));
            let fault = if own || culprit.is_none() && (all || !entered) {
                fault.clone()
            } else {
                GuestFault::new(Fault::Trap, detail.clone())
            };
            // A receiver that is gone does not want to know.
            let _ = end.send(End { fault, refused });
        }
        inner.wake();
    }
}

impl Inner {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn retire(&mut self) {
        self.retired = true;
        if self.present.is_empty() {
            self.wake();
        }
    }

    /// A guest task works on beyond the deadline of its request, or may: the instance has not been
    /// without tasks since.
    fn has_overstayed(&self, now: Instant) -> bool {
        self.stray.is_some_and(|(first, _)| first <= now)
    }

    /// Fuel used since the last look, in equal parts to those who are inside.
    fn settle(&mut self, left: u64) {
        let used = self.tank.saturating_sub(left) + self.unpaid_fuel;
        self.tank = left;
        let count = self.present.iter().filter(|present| present.entered).count() as u64;
        if count == 0 {
            self.unpaid_fuel = used;
            return;
        }
        self.unpaid_fuel = used % count;
        for present in self.present.iter().filter(|present| present.entered) {
            present.place.gauge.fuel.fetch_add(used / count, Relaxed);
        }
    }
}
