//! `insula bench density`: memory of each tenant that is ready, and how many fit.

mod stack;

use crate::peers::{self, Peer, RUNTIMES};
use crate::results::Bench;
use crate::samples::{Figure, add, at_most, of, paired};
use crate::session::{Interrupted, Session};
use crate::subject::Subject;
use crate::{machine, stats};
use anyhow::{Context, Result};
use stack::{Hosted, Memory, Native, Stack, State};
use std::time::{Duration, Instant};

const ROUNDS: usize = 5;
/// Containers of one runtime, unless `--tenants` says otherwise.
const CONTAINERS: usize = 20;
/// How long a stack may take to become calm before it is weighed.
const SETTLE: Duration = Duration::from_secs(3);
/// How long the search for what fits goes on, for each subject …
const FIT_MAX: Duration = Duration::from_secs(10);
/// … but for the one case that the project's own bar is about.
const FIT_LIVE_MAX: Duration = Duration::from_secs(120);
/// The default has room for 4,096 live instances in a worker.
const LIVE_FLAGS: &[&str] = &["--instances", "10400"];
/// Of so many tenants it is asked whether they answer.
const ASKED: usize = 100;

/// Why a search ends where the host itself sets a limit.
const FULL: &str = "the host keeps no more of them in this state";
/// Live instances that a host is to hold at once.
const LIVE_MIN: usize = 20_000;

const EACH: Figure = Figure::less("memory per tenant", "KiB").along("tenants");
const WITH_BASE: Figure =
    Figure::less("memory per tenant, idle stack included", "KiB").along("tenants");
const FURTHER: Figure = Figure::less("memory per further tenant", "KiB").along("tenants");
const PSS: Figure = Figure::less("PSS and page tables per tenant", "KiB").along("tenants");
const FITS: Figure = Figure::more("tenants that fit", "count");

const METHOD: &str = "Tenants are added one by one to a stack that stands, each is asked for an answer (but those that \
are only deployed), and at 1, 10, 100 … tenants, after 3 s without work, the stack is weighed. Memory per tenant is \
what the stack's memory control group has grown by since it had no tenant, divided by the tenants: pages, page tables \
and the kernel's own structures, of daemons, shims and monitors too, without page cache that nobody has mapped. The same \
is shown with the idle stack itself (daemons, or Insula's supervisor and workers); per further tenant, that is the growth since the weighing before; and the sum of \
the processes' proportional pages and page tables, which misses what the kernel holds for them. Without control groups \
only the last can be had, and stands for the first. One tenant had been created and removed (or, with Insula, asked) \
before the stack without tenants was weighed. In the last round tenants are added until the budget is used up, something \
refuses, or 10 s have passed (with live instances of a shared module, where the host has room for 10,400 in each \
worker by `--instances`, 120 s).";

/// A subject in a state.
struct Entry {
    id: String,
    case: &'static str,
    state: Option<(State, bool)>,
    /// Tenants, unless `--tenants` says otherwise.
    most: usize,
}

impl Entry {
    fn is_live_and_shared(&self) -> bool {
        self.state == Some((State::Live, true))
    }
}

/// Case, state, whether all share one module, and tenants: each module of its own is compiled first.
const STATES: [(&str, State, bool, usize); 5] = [
    ("deployed", State::Deployed, true, 10_000),
    ("loaded, shared module", State::Loaded, true, 1_000),
    ("loaded, distinct modules", State::Loaded, false, 300),
    ("live, shared module", State::Live, true, 1_000),
    ("live, distinct modules", State::Live, false, 300),
];

/// Runs it.
pub fn run(session: &mut Session, bench: &mut Bench) -> Result<()> {
    let rounds = session.options.rounds.unwrap_or(ROUNDS);
    bench.method = METHOD.into();
    bench.settings.insert("rounds".into(), rounds.to_string());
    bench.settings.insert("workers".into(), machine::cores().to_string());
    bench.settings.insert("budget".into(), format!("{} MiB", session.options.budget_bytes >> 20));
    let launched = peers::launch_all(session, "density")?;
    let mut entries: Vec<Entry> = STATES
        .iter()
        .map(|(case, state, shared, most)| Entry {
            most: *most,
            id: "insula".into(),
            case,
            state: Some((*state, *shared)),
        })
        .collect();
    entries.extend(launched.iter().map(|(id, _)| Entry {
        id: id.clone(),
        case: "",
        state: None,
        most: CONTAINERS,
    }));
    for round in 0..rounds {
        let last = round + 1 == rounds;
        for turn in 0..entries.len() {
            let Some(entry) = entries.get((turn + round) % entries.len()) else { continue };
            let done = weigh_all(session, bench, entry, &launched, last);
            compare(bench);
            // The others are weighed all the same.
            session.survive(bench, &format!("{} {}", entry.id, entry.case), done)?;
        }
    }
    Ok(())
}

/// One subject in one state, from none to as many as there are to be.
fn weigh_all(
    session: &Session,
    bench: &mut Bench,
    entry: &Entry,
    launched: &[(String, Box<dyn Peer>)],
    last: bool,
) -> Result<()> {
    let Some((state, shared)) = entry.state else {
        let peer = launched.iter().find(|(id, _)| *id == entry.id).context("a peer")?;
        return ramp(session, bench, entry, &mut Native::new(peer.1.as_ref()), last);
    };
    let workers = u32::try_from(machine::cores())?;
    let flags = if entry.is_live_and_shared() { LIVE_FLAGS } else { &[] };
    let subject = Subject::start_with(&session.options.binary, workers, "insula", flags)?;
    ramp(session, bench, entry, &mut Hosted::new(&subject, state, shared)?, last)
}

/// 1, 10, 100 … and the last.
fn levels(most: usize) -> Vec<usize> {
    let mut all: Vec<usize> = std::iter::successors(Some(1usize), |n| n.checked_mul(10))
        .take_while(|n| *n < most)
        .collect();
    all.push(most);
    all
}

fn ramp(
    session: &Session,
    bench: &mut Bench,
    entry: &Entry,
    stack: &mut dyn Stack,
    last: bool,
) -> Result<()> {
    let most = session.options.tenants.unwrap_or(entry.most);
    let name = format!("density: {} {}", entry.id, entry.case);
    std::thread::sleep(SETTLE);
    let empty = stack.memory()?;
    let budget = session.options.budget_bytes;
    let grown = |now: &Memory| now.whole().saturating_sub(empty.whole());
    let mut count = 0;
    let mut weighed = (0, empty.whole());
    let began = Instant::now();
    let mut ended = None;
    for level in levels(most) {
        while count < level && ended.is_none() {
            session.step(name.trim(), count, most)?;
            ended = more(stack, &mut count)?;
            // Between two levels a look now and then is enough.
            if count.is_multiple_of((level / 20).max(1)) && grown(&stack.memory()?) > budget {
                ended = Some("the budget is used up".to_owned());
            }
        }
        if count < level {
            break;
        }
        std::thread::sleep(SETTLE);
        let now = stack.memory()?;
        weigh(bench, entry, &empty, &now, count);
        if weighed.0 > 0 {
            let grown = (now.whole() as f64 - weighed.1 as f64) / 1024.0;
            let each = grown / (count - weighed.0) as f64;
            add(bench, FURTHER, &entry.id, entry.case, Some(count as f64), each);
        }
        weighed = (count, now.whole());
        if let Some(ready) = stack.ready()?.filter(|ready| *ready < count) {
            let what = format!("{} {}: {ready} of {count} are in this state", entry.id, entry.case);
            if !bench.notes.contains(&what) {
                bench.notes.push(what);
            }
        }
    }
    if !last {
        return Ok(());
    }
    let each = grown(&stack.memory()?) / count.max(1) as u64;
    let fit_max = if entry.is_live_and_shared() { FIT_LIVE_MAX } else { FIT_MAX };
    let mut looked = count;
    while ended.is_none() && began.elapsed() < fit_max {
        session.step(&format!("{name}, what fits"), count, fitting(budget, each))?;
        ended = more(stack, &mut count)?;
        // To look takes longer the more there are.
        if count > looked + looked / 20 {
            looked = count;
            if grown(&stack.memory()?) > budget {
                ended = Some("the budget is used up".to_owned());
            } else if full(stack, count)? {
                ended = Some(FULL.to_owned());
            }
        }
    }
    let answering = answering(stack, count);
    let whose = format!("{} {}", entry.id, entry.case);
    let mib = grown(&stack.memory()?) >> 20;
    let ready = stack.ready()?.map_or_else(String::new, |ready| format!(", {ready} of them live"));
    let asked = count.min(ASKED);
    if entry.is_live_and_shared() {
        let live = stack.ready()?.unwrap_or(0);
        let kept = ended.as_deref().is_some_and(|why| why == FULL);
        if live >= LIVE_MIN || kept {
            let verdict = if live >= LIVE_MIN { "holds" } else { "is missed" };
            bench.notes.push(format!("bar: live at once: {live}; at least {LIVE_MIN} {verdict}"));
        }
    }
    match ended {
        Some(why) => {
            let fit = stack.ready()?.unwrap_or(count);
            add(bench, FITS, &entry.id, entry.case, None, fit as f64);
            bench.notes.push(format!(
                "{}: {count} tenants{ready} in {mib} MiB, then: {why}; {answering} of {asked} asked answer",
                whose.trim()
            ));
        }
        None => bench.notes.push(format!(
            "{}: at least {count} tenants{ready} fit; they take {mib} MiB, and time was up; {answering} of {asked} \
             asked answer",
            whose.trim()
        )),
    }
    Ok(())
}

/// Whether a good part of all is not in the state that is weighed, even after a while.
fn full(stack: &dyn Stack, count: usize) -> Result<bool> {
    let lacking =
        || -> Result<bool> { Ok(stack.ready()?.is_some_and(|ready| ready + ready / 20 < count)) };
    if !lacking()? {
        return Ok(false);
    }
    std::thread::sleep(SETTLE);
    lacking()
}

fn fitting(budget: u64, each: u64) -> usize {
    usize::try_from(budget / each.max(1)).unwrap_or(usize::MAX)
}

/// Adds one; why there can be no more, if that is so.
fn more(stack: &mut dyn Stack, count: &mut usize) -> Result<Option<String>> {
    match stack.add(*count) {
        Ok(()) => {
            *count += 1;
            Ok(None)
        }
        Err(error) if error.is::<Interrupted>() || *count == 0 => Err(error),
        Err(error) => Ok(Some(format!("{error:#}"))),
    }
}

/// How many of some, spread over all, give an answer.
fn answering(stack: &dyn Stack, count: usize) -> usize {
    let asked = count.min(ASKED);
    (0..asked).filter(|number| stack.answers(number * count / asked.max(1))).count()
}

fn weigh(bench: &mut Bench, entry: &Entry, empty: &Memory, now: &Memory, count: usize) {
    let mut put = |figure: Figure, now: u64, empty: u64| {
        let each = (now as f64 - empty as f64) / 1024.0 / count as f64;
        add(bench, figure, &entry.id, entry.case, Some(count as f64), each);
    };
    put(EACH, now.whole(), empty.whole());
    put(WITH_BASE, now.whole(), 0);
    put(PSS, now.pss + now.tables, empty.pss + empty.tables);
}

/// Where a subject was weighed with the most tenants.
fn most_of(bench: &Bench, subject: &str, case: &str, figure: Figure) -> Option<f64> {
    let all = bench.series.iter().filter(|series| {
        series.subject == subject && series.case == case && series.figure == figure.name
    });
    all.filter_map(|series| series.x).max_by(f64::total_cmp)
}

/// What one more costs, each where it was weighed with the most tenants: the first ones pay for what all
/// share.
fn compare(bench: &mut Bench) {
    let few = [("crun", 1.0 / 380.0), ("docker", 1.0 / 4000.0)];
    let live = [("crun", 1.0 / 9.0), ("docker", 1.0 / 100.0)];
    let mut ratios = Vec::new();
    for (case, ..) in STATES {
        let bars = match case {
            "deployed" => &few[..],
            _ if case.starts_with("live") => &live[..],
            _ => &[],
        };
        let Some(ours) = most_of(bench, "insula", case, FURTHER) else { continue };
        for id in RUNTIMES {
            let Some(theirs) = most_of(bench, id, "", FURTHER) else { continue };
            let bar = bars.iter().find(|(of, _)| *of == id).and_then(|(_, limit)| at_most(*limit));
            let above = of(bench, FURTHER, "insula", case, Some(ours));
            let below = of(bench, FURTHER, id, "", Some(theirs));
            ratios.extend(paired(
                FURTHER.name,
                (above, ("insula", case)),
                (below, (id, "")),
                None,
                bar,
            ));
        }
    }
    bench.ratios = ratios;
    bench.notes.retain(|note| !note.starts_with("bar: ") || note.contains("at once"));
    for (case, limit) in
        [("deployed", 1.0), ("live, shared module", 40.0), ("live, distinct modules", 40.0)]
    {
        for figure in [FURTHER, WITH_BASE] {
            let Some(x) = most_of(bench, "insula", case, figure) else { continue };
            let median = stats::median(of(bench, figure, "insula", case, Some(x)));
            let verdict = if median <= limit { "holds" } else { "is missed" };
            bench.notes.push(format!(
                "bar: {case}, {}, at {x} tenants: {median:.2} KiB; at most {limit} KiB {verdict}",
                figure.name
            ));
        }
    }
}
