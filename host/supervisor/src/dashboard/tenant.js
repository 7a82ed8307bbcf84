// One tenant: how it fares now and in the last minutes, what it may use and uses, its history and its log.

import { complaint, confirm } from "./acts.js";
import { get, getIfThere, post, Refused } from "./api.js";
import { canaryPanel, canaryPill } from "./canary.js";
import { bars, plot } from "./chart.js";
import { h, say, setText } from "./dom.js";
import { age, bytes, cores, count, duration, latency, percent, plural, short } from "./format.js";
import { logs } from "./logs.js";
import { mark, WORDS } from "./marks.js";
import { meter, panel } from "./panels.js";
import { revisions } from "./revisions.js";

/** Time between two readings of totals, in milliseconds. */
const READ_MS = 2000;
/** Time between two readings of what was used, in milliseconds. */
const USAGE_MS = 30_000;
/** How long a stop waits for running requests, in milliseconds. */
const DRAIN_MS = 10_000;
/** What counts as the last day. */
const DAY_MS = 86_400_000;

const OUTCOMES = [
  ["responses", "Answered", "serving"],
  ["client_faults", "Broken off by clients", "idle"],
  ["guest_faults", "Failed by the guest", "failing"],
  ["host_faults", "Failed by the host", "open"],
  ["shed", "Refused", "shedding"],
];

export function tenantPage(store, name) {
  const path = `/v1/tenants/${encodeURIComponent(name)}`;
  const state = h("span", { class: "pill" });
  const chips = h("ul", { class: "facts" });
  const requests = plot({
    label: "Requests per second",
    stacked: true,
    format: short,
    series: [
      { name: "answered", tone: "serving" },
      { name: "failed", tone: "failing" },
      { name: "refused", tone: "shedding" },
    ],
  });
  const latencies = plot({
    label: "Latency",
    format: latency,
    least: 0.1,
    series: [
      { name: "p50", tone: "accent" },
      { name: "p99", tone: "open" },
    ],
  });
  const cpu = plot({
    label: "CPU",
    format: cores,
    least: 10,
    height: 132,
    series: [{ name: "all workers", tone: "accent" }],
  });
  const memory = plot({
    label: "Memory of instances",
    format: bytes,
    least: 1 << 20,
    height: 132,
    binary: true,
    series: [{ name: "held", tone: "accent" }],
  });
  const meters = {
    memory: meter("Memory"),
    instance: meter("Largest instance"),
    cpu: meter("CPU"),
    running: meter("Requests at once"),
    rate: meter("Requests/s"),
  };
  const durations = bars("How long requests took, since the host started");
  const outcomes = h("ul", { class: "outcomes" });
  const limits = h("dl", { class: "limits" });
  const used = h("dl", { class: "limits" });
  const routes = h("ul", { class: "routes" });
  const history = revisions(name, () => read());
  const canary = canaryPanel(name, {
    change: history.change,
    now: () => store.now(),
    changed: () => read(),
  });
  const tried = canaryPill();
  const act = h("button", { type: "button", "data-act": "stop", disabled: true }, "Stop");
  act.addEventListener("click", () => (detail.stopped_at ? start() : askToStop()));
  const failed = complaint();
  const stopped = h("p", { class: "notice", hidden: true });
  const title = h("h1", { tabindex: "-1" }, name);
  const log = logs(name);
  const element = h(
    "article",
    { class: "page tenant" },
    h(
      "nav",
      { class: "crumbs", "aria-label": "Breadcrumb" },
      h("a", { href: "#/" }, "Tenants"),
      h("span", { "aria-hidden": "true" }, "/"),
      h("span", { "aria-current": "page" }, name),
    ),
    h("header", { class: "page-head" }, title, state, tried.element, chips, h("div", { class: "acts" }, act)),
    failed.element,
    stopped,
    canary.element,
    h(
      "div",
      { class: "columns" },
      h(
        "div",
        { class: "column-main" },
        panel("Requests per second", requests.element),
        panel("Latency", latencies.element),
        h("div", { class: "pair" }, panel("CPU", cpu.element), panel("Memory", memory.element)),
        h(
          "div",
          { class: "pair" },
          panel({ title: "Used in the last 24 hours", class: "used" }, used),
          panel("Routes", routes),
        ),
      ),
      h(
        "div",
        { class: "column-side" },
        panel(
          "Limits against use",
          Object.values(meters).map((one) => one.element),
          h("details", {}, h("summary", {}, "All limits"), limits),
        ),
        panel("Since the host started", outcomes),
        panel("How long requests took", durations.element),
      ),
    ),
    panel({ title: "Revisions" }, history.element),
    panel({ title: "Log" }, log.element),
  );
  const stop = new AbortController();
  let known = null;

  function askToStop() {
    confirm({
      label: `Stop ${name}`,
      title: ["Stop ", h("em", {}, name), "?"],
      more: h(
        "p",
        {},
        "Its requests get 503 (tenant-stopped) and its schedule does not run, over restarts of the host ",
        `too, until it is started. What runs may finish: this waits ${duration(DRAIN_MS)} for it. `,
        "State, routes, revisions, secrets and log stay",
        detail.canary ? "; so does the canary, which is stopped with it." : ".",
      ),
      word: "Stop",
      tone: "danger",
      act: async () => {
        const { running } = await post(`${path}/stop`, { drain_ms: DRAIN_MS });
        say(`${name} is stopped${running > 0 ? `; ${plural(running, "request")} still to end` : ""}`);
        await read();
      },
    });
  }

  async function start() {
    act.disabled = true;
    failed.clear();
    try {
      await post(`${path}/start`, {});
      say(`${name} is started`);
    } catch (error) {
      failed.show(error);
    }
    await read();
    // A button that cannot be pressed loses the focus.
    if (document.activeElement === document.body) act.focus();
  }

  function halted({ stopped_at: since, counters, job }) {
    stopped.hidden = !since;
    act.dataset.act = since ? "start" : "stop";
    act.classList.toggle("primary", Boolean(since));
    setText(act, since ? "Start" : "Stop");
    act.setAttribute("aria-label", `${since ? "Start" : "Stop"} ${name}`);
    if (!since) return;
    const left = counters.running > 0 ? ` ${plural(counters.running, "request")} still to end.` : "";
    const words =
      `${job ? "Its schedule does not run, and requests" : "Requests"} get 503 (tenant-stopped) until it is ` +
      `started; a deploy or rollback meanwhile leaves it stopped.${left}`;
    const when = h("b", {}, `Stopped ${age(since, store.now())}.`);
    stopped.replaceChildren(mark("stopped"), h("span", {}, when, " ", words));
  }

  function facts(detail) {
    const fact = (label, value) => h("li", {}, h("span", {}, label), " ", h("b", {}, value));
    chips.replaceChildren(
      fact("namespace", detail.namespace),
      fact("revision", String(detail.revision)),
      fact("kind", detail.kind),
      fact("class", detail.qos),
      fact("deployed", age(detail.deployed_at)),
      fact("artifact", bytes(detail.artifact_bytes)),
    );
    routes.replaceChildren(...detail.urls.map((url) => h("li", {}, link(url))));
    if (detail.urls.length === 0)
      routes.replaceChildren(
        h("li", { class: "nothing" }, detail.job ? `A job: ${detail.job.schedule}` : "None"),
      );
    const { limits: l } = detail;
    const rows = [
      ["Fuel for a request", l.metering === "time" ? "by time" : short(l.fuel)],
      ["Timeout", duration(l.timeout_ms)],
      ["Queue, each worker", count(l.queue)],
      ["Longest wait there", duration(l.queue_wait_ms)],
      ["Request body", bytes(l.request_body_bytes)],
      ["Request header", bytes(l.request_header_bytes)],
      ["Response body", bytes(l.response_body_bytes)],
      ["CPU request", l.resources.cpu_request_m > 0 ? cores(l.resources.cpu_request_m) : "none"],
      [
        "Reuse of instances",
        l.reuse ? `${short(l.reuse.requests)} requests, ${duration(l.reuse.idle_ms)} idle` : "off",
      ],
    ];
    limits.replaceChildren(...rows.flatMap(([word, value]) => [h("dt", {}, word), h("dd", {}, value)]));
  }

  function took({ durations: ranges }) {
    const text = (us) => latency(us / 1000);
    durations.update(
      ranges.map(({ up_to_us: upTo, requests: held }, at) => ({
        label: upTo === null ? `over ${text(ranges[at - 1].up_to_us)}` : `to ${text(upTo)}`,
        count: held,
      })),
    );
  }

  function totals({ counters }) {
    const all = counters.requests + counters.shed;
    outcomes.replaceChildren(
      ...OUTCOMES.map(([key, word, tone]) =>
        h(
          "li",
          { "data-outcome": key },
          h("i", { class: `swatch tone-${tone}`, "aria-hidden": "true" }),
          h("span", {}, word),
          h("b", {}, count(counters[key])),
          h("small", {}, percent(counters[key], all)),
        ),
      ),
      h(
        "li",
        { class: "outcomes-sum" },
        h("i", { class: "swatch" }),
        h("span", {}, "CPU for a request"),
        h("b", {}, counters.requests > 0 ? `${short(counters.cpu_us / counters.requests)} µs` : "–"),
        h("small", {}),
      ),
    );
  }

  let detail = null;

  function tick() {
    const tenant = store.names.get(name);
    if (!tenant) return;
    if (state.dataset.state !== tenant.state) {
      state.dataset.state = tenant.state;
      state.className = `pill pill-${tenant.state}`;
      state.replaceChildren(mark(tenant.state), WORDS[tenant.state]);
    }
    const past = tenant.past
      ? Object.fromEntries(Object.entries(tenant.past).map(([key, ring]) => [key, ring.read()]))
      : { requests: [0], faults: [0], shed: [0], cpu: [0], memory: [0], p50: [NaN], p99: [NaN] };
    requests.update([
      past.requests.map((all, at) => Math.max(0, all - past.faults[at])),
      past.faults,
      past.shed,
    ]);
    latencies.update([past.p50, past.p99]);
    cpu.update([past.cpu]);
    memory.update([past.memory]);
    if (detail) use(tenant, detail.limits, detail.counters);
  }

  /** The events are quicker than the next reading. Not called by `read`, which may be quicker than they are. */
  function told() {
    tick();
    const tenant = store.names.get(name);
    if (!tenant || known === null) return;
    if (version(tenant.revision, tenant.canary, tenant.state === "stopped") !== known) read();
  }

  function use(tenant, l, counters) {
    const workers = store.host?.workers.length ?? 1;
    meters.memory.set(tenant.memory, l.resources.memory_limit_bytes, bytes);
    meters.instance.set(counters.memory_peak_bytes, l.memory_bytes, bytes);
    meters.cpu.set(
      tenant.cpu,
      l.resources.cpu_limit_m ?? workers * 1000,
      cores,
      l.resources.cpu_limit_m ? "" : " (the machine)",
    );
    meters.running.set(tenant.running, l.concurrency, count);
    meters.rate.element.hidden = !l.resources.rate;
    if (l.resources.rate) meters.rate.set(tenant.requests + tenant.shed, l.resources.rate.requests, short);
  }

  async function read() {
    try {
      detail = await get(path, stop.signal);
    } catch (error) {
      // 400: it is not even a name.
      if (error instanceof Refused && [400, 404].includes(error.status)) gone();
      return;
    }
    facts(detail);
    totals(detail);
    took(detail);
    halted(detail);
    act.disabled = false;
    canary.update(detail.canary);
    tried.update(detail.canary);
    const before = known;
    known = version(detail.revision, detail.canary, Boolean(detail.stopped_at));
    if (before !== known) await history.load().catch(() => {});
    tick();
  }

  async function readUsage() {
    const since = new Date(Date.now() - DAY_MS).toISOString();
    const asked = `/v1/usage?tenant=${encodeURIComponent(name)}&since=${since}`;
    const report = await getIfThere(asked, stop.signal);
    const sum = (field) => report.rows.reduce((all, row) => all + row[field], 0);
    const rows = [
      ["Requests", count(sum("requests"))],
      ["CPU", `${short(sum("cpu_us") / 1e6)} s`],
      ["Memory-seconds", `${bytes(sum("memory_byte_seconds"))}·s`],
      ["Sent", bytes(sum("bytes_out"))],
    ];
    used.replaceChildren(...rows.flatMap(([word, value]) => [h("dt", {}, word), h("dd", {}, value)]));
  }

  function gone() {
    close();
    element.replaceChildren(
      h(
        "div",
        { class: "empty" },
        h("h1", {}, "No such tenant"),
        h("p", {}, "No tenant is named ", h("code", {}, name), ". It may have been removed."),
        h("p", {}, h("a", { href: "#/" }, "All tenants")),
      ),
    );
  }

  const reading = setInterval(() => !document.hidden && read(), READ_MS);
  // Without it the rest of the page is as good.
  const usage = () => !document.hidden && readUsage().catch(() => {});
  const summing = setInterval(usage, USAGE_MS);
  store.addEventListener("tick", told);
  function close() {
    clearInterval(reading);
    clearInterval(summing);
    store.removeEventListener("tick", told);
    stop.abort();
    log.stop();
  }
  read();
  usage();
  log.run();
  tick();
  return { element, title: name, close, focus: () => element.querySelector("h1")?.focus() };
}

/** What has to be the same for the page to be up to date. */
function version(revision, canary, isStopped) {
  return `${revision} ${canary?.revision ?? ""} ${isStopped}`;
}

/** A route as a link, if it is one that can be followed. */
function link(url) {
  return /^https?:\/\//.test(url)
    ? h("a", { href: url, target: "_blank", rel: "noopener noreferrer" }, url)
    : h("span", {}, url);
}
