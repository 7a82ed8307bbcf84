// Elements without markup. Text from elsewhere (tenants' names, their logs) only ever becomes a text node.

const SVG = "http://www.w3.org/2000/svg";

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "on") {
      for (const [event, call] of Object.entries(value)) element.addEventListener(event, call);
    } else {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(
    ...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** An HTML element; children are elements or text. */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same in SVG. */
export function s(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

/** Sets text, and touches nothing if it is there already. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Tells users of screen readers. */
export function say(text) {
  setText(document.getElementById("said"), text);
}

/** A colour of the style sheet as it is now, for a canvas. */
export function colour(name) {
  const probe = h("i", { class: "unseen" });
  probe.style.color = `var(--${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

/** A link to a tenant's page. */
export function tenantLink(name) {
  return `#/tenant/${encodeURIComponent(name)}`;
}

/** A dialog that is gone once closed; `fill` gets a function that closes it. */
export function dialog(label, fillIn) {
  const element = h("dialog", { "aria-label": label });
  const close = () => element.close();
  fill(element, null, fillIn(close));
  element.addEventListener("close", () => element.remove());
  element.addEventListener("click", (event) => {
    if (event.target === element) close();
  });
  document.body.append(element);
  element.showModal();
  return element;
}
