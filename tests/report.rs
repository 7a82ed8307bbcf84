//! The report of `insula bench`, as whoever opens it sees it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "report/fixture.rs"]
mod fixture;
#[path = "report/plots.rs"]
mod plots;
#[path = "report/written.rs"]
mod written;

use fixture::{barred, ratio, results, series};
use insula_benches::report;
use insula_benches::results::SCHEMA;
use std::path::Path;
use written::{Written, files, says, says_not};

#[test]
fn three_sentences_open_the_page() {
    let written = Written::of(&results());
    let read = written.read();
    says(
        &read,
        "Start-up: First answer of Insula, deployed, is 500 µs (95% interval 400 to 600 µs), which is \
         1/50 of crun (1/53 to 1/48), 1/196 of Docker, API (1/204 to 1/182) and 1/4 of plain process \
         (1/5 to 1/3); less is better.",
    );
    says(&read, "Memory: Memory per tenant of Insula, live, at 1,000 tenants, is 38.3 KiB");
    says(&read, "which is 1/10 of crun (1/10 to 1/9.9); less is better.");
    says(
        &read,
        "Throughput: Requests per CPU-second of Insula, fresh, is 30,000/s (95% interval 30,000 to \
         30,000/s), which is 1/3.8 of plain hyper (1/4.2 to 1/3.7); more is better.",
    );
    says(written.markdown(), "which is **1/50 of crun** (1/53 to 1/48)");
    let first = |text: &str| (read.find("Start-up: ").unwrap(), read.find(text).unwrap());
    let (sentence, tables) = first("Bars that the project has set itself: ratios");
    assert!(sentence < tables);
}

#[test]
fn what_was_not_measured_is_said_and_not_guessed() {
    let mut some = results();
    some.benches.retain(|bench| bench.name == "throughput");
    some.benches[0].ratios.clear();
    let written = Written::of(&some);
    for text in [&written.read(), written.markdown()] {
        says(text, "Start-up: not measured in this run.");
        says(text, "Memory: not measured in this run.");
        says(text, "no other subject was measured, so there is nothing to compare with.");
        says(text, "Not part of this run: insula bench startup, insula bench density,");
        says(text, "podman is not installed");
        says(text, "apt-get install podman conmon crun");
        says(text, "No bar that the project has set itself was measured in this run.");
    }
}

/// And of them the kind that is worst for ourselves, with the others beside it.
#[test]
fn neighbours_stand_in_the_third_sentence_where_they_were_measured() {
    let mut some = results();
    let mut neighbours = some.benches[0].clone();
    neighbours.name = "neighbours".into();
    neighbours.series.clear();
    neighbours.ratios.clear();
    for (case, ours) in [("spin", 100.0), ("churn", 900.0), ("grow", 200.0)] {
        for (subject, p99) in [("insula", ours), ("crun", 600.0)] {
            neighbours.series.push(series(subject, case, "p99", "us", &[p99; 5]));
        }
        let times = ours / 600.0;
        neighbours.ratios.push(ratio("p99", ("insula", case), ("crun", case), [times; 3]));
    }
    some.benches.push(neighbours);
    let written = Written::of(&some);
    says(
        &written.read(),
        "Noisy neighbours: P99 of Insula, churn, is 900 µs (95% interval 900 to 900 µs), which is 1.50 \
         times crun, churn (1.50 to 1.50); less is better. Of 3 kinds of neighbours this is the one that \
         compares worst for Insula.",
    );
    // Kind by kind, the better of each first.
    let plot = &written.files["neighbours-p99.svg"];
    let rows = [
        "Insula, spin",
        "crun, spin",
        "crun, churn",
        "Insula, churn",
        "Insula, grow",
        "crun, grow",
    ];
    let places = rows.map(|row| plot.find(&format!(">\n{row}\n")).unwrap());
    assert!(places.is_sorted(), "{places:?}");
}

#[test]
fn bars_are_held_or_missed_in_words() {
    let mut some = results();
    some.benches[0].ratios.push(barred(
        ratio("first answer", ("insula", "loaded"), ("exec", ""), [0.06, 0.07, 0.08]),
        0.05,
        true,
    ));
    let written = Written::of(&some);
    let read = written.read();
    says(
        &read,
        "Of 4 bars that the project has set itself and this run measured, 2 are held and 2 missed.",
    );
    let table = |what: &str, verdict: &str, bar: &str| {
        let row = format!("| First answer: {what} | {verdict} | {bar} |");
        says(written.markdown(), &row);
        says(written.page(), bar);
    };
    table("Insula, deployed ÷ crun", "held", "at most 1/40");
    table(
        "Insula, deployed ÷ Docker, API",
        "MISSED, but the interval crosses the bar",
        "at most 1/200",
    );
    table("Insula, loaded ÷ plain process", "MISSED", "at most 1/20");
    says(written.markdown(), "| held, but the interval crosses the bar | at least 1/4 | 1/3.8 |");
    says(written.page(), "<strong class=\"missed\">MISSED</strong>");
    let plot = &written.files["startup-ratios.svg"];
    says(plot, "1/14 (1/17 to 1/13), bar 1/20: MISSED");
}

#[test]
fn an_unfinished_run_says_so_first() {
    let whole = Written::of(&results());
    says_not(whole.page(), "Incomplete.");
    says_not(whole.markdown(), "INCOMPLETE");
    let mut some = results();
    some.complete = false;
    let written = Written::of(&some);
    let read = written.read();
    assert!(
        read.find("Incomplete. The run was stopped").unwrap() < read.find("Start-up: ").unwrap()
    );
    says(written.page(), "role=\"alert\"");
    says(written.markdown(), "> **INCOMPLETE.** The run was stopped");
}

#[test]
fn the_control_has_a_verdict() {
    let mut some = results();
    some.benches[0].control.as_mut().unwrap().low = 1.001;
    some.benches[2].control = None;
    let written = Written::of(&some);
    for text in [&written.read(), written.markdown()] {
        says(
            text,
            "Control: too noisy. Control figure against itself gives 1.01 (95% interval 1.00 to 1.04",
        );
        says(
            text,
            "Control: quiet enough. Control figure against itself gives 1.01 (95% interval 0.97 to 1.04",
        );
        says(text, "Control: none was measured");
        says(text, "The machine was too noisy for this bench: see its control.");
        says(text, "held; the machine was too noisy");
    }
    says_not(&Written::of(&results()).read(), "too noisy for this bench");
}

#[test]
fn who_how_where_and_when_can_be_read() {
    let written = Written::of(&results());
    let read = written.read();
    for words in [
        "Measured on 2001-02-03 at 04:05:06 UTC, in 1 h 2 min, an abacus, 2 beads, Linux 0.01.",
        "insula bench all --out report/",
        "insula bench report DIR",
        "How startup was measured.",
        "a note about density",
        "It took 75 s.",
        "1.2.3",
        "64 MiB",
        "percentile bootstrap",
    ] {
        says(&read, words);
    }
    says(
        written.markdown(),
        "| Insula | deployed | 500 µs | 400 to 600 µs | 440 to 560 µs | 400 to 600 µs | 5 |",
    );
    says(written.markdown(), "| crun | – | 1,000 | 380 KiB | 373 to 388 KiB |");
    for (name, _) in written.plots() {
        says(written.markdown(), &format!("({name})"));
    }
}

#[test]
fn the_page_needs_nothing_else() {
    let written = Written::of(&results());
    let page = written.page().replace("http://www.w3.org/2000/svg", "");
    for outside in ["http:", "https:", "<script", "<link", "<img", "src=", "url(", "@import"] {
        says_not(&page, outside);
    }
    says(&page, "<meta name=\"viewport\" content=\"width=device-width");
    says(&page, "<html lang=\"en\">");
    assert_eq!(page.matches("<table>").count(), page.matches("<caption>").count());
    assert_eq!(page.matches("<h1>").count(), 1);
}

#[test]
fn hostile_words_stay_words() {
    let hostile = "\"><script>alert('&1')</script>|`](x) ../../etc \u{1}\u{7}";
    let mut some = results();
    some.command = format!("insula bench ```{hostile}");
    some.subjects[1].name = hostile.into();
    some.subjects[1].settings = hostile.into();
    some.subjects[5].missing = Some(hostile.into());
    some.subjects[5].mend = Some(hostile.into());
    some.machine.insert(hostile.into(), hostile.into());
    for bench in &mut some.benches {
        bench.name = format!("{}{hostile}", bench.name);
        bench.method = hostile.into();
        bench.notes.push(hostile.into());
        for series in &mut bench.series {
            series.figure = hostile.into();
            series.case += hostile;
            series.unit = hostile.into();
        }
        for ratio in &mut bench.ratios {
            ratio.figure = hostile.into();
        }
    }
    let written = Written::of(&some);
    says_not(written.page(), "<script");
    says(written.page(), "&lt;script&gt;");
    let (prose, code) = (written.markdown(), "<script");
    let mut fence = "";
    for line in prose.lines() {
        let ticks = &line[..line.len() - line.trim_start_matches('`').len()];
        if fence.is_empty() && ticks.len() >= 3 {
            fence = ticks;
        } else if !fence.is_empty() {
            // Within a fence all is code, as long as nothing closes it early.
            fence = if line == fence { "" } else { fence };
        } else {
            says_not(line, code);
        }
    }
    assert_eq!(fence, "");
    for (name, text) in written.plots() {
        assert!(name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-.".contains(&b)), "{name}");
        roxmltree::Document::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        says_not(text, "<script");
    }
}

#[test]
fn the_data_makes_the_same_report_again() {
    let first = Written::of(&results());
    let read = report::read(first.dir.path()).unwrap();
    let again = Written::of(&read);
    assert_eq!(first.files, again.files);
    assert!(report::read(&first.dir.path().join(report::DATA)).is_ok());
}

#[test]
fn other_data_is_refused_with_its_reason() {
    let written = Written::of(&results());
    let file = written.dir.path().join(report::DATA);
    let refused = |text: &str| {
        std::fs::write(&file, text).unwrap();
        let error = format!("{:#}", report::read(&file).unwrap_err());
        says(&error, "results.json");
        error
    };
    let newer = written.files[report::DATA].replace("\"schema\": 1", "\"schema\": 2");
    says(&refused(&newer), "is of schema 2, and this program reads schema 1");
    // A later layout need not look like this one.
    says(&refused("{\"schema\": 9, \"runs\": []}"), "is of schema 9");
    says(&refused("{}"), "has no schema");
    says(&refused("{\"schema\": 1}"), "is not what schema 1 says: missing field");
    says(&refused("half a fi"), "is not JSON");
    assert_eq!(SCHEMA, 1);
    let nowhere = report::read(Path::new("/nowhere/results.json")).unwrap_err();
    says(&format!("{nowhere:#}"), "/nowhere/results.json");
}

#[test]
fn what_is_no_number_is_left_out_and_said() {
    let mut some = results();
    some.benches[0].series[0].samples.push(f64::NAN);
    some.benches[0].ratios[1].high = f64::INFINITY;
    some.benches[1].series[0].samples.clear();
    let written = Written::of(&some);
    report::read(written.dir.path()).unwrap();
    let read = written.read();
    says(&read, "first answer insula deployed: 1 of 6 samples were not a number and are left out");
    says(&read, "1 ratios were not a number and are left out");
    says_not(&read, "NaN");
}

#[test]
fn a_directory_can_hold_one_report_after_another() {
    let written = Written::of(&results());
    let dir = written.dir.path();
    std::fs::write(dir.join("mine.svg"), "<svg/>").unwrap();
    let mut some = results();
    some.benches.truncate(1);
    report::write(&some, dir).unwrap();
    let now: Vec<String> = files(dir).into_keys().collect();
    let expected = [
        "index.html",
        "mine.svg",
        "report.md",
        "results.json",
        "startup-first-answer.svg",
        "startup-ratios.svg",
    ];
    assert_eq!(now, expected);
}

/// What cannot be written leaves the older page whole, and nothing half-written beside it.
#[test]
fn a_report_that_fails_half_way_leaves_the_older_one() {
    let written = Written::of(&results());
    let dir = written.dir.path();
    std::fs::remove_file(dir.join("report.md")).unwrap();
    std::fs::create_dir(dir.join("report.md")).unwrap();
    let mut some = results();
    some.complete = false;
    let error = report::write(&some, dir).unwrap_err();
    says(&format!("{error:#}"), "report.md");
    let now = files(dir);
    assert_eq!(now["index.html"], written.files["index.html"]);
    assert!(!report::read(dir).unwrap().complete);
    assert!(now.keys().all(|name| !name.starts_with('.')), "{:?}", now.keys());
}

#[test]
fn too_few_samples_have_no_interval() {
    let mut some = results();
    for bench in &mut some.benches {
        bench.series.iter_mut().for_each(|series| series.samples.truncate(2));
        bench.ratios.iter_mut().for_each(|ratio| ratio.rounds = 2);
        bench.control.as_mut().unwrap().rounds = 2;
    }
    some.benches[1].series.iter_mut().for_each(|series| series.samples.truncate(1));
    let written = Written::of(&some);
    let read = written.read();
    says(
        &read,
        "is 450 µs (400 to 500 µs, 2 samples), which is 1/50 of crun (1/53 to 1/48, 2 rounds)",
    );
    says(&read, "KiB (1 sample)");
    says(&read, "Control: too few rounds to say how noisy the machine was.");
    says(
        written.markdown(),
        "| held, but from too few rounds to be sure | at most 1/40 | 1/50 | too few | 2 |",
    );
    says(&written.files["startup-first-answer.svg"], "or all of fewer than 5 samples");
}

/// Bars that are no ratios are notes that begin and end in a certain way.
#[test]
fn bars_in_notes_are_counted_and_listed_with_the_others() {
    let mut some = results();
    some.benches[1].notes = vec![
        "bar: deployed: 0.9 KiB; at most 1 KiB holds".into(),
        "bar: live: 50 KiB; at most 40 KiB is missed".into(),
    ];
    let written = Written::of(&some);
    let read = written.read();
    says(
        &read,
        "Of 5 bars that the project has set itself and this run measured, 3 are held and 2 missed.",
    );
    says(&read, "held: Memory and density: deployed: 0.9 KiB; at most 1 KiB holds");
    says(&read, "MISSED: Memory and density: live: 50 KiB; at most 40 KiB is missed");
    says(written.markdown(), "- **MISSED**: Memory and density: live: 50 KiB");
}
