// Starts the page: which part of it is shown, the keyboard, the theme, and how the connection is.

import { setToken, takeToken } from "./api.js";
import { dialog, h, say, setText, tenantLink } from "./dom.js";
import { count } from "./format.js";
import { hostPage } from "./host.js";
import { overview } from "./overview.js";
import { Store } from "./store.js";
import { tenantPage } from "./tenant.js";

const THEMES = ["auto", "light", "dark"];
const SIGNS = { auto: "◐", light: "○", dark: "●" };
const LIVE = { connecting: "Connecting", live: "Live", lost: "Host unreachable", locked: "Locked" };
const KEYS = [
  ["/", "Search tenants"],
  ["↑ ↓ ← →", "Move between tenants"],
  ["Enter", "Open the tenant"],
  ["Esc", "Clear the search, or back to all tenants"],
  ["h", "Host"],
  ["?", "This list"],
];

takeToken();
const main = document.getElementById("main");
const search = document.getElementById("search");
const live = document.getElementById("live");
const store = new Store();
const open = (name) => {
  location.hash = tenantLink(name);
};
const first = overview(store, { open, search });
let page = null;
let keys = localStorage.getItem("insula-keys") !== "off";

function route() {
  const [, kind, name] = location.hash.split("/");
  const before = page;
  page?.close?.();
  if (kind === "tenant" && name) page = tenantPage(store, decodeURIComponent(name));
  else if (kind === "host") page = hostPage(store);
  else page = first;
  main.replaceChildren(page.element);
  main.dataset.page = page === first ? "tenants" : kind;
  document.title = page === first ? "Insula" : `${page.title} · Insula`;
  for (const link of document.querySelectorAll("nav [data-page]")) {
    if (link.dataset.page === main.dataset.page) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  scrollTo(0, 0);
  if (page === first) {
    first.shown();
    const left = store.names.get(before?.title);
    if (left) first.select(left);
  }
  if (before && document.activeElement !== search) {
    if (page === first) first.focus();
    else main.focus({ preventScroll: true });
    say(page.title);
  }
}

store.addEventListener("tick", () => setText(document.getElementById("total"), count(store.tenants.size)));

function theme(name) {
  localStorage.setItem("insula-theme", name);
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  const button = document.getElementById("theme");
  setText(button, SIGNS[name]);
  button.setAttribute("aria-label", `Theme: ${name === "auto" ? "as the system" : name}`);
  first.repaint();
}

function status() {
  live.className = `live is-${store.status}`;
  setText(live.lastElementChild, LIVE[store.status]);
  live.title = [store.problem?.message, store.problem?.hint].filter(Boolean).join(". ");
  if (store.status === "locked" && !document.querySelector("dialog")) unlock();
}

/** Asks for the URL, where the key is missing or of a start before. */
function unlock() {
  dialog("Unlock", (close) => {
    const field = h("input", {
      type: "text",
      autocomplete: "off",
      spellcheck: "false",
      "aria-label": "URL or key",
      placeholder: "http://127.0.0.1:…/#token=…",
    });
    const go = () => {
      if (setToken(field.value)) close();
      else field.setAttribute("aria-invalid", "true");
    };
    field.addEventListener("keydown", (event) => event.key === "Enter" && go());
    return [
      h("h2", {}, "This page needs its key"),
      h(
        "p",
        {},
        "Open the URL that ",
        h("code", {}, "insula dashboard"),
        " has printed, or paste it here. Each start makes a new one.",
      ),
      field,
      h(
        "div",
        { class: "dialog-end" },
        h("button", { type: "button", class: "primary", on: { click: go } }, "Unlock"),
      ),
    ];
  });
}

function help() {
  dialog("Keyboard shortcuts", (close) => {
    const on = h("input", {
      type: "checkbox",
      checked: keys,
      on: {
        change: () => {
          keys = on.checked;
          localStorage.setItem("insula-keys", keys ? "on" : "off");
        },
      },
    });
    return [
      h("h2", {}, "Keyboard"),
      h(
        "dl",
        { class: "keys" },
        KEYS.flatMap(([key, word]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, word)]),
      ),
      h("label", { class: "check" }, on, "Keys of one character"),
      h("div", { class: "dialog-end" }, h("button", { type: "button", on: { click: close } }, "Close")),
    ];
  });
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  const typing = event.target.matches?.("input, select, textarea");
  if (event.key === "Escape") {
    if (event.target === search && search.value !== "") {
      search.value = "";
      search.dispatchEvent(new Event("input"));
    } else if (typing) {
      event.target.blur();
    } else if (page !== first) {
      location.hash = "#/";
    } else if (search.value !== "") {
      search.value = "";
      search.dispatchEvent(new Event("input"));
    }
    return;
  }
  if (typing || !keys) return;
  if (event.key === "/") {
    event.preventDefault();
    search.focus();
    search.select();
  } else if (event.key === "?") help();
  else if (event.key === "h") location.hash = "#/host";
});

search.addEventListener("keydown", (event) => {
  if (event.key === "ArrowDown" && page === first) {
    event.preventDefault();
    first.focus();
  }
  const found = first.found();
  if (event.key === "Enter" && found) open(found.name);
});
search.addEventListener("input", () => {
  if (page !== first) location.hash = "#/";
});
document.getElementById("help").addEventListener("click", help);
document.getElementById("theme").addEventListener("click", () => {
  const now = document.documentElement.dataset.theme ?? "auto";
  theme(THEMES[(THEMES.indexOf(now) + 1) % THEMES.length]);
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => first.repaint());
store.addEventListener("status", status);
addEventListener("hashchange", () => {
  takeToken();
  route();
});
theme(THEMES.includes(localStorage.getItem("insula-theme")) ? localStorage.getItem("insula-theme") : "auto");
route();
store.run();
