// Thousands of tenants as cells on one canvas. Shape and colour are the state, size and depth the load.
//
// For assistive technology and the keyboard it is a listbox with one option: the cell under the cursor,
// a real element that lies over the canvas. Only what is in view is drawn, so 100,000 cells scroll.

import { colour, h, say } from "./dom.js";
import { bytes, cores, latency, plural, short } from "./format.js";
import { mark, path, WORDS } from "./marks.js";

/** Side of a cell's place, in pixels: the largest up to this at which all cells are in view … */
const PITCH_MAX = 36;
/** … and not below this; then the grid scrolls. */
const PITCH_MIN = 9;
const PAD = 16;
const GROUP_HEAD = 24;
const GROUP_GAP = 18;
const GROUP_WIDTH_MIN = 104;
/** Steps of depth. */
const DEPTHS = 5;

export const MEASURES = {
  requests: { word: "requests/s", of: (tenant) => tenant.requests + tenant.shed },
  cpu: { word: "CPU", of: (tenant) => tenant.cpu },
  memory: { word: "memory", of: (tenant) => tenant.memory },
  p99: { word: "latency p99", of: (tenant) => tenant.p99 || 0 },
  running: { word: "running requests", of: (tenant) => tenant.running },
};

export class Grid {
  constructor({ open }) {
    this.open = open;
    this.groups = [];
    this.order = [];
    this.blocks = [];
    this.measure = "requests";
    this.at = 0;
    this.pitch = PITCH_MAX;
    this.canvas = h("canvas", { "aria-hidden": "true" });
    this.cell = h("div", { id: "grid-cell", class: "grid-cell", role: "option", "aria-selected": "true" });
    this.space = h("div", { class: "grid-space", role: "presentation" }, this.canvas, this.cell);
    this.element = h(
      "div",
      {
        class: "grid",
        role: "listbox",
        tabindex: "0",
        "aria-activedescendant": "grid-cell",
        "aria-label": "Tenants",
        "aria-describedby": "grid-keys",
        on: {
          keydown: (event) => this.key(event),
          focus: () => this.moved(false),
          blur: () => this.showTip(null),
          pointermove: (event) => this.hover(event),
          pointerleave: () => this.hover(null),
          click: (event) => this.click(event),
          scroll: () => {
            this.hover(null);
            this.draw();
          },
        },
      },
      this.space,
    );
    this.tip = h("div", { class: "tip tip-cell", hidden: true });
    this.ink = null;
    new ResizeObserver(() => {
      this.layout();
    }).observe(this.element);
  }

  /** Forgets colours after the theme has changed. */
  repaint() {
    this.ink = null;
    this.draw();
  }

  colours() {
    if (this.ink) return this.ink;
    const of = Object.fromEntries(
      ["serving", "failing", "shedding", "open", "idle"].map((state) => [state, colour(state)]),
    );
    this.ink = {
      ...of,
      stopped: colour("muted"),
      canary: colour("accent"),
      text: colour("text"),
      muted: colour("muted"),
      surface: colour("surface"),
    };
    return this.ink;
  }

  /** Shows these: [{ name, tenants }]. */
  show(groups) {
    const selected = this.order[this.at];
    this.groups = groups.filter(({ tenants }) => tenants.length > 0);
    this.order = this.groups.flatMap(({ tenants }) => tenants);
    this.at = Math.max(0, selected ? this.order.indexOf(selected) : 0);
    this.element.setAttribute("aria-label", plural(this.order.length, "tenant"));
    this.layout();
  }

  layout() {
    const width = this.element.clientWidth - 2 * PAD;
    const height = this.element.clientHeight;
    if (width <= 0 || height <= 0) return;
    for (let pitch = PITCH_MAX; pitch >= PITCH_MIN; pitch -= 1) {
      const { blocks, bottom } = pack(this.groups, pitch, width);
      if (bottom <= height || pitch === PITCH_MIN) {
        Object.assign(this, { blocks, pitch });
        this.space.style.height = `${Math.max(bottom, height)}px`;
        break;
      }
    }
    const ratio = devicePixelRatio || 1;
    this.canvas.width = Math.round(this.element.clientWidth * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.canvas.style.width = `${this.element.clientWidth}px`;
    this.canvas.style.height = `${height}px`;
    this.draw();
    this.place();
  }

  draw() {
    const ctx = this.canvas.getContext("2d");
    const ink = this.colours();
    const ratio = devicePixelRatio || 1;
    const from = this.element.scrollTop;
    const to = from + this.element.clientHeight;
    const of = MEASURES[this.measure].of;
    const most = Math.log1p(
      Math.max(
        1,
        ...this.groups.map(({ tenants }) => tenants.reduce((high, tenant) => Math.max(high, of(tenant)), 0)),
      ),
    );
    ctx.setTransform(1, 0, 0, 1, 0, 0);
    ctx.globalAlpha = 1;
    ctx.clearRect(0, 0, this.canvas.width, this.canvas.height);
    for (const block of this.blocks) {
      if (block.bottom < from || block.y > to) continue;
      if (block.name !== null) this.head(ctx, block, ratio, from, ink);
      const first = Math.max(0, Math.floor((from - block.cells) / this.pitch));
      const last = Math.min(block.rows, Math.ceil((to - block.cells) / this.pitch));
      for (
        let at = first * block.columns;
        at < Math.min(last * block.columns, block.tenants.length);
        at += 1
      ) {
        const tenant = block.tenants[at];
        const load = Math.log1p(of(tenant)) / most;
        const quiet = tenant.state === "idle";
        const side = (this.pitch / 2 - 0.75) * (quiet ? 1 : 0.7 + load * 0.3);
        const x = block.x + ((at % block.columns) + 0.5) * this.pitch;
        const y = block.cells + (Math.floor(at / block.columns) + 0.5) * this.pitch - from;
        ctx.setTransform(side * ratio, 0, 0, side * ratio, x * ratio, y * ratio);
        ctx.fillStyle = ink[tenant.state];
        ctx.globalAlpha = tenant.state === "serving" ? 0.52 + (0.48 * Math.ceil(load * DEPTHS)) / DEPTHS : 1;
        ctx.fill(path(tenant.state), "evenodd");
        if (tenant.canary) this.dot(ctx, x, y, ratio, ink);
      }
    }
  }

  /** A canary's dot, at the upper right of its tenant's cell and set off from it. */
  dot(ctx, x, y, ratio, ink) {
    const radius = Math.max(1.8, this.pitch * 0.15);
    ctx.setTransform(ratio, 0, 0, ratio, (x + this.pitch * 0.33) * ratio, (y - this.pitch * 0.33) * ratio);
    ctx.globalAlpha = 1;
    for (const [more, tone] of [
      [Math.max(1, this.pitch * 0.05), ink.surface],
      [0, ink.canary],
    ]) {
      ctx.beginPath();
      ctx.arc(0, 0, radius + more, 0, 2 * Math.PI);
      ctx.fillStyle = tone;
      ctx.fill();
    }
  }

  head(ctx, block, ratio, from, ink) {
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.globalAlpha = 1;
    ctx.textBaseline = "alphabetic";
    const font = getComputedStyle(this.element).fontFamily;
    const y = block.y - from + 13;
    const total = block.tenants.reduce((sum, tenant) => sum + tenant.requests, 0);
    const side = total > 0 ? `${short(total)}/s` : String(block.tenants.length);
    ctx.font = `11px ${font}`;
    const sideWidth = ctx.measureText(side).width;
    ctx.fillStyle = ink.muted;
    ctx.fillText(side, block.x + block.width - sideWidth - 2, y);
    ctx.font = `600 12px ${font}`;
    ctx.fillStyle = ink.text;
    ctx.fillText(cut(ctx, block.name, block.width - sideWidth - 12), block.x + 1, y);
  }

  /** Where a cell lies: its centre, from the top of all. */
  centre(at) {
    const block = this.blocks.find(({ start, tenants }) => at >= start && at < start + tenants.length);
    if (!block) return null;
    const own = at - block.start;
    return {
      x: block.x + ((own % block.columns) + 0.5) * this.pitch,
      y: block.cells + (Math.floor(own / block.columns) + 0.5) * this.pitch,
    };
  }

  under(event) {
    const box = this.element.getBoundingClientRect();
    const x = event.clientX - box.left;
    const y = event.clientY - box.top + this.element.scrollTop;
    for (const block of this.blocks) {
      const column = Math.floor((x - block.x) / this.pitch);
      const row = Math.floor((y - block.cells) / this.pitch);
      if (column < 0 || column >= block.columns || row < 0 || row >= block.rows) continue;
      const own = row * block.columns + column;
      return own < block.tenants.length ? block.start + own : null;
    }
    return null;
  }

  key(event) {
    const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -Infinity, End: Infinity };
    const rows = { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10 };
    if (event.ctrlKey || event.metaKey || event.altKey || this.order.length === 0) return;
    if (event.key in steps)
      this.at = Math.min(Math.max(this.at + steps[event.key], 0), this.order.length - 1);
    else if (event.key in rows)
      for (let step = Math.abs(rows[event.key]); step > 0; step -= 1)
        this.at = this.beside(Math.sign(rows[event.key]));
    else if (event.key === "Enter" || event.key === " ") this.open(this.order[this.at].name);
    else return;
    event.preventDefault();
    if (event.key !== "Enter") this.moved(true);
  }

  /** The nearest cell of the next row up or down, wherever that is. */
  beside(direction) {
    const own = this.centre(this.at);
    let best = this.at;
    let least = Infinity;
    for (const block of this.blocks) {
      for (let row = 0; row < block.rows; row += 1) {
        const y = block.cells + (row + 0.5) * this.pitch;
        const down = (y - own.y) * direction;
        if (down < this.pitch / 2) continue;
        const inRow = Math.min(block.columns, block.tenants.length - row * block.columns);
        const column = Math.min(Math.max(Math.floor((own.x - block.x) / this.pitch), 0), inRow - 1);
        const off = Math.abs(block.x + (column + 0.5) * this.pitch - own.x);
        const cost = down * 4 + off;
        if (cost < least) [least, best] = [cost, block.start + row * block.columns + column];
      }
    }
    return best;
  }

  moved(told) {
    const centre = this.centre(this.at);
    if (!centre) return;
    const [top, bottom] = [centre.y - this.pitch - GROUP_HEAD, centre.y + this.pitch];
    if (top < this.element.scrollTop) this.element.scrollTop = Math.max(0, top);
    if (bottom > this.element.scrollTop + this.element.clientHeight)
      this.element.scrollTop = bottom - this.element.clientHeight;
    this.place();
    if (told) this.showTip(this.at);
  }

  /** Puts the one real option over the cell under the cursor. */
  place() {
    const tenant = this.order[this.at];
    const centre = this.centre(this.at);
    this.cell.hidden = !tenant || !centre;
    if (this.cell.hidden) return;
    const side = this.pitch + 4;
    this.cell.style.transform = `translate(${centre.x - side / 2}px, ${centre.y - side / 2}px)`;
    this.cell.style.width = this.cell.style.height = `${side}px`;
    this.cell.setAttribute("aria-label", described(tenant));
    this.cell.setAttribute("aria-posinset", String(this.at + 1));
    this.cell.setAttribute("aria-setsize", String(this.order.length));
  }

  select(tenant) {
    const at = this.order.indexOf(tenant);
    if (at >= 0) this.at = at;
    this.moved(false);
  }

  hover(event) {
    const at = event ? this.under(event) : null;
    this.element.classList.toggle("pointing", at !== null);
    this.showTip(at);
  }

  click(event) {
    const at = this.under(event);
    if (at === null) return;
    this.at = at;
    this.open(this.order[at].name);
  }

  showTip(at) {
    this.tipped = at;
    this.tip.hidden = at === null || !this.order[at];
    if (this.tip.hidden) return;
    const tenant = this.order[at];
    const centre = this.centre(at);
    const row = (word, value) => h("div", {}, word, h("b", {}, value));
    const rows = [
      row("Requests", `${short(tenant.requests)}/s`),
      tenant.faults > 0 && row("Faults", `${short(tenant.faults)}/s`),
      tenant.shed > 0 && row("Refused", `${short(tenant.shed)}/s`),
      Number.isFinite(tenant.p99) && row("Latency p99", latency(tenant.p99)),
      row("CPU", cores(tenant.cpu)),
      row("Memory", bytes(tenant.memory)),
      tenant.canary && row("Canary", `${tenant.canary.share}, revision ${tenant.canary.revision}`),
    ];
    this.tip.replaceChildren(
      h("div", { class: "tip-title" }, mark(tenant.state), tenant.name),
      h(
        "div",
        { class: "tip-sub" },
        `${tenant.namespace} · ${WORDS[tenant.state]} · revision ${tenant.revision}`,
      ),
      ...rows.filter(Boolean),
    );
    const x = Math.min(Math.max(centre.x + this.pitch, 8), this.element.clientWidth - 220);
    const below = centre.y - this.element.scrollTop + this.pitch;
    const y = below > this.element.clientHeight - 150 ? below - 150 - 2 * this.pitch : below;
    this.tip.style.transform = `translate(${x}px, ${Math.max(4, y)}px)`;
  }

  /** New figures, the same tenants. */
  tick() {
    this.draw();
    if (this.tipped !== null && this.tipped !== undefined) this.showTip(this.tipped);
    if (document.activeElement === this.element) this.place();
  }

  focus() {
    this.element.focus();
    if (this.order[this.at]) say(described(this.order[this.at]));
  }
}

/** A tenant in a sentence. */
export function described(tenant) {
  const parts = [
    tenant.name,
    `namespace ${tenant.namespace}`,
    WORDS[tenant.state],
    `${short(tenant.requests)} requests a second`,
  ];
  if (tenant.faults > 0) parts.push(`${short(tenant.faults)} faults a second`);
  if (tenant.shed > 0) parts.push(`${short(tenant.shed)} refused a second`);
  if (tenant.canary) parts.push(`a canary of revision ${tenant.canary.revision} gets ${tenant.canary.share}`);
  return parts.join(", ");
}

function cut(ctx, text, width) {
  if (ctx.measureText(text).width <= width) return text;
  let length = text.length;
  while (length > 1 && ctx.measureText(`${text.slice(0, length)}…`).width > width) length -= 1;
  return `${text.slice(0, length)}…`;
}

/** Puts groups side by side on shelves. A shelf gets as few rows as its groups fit in, side by side. */
function pack(groups, pitch, width) {
  const headed = groups.length > 1 || (groups.length === 1 && groups[0].name !== null);
  const head = headed ? GROUP_HEAD : 0;
  const mean =
    groups.length > 0 ? groups.reduce((sum, { tenants }) => sum + tenants.length, 0) / groups.length : 1;
  const rowsWanted = Math.max(2, Math.round(Math.sqrt(mean) * 0.7));
  const columns = ({ tenants }, rows) => Math.ceil(tenants.length / rows);
  const wide = (group, rows) => Math.max(columns(group, rows) * pitch, headed ? GROUP_WIDTH_MIN : 0);
  const fits = (shelf, rows) =>
    shelf.reduce((sum, group) => sum + wide(group, rows), (shelf.length - 1) * GROUP_GAP) <= width;
  const shelves = [];
  for (const group of groups) {
    const shelf = shelves.at(-1);
    if (shelf && fits([...shelf, group], rowsWanted)) shelf.push(group);
    else shelves.push([group]);
  }
  const blocks = [];
  let [y, start] = [PAD - 4, 0];
  for (const shelf of shelves) {
    let rows = 1;
    while (!fits(shelf, rows) && rows < 1e6) rows += rows < 64 ? 1 : Math.ceil(rows / 16);
    let x = PAD;
    let high = 0;
    for (const group of shelf) {
      const own = Math.max(1, Math.min(columns(group, rows), Math.floor(width / pitch)));
      const ownRows = Math.ceil(group.tenants.length / own);
      blocks.push({
        name: headed ? group.name : null,
        tenants: group.tenants,
        start,
        columns: own,
        rows: ownRows,
        x,
        y,
        width: wide(group, rows),
        cells: y + head,
        bottom: y + head + ownRows * pitch,
      });
      start += group.tenants.length;
      high = Math.max(high, ownRows);
      x += wide(group, rows) + GROUP_GAP;
    }
    y += head + high * pitch + GROUP_GAP - 4;
  }
  return { blocks, bottom: y + PAD - GROUP_GAP + 4 };
}
