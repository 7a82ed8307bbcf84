// Acts on a tenant: asked about before they are done, and a refusal is told where it was asked.

import { dialog, h } from "./dom.js";

/** What the host said when it refused. */
export function refusal(error) {
  return [error.message, error.hint].filter(Boolean).join(". ");
}

/** A place for a refusal; screen readers tell of it at once. */
export function complaint() {
  const element = h("p", { class: "failed", role: "alert", hidden: true });
  return {
    element,
    show: (error) => {
      element.textContent = refusal(error);
      element.hidden = false;
    },
    clear: () => {
      element.hidden = true;
    },
  };
}

/**
 * Asks whether to go on. `title` and `more` are what the dialog shows, `word` and `tone` its button, `act`
 * what that does; the dialog is closed once it is done, and stays when the host refuses.
 */
export function confirm({ label, title, more, word, tone, act }) {
  const failed = complaint();
  const before = document.activeElement;
  dialog(label, (close) => {
    const go = h("button", { type: "button", class: tone, "data-confirm": true }, word);
    go.addEventListener("click", async () => {
      go.disabled = true;
      failed.clear();
      try {
        await act();
        close();
        // What was pressed may be gone; the keyboard goes on from the top of the page then.
        const next = before?.isConnected && before.checkVisibility() ? before : document.querySelector("h1");
        next?.focus();
      } catch (error) {
        failed.show(error);
        go.disabled = false;
      }
    });
    return [
      h("h2", {}, title),
      more,
      failed.element,
      h("div", { class: "dialog-end" }, h("button", { type: "button", on: { click: close } }, "Cancel"), go),
    ];
  });
}
