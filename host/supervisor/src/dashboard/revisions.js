// A tenant's history: what changed between any two revisions, and the way back.

import { confirm } from "./acts.js";
import { get, post } from "./api.js";
import { diff } from "./diff.js";
import { h, say } from "./dom.js";
import { age, plural } from "./format.js";

/** The history of `name`; `load` reads it anew. */
export function revisions(name, changed) {
  const list = h("ol", { class: "revisions", "aria-label": "Revisions, newest first" });
  const from = h("select", { "aria-label": "Compare revision", on: { change: () => compare() } });
  const to = h("select", { "aria-label": "with revision", on: { change: () => compare() } });
  const outcome = h("div", { class: "diff", "aria-live": "polite" });
  const comparing = h(
    "div",
    { class: "comparing" },
    h("span", {}, "Compare"),
    from,
    h("span", {}, "with"),
    to,
  );
  const element = h("div", { class: "history" }, list, h("div", { class: "difference" }, comparing, outcome));
  let all = [];

  async function load() {
    all = await get(`/v1/tenants/${encodeURIComponent(name)}/revisions`);
    list.replaceChildren(...all.map(entry));
    const active = all.find((one) => one.active) ?? all[0];
    const before =
      all.filter((one) => one.revision < active.revision)[0] ?? all.find((one) => one !== active) ?? active;
    for (const select of [from, to])
      select.replaceChildren(
        ...all.map((one) => h("option", { value: one.revision }, `${one.revision}${role(one)}`)),
      );
    const canary = all.find(isCanary);
    from.value = String((canary ? active : before).revision);
    to.value = String((canary ?? active).revision);
    compare();
  }

  /** Shows what is different between a revision and the active one; what is to come stands on the right. */
  function compareWithActive(one) {
    const active = all.find((other) => other.active) ?? one;
    const [left, right] = isCanary(one) ? [active, one] : [one, active];
    from.value = String(left.revision);
    to.value = String(right.revision);
    compare();
  }

  function entry(one) {
    const digest = one.artifact.replace("sha256:", "").slice(0, 12);
    return h(
      "li",
      { class: one.active ? "revision is-active" : "revision" },
      h("span", { class: "revision-number" }, String(one.revision)),
      h(
        "div",
        { class: "revision-text" },
        h(
          "div",
          {},
          one.active ? h("span", { class: "badge" }, "active") : null,
          isCanary(one) ? h("span", { class: "badge badge-canary" }, `canary ${one.rollout.share}`) : null,
          h("time", { datetime: one.created_at, title: one.created_at }, age(one.created_at)),
        ),
        h("code", { title: one.artifact }, digest),
        ended(one),
      ),
      h(
        "button",
        {
          type: "button",
          class: "quiet",
          "aria-label": `Compare revision ${one.revision} with the active one`,
          on: { click: () => compareWithActive(one) },
        },
        "Compare",
      ),
      one.active || isCanary(one)
        ? null
        : h(
            "button",
            {
              type: "button",
              class: "quiet",
              "data-roll-back": one.revision,
              "aria-label": `Roll back to revision ${one.revision}`,
              on: { click: () => ask(one) },
            },
            "Roll back",
          ),
    );
  }

  function between() {
    const of = (select) => all.find(({ revision }) => String(revision) === select.value);
    return diff(of(from), of(to));
  }

  function compare() {
    if (all.length < 2) {
      comparing.hidden = true;
      outcome.replaceChildren(
        h("p", { class: "nothing" }, "One revision so far. The next deploy has something to compare with."),
      );
      return;
    }
    comparing.hidden = false;
    outcome.replaceChildren(...shown(between()));
  }

  /** What is different in revision `after`, for a dialog; nothing while the history is being read. */
  function change(before, after) {
    const of = (number) => all.find(({ revision }) => revision === number);
    if (!of(before) || !of(after)) return null;
    return h("div", { class: "diff" }, shown(diff(of(before), of(after))));
  }

  function ask(one) {
    const active = all.find((other) => other.active);
    const canary = all.find(isCanary);
    confirm({
      label: `Roll back ${name}`,
      title: ["Roll back ", h("em", {}, name), "?"],
      more: [
        h(
          "p",
          {},
          `Revision ${one.revision} takes the place of ${active?.revision ?? "none"} on every worker. `,
          "Requests that run finish on the revision they began on.",
          canary ? ` The canary, revision ${canary.revision}, ends first.` : "",
        ),
        change(active?.revision, one.revision),
      ],
      word: `Roll back to ${one.revision}`,
      tone: "danger",
      act: async () => {
        await post(`/v1/tenants/${encodeURIComponent(name)}/rollback`, { revision: one.revision });
        say(`${name} serves revision ${one.revision}`);
        await load();
        await changed();
      },
    });
  }

  return { element, load, change };
}

function role(one) {
  return one.active ? " (active)" : isCanary(one) ? " (canary)" : "";
}

function isCanary({ rollout }) {
  return rollout?.state === "running";
}

/** How a revision ended as a canary, and why. */
function ended({ rollout }) {
  if (!rollout?.reason) return null;
  const word = rollout.state === "promoted" ? "Promoted" : "Rolled back";
  return h("div", { class: "ended" }, `${word} as a canary: ${rollout.reason}`);
}

function shown({ rows, same }) {
  if (rows.length === 0)
    return [h("p", { class: "nothing" }, "No difference: the same artifact, routes, limits and grants.")];
  const cell = (value, kind) =>
    h(
      "td",
      { class: kind },
      value === undefined ? h("span", { class: "unseen" }, "not set") : h("code", {}, value),
    );
  return [
    h(
      "table",
      { "aria-label": "Differences" },
      h(
        "thead",
        { class: "unseen" },
        h(
          "tr",
          {},
          h("th", { scope: "col" }, "Setting"),
          h("th", { scope: "col" }, "Before"),
          h("th", { scope: "col" }, "After"),
        ),
      ),
      h(
        "tbody",
        {},
        rows.map(({ path, before, after }) =>
          h("tr", {}, h("th", { scope: "row" }, path), cell(before, "before"), cell(after, "after")),
        ),
      ),
    ),
    h("p", { class: "same" }, `${plural(rows.length, "difference")}; ${plural(same, "setting")} the same`),
  ];
}
