// A tenant's canary: how it does beside the active revision, what is waited for, and how it ends.

import { confirm } from "./acts.js";
import { get, post, Refused } from "./api.js";
import { h, say, setText } from "./dom.js";
import { age, count, duration, latency, percent } from "./format.js";
import { mark } from "./marks.js";
import { meter, panel } from "./panels.js";

/** Hundredths of a percent in `0.25%`. */
function hundredths(text) {
  return Math.round(Number.parseFloat(text) * 100);
}

const ROWS = [
  ["Requests", ({ requests }) => count(requests)],
  ["Errors", ({ errors }) => count(errors)],
  ["Error rate", ({ errors, requests }) => (requests > 0 ? percent(errors, requests) : "–")],
  ["Latency p50", ({ latency: { p50_ms: ms } }) => latency(ms)],
  ["Latency p99", ({ latency: { p99_ms: ms } }) => latency(ms)],
];

/**
 * The canary of `name`; hidden while there is none. `change` shows what is different between two revisions,
 * `now` is the host's time in milliseconds, and `changed` is called when it has ended by a button.
 */
export function canaryPanel(name, { change, now, changed }) {
  const path = `/v1/tenants/${encodeURIComponent(name)}`;
  const promote = h(
    "button",
    { type: "button", class: "primary", "data-promote": true, on: { click: () => askToPromote() } },
    "Promote",
  );
  const rollBack = h(
    "button",
    { type: "button", "data-end-canary": true, on: { click: () => askToEnd() } },
    "Roll back",
  );
  const about = h("p", { class: "canary-about" });
  const parts = [h("i", { class: "tone-serving" }), h("i", { class: "tone-accent" })];
  const split = h("div", { class: "stack canary-split", role: "img" }, parts);
  const heads = [h("th", { scope: "col" }), h("th", { scope: "col" })];
  const rows = ROWS.map(([word, write]) => {
    const cells = [h("td", {}), h("td", {})];
    return { write, cells, element: h("tr", {}, h("th", { scope: "row" }, word), cells) };
  });
  const beside = h(
    "table",
    { class: "beside", "aria-label": "The active revision and the canary, since it began" },
    h("thead", {}, h("tr", {}, h("th", { scope: "col" }, h("span", { class: "unseen" }, "Figure")), heads)),
    h(
      "tbody",
      {},
      rows.map((row) => row.element),
    ),
  );
  const words = h("b", {});
  const verdict = h("p", { class: "verdict" }, "Verdict: ", words);
  const meters = {
    requests: meter("Requests that are needed to tell", true),
    errors: meter("Errors"),
    latency: meter("Latency p99"),
    time: meter("Time since it began", true),
  };
  const then = h("p", { class: "then" });
  const element = panel(
    { title: "Canary", class: "canary", side: h("div", { class: "acts" }, rollBack, promote) },
    about,
    split,
    h(
      "div",
      { class: "canary-columns" },
      beside,
      h(
        "div",
        { class: "waits", role: "group", "aria-label": "What is waited for" },
        verdict,
        Object.values(meters).map((one) => one.element),
        then,
      ),
    ),
  );
  element.hidden = true;
  let shown = null;

  function update(canary) {
    if (shown && !canary) say(`The canary of ${name} has ended`);
    shown = canary ?? null;
    element.hidden = !canary;
    if (!canary) return;
    const { active } = canary;
    const part = hundredths(canary.share) / 100;
    setText(
      about,
      `Revision ${canary.revision} gets ${canary.share} of the requests, begun ${age(canary.since, now())}` +
        `${canary.sticky ? `, sticky by ${canary.sticky}` : ""}. Revision ${active.revision} gets the others.`,
    );
    split.setAttribute("aria-label", `${trimmed(100 - part)}% active, ${canary.share} canary`);
    parts[0].style.width = `${100 - part}%`;
    parts[1].style.width = `${part}%`;
    heads[0].replaceChildren(
      h("i", { class: "swatch tone-serving", "aria-hidden": "true" }),
      ` Active, revision ${active.revision}`,
    );
    heads[1].replaceChildren(
      h("i", { class: "swatch tone-accent", "aria-hidden": "true" }),
      ` Canary, revision ${canary.revision}`,
    );
    for (const { write, cells } of rows) {
      setText(cells[0], write(active));
      setText(cells[1], write(canary));
    }
    waits(canary);
  }

  /** What the host waits for before it promotes, and what it rolls back for. */
  function waits(canary) {
    const { requests, errors, max_latency_ms: slowest, for_ms: lasts } = canary;
    setText(words, canary.verdict);
    verdict.classList.toggle("is-well", canary.verdict.startsWith("well"));
    verdict.classList.toggle("is-ill", canary.verdict.startsWith("about to be rolled"));
    meters.requests.set(Math.min(requests, canary.requests_min), canary.requests_min, count);
    const failed = requests > 0 ? (errors / requests) * 10_000 : 0;
    const most = hundredths(canary.max_errors);
    const part = (value) => percent(value, 10_000);
    meters.errors.set(failed, most, part, most === 0 ? " of at most 0%" : "");
    meters.latency.element.hidden = !slowest;
    if (slowest) meters.latency.set(canary.latency.p99_ms ?? 0, slowest, latency);
    meters.time.element.hidden = !lasts;
    if (lasts) {
      const whole = Math.floor(canary.tried_ms / 1000) * 1000;
      meters.time.set(Math.min(whole, lasts), lasts, duration);
    }
    const bounds = slowest ? "either bound is passed" : "the bound is passed";
    const promoted = lasts
      ? `promoted by itself after ${duration(lasts)} within ${slowest ? "both" : "it"}`
      : "promoted by nobody but you";
    setText(then, `Rolled back by itself when ${bounds}; ${promoted}.`);
  }

  /** Fails unless the canary that was asked about still runs: buttons act on no other one. */
  async function stillRuns(asked) {
    const { canary } = await get(path);
    if (canary?.revision === asked.revision) return;
    throw new Refused(409, {
      message: `revision ${asked.revision} is no canary any more`,
      hint: "close this and see what became of it among the revisions",
    });
  }

  function askToPromote() {
    const asked = shown;
    if (!asked) return;
    confirm({
      label: `Promote the canary of ${name}`,
      title: ["Promote revision ", String(asked.revision), " of ", h("em", {}, name), "?"],
      more: [
        h(
          "p",
          {},
          `It gets all requests on every worker, revision ${asked.active.revision} none any more. `,
          "Requests that run finish on the revision they began on.",
        ),
        change(asked.active.revision, asked.revision),
      ],
      word: `Promote ${asked.revision}`,
      tone: "primary",
      act: async () => {
        await stillRuns(asked);
        await post(`${path}/promote`, {});
        say(`${name} serves revision ${asked.revision}`);
        await changed();
      },
    });
  }

  function askToEnd() {
    const asked = shown;
    if (!asked) return;
    confirm({
      label: `Roll back the canary of ${name}`,
      title: ["Roll back the canary of ", h("em", {}, name), "?"],
      more: h(
        "p",
        {},
        `Revision ${asked.revision} gets no requests any more, revision ${asked.active.revision} all of them. `,
        "Requests that run finish on the revision they began on.",
      ),
      word: "Roll back the canary",
      tone: "danger",
      act: async () => {
        await stillRuns(asked);
        // By its number: had the canary ended just now, none but this one would be meant.
        await post(`${path}/rollback`, { revision: asked.active.revision });
        say(`${name} serves revision ${asked.active.revision}`);
        await changed();
      },
    });
  }

  return { element, update };
}

function trimmed(value) {
  return String(Number(value.toFixed(2)));
}

/** The mark and words of a canary, where a tenant's state stands. */
export function canaryPill() {
  const words = h("span", {});
  const element = h("span", { class: "pill pill-canary", hidden: true }, mark("canary"), words);
  return {
    element,
    update: (canary) => {
      element.hidden = !canary;
      if (canary) setText(words, `Canary ${canary.share}`);
    },
  };
}
