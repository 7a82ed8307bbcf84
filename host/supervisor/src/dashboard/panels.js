// What the pages of a tenant and of the host are put together from.

import { h, setText } from "./dom.js";

/** A bar that fills: towards what must not be passed, or, as a `goal`, towards what is waited for. */
export function meter(label, goal = false) {
  const value = h("span", { class: "meter-value" });
  const fill = h("i", {});
  const bar = h(
    "div",
    { class: "meter-bar", role: "meter", "aria-label": label, "aria-valuemin": "0" },
    fill,
  );
  const element = h(
    "div",
    { class: "meter" },
    h("div", { class: "meter-head" }, h("span", {}, label), value),
    bar,
  );
  function set(used, most, write, note = "") {
    const text = most > 0 ? `${write(used)} of ${write(most)}${note}` : `${write(used)}${note}`;
    const part = most > 0 ? Math.min(used / most, 1) : 0;
    setText(value, text);
    fill.style.width = `${(part * 100).toFixed(1)}%`;
    bar.classList.toggle("is-near", !goal && part >= 0.8 && part < 0.95);
    bar.classList.toggle("is-full", !goal && part >= 0.95);
    bar.classList.toggle("is-there", goal && part >= 1);
    bar.setAttribute("aria-valuenow", String(Math.round(used)));
    bar.setAttribute("aria-valuemax", String(Math.round(Math.max(most, used))));
    bar.setAttribute("aria-valuetext", text);
  }
  return { element, set };
}

/** A surface under a heading. */
export function panel(title, ...children) {
  const { side, ...rest } = typeof title === "string" ? { title } : title;
  return h(
    "section",
    {
      class: `panel${rest.wide ? " wide" : ""}${rest.class ? ` ${rest.class}` : ""}`,
      "aria-label": rest.title,
    },
    h("div", { class: "panel-head" }, h("h2", {}, rest.title), side),
    children,
  );
}
