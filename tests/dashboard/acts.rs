//! What a tenant's page does to it: promote, roll back, stop and start, by the buttons that a user presses.

use super::Dashboard;
use super::page::{is_sound, pictures};
use insula_model::api::RolloutState;
use insula_tests::Host;
use insula_tests::browser::{Browser, Page};
use insula_tests::respond::{Canned, responder};
use insula_tests::wait::eventually;
use serde_json::json;

/// Deploys a guest that answers with this word.
fn deploy(host: &Host, name: &str, word: &str, flags: &[&str]) {
    let canned = Canned { body: &[word], ..Canned::default() };
    host.deploy(name, &host.file(&format!("{name}-{word}.wasm"), responder(&canned)), flags);
}

/// How many of so many answers say this.
fn said(host: &Host, name: &str, requests: usize, word: &str) -> usize {
    let (mut connection, to) = (host.connect(), format!("{name}.localhost"));
    (0..requests).filter(|_| connection.get(&to, "/").expect_ok().text() == word).count()
}

/// A tenant's page.
fn open<'a>(browser: &'a Browser, dashboard: &Dashboard, name: &str) -> Page<'a> {
    let page = browser.open(&dashboard.url);
    page.eventually("document.getElementById('total')?.textContent");
    page.value(&format!("location.hash = '#/tenant/{name}'"));
    page.eventually("document.querySelector('.facts li')");
    page
}

/// A figure of the table of both revisions: the active one's and the canary's.
fn figures(page: &Page, row: &str) -> (String, String) {
    let both = page.value(&format!(
        "[...document.querySelectorAll('.beside tbody tr')]
            .find((row) => row.firstChild.textContent === {})
            .innerText.split('\\t').slice(1)",
        json!(row)
    ));
    let both = both.as_array().expect("a row").clone();
    (both[0].as_str().unwrap().to_owned(), both[1].as_str().unwrap().to_owned())
}

#[test]
fn a_canary_is_shown_promoted_and_rolled_back() {
    let Some(browser) = Browser::start("a canary in a browser") else { return };
    let host = Host::start();
    deploy(&host, "beside", "beside", &[]);
    deploy(&host, "shop", "a", &[]);
    // What went before it is not the canary's time.
    assert_eq!(said(&host, "shop", 30, "a"), 30);
    eventually("they are counted", || (host.counters("shop").requests == 30).then_some(()));
    let dashboard = Dashboard::of(&host);
    let page = open(&browser, &dashboard, "shop");
    assert_eq!(page.value("document.querySelector('.canary').hidden"), json!(true));

    // One that begins is shown by itself.
    let bounds = ["--canary-for", "30m", "--canary-max-errors", "1%", "--canary-max-latency", "5s"];
    deploy(&host, "shop", "b", &[&["--canary", "25%"][..], &bounds].concat());
    page.eventually("!document.querySelector('.canary').hidden");
    for shown in ["Revision 2 gets 25%", "Revision 1 gets the others", "too few requests to tell"] {
        assert!(page.text(".canary").contains(shown), "{shown}: {}", page.text(".canary"));
    }
    let tried = said(&host, "shop", 440, "b");
    assert!((105..=115).contains(&tried), "{tried} of 440");
    page.eventually("document.querySelector('.verdict b').textContent === 'well'");
    let both = (440 - tried, tried);
    let shown = || figures(&page, "Requests");
    eventually("all of them are shown", || {
        (shown() == (both.0.to_string(), both.1.to_string())).then_some(())
    });
    assert_eq!(figures(&page, "Errors"), ("0".into(), "0".into()));
    let (active, canary) = figures(&page, "Latency p99");
    assert!(active.ends_with('s') && canary.ends_with('s'), "{active}, {canary}");
    let waits = page.text(".waits");
    for shown in ["100 of 100", "0% of 1%", "of 5 s", "of 30m", "promoted by itself after 30m"] {
        assert!(waits.contains(shown), "{shown}: {waits}");
    }
    assert!(page.text(".pill-canary").contains("25%"), "{}", page.text(".pill-canary"));
    assert!(page.text(".revisions").contains("canary 25%"), "{}", page.text(".revisions"));
    assert!(page.text(".difference").contains("artifact"), "{}", page.text(".difference"));
    is_sound(&browser, &page);
    pictures(&page, "canary");
    marked(&page);

    // Taken back, when asked twice, by keyboard as well as by mouse.
    page.value("document.querySelector('[data-end-canary]').focus()");
    page.press("Enter");
    page.eventually("document.querySelector('dialog[open]')");
    page.press("Escape");
    page.eventually("!document.querySelector('dialog')");
    assert!(host.tenant("shop").summary.canary.is_some(), "Esc means no");
    page.click("[data-end-canary]");
    page.eventually("document.querySelector('dialog[open]')");
    page.click("[data-confirm]");
    page.eventually("document.querySelector('.canary').hidden");
    page.eventually("!document.querySelector('dialog')");
    assert_eq!(host.tenant("shop").summary.canary, None);
    assert_eq!(said(&host, "shop", 40, "a"), 40);
    page.eventually(
        "document.querySelector('.revisions').innerText.includes('Rolled back as a canary')",
    );

    // And promoted.
    deploy(&host, "shop", "c", &["--canary", "25%"]);
    page.eventually("!document.querySelector('.canary').hidden");
    assert!(page.text(".then").contains("by nobody but you"), "{}", page.text(".then"));
    page.click("[data-promote]");
    page.eventually("document.querySelector('dialog[open]')");
    assert!(page.text("dialog").contains("revision 1 none any more"), "{}", page.text("dialog"));
    assert!(page.text("dialog .diff").contains("artifact"), "{}", page.text("dialog"));
    assert!(host.tenant("shop").summary.canary.is_some(), "not before it is confirmed");
    page.picture("promote");
    page.click("[data-confirm]");
    page.eventually("document.querySelector('.is-active .revision-number')?.textContent === '3'");
    page.eventually("!document.querySelector('dialog')");
    page.eventually("document.querySelector('.canary').hidden");
    assert_eq!(host.tenant("shop").summary.revision, 3);
    assert_eq!(said(&host, "shop", 40, "c"), 40);
    is_sound(&browser, &page);

    // A button means the canary that was looked at, not one that came after it.
    deploy(&host, "shop", "d", &["--canary", "25%"]);
    page.eventually("!document.querySelector('.canary').hidden");
    page.click("[data-end-canary]");
    page.eventually("document.querySelector('dialog[open]')");
    host.must(["promote", "shop"]);
    deploy(&host, "shop", "e", &["--canary", "25%"]);
    page.click("[data-confirm]");
    page.eventually("document.querySelector('dialog .failed')?.checkVisibility()");
    assert!(page.text("dialog .failed").contains("no canary any more"), "{}", page.text("dialog"));
    let (status, history) = host.api("GET", "/v1/tenants/shop/revisions", None);
    assert_eq!((status, &history[0]["rollout"]["state"]), (200, &json!(RolloutState::Running)));
}

/// The grid, its legend and the table say so too.
fn marked(page: &Page) {
    page.press("Escape");
    page.eventually("document.querySelector('.grid')");
    let chip =
        "[...document.querySelectorAll('.chip')].find((chip) => chip.innerText.includes('Canary'))";
    page.eventually(&format!("{chip}.checkVisibility()"));
    assert_eq!(page.value(&format!("{chip}.querySelector('b').textContent")), json!("1"));
    let cell = page.value("document.getElementById('grid-cell').getAttribute('aria-label')");
    assert!(cell.to_string().contains("a canary of revision 2 gets 25%"), "{cell}");
    // The dot is there, and where nothing else is: one pixel of the accent's colour.
    page.value("[...document.querySelectorAll('.segments button')][0].click()");
    let dotted = |page: &Page| {
        page.value(
            "(() => { const canvas = document.querySelector('.grid canvas');
              const probe = document.createElement('i'); probe.style.color = 'var(--accent)';
              document.body.append(probe); const wanted = getComputedStyle(probe).color.match(/\\d+/g).map(Number);
              probe.remove();
              const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
              for (let at = 0; at < data.length; at += 4)
                if (wanted.every((value, of) => data[at + of] === value) && data[at + 3] === 255) return true;
              return false; })()",
        )
    };
    assert_eq!(dotted(page), json!(true), "no dot");
    page.click(".segments button:last-child");
    page.eventually("document.querySelector('.rows .badge-canary')?.textContent === 'canary 25%'");
    page.click(".segments button:first-child");
    page.eventually("document.querySelector('.grid')");
    // Only those that have one.
    page.value(&format!("{chip}.click()"));
    page.eventually(&format!("{chip}.getAttribute('aria-pressed') === 'true'"));
    assert_eq!(page.text(".shown"), "1 of 2 tenants");
    page.value(&format!("{chip}.click()"));
    page.value("location.hash = '#/tenant/shop'");
    page.eventually(
        "document.querySelector('.canary') && !document.querySelector('.canary').hidden",
    );
}

#[test]
fn a_tenant_is_stopped_and_started() {
    let Some(browser) = Browser::start("stop and start in a browser") else { return };
    let host = Host::with_guests(&["hello"]);
    let dashboard = Dashboard::of(&host);
    let page = open(&browser, &dashboard, "hello");
    host.get("hello", "/").expect_ok();
    page.click("[data-act=stop]");
    page.eventually("document.querySelector('dialog[open]')");
    assert!(page.text("dialog").contains("503"), "{}", page.text("dialog"));
    page.picture("stop");
    page.press("Escape");
    page.eventually("!document.querySelector('dialog')");
    host.get("hello", "/").expect_ok();

    page.click("[data-act=stop]");
    page.eventually("document.querySelector('dialog[open]')");
    page.click("[data-confirm]");
    page.eventually("document.querySelector('[data-act=start]')");
    page.eventually("!document.querySelector('dialog')");
    for _ in 0..6 {
        host.get("hello", "/").expect_fault("tenant-stopped");
    }
    assert!(host.tenant("hello").summary.stopped_at.is_some());
    page.eventually("document.querySelector('.pill').dataset.state === 'stopped'");
    assert!(page.text(".notice").contains("Stopped"), "{}", page.text(".notice"));
    assert_eq!(
        page.value(
            "document.activeElement.ariaLabel ?? document.activeElement.outerHTML.slice(0, 200)"
        ),
        json!("Start hello"),
        "the keyboard is where it was"
    );
    is_sound(&browser, &page);
    pictures(&page, "stopped");
    // The grid and its legend have it, too.
    page.press("Escape");
    page.eventually(
        "[...document.querySelectorAll('.chip')].some((chip) => /Stopped\\s*1/.test(chip.innerText))",
    );
    let cell = "document.getElementById('grid-cell').getAttribute('aria-label')";
    page.eventually(&format!("{cell}.includes('Stopped')"));
    page.value("location.hash = '#/tenant/hello'");

    // By the keyboard, and without a question: it takes nothing away.
    page.eventually("document.querySelector('[data-act=start]')");
    page.value("document.querySelector('[data-act=start]').focus()");
    page.press("Enter");
    page.eventually("document.querySelector('[data-act=stop]')");
    host.get("hello", "/").expect_ok();
    assert_eq!(host.tenant("hello").summary.stopped_at, None);
    page.eventually("document.querySelector('.notice').hidden");

    // What somebody else does is seen as well.
    host.must(["stop", "hello"]);
    page.eventually("document.querySelector('[data-act=start]')");
    host.must(["start", "hello"]);
    page.eventually("document.querySelector('[data-act=stop]')");
    assert!(browser.complaints().is_empty(), "{:#?}", browser.complaints());
}
