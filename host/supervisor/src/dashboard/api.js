// The control API, through the gate that `insula dashboard` is. The key comes in the part of the URL that is
// never sent; it is kept for this origin, port included, and goes out in a header of these requests alone.

const KEY = "insula-token";

/** Takes the key out of the URL, so that it stands neither in the address bar nor in the history. */
export function takeToken() {
  const found = /^#token=([0-9a-f]+)$/.exec(location.hash);
  if (!found) return;
  localStorage.setItem(KEY, found[1]);
  history.replaceState(null, "", `${location.pathname}#/`);
}

/** Keeps a key that was typed. */
export function setToken(text) {
  const found = /([0-9a-f]{16,})\s*$/.exec(text);
  if (found) localStorage.setItem(KEY, found[1]);
  return Boolean(found);
}

/** What the host said when it refused. */
export class Refused extends Error {
  constructor(status, body) {
    super(body?.message ?? `the host answered ${status}`);
    this.status = status;
    this.hint = body?.hint ?? "";
  }
}

async function send(path, options) {
  const token = localStorage.getItem(KEY) ?? "";
  const response = await fetch(path, {
    ...options,
    cache: "no-store",
    credentials: "omit",
    headers: { ...options?.headers, authorization: `Bearer ${token}` },
  });
  if (response.ok) return response;
  throw new Refused(response.status, await response.json().catch(() => null));
}

/** GET, JSON. */
export async function get(path, signal) {
  return (await send(path, { signal })).json();
}

/** GET; `null` where this version of the host has no such thing. */
export async function getIfThere(path, signal) {
  try {
    return await get(path, signal);
  } catch (error) {
    if (error instanceof Refused && error.status === 404) return null;
    throw error;
  }
}

/** POST, JSON both ways. */
export async function post(path, body) {
  const response = await send(path, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
  });
  return response.json();
}

/** The lines of an answer as they come. */
async function lines(path, signal, onLine) {
  const response = await send(path, { signal });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = [];
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    // A snapshot is one line of megabytes, in many pieces: joined once.
    const pieces = value.split("\n");
    rest.push(pieces[0]);
    for (let at = 1; at < pieces.length; at += 1) {
      onLine(rest.join(""));
      rest = [pieces[at]];
    }
  }
}

/** Server-sent events (data in one line each), until the host ends them. */
export async function events(path, signal, onEvent) {
  let name = "message";
  await lines(path, signal, (line) => {
    if (line.startsWith("event: ")) name = line.slice(7);
    else if (line.startsWith("data: ")) onEvent(name, JSON.parse(line.slice(6)));
  });
}

/** One JSON value a line, until the host ends them. */
export async function records(path, signal, onRecord) {
  await lines(path, signal, (line) => {
    if (line !== "") onRecord(JSON.parse(line));
  });
}
