//! The figures as text.

use insula_benches::neighbours::subjects::Class;
use insula_benches::neighbours::{Pair, bound};
use insula_benches::open_loop::Answers;
use insula_benches::{median, spread};

pub(crate) fn report(
    system: &str,
    class: Class,
    rate: f64,
    aggressors: &[usize],
    all: &[Vec<Pair>],
) {
    println!("{system}, {}, {rate:.0} arrivals a second", class.name());
    println!(
        "{:<12} {:>8} {:>8} {:>8} {:>9} {:>6} {:>12}  p99 beside / alone",
        "µs", "p50", "p99", "p99.9", "success", "cores", "own lag p99"
    );
    let alone = all.iter().flatten().map(|pair| &pair.alone);
    row("alone", &alone.collect::<Vec<_>>());
    println!();
    for (number, pairs) in aggressors.iter().zip(all) {
        row(
            &format!("beside {number}"),
            &pairs.iter().map(|pair| &pair.beside).collect::<Vec<_>>(),
        );
        let ratios: Vec<f64> = pairs
            .iter()
            .map(|pair| pair.beside.0.latency(0.99) / pair.alone.0.latency(0.99))
            .collect();
        let whole = pairs.iter().all(|pair| pair.beside.0.failed == 0);
        let holds = whole && median(&ratios) <= bound(*number);
        println!(
            "  {}×, at most {:.1}×: {}",
            spread(&ratios, 2),
            bound(*number),
            if holds { "holds" } else { "fails" }
        );
        if let Some(pair) = pairs.last().filter(|pair| !pair.seen.is_empty()) {
            println!("{:<12} last round's aggressors: {}", "", pair.seen);
        }
    }
    let late = all.iter().flatten().any(|pair| !pair.alone.0.urgent || !pair.beside.0.urgent);
    if late {
        println!("the generator had no right to go first: its own lag is part of these figures");
    }
    println!();
}

/// Medians over the rounds; the part that succeeded is that of all rounds.
fn row(label: &str, runs: &[&(Answers, f64)]) {
    let over = |figure: &dyn Fn(&(Answers, f64)) -> f64| {
        median(&runs.iter().map(|run| figure(run)).collect::<Vec<_>>())
    };
    let failed: usize = runs.iter().map(|run| run.0.failed).sum();
    let all: usize = runs.iter().map(|run| run.0.latencies.len()).sum();
    let success = 100.0 * (1.0 - failed as f64 / all.max(1) as f64);
    print!(
        "{label:<12} {:>8.0} {:>8.0} {:>8.0} {success:>8.3}% {:>6.2} {:>12.0}",
        over(&|run| run.0.latency(0.5)),
        over(&|run| run.0.latency(0.99)),
        over(&|run| run.0.latency(0.999)),
        over(&|run| run.1),
        over(&|run| run.0.lag(0.99)),
    );
}
