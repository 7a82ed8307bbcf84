// Plots over time, in SVG: lines or stacked areas, an axis that says how much, and what stands under the
// pointer. A sentence says the same to those who do not see it.

import { h, s, setText } from "./dom.js";
import { percent } from "./format.js";
import { SECONDS } from "./store.js";

const LEFT = 44;
const BOTTOM = 20;
const TOP = 8;

/** A round number that is not below `value`: 1, 2, 2.5, 5 times a power of ten; of bytes, a power of two. */
function nice(value, binary) {
  if (!(value > 0)) return 1;
  if (binary) return 2 ** Math.ceil(Math.log2(value) - 0.001);
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 2.5, 5, 10].map((step) => step * power).find((step) => step >= value * 0.999);
}

/**
 * A plot of `series` ([{ name, tone }]). `format` writes a value; `stacked` adds them up; `least` is how high
 * the axis is at least, and `binary` says that it counts bytes. Gives the element, and `update` for an array
 * of values a series, oldest first.
 */
export function plot({ label, series, format, stacked = false, height = 168, least = 1, binary = false }) {
  const svg = s("svg", { class: "plot-svg", role: "img", "aria-label": label, height });
  const tip = h("div", { class: "tip", hidden: true });
  const values = series.map(({ tone }) => h("b", { class: `legend-value tone-${tone}` }, "–"));
  const legend = h(
    "ul",
    { class: "legend" },
    series.map(({ name, tone }, at) =>
      h("li", {}, h("i", { class: `swatch tone-${tone}`, "aria-hidden": "true" }), name, " ", values[at]),
    ),
  );
  const box = h("div", { class: "plot-box" }, svg, tip);
  const element = h(
    "figure",
    { class: "plot" },
    h("figcaption", {}, h("span", { class: "plot-title" }, label), legend),
    box,
  );
  let data = series.map(() => []);
  let width = 0;
  let pointed = null;

  function top() {
    const sums = [];
    for (let at = 0; at < data[0].length; at += 1) {
      const column = data.map((values) => values[at]).filter((value) => Number.isFinite(value));
      sums.push(stacked ? column.reduce((sum, value) => sum + value, 0) : Math.max(0, ...column));
    }
    return nice(Math.max(least, ...sums) / 4, binary) * 4;
  }

  function draw() {
    if (width === 0) return;
    const high = top();
    const area = { width: width - LEFT - 6, height: height - TOP - BOTTOM };
    const x = (at) => LEFT + area.width * (1 - (data[0].length - 1 - at) / (SECONDS - 1));
    const y = (value) => TOP + area.height * (1 - Math.min(value, high) / high);
    const parts = [];
    for (let step = 0; step <= 4; step += 2) {
      const value = (high / 4) * step;
      parts.push(s("line", { class: "rule", x1: LEFT, x2: width - 6, y1: y(value), y2: y(value) }));
      parts.push(
        s("text", { class: "axis", x: LEFT - 8, y: y(value) + 3.5, "text-anchor": "end" }, format(value)),
      );
    }
    for (let minute = SECONDS / 60; minute >= 0; minute -= 1) {
      const at = LEFT + area.width * (1 - (minute * 60) / SECONDS);
      if (width < 420 && minute % 2 === 1) continue;
      parts.push(
        s(
          "text",
          { class: "axis", x: at, y: height - 4, "text-anchor": minute === 0 ? "end" : "middle" },
          minute === 0 ? "now" : `−${minute} min`,
        ),
      );
    }
    let below = data[0].map(() => 0);
    series.forEach(({ tone }, index) => {
      const above = data[index].map((value, at) => (stacked ? value + below[at] : value));
      const point = (value, at) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
      if (stacked && index > 0 && !data[index].some((value) => value > 0)) return;
      for (const run of runs(above)) {
        const line = run.map((at) => point(above[at], at)).join("L");
        if (stacked || series.length === 1) {
          const back = run
            .slice()
            .reverse()
            .map((at) => point(below[at], at))
            .join("L");
          parts.push(s("path", { class: `area tone-${tone}`, d: `M${line}L${back}Z` }));
        }
        // A second alone is a dot.
        parts.push(
          s("path", { class: `line tone-${tone}`, d: run.length > 1 ? `M${line}` : `M${line}h.01` }),
        );
      }
      if (stacked) below = above;
    });
    if (pointed !== null && pointed < data[0].length && pointed >= 0) {
      parts.push(
        s("line", { class: "cross", x1: x(pointed), x2: x(pointed), y1: TOP, y2: TOP + area.height }),
      );
    }
    svg.replaceChildren(...parts);
    svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  }

  function point(event) {
    const area = width - LEFT - 6;
    const at = event.clientX - svg.getBoundingClientRect().left - LEFT;
    pointed = data[0].length - 1 - Math.round((1 - at / area) * (SECONDS - 1));
    tip.hidden = pointed < 0 || pointed >= data[0].length;
    if (!tip.hidden) {
      const ago = data[0].length - 1 - pointed;
      tip.replaceChildren(
        h("div", { class: "tip-title" }, ago === 0 ? "now" : `${ago} s ago`),
        ...series.map(({ name, tone }, index) =>
          h(
            "div",
            {},
            h("i", { class: `swatch tone-${tone}` }),
            name,
            h("b", {}, format(data[index][pointed])),
          ),
        ),
      );
      tip.style.left = `${Math.min(Math.max(at + LEFT + 12, 0), width - 170)}px`;
    }
    draw();
  }

  box.addEventListener("pointermove", point);
  box.addEventListener("pointerleave", () => {
    pointed = null;
    tip.hidden = true;
    draw();
  });
  new ResizeObserver(() => {
    width = Math.round(box.clientWidth);
    draw();
  }).observe(box);

  function update(next) {
    data = next;
    series.forEach((_, index) => setText(values[index], format(data[index].at(-1) ?? NaN)));
    const now = series.map(({ name }, index) => `${name} ${format(data[index].at(-1) ?? NaN)}`).join(", ");
    svg.setAttribute("aria-label", `${label}: now ${now}`);
    draw();
  }
  return { element, update };
}

/** The stretches without a gap, as lists of indices. */
function runs(values) {
  const found = [];
  let run = [];
  values.forEach((value, at) => {
    if (Number.isFinite(value)) run.push(at);
    else if (run.length > 0) {
      found.push(run);
      run = [];
    }
  });
  if (run.length > 0) found.push(run);
  return found;
}

/** A small line without axes, for a tile. */
export function spark(tone) {
  const line = s("path", { class: `line tone-${tone}` });
  const area = s("path", { class: `area tone-${tone}` });
  const svg = s(
    "svg",
    { class: "spark", viewBox: "0 0 120 32", preserveAspectRatio: "none", "aria-hidden": "true" },
    area,
    line,
  );
  function update(values) {
    const last = values.slice(-60);
    // Not from 0: a third of the height for a change of a tenth.
    const high = Math.max(1e-9, ...last);
    const low = Math.min(...last, high * 0.7);
    const x = (at) => 120 - (last.length - 1 - at) * (120 / 59);
    const y = (value) => 29 - ((value - low) / (high - low)) * 26;
    const points = last.map((value, at) => `${x(at).toFixed(1)} ${y(value).toFixed(1)}`);
    line.setAttribute("d", points.length > 1 ? `M${points.join("L")}` : "");
    area.setAttribute("d", points.length > 1 ? `M${x(0).toFixed(1)} 32L${points.join("L")}L120 32Z` : "");
  }
  return { element: svg, update };
}

/** How many fell into each of some ranges, as bars: [{ label, count }]. */
export function bars(label) {
  const list = h("ol", { class: "bars", "aria-label": label });
  function update(ranges) {
    const used = ranges.map(({ count }) => count > 0);
    const shown = ranges.slice(Math.max(0, used.indexOf(true)), used.lastIndexOf(true) + 1);
    const most = Math.max(1, ...shown.map(({ count }) => count));
    const all = shown.reduce((sum, { count }) => sum + count, 0);
    list.replaceChildren(
      ...shown.map(({ label: range, count }) => {
        const fill = h("i", {});
        fill.style.width = `${(count / most) * 100}%`;
        return h(
          "li",
          {},
          h("span", {}, range),
          h("div", { class: "bar-box" }, fill),
          h("b", {}, percent(count, all)),
        );
      }),
    );
  }
  return { element: list, update };
}
