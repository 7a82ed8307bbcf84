// The first page: the host in six figures, and all of its tenants.

import { spark } from "./chart.js";
import { h, say, setText } from "./dom.js";
import { bytes, cores, count, latency, percent, plural, short } from "./format.js";
import { Grid, MEASURES } from "./grid.js";
import { CANARY, mark, MEANINGS, WORDS } from "./marks.js";
import { STATES } from "./store.js";
import { Table } from "./table.js";

/** Least time between two sortings by a figure that changes, in milliseconds: cells must not dance. */
const SORT_MS = 4000;

const kept = JSON.parse(sessionStorage.getItem("insula-view") ?? "{}");

/** What the user has chosen, while the tab is open. */
const view = { as: "grid", group: true, measure: "requests", sort: "name", states: [], canary: false, ...kept };

function keep() {
  sessionStorage.setItem("insula-view", JSON.stringify(view));
}

function choice(label, value, options, pick) {
  const select = h(
    "select",
    { on: { change: () => pick(select.value) } },
    options.map(([key, word]) => h("option", { value: key, selected: key === value }, word)),
  );
  return [h("label", { class: "choice" }, h("span", {}, label), select), select];
}

function tile(label, tone) {
  const value = h("b", { class: "tile-value" }, "–");
  const note = h("span", { class: "tile-note" });
  const line = spark(tone);
  const element = h(
    "div",
    { class: "tile" },
    h("span", { class: "tile-label" }, label),
    value,
    note,
    line.element,
  );
  return {
    element,
    set: (text, more, values) => {
      setText(value, text);
      setText(note, more);
      line.update(values);
    },
  };
}

/** A part of the legend: a mark, what it means, how many there are; pressed to see no others. */
function chip(state, word, meaning, press) {
  const amount = h("b", {}, "0");
  const button = h(
    "button",
    {
      type: "button",
      class: "chip",
      "aria-pressed": "false",
      title: `${word}: ${meaning}`,
      on: { click: press },
    },
    mark(state),
    h("span", {}, word),
    amount,
  );
  return {
    button,
    set: (number, pressed, isRare) => {
      setText(amount, count(number));
      button.setAttribute("aria-pressed", String(pressed));
      button.classList.toggle("none", number === 0);
      // The row is full.
      button.hidden = isRare && number === 0 && !pressed;
    },
  };
}

export function overview(store, { open, search }) {
  const tiles = {
    requests: tile("Requests", "serving"),
    faults: tile("Faults", "failing"),
    shed: tile("Refused", "shedding"),
    p99: tile("Latency p99", "accent"),
    cpu: tile("CPU", "accent"),
    memory: tile("Memory", "accent"),
  };
  const grid = new Grid({ open });
  const table = new Table({
    open,
    sort: (key) => {
      view.sort = key;
      keep();
      sorting.value = key;
      refresh(true);
    },
  });
  const chips = new Map(
    STATES.map((state) => [state, chip(state, WORDS[state], MEANINGS[state], () => toggle(state))]),
  );
  const canaries = chip("canary", CANARY.word, CANARY.meaning, () => {
    view.canary = !view.canary;
    keep();
    refresh(true);
    tick();
  });
  const asGrid = h("button", { type: "button", on: { click: () => switchTo("grid") } }, "Grid");
  const asTable = h("button", { type: "button", on: { click: () => switchTo("table") } }, "Table");
  const [measuring] = choice(
    "Size",
    view.measure,
    Object.entries(MEASURES).map(([key, { word }]) => [key, word]),
    (key) => {
      view.measure = grid.measure = key;
      keep();
      grid.draw();
    },
  );
  const [sorted, sorting] = choice(
    "Sort",
    view.sort,
    [
      ["name", "name"],
      ["state", "state"],
      ["requests", "requests/s"],
      ["faults", "faults/s"],
      ["shed", "refused/s"],
      ["p99", "latency p99"],
      ["cpu", "CPU"],
      ["memory", "memory"],
      ["running", "running"],
      ["revision", "revision"],
    ],
    (key) => {
      view.sort = key;
      keep();
      refresh(true);
    },
  );
  const [grouped] = choice(
    "Group",
    view.group ? "namespace" : "none",
    [
      ["namespace", "namespace"],
      ["none", "none"],
    ],
    (key) => {
      view.group = key === "namespace";
      keep();
      refresh(true);
    },
  );
  const shown = h("span", { class: "shown", role: "status" });
  const nothing = h("p", { class: "nothing", hidden: true });
  const stage = h("div", { class: "stage" });
  const element = h(
    "section",
    { class: "overview", "aria-label": "Tenants" },
    h("h1", { class: "unseen" }, "Tenants"),
    h(
      "div",
      { class: "tiles" },
      Object.values(tiles).map((one) => one.element),
    ),
    h(
      "div",
      { class: "panel tenants" },
      h(
        "div",
        { class: "tools" },
        h(
          "div",
          { class: "chips", role: "group", "aria-label": "Legend, and which states are shown" },
          STATES.toReversed().map((state) => chips.get(state).button),
          canaries.button,
        ),
        shown,
        h(
          "div",
          { class: "choices" },
          measuring,
          grouped,
          sorted,
          h("div", { class: "segments", role: "group", "aria-label": "Show tenants as" }, asGrid, asTable),
        ),
      ),
      stage,
      nothing,
      h(
        "p",
        { id: "grid-keys", class: "unseen" },
        "The arrow keys move between tenants, Enter opens one. The table has the same in words.",
      ),
    ),
  );
  grid.measure = view.measure;
  let edition = -1;
  let sortedAt = 0;
  let counted = { all: 0 };

  function current() {
    return view.as === "grid" ? grid : table;
  }

  function switchTo(as) {
    view.as = as;
    keep();
    stage.replaceChildren(...(as === "grid" ? [grid.element, grid.tip] : [table.element]));
    asGrid.setAttribute("aria-pressed", String(as === "grid"));
    asTable.setAttribute("aria-pressed", String(as === "table"));
    measuring.hidden = grouped.hidden = as !== "grid";
    refresh(true);
  }

  function toggle(state) {
    view.states = view.states.includes(state)
      ? view.states.filter((one) => one !== state)
      : [...view.states, state];
    keep();
    refresh(true);
    tick();
  }

  function chosen() {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    const matches = (tenant) =>
      words.every((word) => tenant.name.includes(word) || tenant.namespace.includes(word));
    const found = [];
    for (const tenant of store.tenants.values()) {
      const wanted = view.states.length === 0 || view.states.includes(tenant.state);
      if (wanted && (tenant.canary || !view.canary) && matches(tenant)) found.push(tenant);
    }
    const byName = (a, b) => (a.name < b.name ? -1 : 1);
    const by =
      {
        name: byName,
        state: (a, b) => STATES.indexOf(a.state) - STATES.indexOf(b.state) || byName(a, b),
      }[view.sort] ?? ((a, b) => (b[view.sort] || 0) - (a[view.sort] || 0) || byName(a, b));
    return found.sort(by);
  }

  function refresh(now) {
    const moves = view.sort !== "name" || view.states.length > 0;
    if (!now && edition === store.edition && !(moves && Date.now() - sortedAt > SORT_MS)) {
      current().tick();
      return;
    }
    edition = store.edition;
    sortedAt = Date.now();
    const found = chosen();
    const all = store.tenants.size;
    let groups = [{ name: null, tenants: found }];
    if (view.group && view.as === "grid") {
      const named = new Map();
      for (const tenant of found) {
        if (!named.has(tenant.namespace)) named.set(tenant.namespace, []);
        named.get(tenant.namespace).push(tenant);
      }
      groups = [...named].sort(([a], [b]) => (a < b ? -1 : 1)).map(([name, tenants]) => ({ name, tenants }));
    }
    current().show(groups, view.sort);
    if (all > 0 && performance.getEntriesByName("first-grid").length === 0) performance.mark("first-grid");
    setText(shown, found.length === all ? "" : `${count(found.length)} of ${plural(all, "tenant")}`);
    nothing.hidden = found.length > 0 || !store.host;
    setText(
      nothing,
      all === 0
        ? "Nothing is deployed yet. On a terminal: insula deploy hello ./hello.wasm"
        : "No tenant matches. Esc clears the search.",
    );
    counted.shown = found.length;
  }

  function tick() {
    const { host, past } = store;
    if (!host || !element.isConnected) return;
    const number = Object.fromEntries(STATES.map((state) => [state, 0]));
    for (const tenant of store.tenants.values()) number[tenant.state] = (number[tenant.state] ?? 0) + 1;
    for (const [state, chip] of chips)
      chip.set(number[state], view.states.includes(state), state === "stopped");
    canaries.set(store.canaries, view.canary, true);
    tiles.requests.set(`${short(host.requests)}/s`, `${count(host.running)} running`, past.requests.read());
    tiles.faults.set(percent(host.faults, host.requests), `${short(host.faults)}/s`, past.faults.read());
    tiles.shed.set(`${short(host.shed)}/s`, percent(host.shed, host.requests + host.shed), past.shed.read());
    tiles.p99.set(
      latency(host.latency.p99_ms),
      `p50 ${latency(host.latency.p50_ms)}`,
      past.p99.read().map((value) => value || 0),
    );
    tiles.cpu.set(cores(host.cpu_m), plural(host.workers.length, "worker"), past.cpu_m.read());
    const { used_bytes: used, budget_bytes: budget } = host.memory;
    tiles.memory.set(bytes(used), budget ? `of ${bytes(budget)}` : "", past.memory.read());
    refresh(false);
  }

  search.addEventListener("input", () => {
    refresh(true);
    say(`${plural(counted.shown, "tenant")} found`);
  });
  store.addEventListener("tick", tick);
  switchTo(view.as);
  tick();
  return {
    element,
    title: "Tenants",
    focus: () => current().focus(),
    select: (tenant) => current().select(tenant),
    found: () => (current().order.length > 0 ? current().order[current().at] : null),
    repaint: () => current().repaint(),
    shown: () => {
      refresh(true);
      tick();
    },
  };
}
