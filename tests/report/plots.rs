//! The plots of a report.

use crate::fixture::{at, results, series};
use crate::written::{Written, contrast, says, says_not};
use insula_benches::results::Results;

#[test]
fn every_plot_is_xml_with_words_for_who_cannot_see_it() {
    let written = Written::of(&results());
    let names: Vec<&str> = written.plots().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "density-memory-per-tenant.svg",
        "density-ratios.svg",
        "startup-first-answer.svg",
        "startup-ratios.svg",
        "throughput-ratios.svg",
        "throughput-requests-per-cpu-second.svg",
    ];
    assert_eq!(names, expected);
    for (name, text) in written.plots() {
        let plot =
            roxmltree::Document::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let root = plot.root_element();
        assert_eq!(root.attribute("role"), Some("img"), "{name}");
        for tag in ["title", "desc"] {
            let node =
                root.children().find(|node| node.has_tag_name(("http://www.w3.org/2000/svg", tag)));
            let node = node.unwrap_or_else(|| panic!("{name} has no {tag}"));
            says(root.attribute("aria-labelledby").unwrap(), node.attribute("id").unwrap());
            assert!(node.text().is_some_and(|text| text.len() > 3), "{name}: {tag}");
        }
        says(text, "prefers-color-scheme: dark");
    }
    says(&written.files["density-memory-per-tenant.svg"], "log scale");
    says(&written.files["startup-first-answer.svg"], "500 µs (400 to 600 µs)");
    // Those in the page are the same, and parse as well.
    let inline: Vec<&str> = written.page().split("<svg").skip(1).collect();
    assert_eq!(inline.len(), expected.len());
    for plot in inline {
        let text = format!("<svg{}", plot.split_inclusive("</svg>").next().unwrap());
        roxmltree::Document::parse(&text).unwrap();
    }
}

#[test]
fn what_grew_by_less_than_it_varies_costs_no_other_its_scale() {
    let mut some = results();
    let density = some.benches.iter_mut().find(|bench| bench.name == "density").unwrap();
    let first = density.series.iter_mut().find(|series| series.x == Some(1.0)).unwrap();
    first.samples[0] = -12.0;
    let plot = &Written::of(&some).files["density-memory-per-tenant.svg"];
    says(plot, "KiB, log scale");
    // Whoever looks at the plot is told.
    says(plot, "nothing or less");
    says_not(&Written::of(&results()).files["density-memory-per-tenant.svg"], "nothing or less");
}

#[test]
fn every_sample_is_a_dot_of_its_subjects_colour() {
    let mut some = results();
    let count = |results: &Results, colour: &str| {
        let written = Written::of(results);
        let plot = roxmltree::Document::parse(&written.files["startup-first-answer.svg"]).unwrap();
        let circles = plot.descendants().filter(|node| node.tag_name().name() == "circle");
        circles.filter(|circle| circle.attribute("fill") == Some(colour)).count()
    };
    let accent = "#C2410C";
    assert_eq!(count(&some, accent), 10);
    some.benches[0].series[0].samples = (1..=150).map(f64::from).collect();
    assert_eq!(count(&some, accent), 155);
    // Too many to tell apart: their percentiles.
    some.benches[0].series[0].samples = (1..=1000).map(f64::from).collect();
    assert_eq!(count(&some, accent), 104);
    // Whoever else is measured, and in whatever order: ours stays ours.
    some.subjects.reverse();
    assert_eq!(count(&some, accent), 104);
}

#[test]
fn a_crowded_figure_is_parted_by_case() {
    let mut some = results();
    let bench = &mut some.benches[2];
    bench.series.clear();
    for subject in ["insula", "crun", "docker"] {
        for case in ["1 KiB", "64 KiB", "1 MiB"] {
            for x in [1.0, 64.0] {
                bench.series.push(at(
                    series(subject, case, "p50", "us", &[x, 2.0 * x]),
                    x,
                    "connections",
                ));
            }
        }
    }
    let written = Written::of(&some);
    for case in ["1-kib", "64-kib", "1-mib"] {
        let plot = &written.files[&format!("throughput-p50-{case}.svg")];
        says(plot, "connections");
        says(plot, "Docker");
    }
}

/// What only one place of an axis has stands beside the others at that place, not among the lines.
#[test]
fn what_was_measured_at_one_place_stands_beside_the_others_there() {
    let mut some = results();
    let bench = &mut some.benches[2];
    bench.series.clear();
    for case in ["fresh", "reuse", "defaults, fresh", "tuned, fresh"] {
        for subject in ["insula", "crun"] {
            for x in [1.0, 16.0] {
                bench.series.push(at(
                    series(subject, case, "p50", "us", &[x; 5]),
                    x,
                    "connections",
                ));
            }
        }
    }
    bench.series.push(at(series("crun", "echo", "p50", "us", &[8.0; 5]), 16.0, "connections"));
    // Whoever has nothing else is still seen among the lines.
    bench.series.push(at(series("docker", "", "p50", "us", &[8.0; 5]), 16.0, "connections"));
    bench.series.push(at(series("hyper", "", "p50", "us", &[9.0; 5]), 1.0, "connections"));
    bench.series.push(at(series("hyper", "", "p50", "us", &[7.0; 5]), 16.0, "connections"));
    let written = Written::of(&some);
    let fresh = &written.files["throughput-p50-fresh.svg"];
    says(fresh, "crun, tuned: ");
    says(fresh, "plain hyper: ");
    says(fresh, "Docker: ");
    says_not(fresh, "echo");
    let reuse = &written.files["throughput-p50-reuse.svg"];
    says(reuse, "plain hyper: ");
    says_not(reuse, "tuned");
    let beside = &written.files["throughput-p50-at-16-connections.svg"];
    says(beside, "crun, echo");
    says(beside, "Docker");
    says(beside, "plain hyper");
    says(beside, "Insula, tuned, fresh");
    says_not(beside, "crun, echo at 16");
    let count = written.plots().filter(|(name, _)| name.starts_with("throughput-p50")).count();
    assert_eq!(count, 3);
}

/// Words and marks can be told from the paper, by day and by night; only the lines of the grid are fainter.
#[test]
fn every_colour_has_contrast_on_both_papers() {
    let written = Written::of(&results());
    let plot = &written.files["startup-first-answer.svg"];
    let colours: Vec<(&str, &str)> = plot
        .lines()
        .filter_map(|line| line.strip_prefix(".plot [fill=\"#")?.split_once("\"] { fill: #"))
        .map(|(light, dark)| (light, dark.trim_end_matches(" }")))
        .collect();
    let (paper, night) = *colours.iter().find(|(light, _)| *light == "FFFFFF").unwrap();
    let readable = colours
        .iter()
        .filter(|(light, dark)| contrast(light, paper) >= 4.5 && contrast(dark, night) >= 4.5);
    // All but the paper itself and the grid; and each is there by night as well.
    assert_eq!(readable.count(), colours.len() - 2, "{colours:?}");
    assert!(colours.len() > 9);
    let plot = roxmltree::Document::parse(plot).unwrap();
    for node in plot.descendants() {
        for colour in [node.attribute("fill"), node.attribute("stroke")].into_iter().flatten() {
            let known = colours.iter().any(|(light, _)| colour.strip_prefix('#') == Some(light));
            assert!(known || colour == "none", "{colour} has no other by night");
        }
    }
}

#[test]
fn memory_has_round_ticks_in_the_units_that_are_written() {
    let written = Written::of(&results());
    let mut some = results();
    for series in &mut some.benches[1].series {
        series.samples.iter_mut().for_each(|sample| *sample *= 20.0);
    }
    let larger = Written::of(&some);
    let name = "density-memory-per-tenant.svg";
    says(&written.files[name], ">\n100 KiB\n<");
    says(&larger.files[name], ">\n1 MiB\n<");
    says_not(&larger.files[name], "1,000 KiB");
}
