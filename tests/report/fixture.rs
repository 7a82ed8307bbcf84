//! Results that nobody measured: round numbers, so that a test can say what a reader must see.

use insula_benches::results::{Bar, Bench, Ratio, Results, SCHEMA, Series, Subject};
use std::collections::BTreeMap;

pub(crate) fn subject(id: &str, name: &str) -> Subject {
    Subject {
        id: id.into(),
        name: name.into(),
        version: Some("1.2.3".into()),
        settings: "64 MiB".into(),
        missing: None,
        mend: None,
    }
}

pub(crate) fn series(
    subject: &str,
    case: &str,
    figure: &str,
    unit: &str,
    samples: &[f64],
) -> Series {
    Series {
        subject: subject.into(),
        case: case.into(),
        figure: figure.into(),
        unit: unit.into(),
        less_is_better: true,
        x: None,
        axis: None,
        samples: samples.to_vec(),
    }
}

pub(crate) fn at(series: Series, x: f64, axis: &str) -> Series {
    Series { x: Some(x), axis: Some(axis.into()), ..series }
}

pub(crate) fn ratio(
    figure: &str,
    of: (&str, &str),
    to: (&str, &str),
    [low, median, high]: [f64; 3],
) -> Ratio {
    Ratio {
        figure: figure.into(),
        of: (of.0.into(), of.1.into()),
        to: (to.0.into(), to.1.into()),
        x: None,
        median,
        low,
        high,
        rounds: 5,
        bar: None,
    }
}

pub(crate) fn barred(ratio: Ratio, limit: f64, at_most: bool) -> Ratio {
    Ratio { bar: Some(Bar { limit, at_most }), ..ratio }
}

fn bench(name: &str, series: Vec<Series>, ratios: Vec<Ratio>) -> Bench {
    Bench {
        name: name.into(),
        took_s: 75.0,
        method: format!("How {name} was measured."),
        settings: BTreeMap::from([("rounds".into(), "5".into())]),
        control: Some(ratio("control figure", ("insula", ""), ("insula", ""), [0.97, 1.01, 1.04])),
        series,
        ratios,
        notes: vec![format!("a note about {name}")],
    }
}

/// A complete run of three benches.
pub(crate) fn results() -> Results {
    let startup = bench(
        "startup",
        vec![
            series("insula", "deployed", "first answer", "ms", &[0.4, 0.5, 0.5, 0.5, 0.6]),
            series("insula", "loaded", "first answer", "ms", &[0.1, 0.1, 0.1, 0.1, 0.1]),
            series("crun", "", "first answer", "ms", &[24.0, 25.0, 25.0, 25.0, 26.0]),
            series("docker", "API", "first answer", "ms", &[90.0, 100.0, 100.0, 110.0, 120.0]),
        ],
        vec![
            barred(
                ratio("first answer", ("insula", "deployed"), ("crun", ""), [0.019, 0.02, 0.021]),
                1.0 / 40.0,
                true,
            ),
            barred(
                ratio(
                    "first answer",
                    ("insula", "deployed"),
                    ("docker", "API"),
                    [0.0049, 0.0051, 0.0055],
                ),
                1.0 / 200.0,
                true,
            ),
            // The other way round: a reader sees ours to theirs all the same.
            ratio("first answer", ("exec", ""), ("insula", "deployed"), [3.0, 4.0, 5.0]),
        ],
    );
    let tenants = |subject, case, per: f64| {
        [1.0, 10.0, 100.0, 1000.0].map(|x| {
            let samples = [0.98, 0.99, 1.0, 1.01, 1.02].map(|factor| factor * (per + 300.0 / x));
            at(series(subject, case, "memory per tenant", "KiB", &samples), x, "tenants")
        })
    };
    let density = bench(
        "density",
        [tenants("insula", "live", 38.0), tenants("crun", "", 380.0)].concat(),
        vec![Ratio {
            x: Some(1000.0),
            ..ratio("memory per tenant", ("insula", "live"), ("crun", ""), [0.099, 0.1, 0.101])
        }],
    );
    let more = |series| Series { less_is_better: false, ..series };
    let throughput = bench(
        "throughput",
        vec![
            more(series("insula", "fresh", "requests per CPU-second", "1/s", &[30_000.0; 5])),
            more(series("hyper", "", "requests per CPU-second", "1/s", &[120_000.0; 5])),
        ],
        vec![barred(
            ratio(
                "requests per CPU-second",
                ("insula", "fresh"),
                ("hyper", ""),
                [0.24, 0.26, 0.27],
            ),
            0.25,
            false,
        )],
    );
    let mut podman = subject("podman", "Podman");
    podman.version = None;
    podman.missing = Some("podman is not installed".into());
    podman.mend = Some("apt-get install podman conmon crun".into());
    Results {
        schema: SCHEMA,
        began: "2001-02-03T04:05:06Z".into(),
        took_s: 3_725.0,
        complete: true,
        command: "insula bench all --out report/".into(),
        machine: BTreeMap::from([
            ("processor".into(), "an abacus, 2 beads".into()),
            ("kernel".into(), "Linux 0.01".into()),
        ]),
        subjects: vec![
            subject("insula", "Insula"),
            subject("crun", "crun"),
            subject("docker", "Docker"),
            subject("exec", "plain process"),
            subject("hyper", "plain hyper"),
            podman,
        ],
        benches: vec![startup, density, throughput],
    }
}
