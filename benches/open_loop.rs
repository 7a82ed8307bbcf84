//! Load at a constant rate of arrivals, whatever becomes of it: latency counts from the moment at which
//! a request was due, so a server that stalls is charged for all that it keeps waiting.

use crate::threads;
use crate::wire::{Connection, Poller, Seen, begin};
use anyhow::{Result, anyhow};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create,
    timerfd_settime,
};
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Open from the start; a request that finds all of them busy gets a further one.
const CONNECTIONS: usize = 256;
const CONNECTIONS_MAX: usize = 4096;
/// An answer that has not come so long after the last request was due has failed.
const PATIENCE: Duration = Duration::from_secs(5);
/// Not counted, so that connections and caches are warm.
const WARM_UP: Duration = Duration::from_millis(500);
/// The number of the timer among what is watched.
const TIMER: usize = usize::MAX;

/// What to send, and how often.
#[derive(Debug, Clone)]
pub struct Arrivals {
    /// A loopback port.
    pub port: u16,
    /// The request's bytes.
    pub request: Vec<u8>,
    /// Requests in a second.
    pub rate: f64,
    /// For how long they count.
    pub span: Duration,
    /// Where the generator runs.
    pub cores: Vec<usize>,
}

/// What came of it.
#[derive(Debug, Clone, Default)]
pub struct Answers {
    /// Microseconds from the moment a request was due to its answer, or to its failure; sorted.
    pub latencies: Vec<f64>,
    /// Microseconds from the moment a request was due to its sending: the generator's own delay; sorted.
    pub lags: Vec<f64>,
    /// All requests, those of the warm-up too.
    pub sent: u32,
    /// Requests without a 200.
    pub failed: usize,
    /// Whether the generator went before everything ordinary.
    pub urgent: bool,
}

impl Answers {
    /// The part of requests that got a 200.
    pub fn success(&self) -> f64 {
        1.0 - self.failed as f64 / self.latencies.len().max(1) as f64
    }

    /// A latency that this part of all requests stays within.
    pub fn latency(&self, part: f64) -> f64 {
        quantile(&self.latencies, part)
    }

    /// The same for the generator's own delay.
    pub fn lag(&self, part: f64) -> f64 {
        quantile(&self.lags, part)
    }
}

fn quantile(sorted: &[f64], part: f64) -> f64 {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

impl Arrivals {
    /// Sends them all, from a thread of its own.
    pub fn run(&self) -> Result<Answers> {
        std::thread::scope(|scope| scope.spawn(|| Generator::new(self)?.run()).join())
            .map_err(|_| anyhow!("the load generator panicked"))?
    }
}

struct Generator<'a> {
    arrivals: &'a Arrivals,
    poller: Poller,
    connections: Vec<Option<Connection>>,
    /// When the request under way on each connection was due.
    due: Vec<Option<Duration>>,
    idle: VecDeque<usize>,
    answers: Answers,
    under_way: usize,
    start: Instant,
}

impl<'a> Generator<'a> {
    fn new(arrivals: &'a Arrivals) -> Result<Self> {
        threads::bind(&arrivals.cores);
        let answers = Answers { urgent: threads::urgent(), ..Answers::default() };
        let mut this = Self {
            arrivals,
            poller: Poller::new()?,
            connections: Vec::new(),
            due: Vec::new(),
            idle: VecDeque::new(),
            answers,
            under_way: 0,
            start: Instant::now(),
        };
        for _ in 0..CONNECTIONS {
            let number = this.open()?;
            this.idle.push_back(number);
        }
        Ok(this)
    }

    fn open(&mut self) -> Result<usize> {
        let number = self.connections.len();
        let connection = Connection::new(begin(self.arrivals.port)?);
        self.poller.watch(&connection.stream, number)?;
        self.connections.push(Some(connection));
        self.due.push(None);
        Ok(number)
    }

    fn run(mut self) -> Result<Answers> {
        let gap = Duration::from_secs_f64(1.0 / self.arrivals.rate);
        let whole = WARM_UP + self.arrivals.span;
        let count = (whole.as_secs_f64() * self.arrivals.rate) as u32;
        self.answers.latencies.reserve(count as usize);
        self.answers.lags.reserve(count as usize);
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK)?;
        self.poller.watch(&timer, TIMER)?;
        let every = Timespec {
            tv_sec: gap.as_secs() as i64,
            tv_nsec: i64::from(gap.subsec_nanos()).max(1),
        };
        let setting = Itimerspec { it_interval: every, it_value: every };
        timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)?;
        self.start = Instant::now();
        let mut next = 1;
        let mut changed = Vec::new();
        loop {
            self.send_due(gap, count, &mut next);
            if next > count {
                let over = self.start.elapsed() > gap * count + PATIENCE;
                if self.under_way == 0 || over {
                    break;
                }
            }
            // The timer wakes this one for the next request; after the last, time runs out.
            self.poller.wait((next > count).then_some(10), &mut changed)?;
            for number in changed.drain(..) {
                if number == TIMER {
                    // Until this is read, the kernel does not set it again.
                    let _ = rustix::io::read(&timer, &mut [0u8; 8]);
                } else {
                    self.look(number);
                }
                self.send_due(gap, count, &mut next);
            }
        }
        for number in 0..self.due.len() {
            self.end(number, false);
        }
        self.answers.sent = count;
        self.answers.latencies.sort_by(f64::total_cmp);
        self.answers.lags.sort_by(f64::total_cmp);
        Ok(self.answers)
    }

    fn send_due(&mut self, gap: Duration, count: u32, next: &mut u32) {
        while *next <= count && gap * *next <= self.start.elapsed() {
            self.send(gap * *next);
            *next += 1;
        }
    }

    fn send(&mut self, due: Duration) {
        // The one that has been idle longest, so that all of them carry the load.
        let number = loop {
            match self.idle.pop_front() {
                Some(number) if self.connections[number].is_some() => break Some(number),
                Some(_) => {}
                None if self.connections.len() < CONNECTIONS_MAX => break self.open().ok(),
                None => break None,
            }
        };
        if due >= WARM_UP {
            let lag = self.start.elapsed().saturating_sub(due);
            self.answers.lags.push(lag.as_secs_f64() * 1e6);
        }
        let Some(number) = number else {
            // No connection to be had: the request fails, and no later one waits for it.
            if due >= WARM_UP {
                self.answers.latencies.push(PATIENCE.as_secs_f64() * 1e6);
                self.answers.failed += 1;
            }
            return;
        };
        self.due[number] = Some(due);
        self.under_way += 1;
        let sent = self.connections[number]
            .as_mut()
            .is_some_and(|connection| connection.send(&self.arrivals.request));
        if !sent {
            self.connections[number] = None;
            self.end(number, false);
        }
    }

    fn look(&mut self, number: usize) {
        let Some(connection) = self.connections.get_mut(number).and_then(Option::as_mut) else {
            return;
        };
        let seen = connection.look();
        let connection_ends = connection.last;
        match seen {
            Seen::Waiting => {}
            Seen::Answer(status) => {
                self.end(number, status == 200);
                if connection_ends {
                    self.connections[number] = None;
                } else {
                    self.idle.push_back(number);
                }
            }
            Seen::Broken => {
                self.connections[number] = None;
                self.end(number, false);
            }
        }
    }

    fn end(&mut self, number: usize, good: bool) {
        let Some(due) = self.due[number].take() else { return };
        self.under_way -= 1;
        if due >= WARM_UP {
            let took = self.start.elapsed().saturating_sub(due);
            self.answers.latencies.push(took.as_secs_f64() * 1e6);
            self.answers.failed += usize::from(!good);
        }
    }
}
