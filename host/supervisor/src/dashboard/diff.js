// What is different between two revisions, as resolved: artifact, routes, limits, grants.

import { bytes, cores, duration } from "./format.js";

/** Every value of a revision by its path: { "limits.memory_bytes": "33554432" }. */
export function flat(value, path = "", into = new Map()) {
  if (Array.isArray(value)) {
    // A list's order says nothing here that its members do not.
    if (value.length > 0 && value.every((one) => typeof one !== "object" || one === null))
      into.set(path, value.join(", "));
    else value.forEach((one, at) => flat(one, `${path}[${at}]`, into));
  } else if (value !== null && typeof value === "object") {
    for (const [key, inner] of Object.entries(value)) flat(inner, path ? `${path}.${key}` : key, into);
  } else if (value !== null && value !== undefined) {
    into.set(path, written(path, value));
  }
  return into;
}

/** A value as the manifest would write it. */
function written(path, value) {
  if (typeof value === "number" && path.endsWith("_bytes")) return bytes(value);
  if (typeof value === "number" && path.endsWith("_ms")) return duration(value);
  if (typeof value === "number" && path.endsWith("_m")) return cores(value);
  if (path === "artifact") return String(value).slice(0, "sha256:".length + 12);
  return String(value);
}

/** A setting's name without what its value says already. */
function label(path) {
  return path.replace(/^limits\.(resources\.)?/, "").replace(/_(bytes|ms|m)$/, "");
}

/** Rows { path, before, after } where two revisions differ, and how many values are the same. */
export function diff(before, after) {
  const of = ({ artifact, routes, limits, grants }) => flat({ artifact, routes, limits, grants });
  const [old, now] = [of(before), of(after)];
  const rows = [];
  let same = 0;
  for (const path of [...new Set([...old.keys(), ...now.keys()])].sort()) {
    if (old.get(path) === now.get(path)) same += 1;
    else rows.push({ path: label(path), before: old.get(path), after: now.get(path) });
  }
  return { rows, same };
}
