// The host: memory by kind, how many tenants that carries, the workers, and what was refused.

import { get } from "./api.js";
import { plot } from "./chart.js";
import { h, setText } from "./dom.js";
import { age, bytes, cores, count, plural, short } from "./format.js";
import { meter, panel } from "./panels.js";

const KINDS = [
  ["workers", "Workers", "instances, loaded code's data, connections", "accent"],
  ["supervisor", "Supervisor", "state, tenants' names and routes", "serving"],
  ["table", "Shared table", "every tenant's counters", "open"],
  ["files", "Program and compiled code", "pages of files; can be dropped and read again", "idle"],
];

const STEPS = [
  ["none", "Nothing is given up", 0],
  ["evict", "Idle instances and unused code go", 80],
  ["best-effort", "Best-effort tenants are refused", 85],
  ["burstable", "Burstable tenants are refused", 92],
  ["running", "Guests that compute are ended", 100],
  ["all", "All are refused", 110],
];

function figure(label) {
  const value = h("b", {}, "–");
  const note = h("span", {});
  return {
    element: h("div", { class: "figure" }, h("span", { class: "tile-label" }, label), value, note),
    set: (text, more = "") => {
      setText(value, text);
      setText(note, more);
    },
  };
}

export function hostPage(store) {
  const facts = h("ul", { class: "facts" });
  const bar = h("div", { class: "stack", role: "img" });
  const kinds = h("ul", { class: "kinds" });
  const budget = meter("Workers' memory");
  const ladder = h("ol", { class: "ladder", "aria-label": "What is given up as memory runs low" });
  const density = {
    tenants: figure("Deployed"),
    live: figure("Holding instances"),
    each: figure("Memory for each tenant"),
    instances: figure("Promised to instances"),
  };
  const workers = h("tbody", {});
  const requests = plot({
    label: "Requests per second",
    format: short,
    series: [{ name: "ended", tone: "serving" }],
  });
  const shed = plot({
    label: "Refused and failed per second",
    format: short,
    stacked: true,
    series: [
      { name: "refused", tone: "shedding" },
      { name: "failed", tone: "failing" },
    ],
  });
  const cpu = plot({
    label: "CPU of guests",
    format: cores,
    least: 100,
    series: [{ name: "cores", tone: "accent" }],
  });
  const memory = plot({
    label: "Workers' memory",
    format: bytes,
    least: 16 << 20,
    binary: true,
    series: [{ name: "resident", tone: "accent" }],
  });
  const heads = ["Worker", "State", "Process", "Connections", "Running", "Components", "Memory", "Restarts"];
  const element = h(
    "article",
    { class: "page host" },
    h("header", { class: "page-head" }, h("h1", {}, "Host"), facts),
    h(
      "div",
      { class: "figures" },
      Object.values(density).map((one) => one.element),
    ),
    h(
      "div",
      { class: "columns even" },
      panel("Memory by kind", bar, kinds),
      panel("Pressure", budget.element, ladder),
    ),
    h(
      "div",
      { class: "columns even" },
      panel("Requests per second", requests.element),
      panel("Refused and failed per second", shed.element),
    ),
    h(
      "div",
      { class: "columns even" },
      panel("CPU of guests", cpu.element),
      panel("Memory of workers", memory.element),
    ),
    panel(
      { title: "Workers", class: "workers" },
      h(
        "div",
        { class: "scroll-x", tabindex: "0", role: "group", "aria-label": "Workers" },
        h(
          "table",
          { "aria-label": "Workers" },
          h(
            "thead",
            {},
            h(
              "tr",
              {},
              heads.map((word, at) => h("th", { scope: "col", class: at > 2 ? "number" : "" }, word)),
            ),
          ),
          workers,
        ),
      ),
    ),
  );
  const stop = new AbortController();

  function tick() {
    const { host, past } = store;
    if (!host) return;
    const all = KINDS.reduce((sum, [key]) => sum + host.kinds[key], 0);
    bar.replaceChildren(
      ...KINDS.map(([key, , , tone]) => {
        const piece = h("i", { class: `tone-${tone}` });
        piece.style.width = `${((host.kinds[key] / Math.max(all, 1)) * 100).toFixed(2)}%`;
        return piece;
      }),
    );
    bar.setAttribute(
      "aria-label",
      KINDS.map(([key, word]) => `${word} ${bytes(host.kinds[key])}`).join(", "),
    );
    kinds.replaceChildren(
      ...KINDS.map(([key, word, note, tone]) =>
        h(
          "li",
          {},
          h("i", { class: `swatch tone-${tone}`, "aria-hidden": "true" }),
          h("div", {}, word, h("small", {}, note)),
          h("b", {}, bytes(host.kinds[key])),
        ),
      ),
    );
    const { used_bytes: used, budget_bytes: most, pressure } = host.memory;
    budget.set(used, most ?? 0, bytes);
    ladder.replaceChildren(
      ...STEPS.map(([key, word, from]) =>
        h(
          "li",
          { class: key === pressure ? "is-now" : "", "aria-current": key === pressure ? "step" : null },
          h("span", {}, from === 0 ? "below 80%" : `from ${from}%`),
          h("span", {}, word),
        ),
      ),
    );
    const tenants = store.tenants.size;
    const own = host.kinds.workers + host.kinds.supervisor + host.kinds.table;
    density.tenants.set(count(tenants), plural(tenants, "tenant").replace(/^\S+ /, ""));
    density.live.set(count(host.live), `${short(host.running)} requests running`);
    density.each.set(tenants > 0 ? bytes(own / tenants) : "–", "workers, supervisor and table");
    density.instances.set(bytes(host.instances_bytes), "whether touched or not");
    requests.update([past.requests.read()]);
    shed.update([past.shed.read(), past.faults.read()]);
    cpu.update([past.cpu_m.read()]);
    memory.update([past.memory.read()]);
    workers.replaceChildren(...host.workers.map(row));
  }

  function row(worker) {
    const number = (value) => h("td", { class: "number" }, value);
    const death = worker.last_death;
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, String(worker.index)),
      h(
        "td",
        {},
        h(
          "span",
          { class: `pill pill-${worker.state === "serving" ? "serving" : "shedding"}` },
          worker.state,
        ),
      ),
      h("td", {}, worker.pid === null ? "–" : String(worker.pid)),
      number(count(worker.connections)),
      number(count(worker.running)),
      number(count(worker.loaded)),
      number(bytes(worker.memory_bytes)),
      h(
        "td",
        {
          class: "number",
          title: death
            ? `${death.cause}${death.tenant ? `, while ${death.tenant} ran` : ""}, ${age(death.at)}`
            : null,
        },
        count(worker.restarts),
      ),
    );
  }

  async function read() {
    const info = await get("/v1/host", stop.signal);
    const fact = (label, value) => h("li", {}, h("span", {}, label), " ", h("b", {}, value));
    facts.replaceChildren(
      fact("version", info.version),
      fact("serves", info.listen),
      fact("started", age(info.started_at)),
      fact("process", String(info.pid)),
      fact("data", info.data),
    );
  }

  store.addEventListener("tick", tick);
  // What fails here is told by the sign at the top.
  read().catch(() => {});
  tick();
  return {
    element,
    title: "Host",
    close: () => {
      store.removeEventListener("tick", tick);
      stop.abort();
    },
    focus: () => element.querySelector("h1")?.focus(),
  };
}
