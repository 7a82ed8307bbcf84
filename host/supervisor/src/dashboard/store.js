// All tenants as the host's events tell of them, and the last minutes of the host and of busy tenants.

import { events, Refused } from "./api.js";

/** Seconds that are remembered. */
export const SECONDS = 300;
/** Tenants whose last minutes are remembered: the first that were seen to do something. */
const REMEMBERED_MAX = 10_000;
/** Waits before connecting again, in milliseconds. */
const AGAIN_MS = [500, 1000, 2000, 5000];

export const STATES = ["open", "failing", "shedding", "serving", "stopped", "idle"];

/** The newest values of one figure, oldest first when read. */
export class Ring {
  constructor(size = SECONDS) {
    this.values = new Float64Array(size);
    this.next = 0;
    this.length = 0;
  }

  push(value) {
    this.values[this.next] = value;
    this.next = (this.next + 1) % this.values.length;
    this.length = Math.min(this.length + 1, this.values.length);
  }

  read() {
    const start = (this.next - this.length + this.values.length) % this.values.length;
    return Array.from({ length: this.length }, (_, at) => this.values[(start + at) % this.values.length]);
  }
}

const IDLE = {
  state: "idle",
  requests: 0,
  faults: 0,
  shed: 0,
  cpu: 0,
  memory: 0,
  running: 0,
  p50: NaN,
  p99: NaN,
};
const PAST = ["requests", "faults", "shed", "cpu", "memory", "p50", "p99"];
const HOST_FIGURES = [
  "requests",
  "faults",
  "shed",
  "cpu_m",
  "running",
  "memory",
  "supervisor",
  "files",
  "p99",
];

export class Store extends EventTarget {
  constructor() {
    super();
    this.forget();
    this.status = "connecting";
    this.problem = null;
  }

  forget() {
    this.tenants = new Map();
    this.names = new Map();
    /** How many of them have a canary. */
    this.canaries = 0;
    /** How far the host's clock is ahead of this one, in milliseconds. */
    this.ahead_ms = 0;
    this.remembered = 0;
    this.host = null;
    this.past = Object.fromEntries(HOST_FIGURES.map((name) => [name, new Ring()]));
    /** Grows whenever the set of tenants changes. */
    this.edition = (this.edition ?? 0) + 1;
  }

  /** Keeps connected while the page is seen. A hidden page costs the host nothing. */
  async run() {
    for (let failures = 0; ; failures += 1) {
      await visible();
      const stop = new AbortController();
      const hide = () => document.hidden && stop.abort();
      document.addEventListener("visibilitychange", hide);
      try {
        await events("/v1/events", stop.signal, (name, event) => {
          failures = 0;
          this.take(name, event);
        });
        this.problem = null;
      } catch (error) {
        this.problem = error instanceof Refused ? error : null;
      }
      document.removeEventListener("visibilitychange", hide);
      if (document.hidden) {
        failures = -1;
        continue;
      }
      this.is(this.problem?.status === 401 ? "locked" : "lost");
      await new Promise((go) => setTimeout(go, AGAIN_MS[Math.min(failures, AGAIN_MS.length - 1)]));
    }
  }

  is(status) {
    this.status = status;
    this.dispatchEvent(new Event("status"));
  }

  take(name, event) {
    if (name === "snapshot") {
      const gone = new Set(this.tenants.keys());
      for (const row of event.tenants) gone.delete(row[0]);
      this.remove(gone);
      const told = new Set(event.figures.map((row) => row[0]));
      for (const tenant of this.tenants.values()) if (!told.has(tenant.slot)) Object.assign(tenant, IDLE);
    }
    for (const [slot, tenantName, namespace, revision, qos, memoryLimit, cpuLimit] of event.tenants) {
      const before = this.tenants.get(slot);
      if (before?.name === tenantName) {
        Object.assign(before, { namespace, revision, qos, memoryLimit, cpuLimit });
        continue;
      }
      if (before) this.remove([slot]);
      const tenant = {
        slot,
        name: tenantName,
        namespace,
        revision,
        qos,
        memoryLimit,
        cpuLimit,
        ...IDLE,
        canary: null,
        past: null,
      };
      this.tenants.set(slot, tenant);
      this.names.set(tenantName, tenant);
      this.edition += 1;
    }
    this.remove(event.gone);
    if (event.canaries) this.takeCanaries(event.canaries);
    this.ahead_ms = event.at_ms - Date.now();
    for (const [slot, state, requests, faults, shed, cpu, memory, running, p50, p99] of event.figures) {
      const tenant = this.tenants.get(slot);
      if (!tenant) continue;
      Object.assign(tenant, {
        state,
        requests,
        faults,
        shed,
        cpu,
        memory,
        running,
        p50: ms(p50),
        p99: ms(p99),
      });
      if (!tenant.past && this.remembered < REMEMBERED_MAX) {
        this.remembered += 1;
        tenant.past = Object.fromEntries(PAST.map((figure) => [figure, new Ring()]));
      }
    }
    for (const tenant of this.tenants.values()) {
      if (!tenant.past) continue;
      for (const figure of PAST) tenant.past[figure].push(tenant[figure]);
    }
    this.host = event.host;
    const figures = {
      ...event.host,
      ...event.host.kinds,
      memory: event.host.memory.used_bytes,
      p99: event.host.latency.p99_ms ?? NaN,
    };
    for (const figure of HOST_FIGURES) this.past[figure].push(figures[figure]);
    this.is("live");
    this.dispatchEvent(new Event("tick"));
  }

  /** All that run; a tenant that is not among them has none. */
  takeCanaries(all) {
    if (this.canaries > 0) for (const tenant of this.tenants.values()) tenant.canary = null;
    this.canaries = 0;
    for (const [slot, revision, share] of all) {
      const tenant = this.tenants.get(slot);
      if (!tenant) continue;
      tenant.canary = { revision, share };
      this.canaries += 1;
    }
    this.edition += 1;
  }

  /** The host's time, in Unix milliseconds. */
  now() {
    return Date.now() + this.ahead_ms;
  }

  remove(slots) {
    for (const slot of slots) {
      const tenant = this.tenants.get(slot);
      if (!tenant) continue;
      if (tenant.past) this.remembered -= 1;
      this.tenants.delete(slot);
      if (this.names.get(tenant.name) === tenant) this.names.delete(tenant.name);
      this.edition += 1;
    }
  }
}

/** Microseconds as milliseconds; nothing as nothing. */
function ms(us) {
  return us === null ? NaN : us / 1000;
}

function visible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((go) => document.addEventListener("visibilitychange", go, { once: true }));
}
