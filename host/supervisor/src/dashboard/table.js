// The same tenants as rows: every figure in words. Only the rows in view exist.

import { h, setText, tenantLink } from "./dom.js";
import { bytes, cores, latency, short } from "./format.js";
import { mark, WORDS } from "./marks.js";

const ROW = 38;
/** Rows beyond the view, above and below. */
const SPARE = 6;

const COLUMNS = [
  { key: "name", word: "Tenant" },
  { key: "state", word: "State" },
  { key: "revision", word: "Rev", number: true, write: (tenant) => String(tenant.revision) },
  { key: "requests", word: "Requests/s", number: true, write: (tenant) => quiet(tenant.requests) },
  { key: "faults", word: "Faults/s", number: true, write: (tenant) => quiet(tenant.faults) },
  { key: "shed", word: "Refused/s", number: true, write: (tenant) => quiet(tenant.shed) },
  { key: "p99", word: "p99", number: true, write: (tenant) => latency(tenant.p99) },
  { key: "cpu", word: "CPU", number: true, write: (tenant) => (tenant.cpu > 0 ? cores(tenant.cpu) : "–") },
  {
    key: "memory",
    word: "Memory",
    number: true,
    write: (tenant) => (tenant.memory > 0 ? bytes(tenant.memory) : "–"),
  },
  { key: "running", word: "Running", number: true, write: (tenant) => quiet(tenant.running) },
];

function quiet(value) {
  return value > 0 ? short(value) : "–";
}

export class Table {
  constructor({ open, sort }) {
    this.open = open;
    this.order = [];
    this.at = 0;
    this.heads = COLUMNS.map(({ key, word, number }) =>
      h(
        "div",
        { role: "columnheader", class: number ? "cell number" : "cell", "data-key": key },
        h("button", { type: "button", on: { click: () => sort(key) } }, word),
      ),
    );
    this.head = h("div", { role: "row", class: "row row-head", "aria-rowindex": "1" }, this.heads);
    this.rows = h("div", { role: "presentation", class: "rows" });
    this.body = h(
      "div",
      {
        class: "table-scroll",
        tabindex: "0",
        role: "rowgroup",
        "aria-label": "Rows; the arrow keys move",
        on: { scroll: () => this.draw(), keydown: (event) => this.key(event) },
      },
      this.rows,
    );
    this.element = h(
      "div",
      { role: "table", class: "table", "aria-label": "Tenants" },
      h("div", { role: "rowgroup" }, this.head),
      this.body,
    );
    new ResizeObserver(() => this.draw()).observe(this.body);
  }

  show(groups, sorted) {
    const selected = this.order[this.at];
    this.order = groups.flatMap(({ tenants }) => tenants);
    this.at = Math.max(0, selected ? this.order.indexOf(selected) : 0);
    this.element.setAttribute("aria-rowcount", String(this.order.length + 1));
    for (const head of this.heads) {
      const is = head.dataset.key === sorted;
      if (is)
        head.setAttribute("aria-sort", sorted === "name" || sorted === "state" ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
    this.rows.style.height = `${this.order.length * ROW}px`;
    this.draw();
  }

  draw() {
    const first = Math.max(0, Math.floor(this.body.scrollTop / ROW) - SPARE);
    const last = Math.min(
      this.order.length,
      Math.ceil((this.body.scrollTop + this.body.clientHeight) / ROW) + SPARE,
    );
    while (this.rows.children.length > last - first) this.rows.lastChild.remove();
    while (this.rows.children.length < last - first) this.rows.append(line());
    for (let at = first; at < last; at += 1) this.fill(this.rows.children[at - first], at);
  }

  fill(row, at) {
    const tenant = this.order[at];
    row.style.transform = `translateY(${at * ROW}px)`;
    row.setAttribute("aria-rowindex", String(at + 2));
    row.classList.toggle("is-at", at === this.at);
    const [link, namespace, state] = row.parts;
    if (link.textContent !== tenant.name) {
      setText(link, tenant.name);
      link.setAttribute("href", tenantLink(tenant.name));
    }
    setText(namespace, tenant.namespace);
    const shown = tenant.canary ? `${tenant.state} ${tenant.canary.share}` : tenant.state;
    if (row.shown !== shown) {
      row.shown = shown;
      state.replaceChildren(mark(tenant.state), WORDS[tenant.state]);
      if (tenant.canary)
        state.append(h("span", { class: "badge badge-canary" }, `canary ${tenant.canary.share}`));
    }
    COLUMNS.forEach(({ write }, column) => {
      if (write) setText(row.children[column], write(tenant));
    });
  }

  key(event) {
    const steps = { ArrowDown: 1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };
    if (event.target !== this.body || this.order.length === 0) return;
    if (event.key === "Enter") this.open(this.order[this.at].name);
    if (!(event.key in steps)) return;
    event.preventDefault();
    this.at = Math.min(Math.max(this.at + steps[event.key], 0), this.order.length - 1);
    const top = this.at * ROW;
    if (top < this.body.scrollTop) this.body.scrollTop = top;
    if (top + ROW > this.body.scrollTop + this.body.clientHeight)
      this.body.scrollTop = top + ROW - this.body.clientHeight;
    this.draw();
  }

  tick() {
    this.draw();
  }

  repaint() {}

  focus() {
    this.body.focus();
  }

  select(tenant) {
    this.at = Math.max(0, this.order.indexOf(tenant));
    this.body.scrollTop = Math.max(0, this.at * ROW - this.body.clientHeight / 2);
    this.draw();
  }
}

function line() {
  const link = h("a", { class: "row-name", href: "#/", tabindex: "-1" });
  const namespace = h("span", { class: "row-namespace" });
  const state = h("span", { class: "state" });
  const rest = COLUMNS.slice(2).map(() => h("div", { role: "cell", class: "cell number" }));
  const row = h(
    "div",
    { role: "row", class: "row" },
    h("div", { role: "cell", class: "cell" }, link, namespace),
    h("div", { role: "cell", class: "cell" }, state),
    rest,
  );
  row.parts = [link, namespace, state];
  return row;
}
