// A tenant's log as it is written. Every word of it is the tenant's own: text, never markup, and characters
// that could hide or reorder others are shown by their numbers.

import { records, Refused } from "./api.js";
import { h, setText } from "./dom.js";
import { plural } from "./format.js";

/** Lines that are kept in the page. */
const LINES_MAX = 2000;
/** Lines to begin with. */
const TAIL = 300;
/** Wait before connecting again, in milliseconds. */
const AGAIN_MS = 2000;
/** Control characters, and those that change a text's direction or are not seen. */
// eslint-disable-next-line no-control-regex
const UNSEEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** A text with what cannot be seen made visible. */
export function printable(text) {
  return text.replace(UNSEEN, (one) => {
    const code = one.codePointAt(0);
    return code < 0x100 ? `\\x${code.toString(16).padStart(2, "0")}` : `\\u{${code.toString(16)}}`;
  });
}

export function logs(name) {
  const filter = h("input", {
    type: "search",
    placeholder: "Filter lines",
    "aria-label": "Filter log lines",
    autocomplete: "off",
    on: { input: () => sift() },
  });
  const streams = h(
    "select",
    { "aria-label": "Which stream", on: { change: () => sift() } },
    [
      ["", "all streams"],
      ["stdout", "stdout"],
      ["stderr", "stderr"],
      ["host", "host"],
    ].map(([value, word]) => h("option", { value }, word)),
  );
  const follow = h("input", { type: "checkbox", checked: true });
  const amount = h("span", { class: "shown" });
  const lines = h("div", {
    class: "log",
    role: "log",
    "aria-live": "off",
    "aria-label": `Log of ${name}`,
    tabindex: "0",
  });
  const empty = h("p", { class: "nothing" }, "Nothing has been written yet.");
  const element = h(
    "div",
    { class: "logs" },
    h("div", { class: "tools" }, filter, streams, h("label", { class: "check" }, follow, "Follow"), amount),
    h("div", { class: "log-box" }, lines, empty),
  );
  const stop = new AbortController();
  let waiting = [];

  lines.addEventListener("scroll", () => {
    // Who scrolls up wants to read.
    follow.checked = lines.scrollTop + lines.clientHeight >= lines.scrollHeight - 24;
  });

  function matches(line) {
    return (
      (streams.value === "" || line.dataset.stream === streams.value) &&
      (filter.value === "" || line.sought.includes(filter.value.toLowerCase()))
    );
  }

  function sift() {
    for (const line of lines.children) line.hidden = !matches(line);
    tell();
  }

  function tell() {
    const all = lines.children.length;
    empty.hidden = all > 0;
    if (filter.value === "" && streams.value === "") setText(amount, plural(all, "line"));
    else
      setText(
        amount,
        `${[...lines.children].filter((line) => !line.hidden).length} of ${plural(all, "line")}`,
      );
    if (follow.checked) lines.scrollTop = lines.scrollHeight;
  }

  function line({ at, stream, text, request, revision }) {
    const shown = printable(text);
    const element = h(
      "div",
      {
        class: `log-line stream-${["stdout", "stderr", "host"].includes(stream) ? stream : "host"}`,
        "data-stream": stream,
        title: `revision ${revision}, request ${printable(request)}`,
      },
      h("time", { datetime: at }, at.slice(11, 23)),
      h("span", { class: "log-stream" }, stream),
      h("span", { class: "log-text" }, shown),
    );
    element.sought = shown.toLowerCase();
    element.hidden = !matches(element);
    return element;
  }

  function flush() {
    const fresh = waiting.slice(-LINES_MAX).map(line);
    waiting = [];
    lines.append(...fresh);
    while (lines.children.length > LINES_MAX) lines.firstChild.remove();
    tell();
  }

  function take(record) {
    // A flood is drawn once a frame, not once a line.
    if (waiting.length === 0) requestAnimationFrame(flush);
    waiting.push(record);
    if (waiting.length > 2 * LINES_MAX) waiting = waiting.slice(-LINES_MAX);
  }

  async function run() {
    while (!stop.signal.aborted) {
      const session = new AbortController();
      const end = () => session.abort();
      const hide = () => document.hidden && end();
      stop.signal.addEventListener("abort", end);
      document.addEventListener("visibilitychange", hide);
      try {
        lines.replaceChildren();
        await records(
          `/v1/tenants/${encodeURIComponent(name)}/logs?tail=${TAIL}&follow=true`,
          session.signal,
          take,
        );
      } catch (error) {
        if (error instanceof Refused && [400, 404].includes(error.status)) return;
      }
      document.removeEventListener("visibilitychange", hide);
      stop.signal.removeEventListener("abort", end);
      if (document.hidden)
        await new Promise((go) => document.addEventListener("visibilitychange", go, { once: true }));
      else await new Promise((go) => setTimeout(go, AGAIN_MS));
    }
  }

  return { element, run, stop: () => stop.abort() };
}
