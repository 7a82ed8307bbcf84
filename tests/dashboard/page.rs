//! The page, in a browser, with as many tenants as a large host has.

use super::{Dashboard, crowd};
use insula_tests::browser::{Browser, Page};
use insula_tests::wait::eventually;
use insula_tests::{Host, repo};
use serde_json::json;
use std::time::Duration;

const TENANTS: usize = 5_000;
/// How long the first picture of all of them may take from the start of the page, in milliseconds. An
/// idle machine needs a fifth of a second.
const FIRST_GRID_MS_MAX: f64 = 15_000.0;
/// Elements of the page, whatever the number of tenants.
const NODES_MAX: u64 = 4_000;
/// Bytes of JavaScript's memory: some kilobytes for each tenant that was asked.
const HEAP_BYTES_MAX: u64 = 200 << 20;

/// What every element that can be used has to have a name for.
const CONTROLS: [&str; 11] = [
    "button",
    "link",
    "searchbox",
    "textbox",
    "combobox",
    "listbox",
    "option",
    "checkbox",
    "meter",
    "table",
    "img",
];

/// Text that is harder to read than WCAG's level AA has it, by its contrast with what is behind it.
const UNREADABLE: &str = r"(() => {
  const parse = (text) => { const c = text.match(/[\d.]+/g)?.map(Number) ?? [0, 0, 0, 0];
    return text.startsWith('color(srgb') ? [c[0] * 255, c[1] * 255, c[2] * 255, c[3] ?? 1] : [c[0], c[1], c[2], c[3] ?? 1]; };
  const light = ([r, g, b]) => { const f = (v) => { v /= 255; return v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; };
    return 0.2126 * f(r) + 0.7152 * f(g) + 0.0722 * f(b); };
  const behind = (e) => { for (; e; e = e.parentElement) { const c = parse(getComputedStyle(e).backgroundColor); if (c[3] === 1) return c; } return [255, 255, 255, 1]; };
  const found = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const e = walk.currentNode.parentElement;
    if (!walk.currentNode.data.trim() || !e.checkVisibility() || e.closest('.unseen, option, [disabled], noscript')) continue;
    const style = getComputedStyle(e);
    const [a, b] = [light(parse(e.namespaceURI.endsWith('svg') ? style.fill : style.color)), light(behind(e))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const large = parseFloat(style.fontSize) >= 18.66 && style.fontWeight >= 600;
    if (ratio < (large ? 3 : 4.5)) found.push(`${ratio.toFixed(2)} ${e.className || e.tagName}: ${walk.currentNode.data.slice(0, 40)}`);
  }
  return found;
})()";

/// What is shown can be read, used by keyboard and screen reader, and has raised no complaint.
#[track_caller]
pub(crate) fn is_sound(browser: &Browser, page: &Page) {
    let tree = page.accessible();
    let named = tree.iter().filter(|(role, _)| CONTROLS.contains(&role.as_str()));
    assert!(named.clone().count() > 8, "{tree:?}");
    for (role, name) in named {
        assert!(!name.trim().is_empty(), "a {role} has no name: {tree:?}");
    }
    assert!(tree.iter().any(|(role, name)| role == "heading" && !name.is_empty()), "{tree:?}");
    for scheme in ["dark", "light"] {
        page.prefer(scheme);
        assert_eq!(page.value(UNREADABLE), json!([]), "in the {scheme} theme");
    }
    // The check itself sees what is hard to read.
    page.value(
        "{ const faint = document.createElement('p'); faint.id = 'faint'; faint.append('faint'); \
         faint.style.color = '#aaa'; document.getElementById('main').append(faint); 0 }",
    );
    assert_ne!(page.value(UNREADABLE), json!([]));
    page.value("document.getElementById('faint').remove()");
    let wide = page.value("document.documentElement.scrollWidth - innerWidth");
    assert!(wide.as_i64() <= Some(0), "the page is {wide} pixels too wide");
    let complaints = browser.complaints();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

/// The cell under the cursor, as a screen reader has it.
fn cell(page: &Page) -> String {
    page.value("document.getElementById('grid-cell').getAttribute('aria-label')").to_string()
}

#[test]
fn five_thousand_tenants_in_a_browser() {
    let Some(browser) = Browser::start("the dashboard in a browser") else { return };
    let host = Host::start();
    crowd::deploy(&host, TENANTS);
    let dashboard = Dashboard::of(&host);
    let page = browser.open(&dashboard.url);

    // All of them are there, and the key is not in the address.
    page.eventually("document.getElementById('total')?.textContent === '5,000'");
    page.eventually("performance.getEntriesByName('first-grid').length === 1");
    let first = page.value("performance.getEntriesByName('first-grid')[0].startTime");
    assert!(first.as_f64() < Some(FIRST_GRID_MS_MAX), "{first} ms");
    let address = page.value("location.href + document.cookie").to_string();
    assert!(!address.contains(dashboard.token()), "{address}");
    assert!(page.text(".live").contains("Live"), "{}", page.text(".live"));
    cost(&page);
    searching(&page);
    moving(&page);
    is_sound(&browser, &page);

    // At work: cells change, and the worst are counted.
    let load = crowd::Load::on(host.addr(), TENANTS / 2);
    page.value("document.activeElement.blur()");
    for state in ["Serving", "Failing", "Shedding"] {
        let chip = format!(
            "[...document.querySelectorAll('.chip')].find((chip) => chip.innerText.includes('{state}'))"
        );
        page.eventually(&format!(
            "Number({chip}.querySelector('b').textContent.replace(',', '')) > 5"
        ));
    }
    page.eventually("document.querySelector('.tile-value').innerText !== '0/s'");
    pictures(&page, "tenants");
    page.click(".segments button:last-child");
    page.eventually("document.querySelectorAll('.rows .row').length > 5");
    assert!(page.value("document.querySelectorAll('.rows .row').length").as_u64() < Some(80));
    is_sound(&browser, &page);
    page.picture("table");
    page.click(".segments button:first-child");
    cost(&page);

    // The host.
    page.value("document.activeElement.blur()");
    page.press("h");
    page.eventually("document.querySelectorAll('.workers tbody tr').length === 2");
    for shown in
        ["Memory by kind", "Supervisor", "Shared table", "Pressure", "Memory for each tenant"]
    {
        assert!(page.text("main").contains(shown), "{shown}: {}", page.text("main"));
    }
    is_sound(&browser, &page);
    pictures(&page, "host");
    drop(load);
    page.press("Escape");
    page.eventually("document.querySelector('.grid')");
    is_sound(&browser, &page);
}

/// The page holds as much for five thousand as for five.
#[track_caller]
fn cost(page: &Page) {
    page.call("Performance.enable", &json!({}));
    page.call("HeapProfiler.collectGarbage", &json!({}));
    let metrics = page.call("Performance.getMetrics", &json!({}));
    let metrics = metrics["metrics"].as_array().expect("metrics").clone();
    let of = |name: &str| {
        let found = metrics.iter().find(|metric| metric["name"] == name).expect("a metric");
        found["value"].as_f64().expect("a number")
    };
    assert!(of("Nodes") < NODES_MAX as f64, "{metrics:?}");
    assert!(of("JSHeapUsedSize") < HEAP_BYTES_MAX as f64, "{metrics:?}");
}

fn searching(page: &Page) {
    page.press("/");
    page.eventually("document.activeElement.id === 'search'");
    let name = crowd::name(1_234);
    page.kind(&name);
    page.eventually("document.querySelector('.shown').textContent === '1 of 5,000 tenants'");
    assert!(cell(page).contains(&name), "{}", cell(page));
    page.press("Escape");
    page.eventually("document.getElementById('search').value === ''");
    page.kind("payments 00");
    page.eventually("/^[1-9].* of 5,000/.test(document.querySelector('.shown').textContent)");
    assert!(cell(page).contains("namespace payments"), "{}", cell(page));
    page.press("Escape");
    page.press("Escape");
    page.eventually("document.activeElement.id !== 'search'");
}

fn moving(page: &Page) {
    page.value("document.querySelector('.grid').focus()");
    page.press("Home");
    let first = cell(page);
    page.press("ArrowRight");
    let second = cell(page);
    page.press("ArrowDown");
    let below = cell(page);
    page.press("End");
    let last = cell(page);
    let tip = page.text(".tip-cell");
    assert!(tip.contains("Requests") && !tip.contains("false"), "{tip}");
    let all = [&first, &second, &below, &last];
    for (at, one) in all.iter().enumerate() {
        assert!(all.iter().skip(at + 1).all(|other| other != one), "{all:?}");
    }
    page.press("ArrowUp");
    page.press("ArrowLeft");
    let opened = cell(page);
    page.press("Enter");
    page.eventually("document.querySelector('.tenant h1')");
    let title = page.text("h1");
    assert!(opened.contains(&title), "{title} is not {opened}");
    page.press("Escape");
    page.eventually("document.activeElement.classList.contains('grid')");
    assert_eq!(cell(page), opened, "back where it was");
}

/// Both themes, and a narrow window.
pub(crate) fn pictures(page: &Page, name: &str) {
    let mut all = Vec::new();
    for (suffix, scheme, width, height) in
        [("dark", "dark", 1280, 800), ("narrow", "light", 480, 900), ("light", "light", 1280, 800)]
    {
        page.resize(width, height);
        page.prefer(scheme);
        std::thread::sleep(Duration::from_millis(600));
        let wide = page.value("document.documentElement.scrollWidth - innerWidth");
        assert!(wide.as_i64() <= Some(0), "{name} {suffix} is {wide} pixels too wide");
        all.push(page.picture(&format!("{name}-{suffix}")));
    }
    assert!(all[0] != all[2], "the dark theme looks like the light one");
}

#[test]
fn a_tenant_in_a_browser() {
    let Some(browser) = Browser::start("a tenant's page in a browser") else { return };
    let host = Host::with_guests(&["hello"]);
    host.deploy("hello", &repo::guest("hello"), &["--memory", "32Mi", "--route", "new.localhost"]);
    let dashboard = Dashboard::of(&host);
    let page = browser.open(&dashboard.url);
    page.eventually("document.getElementById('total')?.textContent === '1'");
    page.value("location.hash = '#/tenant/hello'");

    // What it is, where it answers, and how that differs from before.
    page.eventually("document.querySelector('.routes a')");
    assert!(page.text(".routes").contains("http://new.localhost:"), "{}", page.text(".routes"));
    page.eventually("document.querySelector('.difference tbody tr')");
    let differences = page.text(".difference");
    for shown in ["hello.localhost", "new.localhost", "64Mi", "32Mi", "2 differences"] {
        assert!(differences.contains(shown), "{shown}: {differences}");
    }

    // Requests are counted as they are answered.
    for _ in 0..7 {
        let answer = host.connect().get("new.localhost", "/");
        answer.expect_ok();
    }
    page.eventually("document.querySelector('[data-outcome=responses] b').textContent === '7'");
    page.eventually("document.querySelectorAll('.bars li').length > 0");
    page.eventually("document.querySelector('.used dd')?.textContent");
    page.eventually("document.querySelector('.pill').dataset.state === 'serving'");
    page.eventually(
        "document.querySelector('.column-side .meter-bar').getAttribute('aria-valuetext').includes('of')",
    );
    is_sound(&browser, &page);
    pictures(&page, "tenant");

    // Back to the first revision, when asked twice.
    page.click("[data-roll-back='1']");
    page.eventually("document.querySelector('dialog[open]')");
    assert!(page.text("dialog").contains("32Mi"), "{}", page.text("dialog"));
    assert_eq!(host.tenant("hello").summary.revision, 2, "not before it is confirmed");
    page.press("Escape");
    page.eventually("!document.querySelector('dialog')");
    assert_eq!(host.tenant("hello").summary.revision, 2, "Esc means no");
    page.click("[data-roll-back='1']");
    page.eventually("document.querySelector('dialog[open]')");
    page.picture("roll-back");
    page.click("[data-confirm]");
    page.eventually("document.querySelector('.is-active .revision-number')?.textContent === '1'");
    assert_eq!(host.tenant("hello").summary.revision, 1);
    host.get("hello", "/").expect_ok();
    page.eventually(
        "document.querySelector('.routes').innerText.includes('http://hello.localhost:')",
    );
    // The page may hear of it before whoever asked.
    page.eventually("!document.querySelector('dialog')");
    is_sound(&browser, &page);

    // One that is removed while it is looked at.
    host.must(["rm", "hello"]);
    page.eventually("document.querySelector('h1')?.textContent === 'No such tenant'");
}

#[test]
fn a_tenants_words_stay_words() {
    let Some(browser) = Browser::start("a hostile log in a browser") else { return };
    let host = Host::start();
    let hostile = "<img src=x onerror=\"window.owned=1\"><script>window.owned=1</script>";
    let manifest = format!(
        "name = 'tool'\ncomponent = '{}'\nschedule = '0 0 1 1 *'\nargs = ['{hostile}', \"\\u001b[31m\\u202Ered\"]\n",
        repo::guest("tool").display()
    );
    let manifest = host.file("tool.toml", manifest);
    host.must(["deploy".as_ref(), "-f".as_ref(), manifest.as_os_str()]);
    let dashboard = Dashboard::of(&host);
    let page = browser.open(&dashboard.url);
    page.eventually("document.getElementById('total')?.textContent === '1'");
    page.value("location.hash = '#/tenant/tool'");
    page.eventually("document.querySelector('.log')");
    host.must(["trigger", "tool", "--wait"]);
    // It comes by itself.
    page.eventually("document.querySelectorAll('.log-line').length >= 2");
    let line = page.text(".log-line .log-text");
    assert!(line.contains(hostile) && line.contains("\\x1b[31m\\u{202e}red"), "{line}");
    assert_eq!(page.value("document.querySelectorAll('.log img, .log script').length"), json!(0));
    // Filtered by what it says.
    page.value("document.querySelector('.logs input[type=search]').focus()");
    page.kind("environment:");
    page.eventually("document.querySelectorAll('.log-line:not([hidden])').length === 1");
    // A name that is none of a tenant's is shown as it is, too.
    page.value("location.hash = '#/tenant/' + encodeURIComponent('<img src=x onerror=owned=1>')");
    page.eventually("document.querySelector('h1')?.textContent === 'No such tenant'");
    assert_eq!(page.value("window.owned"), json!(null));
    let unexpected: Vec<String> = browser
        .complaints()
        .into_iter()
        // The browser tells of every answer of 400 and above.
        .filter(|complaint| !complaint.contains("status of 40"))
        .collect();
    assert!(unexpected.is_empty(), "{unexpected:#?}");
}

#[test]
fn a_page_without_its_key_asks_for_it() {
    let Some(browser) = Browser::start("the key of the dashboard in a browser") else { return };
    let host = Host::with_guests(&["hello"]);
    let dashboard = Dashboard::of(&host);
    let (plain, _) = dashboard.url.split_once('#').unwrap();
    let page = browser.open(plain);
    page.eventually("document.querySelector('dialog[open] input')");
    assert_eq!(page.text("#total"), "", "nothing is shown without it");
    page.value("document.querySelector('dialog input').focus()");
    page.kind(&dashboard.url);
    page.press("Enter");
    page.eventually("document.getElementById('total')?.textContent === '1'");
    assert!(page.text(".live").contains("Live"), "{}", page.text(".live"));
    // Another tab of the same browser has it already.
    let other = browser.open(plain);
    other.eventually("document.getElementById('total')?.textContent === '1'");
    // And a host that goes away and comes back is told of.
    let mut host = host;
    host.stop(rustix::process::Signal::TERM);
    other.eventually("document.querySelector('.live').innerText.includes('unreachable')");
    host.restart();
    other.eventually("document.querySelector('.live').innerText.includes('Live')");
    eventually("the page knows the tenant again", || (other.text("#total") == "1").then_some(()));
}
