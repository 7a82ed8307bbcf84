// How a state looks: a colour and a shape of its own, so that colour is never the only sign.

import { s } from "./dom.js";

export const WORDS = {
  serving: "Serving",
  failing: "Failing",
  shedding: "Shedding",
  open: "Circuit open",
  stopped: "Stopped",
  idle: "Idle",
};

export const MEANINGS = {
  serving: "answers requests",
  failing: "guest or host failed requests in the last seconds",
  shedding: "requests were refused in the last seconds",
  open: "its circuit breaker keeps requests away",
  stopped: "somebody has stopped it; insula start lets it run again",
  idle: "no request for some seconds",
};

/** What a tenant has beside its state, as a filter of its own. */
export const CANARY = {
  word: "Canary",
  meaning: "another revision gets a part of the requests; the dot at the corner of a cell",
};

/** The shapes, in a square of side 2 around the origin. */
const SHAPES = {
  serving: "M-.9-.6Q-.9-.9-.6-.9H.6Q.9-.9.9-.6V.6Q.9.9.6.9H-.6Q-.9.9-.9.6Z",
  failing: "M-.95-.55-.55-.95 0-.4.55-.95.95-.55.4 0 .95.55.55.95 0 .4-.55.95-.95.55-.4 0Z",
  shedding: "M-1-.85H1L0 .95Z",
  open: "M0-1A1 1 0 1 1 0 1 1 1 0 1 1 0-1ZM0-.45A.45.45 0 1 0 0 .45.45.45 0 1 0 0-.45Z",
  stopped: "M-.8-.85H-.2V.85H-.8ZM.2-.85H.8V.85H.2Z",
  idle: "M-.55-.4Q-.55-.55-.4-.55H.4Q.55-.55.55-.4V.4Q.55.55.4.55H-.4Q-.55.55-.55.4Z",
  // No state: a cell with a dot at its corner, as the grid has it.
  canary: "M-.95-.1H.1V.95H-.95ZM.5-.95A.45.45 0 1 0 .5-.05 .45.45 0 1 0 .5-.95Z",
};

const paths = new Map(Object.entries(SHAPES).map(([state, shape]) => [state, new Path2D(shape)]));

/** A state's shape for a canvas. */
export function path(state) {
  return paths.get(state) ?? paths.get("idle");
}

/** A state's mark beside its word. */
export function mark(state) {
  return s(
    "svg",
    {
      class: `mark mark-${state}`,
      viewBox: "-1.1 -1.1 2.2 2.2",
      width: 11,
      height: 11,
      "aria-hidden": "true",
    },
    s("path", { d: SHAPES[state] ?? SHAPES.idle }),
  );
}
