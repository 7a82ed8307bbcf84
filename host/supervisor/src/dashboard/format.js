// Figures as people read them; quantities as manifests write them.

const UNITS = ["", "Ki", "Mi", "Gi", "Ti"];

/** 64Mi */
export function bytes(value) {
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  if (unit === 0) return `${Math.round(value)} B`;
  const places = value < 10 ? 2 : value < 100 ? 1 : 0;
  return `${trim(value.toFixed(places))}${UNITS[unit]}`;
}

function trim(text) {
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

const whole = new Intl.NumberFormat("en");

/** 12,345 */
export function count(value) {
  return whole.format(Math.round(value));
}

/** 12.3k */
export function short(value) {
  if (value >= 999_500_000) return `${trim((value / 1e9).toFixed(2))}G`;
  if (value >= 999_500) return `${trim((value / 1e6).toFixed(value < 1e7 ? 2 : 1))}M`;
  if (value >= 10_000) return `${trim((value / 1e3).toFixed(value < 1e5 ? 1 : 0))}k`;
  if (value >= 100) return count(value);
  return trim(value.toFixed(1));
}

/** Thousandths of a core: 250m, 1.5 cores */
export function cores(milli) {
  if (milli < 1000) return `${Math.round(milli)}m`;
  const text = trim((milli / 1000).toFixed(2));
  return text === "1" ? "1 core" : `${text} cores`;
}

/** Milliseconds of latency: 0.42 ms, 1.2 s */
export function latency(ms) {
  if (ms === null || ms === undefined || Number.isNaN(ms)) return "–";
  if (ms >= 1000) return `${trim((ms / 1000).toFixed(ms < 10_000 ? 2 : 1))} s`;
  if (ms >= 100) return `${Math.round(ms)} ms`;
  if (ms >= 1) return `${trim(ms.toFixed(1))} ms`;
  return `${Math.round(ms * 1000)} µs`;
}

/** Milliseconds that somebody has set: 500ms, 2s, 1m30s */
export function duration(ms) {
  if (ms % 1000 !== 0) return `${ms}ms`;
  const seconds = ms / 1000;
  if (seconds < 60) return `${seconds}s`;
  const parts = [
    [Math.floor(seconds / 3600), "h"],
    [Math.floor(seconds / 60) % 60, "m"],
    [seconds % 60, "s"],
  ];
  return parts
    .filter(([value]) => value > 0)
    .map(([value, unit]) => value + unit)
    .join("");
}

/** 3 min ago */
export function age(at, now = Date.now()) {
  const seconds = Math.max(0, Math.round((now - Date.parse(at)) / 1000));
  if (Number.isNaN(seconds)) return at;
  if (seconds < 5) return "just now";
  if (seconds < 90) return `${seconds} s ago`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 129_600) return `${Math.round(seconds / 3600)} h ago`;
  return `${Math.round(seconds / 86_400)} days ago`;
}

/** 4.2%, 0.03% */
export function percent(part, all) {
  if (!(all > 0)) return "0%";
  const value = (part / all) * 100;
  if (value === 0) return "0%";
  if (value < 0.01) return "<0.01%";
  return `${trim(value.toFixed(value < 1 ? 2 : value < 10 ? 1 : 0))}%`;
}

/** 1 tenant, 2 tenants */
export function plural(value, word) {
  return `${count(value)} ${word}${value === 1 ? "" : "s"}`;
}
